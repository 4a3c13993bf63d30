"""Verdicts on claims: the paired t-test, and what follows from it."""

import numpy as np
import pytest
import verdicts
from scipy import stats


def test_paired_is_the_t_test_of_scipy():
    values, others = np.random.default_rng(0).normal(size=(2, 6))
    found = verdicts.paired(values, others)
    expected = stats.ttest_rel(values, others)
    interval = expected.confidence_interval(0.95)
    assert found == pytest.approx(
        (np.mean(values - others), interval.low, interval.high, expected.pvalue)
    )


@pytest.mark.parametrize(("by", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_without_a_spread(by, p):
    values = [0.25, 0.5, 1.0]
    assert verdicts.paired([v + by for v in values], values) == (by, by, by, p)


@pytest.mark.parametrize(
    ("values", "lower", "said"),
    [
        ([1.0, 1.1, 0.9], True, "reproduced"),
        ([1.0, 1.1, 0.9], False, "the contrary"),
        ([5.0, 5.1, 4.9], False, "reproduced"),
        ([5.0, 5.1, 4.9], True, "the contrary"),
        ([3.0, 1.0, 5.2], True, "not told apart"),
    ],
)
def test_a_verdict_has_a_direction(values, lower, said):
    found = verdicts.paired(values, [3.0, 3.0, 3.1])
    assert verdicts.verdict(found, lower=lower) == said
