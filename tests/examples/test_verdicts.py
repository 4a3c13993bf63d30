"""Verdicts on claims: what is found over seeds and over images, and what follows from it."""

import json
from pathlib import Path

import evidence
import numpy as np
import pytest
import verdicts
from scipy import stats

RESULTS = Path(__file__).parents[2] / "docs" / "results"


# --- what was found ---


def test_paired_is_the_t_test_of_scipy():
    values, others = np.random.default_rng(0).normal(size=(2, 6))
    found = evidence.paired(values, others)
    expected = stats.ttest_rel(values, others)
    interval = expected.confidence_interval(0.95)
    assert found == pytest.approx(
        (np.mean(values - others), interval.low, interval.high, expected.pvalue)
    )


@pytest.mark.parametrize(("by", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_without_a_spread(by, p):
    values = [0.25, 0.5, 1.0]
    assert evidence.paired([v + by for v in values], values) == (by, by, by, p)


@pytest.mark.parametrize("name", ["accuracy", "confidence", "mcs"])
def test_intervals_over_images_are_bounds(name):
    """Draw confidences and answers that go with them, and say how often the truth is missed."""
    draw = np.random.default_rng(0)
    n, missed = 300, 0
    for _ in range(400):
        sure = draw.beta(4, 1, n)
        right = draw.uniform(size=n) < sure**2
        record = {"accuracy": right.mean(), "confidence": sure.mean()}
        record["mcs"] = record["confidence"] - record["accuracy"]
        found = evidence.figure(record, name, n)
        mean, right_often = 4 / 5, 4 / 6
        truth = {"accuracy": right_often, "confidence": mean, "mcs": mean - right_often}[name]
        missed += not found.low <= truth <= found.high
    assert missed <= 0.07 * 400


def test_a_share_of_one_is_no_certainty():
    found = evidence.figure({"accuracy": 1.0}, "accuracy", 20)
    assert found.low < 0.9
    assert found.high == 1


@pytest.mark.parametrize("distance", [False, True])
def test_a_difference_over_images_adds_both_errors(distance):
    one = {"accuracy": 0.5, "confidence": 0.3, "mcs": -0.2}
    other = {"accuracy": 0.2, "confidence": 0.9, "mcs": 0.7}
    found = evidence.difference(one, other, "mcs", 1000, distance=distance)
    assert found.value == pytest.approx(-0.5 if distance else -0.9)
    widths = [f.high - f.low for f in (evidence.figure(each, "mcs", 1000) for each in (one, other))]
    assert found.high - found.low == pytest.approx(np.hypot(*widths))


def test_trend_is_exact():
    found = evidence.trend([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.p) == pytest.approx((1, 2 / 120))


# --- what follows from it ---


@pytest.mark.parametrize(
    ("values", "judge", "said"),
    [
        ([1.0, 1.1, 0.9], evidence.lower, "reproduced"),
        ([1.0, 1.1, 0.9], evidence.higher, "not reproduced: the contrary"),
        ([5.0, 5.1, 4.9], evidence.higher, "reproduced"),
        ([5.0, 5.1, 4.9], evidence.lower, "not reproduced: the contrary"),
        ([3.0, 1.0, 5.2], evidence.lower, "not reproduced: not told apart"),
    ],
)
def test_a_verdict_has_a_direction(values, judge, said):
    found = evidence.paired(values, [3.0, 3.0, 3.1])
    assert judge("claim", None, found, "network").verdict == said


@pytest.mark.parametrize(
    ("paper", "said"),
    [
        (0.52, "reproduced"),
        (0.48, "reproduced"),
        (0.54, "not reproduced"),
        ((0.4, 0.5), "reproduced"),
        ((0.51, 0.6), "not reproduced"),
    ],
)
def test_a_figure_of_a_table_is_near_ours_or_not(paper, said):
    found = evidence.Found(0.5, 0.45, 0.55, 0.0)
    assert evidence.near("claim", paper, found, "network").verdict == said


@pytest.mark.parametrize("page", verdicts.PAGES)
def test_every_row_has_a_verdict_or_the_reason_why_not(page):
    def read(name):
        return json.loads((RESULTS / name).read_text())

    rows = verdicts.PAGES[page](read)
    assert len({(row.claim, row.network) for row in rows}) == len(rows)
    for row in rows:
        assert row.verdict.startswith(("reproduced", "not reproduced", "not testable here"))
        assert row.reason if row.verdict == "not testable here" else row.interval or row.p


def test_the_command_prints_the_pages_that_are_asked_for(monkeypatch, capsys):
    line = ["verdicts.py", "--results", str(RESULTS), "--only", "fgsm_training"]
    monkeypatch.setattr("sys.argv", line)
    verdicts.main()
    printed = capsys.readouterr().out
    assert printed.count(" | ".join(evidence.HEADER)) == 1
    assert "ResNet-18" in printed


def test_the_command_names_a_folder_that_lacks_results(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["verdicts.py", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"published_cnn\.json"):
        verdicts.main()
