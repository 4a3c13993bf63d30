"""The tables and pictures of the documentation are those of the results beside it."""

import importlib
import itertools
import json
import re
import statistics
from pathlib import Path

import adaptive_smoothing
import claims_fgsm
import claims_smoothing
import common
import composition_tables
import defenses
import deployed
import evidence
import imagenet_confidence
import pytest
import shifts_and_ensembles
import verdicts
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = sorted(DOCS.glob("images/*.png"))
OF_RESULTS = [path for path in PICTURES if not path.name.startswith("quickstart-")]


def results(name):
    return json.loads((DOCS / "results" / name).read_text())


def tables(page):
    """Return the tables of a page: a header row each, and the rows below it."""
    found = []
    text = (DOCS / page).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    lines = text.splitlines()
    for is_table, rows in itertools.groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            header, _, *body = ([c.strip() for c in row.strip("|").split("|")] for row in rows)
            found.append((header, body))
    return found


def table(page, *header):
    """Return the rows of the one table whose header begins so."""
    (body,) = [body for found, body in tables(page) if found[: len(header)] == list(header)]
    return body


def rows(page, *header):
    """Return the cells of the one table whose header begins so, by the words of its rows."""
    return {row[0]: row[1:] for row in table(page, *header)}


def lines(text):
    """Split a table of Markdown into cells."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]


# --- pictures ---


@pytest.mark.parametrize("path", OF_RESULTS, ids=lambda path: path.stem)
def test_a_picture_shows_the_figures_that_are_there(path):
    with Image.open(path) as image:
        where, _, digest = image.text["Source"].split()
    name, _, part = where.partition("#")
    content = results(name)
    assert common.source(where, content[part] if part else content).split()[-1] == digest


def test_every_picture_is_on_a_page_and_every_page_finds_its_pictures():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    text += (DOCS.parent / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"images/([\w-]+\.png)", text))
    there = {path.name for path in PICTURES}
    assert named <= there
    assert there - named <= {"quickstart-reliability.png"}  # for where a page is shared


# --- tables ---


def test_cifar10_quickstart_table():
    found = results("cifar10.json")["results"]
    figures = ("accuracy", "confidence", "ece", "mcs", "nll", "brier")
    body = table("defenses.md", "model", "attack", "accuracy")
    assert len(body) == len(found)
    for model, attack, *cells in body:
        record = found[f"{model} / {attack}"]
        assert cells == [f"{record[figure]:.4f}" for figure in figures]


def test_fgsm_table():
    attacked = ("none", "FGSM", "PGD-10")
    body = table("fgsm_training.md", "training", "network")
    theirs, ours = ([row for row in body if (row[1][0] == "*") == paper] for paper in (True, False))
    for training, _, _, *cells in theirs:
        figures = [v for (name, *_), v in claims_fgsm.TABLE.items() if name == training]
        assert cells == [*(f"{figure:.4f}" for figure in figures), ""]
    assert (len(theirs), len(ours)) == (2, 5)
    for training, network, epochs, *cells in ours:
        study = results(f"{network}.json")
        assert int(epochs) == study["settings"]["epochs"][training]
        found = [study["results"][f"{training} / {attack}"] for attack in attacked]
        figures = [each[figure] for figure in ("accuracy", "ece") for each in found]
        assert cells == [f"{figure:.4f}" for figure in figures]


def test_tables_beyond_fgsm():
    study = results("beyond_fgsm.json")
    radii = ("0/255", "4/255", "8/255", "12/255", "16/255")
    header = ("training", "attack", "0", *radii[1:])
    for training, attack, *cells in table("fgsm_training.md", *header):
        found = [study["sweep"][f"{training} / {attack} / {radius}"] for radius in radii]
        assert cells == [f"{each['accuracy']:.3f}, {each['ece']:.3f}" for each in found]
    fits = {"nothing": "nothing", "clean images": "none", "PGD-10": "PGD-10"}
    for training, on, *cells in table("fgsm_training.md", "training", "fitted to"):
        scaled = study["temperature"]
        temperature = scaled["temperatures"].get(f"{training} / {fits[on]}", 1.0)
        clean, pgd = (
            scaled["results"][f"{training} / {fits[on]} / {attack}"]
            for attack in ("none", "PGD-10")
        )
        figures = (clean["ece"], clean["nll"], pgd["accuracy"], pgd["ece"], pgd["nll"])
        assert cells == [f"{temperature:.2f}", *(f"{figure:.3f}" for figure in figures)]
    for training, *cells in table("fgsm_training.md", "training", "clean", "FGSM"):
        figures = [
            study["attacks"][f"{training} / {attack}"]["accuracy"]
            for attack in ("none", "FGSM", "PGD-10", "AutoAttack")
        ]
        figures += study["distances"][training].values()
        assert cells == [f"{figure:.3f}" for figure in figures]
    for network, *cells in table("fgsm_training.md", "network", "accuracy"):
        found = [study["smoothing"][f"{network} / {attack}"] for attack in ("none", "PGD-10")]
        taken = ("accuracy", "confidence", "ece")
        assert cells == [f"{each[figure]:.3f}" for each in found for figure in taken]


def test_table_of_the_imagenet_network():
    study = results("imagenet.json")
    expected = lines(imagenet_confidence.table(study["results"]))
    assert table("defenses.md", "attack", "0.5/255") == expected[2:]
    clean = [each["prediction"] for each in study["images"]["none"]]
    for key, found in study["images"].items():
        if key.startswith(("UCA", "OCA", "IAA, predicted")):
            assert [each["prediction"] for each in found] == clean


@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("defenses.json", "small_cnn"),
        ("defenses-fastnet.json", "fastnet"),
        ("defenses-quarter.json", "fastnet_quarter"),
        ("inverse_digits.json", "perceptron"),
    ],
)
def test_tables_of_defenses(file, network):
    studies = results(file)
    assert {study["settings"].get("model", "small_cnn") for study in studies.values()} == {network}
    header, _, *expected = lines(defenses.summary(studies))
    shown = [i for i, name in enumerate(header) if name != "noise"]
    wanted = sorted([row[i] for i in shown] for row in expected)
    found = [sorted(body) for header, body in tables("defenses.md") if header[0] == "defense"]
    assert found.count(wanted) == 1


def test_table_of_networks_on_all_test_images():
    expected = []
    for study in results("defenses-fastnet.json").values():
        both = (study["all test images"], study["with mirror images"])
        cells = [
            f"{found[figure]:{sign}.4f}"
            for found in both
            for figure, sign in {"accuracy": "", "ece": "", "mcs": "+"}.items()
        ]
        expected.append([study["defense"], *cells])
    assert table("defenses.md", "network", "accuracy", "ECE", "MCS") == expected


@pytest.mark.parametrize("kind", ["digits", "small_cnn", "resnet10", "fastnet_quarter"])
def test_tables_of_adaptive_smoothing(kind):
    study = results(f"adaptive_smoothing-{kind}.json")
    runs = study["runs"]
    if isinstance(runs, list):  # those of 0.1.0, of each seed
        runs = {method: [run[method] for run in runs] for method in study["summary"]}
    for method, figures in study["summary"].items():  # which repeats what the runs have
        for name, found in figures.items():
            values = [run[name] for run in runs[method]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            assert found == pytest.approx([statistics.fmean(values), spread])
    expected = lines(adaptive_smoothing.table(study["summary"]))
    of_kind = [
        body
        for header, body in tables("adaptive_smoothing.md")
        if header == expected[0] and body == expected[2:]
    ]
    assert len(of_kind) == 1


@pytest.mark.parametrize(
    ("file", "seeds", "shown", "columns"),
    [
        ("composition_digits.json", 10, ("as it is", "temperature"), 6),
        ("composition_quarter.json", 3, tuple(composition_tables.KINDS.values()), 7),
    ],
)
def test_tables_of_compositions(file, seeds, shown, columns):
    study = results(file)
    assert len(study["seeds"]) == seeds
    found = [body for _, body in tables("composition.md")]
    rows = composition_tables.figures(study["seeds"])
    assert lines(composition_tables.table(rows, only=shown))[2:] in found
    expected = lines(composition_tables.comparison(rows, least=2))[2:]
    assert [row[:columns] for row in expected] in found
    if columns == 6:  # left out, since none is behind in anything
        assert {row[-1] for row in expected} == {""}


@pytest.mark.parametrize("page", verdicts.PAGES)
def test_tables_of_claims(page):
    expected = lines(evidence.table(verdicts.PAGES[page](results)))
    assert table(f"{page}.md", *expected[0]) == expected[2:]


def test_table_of_decisions_alone():
    study = json.loads((DOCS / "benchmarks" / "hopskipjump.json").read_text())
    expected = [
        [
            setting,
            each["attack"],
            f"{each['median distance']:.3f}",
            f"{each['queries an example']:g}",
        ]
        for setting, found in study.items()
        if setting not in ("n", "versions")
        for each in found
    ]
    assert table("benchmarks.md", "norm, queries") == expected
    assert f"decisions alone, {study['n']} images" in (DOCS / "benchmarks.md").read_text()


def test_tables_of_images_of_8_bits(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    eight_bit = importlib.import_module("eight_bit")
    study = json.loads((DOCS / "benchmarks" / "eight_bit.json").read_text())
    for make in eight_bit.TABLES:
        header, _, *expected = lines("\n".join(make(study)))
        assert table("benchmarks.md", *header) == expected


def test_table_of_models_without_a_gradient():
    study = json.loads((DOCS / "benchmarks" / "without_gradient.json").read_text())
    for name, radius, *counts in table("benchmarks.md", "model", "radius", "right at first"):
        found = study["models"].pop(name)
        assert radius == f"{found['radius']:.3f}"
        wanted = [found[key] for key in ("right at first", "alone", "from the float network")]
        assert counts == ["refused" if n is None else str(n) for n in [*wanted, found["through"]]]
    assert study["models"] == {}


def test_table_of_the_attacks_on_confidence(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    bench = importlib.import_module("confidence_attacks")
    study = json.loads((DOCS / "benchmarks" / "confidence_attacks.json").read_text())
    header, _, *expected = lines(bench.table(study["runs"]))
    assert table("benchmarks.md", *header) == expected


def test_table_of_autoattack(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    bench = importlib.import_module("against_autoattack")
    study = json.loads((DOCS / "benchmarks" / "autoattack_robust.json").read_text())
    names = ["advcal", "advcal, 20 steps", "AutoAttack", "torchattacks"]
    header, _, *expected = lines(bench.table(study, names))
    assert table("benchmarks.md", *header) == expected


def test_tables_of_the_nearest_mistakes(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    bench = importlib.import_module("against_attackbench")
    runs = json.loads((DOCS / "benchmarks" / "attackbench.json").read_text())["runs"]
    means = [bench.table_of_means(runs, norm) for norm in bench.ORDERS]
    for text in [bench.table_of_networks(runs), *means]:
        header, _, *expected = lines(text)
        assert table("benchmarks.md", *header) == expected


def test_table_of_distances(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    distances = importlib.import_module("distances")
    networks = json.loads((DOCS / "benchmarks" / "distances.json").read_text())["networks"]
    header, _, *expected = lines(distances.table(networks, [*distances.ways()][:6]))
    assert table("adaptive_smoothing.md", *header) == expected


def test_table_of_autoattack_on_the_network_of_the_speed_runs():
    study = json.loads((DOCS / "benchmarks" / "autoattack_fastnet.json").read_text())
    (found,) = (each for key, each in study.items() if key.startswith("defense-fastnet"))
    expected = {
        each["attack"]: [
            f"{each['robust accuracy']:.3f}",
            f"{each['forward']:,.0f}",
            f"{each['backward']:,.0f}",
            f"{each['time / advcal']:.2f}",
        ]
        for each in found
    }
    header = ("attack", "robust accuracy", "forward", "backward", "time / advcal")
    assert rows("benchmarks.md", *header) == expected


def test_sentence_of_autoattack_with_all_queries():
    study = json.loads((DOCS / "benchmarks" / "autoattack_5000.json").read_text())
    ours, quick, package, torchattacks = study["robust, linf"]
    assert (study["n"], study["queries"]) == (128, 5000)
    (told,) = re.findall(
        r"With 5,000 queries.*?autoattack_5000", (DOCS / "benchmarks.md").read_text(), re.DOTALL
    )
    rates = [f"{each['robust accuracy']:.3f}".lstrip("0") for each in (ours, quick, torchattacks)]
    times = [f"{each['time / advcal']:.2f}".lstrip("0") for each in (package, quick, torchattacks)]
    assert package["robust accuracy"] == ours["robust accuracy"]
    assert re.findall(r"\.\d{3}\b", told) == rates
    assert re.findall(r"\b1\.\d\d\b|\.\d\d\b", told.replace(rates[2], "")) == times


def test_table_of_what_attacks_cost():
    study = json.loads((DOCS / "benchmarks" / "attack_overhead.json").read_text())
    sizes = ("small_cnn 16", "small_cnn 128", "fastnet 16", "fastnet 128")
    expected = [
        [row["attack"], *(f"{row[size]:.2f}" if size in row else "\N{EN DASH}" for size in sizes)]
        for row in study["rows"]
    ]
    assert table("benchmarks.md", "attack", "small CNN, 16", "small CNN, 128") == expected


def test_table_of_deployed_forms():
    study = results("deployed.json")
    header, _, *expected = lines(deployed.table(study))
    assert table("defenses.md", *header) == expected
    text = (DOCS / "defenses.md").read_text(encoding="utf-8")
    settings = study["settings"]
    for option in ("steps", "queries", "envelope_steps", "n_test", "n_clean", "n"):
        assert f"--{option.replace('_', '-')} {settings[option]}" in text
    assert settings["weights"] in text


def test_table_of_shifts_of_the_quarter_of_fastnet():
    header, _, *expected = lines(shifts_and_ensembles.table(results("shifts-quarter.json")))
    assert table("adaptive_smoothing.md", *header) == expected


def test_table_of_shifts():
    study = results("shifts.json")
    names = {"AR-AdaLS, R = 10": "AR-AdaLS, pre-computed"}
    names["ensemble of AR-AdaLS"] = "ensemble of AR-AdaLS, pre-computed"
    _, _, *expected = lines(shifts_and_ensembles.table(study).replace("0.", "."))
    expected = {row[0]: row[1:] for row in expected}
    found = rows("adaptive_smoothing.md", "method", "accuracy", "ECE", "*paper*")
    assert len(found) == len(expected)
    clean = {k: v for k, v in claims_smoothing.TABLE_2.items() if k in expected}
    shift = claims_smoothing.TABLE_3 | claims_smoothing.ENSEMBLES
    strange = {k: v for k, v in claims_smoothing.AUROC.items() if k in expected}
    for name, cells in found.items():
        method = names.get(name, name)
        ours = expected[method]
        assert [cells[i] for i in (0, 1, 3, 5)] == [ours[i] for i in (0, 1, 3, 4)]
        for cell, paper in zip(cells[2::2], (clean, shift, strange), strict=True):
            assert cell == (f"*{paper[method]:.3f}*".replace("0.", ".") if method in paper else "")
