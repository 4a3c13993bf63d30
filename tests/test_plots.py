"""Every picture draws what it was given, where it was told to, and shows nothing."""

import builtins
import inspect
from functools import partial
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from advcal import plots
from advcal.metrics import auroc, bootstrap, consistency_bands, ece, reliability_bins, variance

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(4) * 0.5, 200)
LABELS = np.array([RNG.choice(4, p=row) for row in PROBS])
LEVELS = np.arange(200) % 5
RUNS = [PROBS, RNG.dirichlet(np.ones(4), 200)]
BINS = reliability_bins(PROBS, LABELS, n_bins=10)
EPS = [0.0, 0.1, 0.2]
FIGURES = ("accuracy", "confidence", "mcs", "ece")
SCORES = torch.tensor(RNG.normal(size=60))
OUTSIDE = torch.arange(60) % 3 // 2


def record(i):
    return {"accuracy": 0.9 - 0.1 * i, "confidence": 0.8, "mcs": 0.1 * i - 0.1, "ece": 0.05 * i}


def envelope(**options):
    found = {"eps": (0.1, 0.2), "lowest": (0.7, 0.5), "highest": (0.95, 0.99)}
    return SimpleNamespace(**{**found, "accuracy": 0.9, "confidence": 0.85} | options)


LINES = {"PGD": [record(0), record(1), record(2)], "IAA": [record(i) for i in (3, 2, 1)]}
RUNS_OF_EPS = [[0.1, 0.2], [0.3, 0.5], [0.2, 0.9]]
IMAGES = {"clean": RNG.random((2, 3, 8, 8)), "PGD": RNG.random((2, 3, 8, 8))}
SAID = {"clean": PROBS[:2], "PGD": PROBS[2:4]}
PAIRS = {("a", "a"): 0.1, ("a", "b"): 0.6, ("b", "a"): 0.5, ("b", "b"): 0.0}
MODELS = {"plain": (0.95, 0.1, 0.2), "AT": (0.85, 0.5, 0.1), "bad": (0.8, 0.4, 0.15)}
BOXES = {"plain": {1: [0.1, 0.2, 0.4], 5: [0.3, 0.5, 0.9]}, "AT": {1: [0.1, 0.1], 5: [0.2, 0.3]}}

# What to call each with, and how many axes it draws on; 0 for a single one, passed as ax=.
CASES = {
    "confidence_envelope": (({"standard": envelope(), "AT": envelope(lowest=(0.8, 0.7))},), {}, 0),
    "curves": ((EPS, LINES), {}, 4),
    "image_grid": ((IMAGES, SAID, LABELS[:2]), {}, 4),
    "pareto_front": ((MODELS,), {}, 0),
    "reliability_diagram": ((BINS,), {}, 0),
    "robustness_levels": ((PROBS, LABELS, LEVELS), {"runs": RUNS}, 2),
    "score_histograms": ((SCORES, OUTSIDE), {}, 0),
    "shift_boxes": ((BOXES,), {}, 0),
    "transfer_matrix": ((PAIRS,), {}, 0),
}
# One name, other pictures.
VARIANTS = {
    "curves of numbers": ("curves", (EPS, {"PGD": [0.0, 0.2, 0.3]}), {"figures": "MCS"}, 1),
    "curves of runs": (
        "curves", ([1, 5, 10], {"AR-AdaLS": [[0.1, 0.2], [0.1, 0.1], [0.05, 0.1]]}),
        {"figures": "ECE", "against": "n_levels"}, 1,
    ),
    "curves by lam": (
        "curves", (EPS, {5: LINES["PGD"], 1: LINES["IAA"]}),
        {"figures": FIGURES[:3], "by": "lam"}, 3,
    ),
}  # fmt: skip
PICTURES = {name: (name, *case) for name, case in CASES.items()} | VARIANTS
every_picture = pytest.mark.parametrize("name", PICTURES)


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    def show(*_, **__):
        raise AssertionError("shown")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def draw(name, **options):
    name, arguments, given, _ = PICTURES[name]
    return getattr(plots, name)(*arguments, **given | options)


def only(*arguments, **options):
    (ax,) = plots.curves(*arguments, **options)
    return ax


def axes_of(result):
    return [result] if isinstance(result, Axes) else result


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.get_lines()}


# --- what holds for every picture ------------------------------------------------------------


def test_every_picture_is_here():
    assert set(plots.__all__) == set(CASES)
    for name, _, _, n in PICTURES.values():
        parameters = inspect.signature(getattr(plots, name)).parameters
        assert parameters["title"].default is None
        assert ("axes" if n else "ax") in parameters


@every_picture
def test_without_axes_a_column_wide_figure_is_made(name):
    result = draw(name)
    n = PICTURES[name][3]
    assert isinstance(result, list if n else Axes)
    assert len(axes_of(result)) == max(n, 1)
    assert all(isinstance(ax, Axes) for ax in axes_of(result))
    figure = axes_of(result)[0].figure
    assert figure.get_figwidth() <= 3.3 + 1e-6
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()  # everything drawn can be rendered


@every_picture
def test_on_axes_that_are_given(name):
    n = PICTURES[name][3]
    figure, axes = plt.subplots(1, max(n, 1), squeeze=False)
    result = draw(name, **({"axes": list(axes.flat)} if n else {"ax": axes[0, 0]}))
    assert axes_of(result) == list(axes.flat)
    assert plt.get_fignums() == [figure.number]
    for ax in axes.flat:
        assert ax.has_data()
    figure.canvas.draw()


@every_picture
def test_a_title(name):
    figure = axes_of(draw(name, title="a title"))[0].figure
    words = [ax.get_title() for ax in figure.axes]
    suptitle = figure.get_suptitle()
    assert any("a title" in word for word in (*words, suptitle))


@every_picture
def test_type_is_legible(name):
    figure = axes_of(draw(name))[0].figure
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text().strip()]
    assert texts
    assert min(text.get_fontsize() for text in texts) >= 6.5


@every_picture
def test_nothing_global_changes(name):
    before, state = dict(mpl.rcParams), torch.get_rng_state()
    draw(name)
    assert dict(mpl.rcParams) == before
    assert torch.equal(torch.get_rng_state(), state)


@every_picture
def test_axes_of_another_kind_are_refused(name):
    n = PICTURES[name][3]
    options = {"axes": [3] * n} if n else {"ax": 3}
    match = f"expected {'axes' if n else 'ax'} as matplotlib Axes, got int"
    with pytest.raises(TypeError, match=match):
        draw(name, **options)
    if n:
        with pytest.raises(ValueError, match=f"expected {n} axes, got {n + 1}"):
            draw(name, axes=plt.subplots(1, n + 1)[1])


@every_picture
def test_without_matplotlib_it_says_what_to_install(name, monkeypatch):
    real = builtins.__import__

    def missing(module, *rest):
        if module.split(".")[0] == "matplotlib":
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"expected matplotlib, got none: pip install advcal\["):
        draw(name)


# --- each by itself --------------------------------------------------------------------------


def test_the_number_of_weighted_examples_is_not_cut_off():
    weights = torch.full((4,), 0.0625)
    probs, labels = torch.tensor([[0.9, 0.1]]).expand(4, 2), torch.tensor([0, 0, 0, 1])
    bins = reliability_bins(probs, labels, weights=weights)
    assert plots.reliability_diagram(bins).texts[0].get_text().endswith("n 0.25")
    assert "<td>0.25</td>" in bins._repr_html_()
    assert "<td>0</td>" in bins._repr_html_()


def test_figures_may_be_tensors():
    (ax,) = plots.curves([0.0], {"a": [BINS]}, figures=["ece"])
    assert ax.lines[0].get_ydata() == pytest.approx([float(BINS.ece)])
    for value in (torch.tensor(0.25), np.array(0.25), {"accuracy": torch.tensor(0.25)}):
        assert plots.transfer_matrix({("a", "b"): value}).texts[0].get_text() == "0.25"


def test_severities_of_models_may_come_in_another_order():
    found = {"a": {1: [0.1], 5: [0.5]}, "b": {5: [0.4], 1: [0.2]}}
    heights = [y for line in plots.shift_boxes(found).lines for y in line.get_ydata()[:1]]
    assert heights == pytest.approx(np.repeat([0.1, 0.5, 0.2, 0.4], 5))  # two whiskers and so on


def test_the_reliability_diagram():
    band = consistency_bands(PROBS, LABELS, n_bins=10, resamples=50)
    accuracy = partial(lambda p, y: reliability_bins(p, y, n_bins=10).bin_accuracy)
    per_bin = (np.clip(BINS.bin_accuracy - 0.1, 0, 1), np.clip(BINS.bin_accuracy + 0.1, 0, 1))
    ax = plots.reliability_diagram(BINS, band=band, interval=per_bin)
    containers = {container.get_label(): container for container in ax.containers}
    occupied = BINS.counts > 0
    heights = [bar.get_height() for bar in containers["accuracy"]]
    np.testing.assert_allclose(heights, accuracy(PROBS, LABELS)[occupied])
    bars = containers["if calibrated"]
    np.testing.assert_allclose([bar.get_y() for bar in bars], band[0][occupied])
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    np.testing.assert_allclose(tops, band[1][occupied])
    segments = containers["interval"].lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 1].min() for s in segments], per_bin[0][occupied])
    np.testing.assert_allclose([s[:, 1].max() for s in segments], per_bin[1][occupied])
    found = bootstrap(partial(ece, n_bins=10), PROBS, LABELS, resamples=20)
    text = plots.reliability_diagram(BINS, interval=found).texts[0].get_text()
    assert text.startswith(f"ECE {BINS.ece:.3f}\n[{found.low:.3f}, {found.high:.3f}]\nMCS ")


def test_tensors_are_drawn_as_arrays_are():
    bins = reliability_bins(torch.tensor(PROBS), torch.tensor(LABELS), n_bins=10)
    one, other = plots.reliability_diagram(bins), plots.reliability_diagram(BINS)
    got, wanted = ([bar.get_height() for bar in ax.patches] for ax in (one, other))
    np.testing.assert_allclose(got, wanted)


def test_curves_and_the_spread_of_runs():
    both = {"PGD": [0.0, 0.2, 0.3], "three": [[0, 1, 2], [1, 1, 1], [3, 4, 5]]}
    (ax,) = plots.curves(EPS, both, figures="MCS")
    np.testing.assert_allclose(lines(ax)["PGD"], [0, 0.2, 0.3])
    np.testing.assert_allclose(lines(ax)["three"], [1, 1, 4])
    (shade,) = ax.collections
    low, high = shade.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (0, 5)  # one standard deviation, 1, about 1 and about 4
    assert ax.get_xlabel() == r"$\varepsilon$"
    (levels,) = plots.curves([10, 1], {"AdaLS": [0.1, 0.2]}, figures="ECE", against="n_levels")
    assert list(levels.get_xticks()) == [1, 10]
    assert levels.get_xlabel() == "number of robustness levels $R$"


def drawn(axes):
    return [line.get_xydata().tolist() for ax in axes for line in ax.lines]


def test_settings_may_come_in_any_order():
    mixed, records = [2, 0, 1], LINES["PGD"]
    eps, numbers, runs = ([each[i] for i in mixed] for each in (EPS, [1, 2, 3], RUNS_OF_EPS))
    for line, turned in ((numbers, [1, 2, 3]), (runs, RUNS_OF_EPS)):
        any_order = plots.curves(eps, {"a": line}, figures="MCS")
        assert drawn(any_order) == drawn(plots.curves(EPS, {"a": turned}, figures="MCS"))
    any_order = plots.curves(eps, {"a": [records[i] for i in mixed]})
    assert drawn(any_order) == drawn(plots.curves(EPS, {"a": records}))
    found = envelope(certified_lowest=(0.1, 0.0), certified_highest=(0.98, 1.0))
    ends = {k: v[::-1] for k, v in vars(found).items() if isinstance(v, tuple)}
    any_order = plots.confidence_envelope({"a": SimpleNamespace(**vars(found) | ends)})
    assert drawn([any_order])[:4] == drawn([plots.confidence_envelope({"a": found})])[:4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_tensors_may_ask_for_a_gradient_and_have_any_precision(dtype):
    values = torch.tensor([0.25, 0.5], dtype=dtype, requires_grad=True)
    for line in (values, [*values]):
        (ax,) = plots.curves(line, {"a": line}, figures="ECE")
        assert ax.lines[1].get_xydata().tolist() == [[0.25, 0.25], [0.5, 0.5]]
        plots.shift_boxes({"a": {1: line}})
    plots.pareto_front({"a": [*values, values[0]]})


def test_a_front_may_be_of_numbers():
    ax = plots.pareto_front({0.5: (0.9, 0.1, 0.2), 1: (0.8, 0.5, 0.1)})
    assert [text.get_text() for text in ax.texts] == ["0.5", "1"]


def test_panels_of_figures():
    panels = draw("curves")
    assert [ax.get_ylabel() for ax in panels] == ["accuracy", "confidence", "MCS", "ECE"]
    for ax, figure in zip(panels, FIGURES, strict=True):
        for name, records in LINES.items():
            wanted = [each[figure] for each in records]
            np.testing.assert_allclose(lines(ax)[name], wanted)
    objects = {"PGD": [SimpleNamespace(**each) for each in LINES["PGD"]]}
    (ax,) = plots.curves(EPS, objects, figures=["ece"])
    np.testing.assert_allclose(lines(ax)["PGD"], [0, 0.05, 0.1])


def test_lines_of_lam_are_in_order_from_dark_to_light():
    ax = draw("curves by lam")[0]
    assert list(lines(ax)) == [r"$\lambda$ = 1", r"$\lambda$ = 5"]
    np.testing.assert_allclose(lines(ax)[r"$\lambda$ = 5"], [0.9, 0.8, 0.7])
    brightness = [sum(mpl.colors.to_rgb(line.get_color())) for line in ax.get_lines()]
    assert brightness == sorted(brightness)


def test_the_envelope_starts_at_the_clean_confidence():
    ax = draw("confidence_envelope")
    ends = [line.get_ydata() for line in ax.get_lines() if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(ends[0], [0.85, 0.7, 0.5])
    np.testing.assert_allclose(ends[1], [0.85, 0.95, 0.99])
    np.testing.assert_allclose(ends[2], [0.85, 0.8, 0.7])
    zero = plots.confidence_envelope({"m": envelope(eps=(0.0, 0.2))}).get_lines()[0]
    np.testing.assert_allclose(zero.get_xdata(), [0, 0.2])


def test_levels_of_robustness():
    upper, lower = draw("robustness_levels")
    rows = [level == LEVELS for level in range(5)]
    hits = [(PROBS[r].argmax(1) == LABELS[r]).mean() for r in rows]
    np.testing.assert_allclose(lines(upper)["accuracy"], hits)
    np.testing.assert_allclose(lines(upper)["confidence"], [PROBS[r].max(1).mean() for r in rows])
    heights = [bar.get_height() for bar in lower.patches]
    np.testing.assert_allclose(heights, [ece(PROBS[r], LABELS[r]) for r in rows])
    right = next(ax for ax in lower.figure.axes if ax.get_ylabel() == "variance")
    wanted = [variance([run[r] for run in RUNS]) for r in rows]
    np.testing.assert_allclose(lines(right)["variance"], wanted)


def test_boxes_are_quartiles():
    ax = draw("shift_boxes")
    medians = sorted(
        float(line.get_ydata()[0])
        for line in ax.get_lines()
        if line.get_color() == "black" and len(line.get_ydata())
    )
    assert medians == pytest.approx(sorted([0.2, 0.5, 0.1, 0.25]))
    tops = [patch.get_path().vertices[:, 1].max() for patch in ax.patches]
    assert tops == pytest.approx([0.3, 0.7, 0.1, 0.275])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "5"]


def test_histograms_sum_to_one_and_say_the_auroc():
    ax = plots.score_histograms(SCORES, OUTSIDE, n_bins=7, names=("here", "there"))
    assert ax.get_title() == f"AUROC {auroc(SCORES, OUTSIDE):.3f}"
    filled = [bar.get_height() for bar in ax.patches if isinstance(bar, mpl.patches.Rectangle)]
    assert len(filled) == 14
    assert sum(filled[:7]) == pytest.approx(1)
    assert sum(filled[7:]) == pytest.approx(1)
    assert ax.get_legend_handles_labels()[1] == ["here", "there"]
    plots.score_histograms(torch.zeros(2), torch.tensor([0, 1])).figure.canvas.draw()


def test_images_with_what_is_said_of_them():
    axes = plots.image_grid(IMAGES, SAID, LABELS[:2], names=["cat", "dog", "cow", "elk"])
    order = [(i, name) for i in range(2) for name in IMAGES]
    for ax, (i, name) in zip(axes, order, strict=True):
        shown = ax.get_images()[0].get_array()
        np.testing.assert_allclose(shown, IMAGES[name][i].transpose(1, 2, 0), atol=1e-6)
        probs = SAID[name][i]
        word = ["cat", "dog", "cow", "elk"][probs.argmax()]
        text = ax.get_xlabel()
        assert text.endswith(f"{word}, {100 * probs.max():.0f} %")
        assert text.startswith(word) == (probs.argmax() == LABELS[i])
    assert [ax.get_title() for ax in axes] == ["clean", "PGD", "", ""]
    grey = torch.rand(1, 1, 5, 6)
    (ax,) = plots.image_grid({"x": grey}, {"x": torch.eye(2)[:1]}, torch.tensor([0]))
    np.testing.assert_allclose(ax.get_images()[0].get_array(), grey[0, 0])


def test_the_matrix_is_crafted_by_scored():
    ax = draw("transfer_matrix")
    np.testing.assert_allclose(ax.get_images()[0].get_array(), [[0.1, 0.6], [0.5, 0.0]])
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.60", "0.50", "0.00"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    signed = plots.transfer_matrix({("s", "t"): record(3), ("s", "u"): record(0)}, figure="mcs")
    assert [text.get_text() for text in signed.texts] == ["+0.20", "-0.10"]
    nothing = plots.transfer_matrix({("s", "t"): -0.001}, figure="mcs")
    assert [text.get_text() for text in nothing.texts] == ["+0.00"]
    assert signed.get_images()[0].get_clim() == pytest.approx((-0.2, 0.2))


def test_the_front():
    ax = draw("pareto_front")
    front, others = (collection for collection in ax.collections)
    np.testing.assert_allclose(front.get_offsets(), [[0.95, 0.1], [0.85, 0.5]])
    np.testing.assert_allclose(front.get_array(), [0.2, 0.1])
    np.testing.assert_allclose(others.get_offsets(), [[0.8, 0.4]])
    # Calibration alone brings a model to the front, but not onto the line of the accuracies.
    ax = plots.pareto_front(MODELS | {"bad": (0.8, 0.4, 0.01)})
    assert len(ax.collections[0].get_offsets()) == 3
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.85, 0.95])
    assert (
        len(plots.pareto_front({"a": (1, 1, 0), "b": (1, 1, 0)}).collections[0].get_offsets()) == 2
    )


def test_names_of_models_do_not_cover_each_other():
    near = {"first": (0.90, 0.5, 0.1), "second": (0.901, 0.5, 0.1), "third": (0.7, 0.2, 0.1)}
    ax = plots.pareto_front(near)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(two) for one, two in ((boxes[0], boxes[1]), (boxes[1], boxes[2])))


# --- what must be seen ----------------------------------------------------------------------


def inside(artist, figure):
    """Whether all of an artist lies in the picture."""
    box, whole = artist.get_window_extent(), figure.bbox
    return whole.x0 <= box.x0 <= box.x1 <= whole.x1 and whole.y0 <= box.y0 <= box.y1 <= whole.y1


def all_within(ax):
    """Whether the limits cut nothing of the lines."""
    low, high = ax.get_ylim()
    return all(low <= y <= high for line in ax.get_lines() for y in line.get_ydata())


def apart(texts):
    boxes = [text.get_window_extent() for text in texts]
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("layout", ["own", None, "constrained", "tight"])
def test_the_title_and_the_strip_are_in_the_picture(layout):
    ax = None if layout == "own" else plt.subplots(layout=layout)[1]
    ax = plots.reliability_diagram(BINS, ax=ax, title="TITLE")
    (strip,) = ax.child_axes
    for _ in range(2):
        ax.figure.canvas.draw()
        assert inside(ax.title, ax.figure)
        assert inside(strip, ax.figure)
        assert 0 < ax.title.get_window_extent().y0 - strip.get_window_extent().y1 < 12
    strip.remove()
    ax.figure.canvas.draw()
    assert 0 < ax.title.get_window_extent().y0 - ax.get_window_extent().y1 < 12


def test_a_layout_that_is_asked_for_later_still_moves_the_diagram():
    figure, ax = plt.subplots()
    plots.reliability_diagram(BINS, ax=ax, title="TITLE")
    figure.tight_layout()
    figure.canvas.draw()
    assert inside(ax.title, figure)
    assert inside(ax.child_axes[0], figure)
    assert ax.get_in_layout()


def test_no_point_is_cut_off():
    losses = only([1, 5, 10], {"a": [-0.3, -0.2, -0.1]}, figures="gain")
    assert all_within(losses)
    both = only([1, 5], {"a": [[0.2, -0.1], [0.3, 0.0]]}, figures="gain")
    assert both.get_ylim()[0] <= 0.05 - np.std([0.2, -0.1], ddof=1)  # the shade is seen too
    errors = only([1, 5], {"a": [[0.0, 0.1], [0.3, 0.1]]}, figures="ECE")
    assert errors.get_ylim()[0] == 0
    only([1, 5], {"b": [0.9, 0.8]}, figures="ECE", axes=errors)
    assert all_within(errors)

    records = {"a": [{"brier": 0.4, "n": 9, "ece": 0.1}, {"brier": 1.9, "n": 9, "ece": 0.2}]}
    panels = plots.curves([0, 0.1], records, figures=["brier", "n", "ece"])
    assert all(all_within(ax) for ax in panels)
    assert panels[2].get_ylim() == (-0.03, 1.03)
    low = {"a": [record(0), record(1) | {"mcs": -0.8}, record(2)]}
    for each in (LINES, low):
        _, axes = plt.subplots(1, 4, sharey=True)
        assert all(all_within(ax) for ax in plots.curves(EPS, each, axes=axes))
    assert all_within(plots.confidence_envelope({"a": envelope(highest=(1.2, 1.5))}))
    heat = plots.transfer_matrix({("s", "t"): -0.5, ("s", "u"): 0.5}, figure="gain")
    assert heat.get_images()[0].get_clim() == (-0.5, 1)


def test_dozens_of_lines_bands_and_boxes_differ():
    names = [f"m{i}" for i in range(49)]

    def looks(ax):
        return {
            (line.get_color(), line.get_marker(), line.get_linestyle())
            for line in ax.get_lines()
            if line.get_label() in names
        }

    assert len(looks(only([0, 1], {name: [0, 1] for name in names}, figures="MCS"))) == 49
    many = {name: [record(0), record(1)] for name in names}
    assert len(looks(plots.curves([0, 1], many, figures=["ece"])[0])) == 49
    boxes = plots.shift_boxes({name: {1: [0.1, 0.2]} for name in names}).patches
    assert len({(box.get_facecolor(), box.get_hatch()) for box in boxes}) == 49
    bands = plots.confidence_envelope({name: envelope() for name in names})
    fills = {(tuple(band.get_facecolor()[0]), band.get_hatch()) for band in bands.collections}
    assert len(fills) == 49
    ends = [line for line in bands.get_lines() if len(line.get_xdata()) == 3]
    assert len({(end.get_color(), end.get_marker()) for end in ends}) == 49


@pytest.mark.parametrize("name", ["_private", ""])
def test_every_name_is_in_the_legend(name):
    single = (
        only([0, 1], {name: [0, 1], "b": [1, 0]}, figures="MCS"),
        plots.confidence_envelope({name: envelope(), "b": envelope()}),
        plots.score_histograms(SCORES, OUTSIDE, names=(name, "b")),
        plots.shift_boxes({name: {1: [0.1]}, "b": {1: [0.2]}}),
    )
    legends = [ax.get_legend() for ax in single]
    records = {name: [record(0)], "b": [record(1)]}
    legends.append(plots.curves([0], records)[0].figure.legends[0])
    legends.append(plots.curves([0], records, axes=plt.subplots(1, 4)[1])[0].legend_)
    for legend in legends:
        assert [text.get_text() for text in legend.get_texts()][:2] == [name, "b"]


@pytest.mark.parametrize("figures", [["accuracy"], FIGURES])
@pytest.mark.parametrize("title", [None, "a title", "two\nlines"])
def test_a_figure_grows_with_its_legend(figures, title):
    long = "a rather long name of a model which does not fit in one line "
    for names in (
        [f"a rather long name of model {i}" for i in range(12)],
        [long + "a", long + "b"],
    ):
        records = {name: [record(0), record(1)] for name in names}
        panels = plots.curves([0, 0.1], records, figures=figures, title=title)
        figure = panels[0].figure
        figure.canvas.draw()  # a collapsed layout would warn
        (legend,) = figure.legends
        assert inside(legend, figure)
        assert legend.get_texts()[0].get_window_extent().y0 > panels[0].get_window_extent().y1
        assert min(ax.get_window_extent().height for ax in panels) > 0.8 * figure.dpi
        if title is not None:
            top = legend.get_texts()[0].get_window_extent()
            assert inside(figure._suptitle, figure)
            assert not top.overlaps(figure._suptitle.get_window_extent())
        plt.close(figure)


def test_one_panel_grows_too():
    few = only([0, 1], {"a": [0, 1], "b": [1, 0]}, figures="MCS")
    assert not few.figure.legends
    curves = {f"a rather long name of model {i}": [0, i] for i in range(12)}
    ax = only([0, 1], curves, figures="MCS", title="a title")
    ax.figure.canvas.draw()
    (legend,) = ax.figure.legends
    assert inside(legend, ax.figure)
    assert not legend.get_window_extent().overlaps(ax.get_window_extent())
    assert not legend.get_window_extent().overlaps(ax.title.get_window_extent())
    assert ax.get_window_extent().height > 1.4 * ax.figure.dpi
    figure, given = plt.subplots()
    only([0, 1], curves, figures="MCS", axes=given)
    assert not figure.legends  # a figure of another keeps its size
    assert figure.get_figheight() == 4.8


def test_names_of_targets_do_not_cover_each_other():
    names = ["ResNet-18", "ResNet-18 AT", "WRN-28-10 TRADES", "VGG-19"]
    ax = plots.transfer_matrix({(a, b): 0.5 for a in names for b in names})
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert apart(ax.get_xticklabels())
    assert all(inside(label, ax.figure) for label in ax.get_xticklabels())
    assert ax.get_window_extent().height > 4 * 0.4 * ax.figure.dpi
    short = draw("transfer_matrix")
    short.figure.canvas.draw()
    assert {label.get_rotation() for label in short.get_xticklabels()} == {0}
    ax = plots.transfer_matrix({(a, b): -0.5 for a in "abcdefgh" for b in "abcdefgh"}, figure="mcs")
    ax.figure.canvas.draw()
    assert apart(ax.texts)


@pytest.mark.parametrize("n", [1, 4])
def test_names_of_classes_do_not_cover_each_other(n):
    classes = ["airplane", "automobile", *(f"class {i}" for i in range(8))]
    probs = np.full((2, 10), 0.03)
    probs[:, 1] = 0.73
    columns = ["clean", "PGD, 20 steps", "noise", "a long name of an attack"][:n]
    images = {name: RNG.random((2, 3, 8, 8)) for name in columns}
    said = dict.fromkeys(columns, probs)
    axes = plots.image_grid(images, said, np.array([1, 2]), names=classes, title="a title")
    figure = axes[0].figure
    figure.canvas.draw()
    assert apart([ax.xaxis.label for ax in axes])
    assert apart([*(ax.title for ax in axes[:n]), figure._suptitle])
    for ax in axes:
        assert inside(ax.xaxis.label, figure)
        assert inside(ax.title, figure)
        assert "automobile" in ax.get_xlabel()
        assert "73 %" in ax.get_xlabel()
    assert axes[0].get_window_extent().width > 0.6 * figure.dpi


class Series:
    """What pandas' kind of column offers: labels of its own, `len`, iteration and an array."""

    def __init__(self, values):
        self.values = list(values)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def test_columns_of_a_table_are_drawn_as_lists_are():
    for kind in (Series, tuple, np.array, torch.tensor):
        ax = only(kind([0, 1]), {"a": kind([0.1, 0.3])}, figures="MCS")
        np.testing.assert_allclose(lines(ax)["a"], [0.1, 0.3])
        levels = only(kind([1, 2]), {"a": [kind([0.1, 0.3]), kind([0.2, 0.2])]}, figures="ECE")
        np.testing.assert_allclose(lines(levels)["a"], [0.2, 0.2])
        shown = plots.score_histograms(kind([0.1, 0.9, 0.4]), kind([0, 1, 1]))
        assert shown.get_title() == "AUROC 1.000"
        plots.shift_boxes({"a": {1: kind([0.1, 0.3])}})
        plots.pareto_front({"a": kind([0.1, 0.3, 0.2])})


# --- bad input -------------------------------------------------------------------------------

NAN, MCS = float("nan"), {"figures": "MCS"}
BAD = {
    "bins": ("reliability_diagram", [3], {}, TypeError, "bins as ReliabilityBins, got int"),
    "band": ("reliability_diagram", [BINS], {"band": 3}, TypeError, r"band as \(low, high\), got"),
    "band's shape": (
        "reliability_diagram", [BINS], {"band": ([0.1], [0.2])}, ValueError,
        r"band of two ends of shape \(10,\), got \(1,\)",
    ),
    "interval": (
        "reliability_diagram", [BINS], {"interval": (0.2, 0.1)}, ValueError,
        "interval with low <= high",
    ),
    "eps": ("curves", [3, {"a": [1]}], MCS, TypeError, "eps as a list of numbers, got int"),
    "words": ("curves", [["x"], {"a": [1]}], MCS, TypeError, "eps as a list of numbers, got"),
    "no eps": ("curves", [[], {"a": []}], MCS, ValueError, "one or more values for eps"),
    "too few": ("curves", [EPS, {"a": [1]}], MCS, ValueError, "3 values for 'a', got 1"),
    "NaN": ("curves", [[0.0], {"a": [NAN]}], MCS, ValueError, "finite values for 'a'"),
    "curves": ("curves", [EPS, [1, 2, 3]], MCS, TypeError, "curves as a mapping, got list"),
    "no curves": ("curves", [EPS, {}], MCS, ValueError, "one or more in curves, got none"),
    "number": ("curves", [[1], {"a": 3}], {"figures": "ECE"}, TypeError, "'a' as a list of values"),
    "a set": ("curves", [[1], {"a": {3}}], MCS, TypeError, "'a' as a list of values, got set"),
    "text": ("score_histograms", ["abc", OUTSIDE], {}, TypeError, "scores"),
    "nothing": ("score_histograms", [None, OUTSIDE], {}, TypeError, "scores"),
    "n_levels": ("curves", [None, {}], {"against": "n_levels"}, TypeError, "n_levels as a list of"),
    "records": ("curves", [EPS, [1]], {}, TypeError, "curves as a mapping, got list"),
    "one record": (
        "curves", [EPS, {"a": record(0)}], {}, TypeError, "records of 'a' as a list",
    ),
    "short": ("curves", [EPS, {"a": []}], {}, ValueError, "3 records for 'a', got 0"),
    "figure": (
        "curves", [EPS, LINES], {"figures": ["auroc"]}, ValueError,
        "'auroc' in each record, got dict",
    ),
    "numbers": (
        "curves", [EPS, {"a": [1, 2, 3]}], {}, ValueError,
        "'accuracy' in each record, got int; to draw numbers say figures='accuracy'",
    ),
    "title": ("curves", [EPS, LINES], {"title": 3}, TypeError, "title as a str, got int"),
    "figures": (
        "curves", [EPS, LINES], {"figures": []}, ValueError, "one figure or more",
    ),
    "a number of figures": (
        "curves", [EPS, LINES], {"figures": 3}, TypeError, "figures as a list or tuple, got int",
    ),
    "figures of a set": (
        "curves", [EPS, LINES], {"figures": {"ece"}}, TypeError, "figures as a list or tuple, got",
    ),
    "one label": (
        "image_grid", [IMAGES, SAID, np.array(1)], {}, ValueError, r"labels of shape \(n >= 1,\)",
    ),
    "a number of names": (
        "image_grid", [IMAGES, SAID, LABELS[:2]], {"names": 4}, TypeError, "names as a list or",
    ),
    "a number of runs": (
        "robustness_levels", [PROBS, LABELS, LEVELS], {"runs": 2}, TypeError, "runs as several",
    ),
    "lam": ("curves", [EPS, {"five": LINES["PGD"]}], {"by": "lam"}, TypeError, "lam as a number"),
    "envelope": (
        "confidence_envelope", [{"a": 3}], {}, TypeError, "curves with eps, lowest and highest",
    ),
    "ends": (
        "confidence_envelope", [{"a": envelope(lowest=(0.1,))}], {}, ValueError,
        "2 values for lowest of 'a'",
    ),
    "level": (
        "robustness_levels", [PROBS, LABELS, LEVELS[:3]], {}, ValueError, "levels of shape",
    ),
    "runs": (
        "robustness_levels", [PROBS, LABELS, LEVELS], {"runs": [PROBS[:9]] * 2}, ValueError,
        "runs of 200 examples, got 9",
    ),
    "severities": (
        "shift_boxes", [{"a": {1: [0.1]}, "b": {2: [0.1]}}], {}, ValueError,
        r"severities \[1\] for 'b', got \[2\]",
    ),
    "boxes": ("shift_boxes", [{"a": [0.1]}], {}, TypeError, r"curves\['a'\] as a mapping"),
    "empty box": ("shift_boxes", [{"a": {1: []}}], {}, ValueError, "one or more values for 'a' at"),
    "one kind": (
        "score_histograms", [SCORES, OUTSIDE * 0], {}, ValueError, "labels 0 and 1, got 0 only",
    ),
    "names": (
        "score_histograms", [SCORES, OUTSIDE], {"names": ("a",)}, ValueError, "two names, got",
    ),
    "kinds": (
        "image_grid", [IMAGES, {"clean": PROBS[:2]}, LABELS[:2]], {}, ValueError,
        r"probs of \['clean', 'PGD'\], got \['clean'\]",
    ),
    "range": (
        "image_grid", [{"x": 255 * IMAGES["PGD"]}, {"x": PROBS[:2]}, LABELS[:2]], {}, ValueError,
        r"inputs\['x'\] in \[0, 1\]",
    ),
    "channels": (
        "image_grid", [{"x": RNG.random((2, 2, 8, 8))}, {"x": PROBS[:2]}, LABELS[:2]], {},
        ValueError, r"inputs\['x'\] of shape \(2, 1 or 3, height, width\)",
    ),
    "n": (
        "image_grid", [{"x": IMAGES["PGD"]}, {"x": PROBS[:3]}, LABELS[:2]], {}, ValueError,
        r"probs\['x'\] of 2 examples, got 3",
    ),
    "classes": (
        "image_grid", [IMAGES, SAID, LABELS[:2]], {"names": ["a"]}, ValueError, "4 names, got",
    ),
    "pair": ("transfer_matrix", [{"a": 1}], {}, TypeError, r"records by \(source, target\)"),
    "missing": (
        "transfer_matrix", [{("a", "a"): 1, ("b", "b"): 1}], {}, ValueError, "a record of every",
    ),
    "value": ("transfer_matrix", [{("a", "a"): NAN}], {}, ValueError, "accuracy finite, got nan"),
    "two": ("pareto_front", [{"a": (1, 2)}], {}, ValueError, "3 values for 'a', got"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_a_figure_is_made(case):
    name, arguments, options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        getattr(plots, name)(*arguments, **options)
    assert plt.get_fignums() == []


def test_levels_side_by_side_cut_no_bar():
    labels, levels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1])
    _, axes = plt.subplots(2, 2, sharey="row")
    for column, sure in zip(axes.T, (0.99, 0.6), strict=True):
        probs = torch.tensor([[sure, 1 - sure]]).repeat(4, 1)
        plots.robustness_levels(probs, labels, levels, axes=column)
    tallest = max(bar.get_height() for ax in axes[1] for bar in ax.patches)
    assert axes[1, 0].get_ylim()[1] > tallest > 0.9


def test_a_diagram_of_one_class_names_it():
    probs, labels = torch.rand(50, 2).softmax(dim=1), torch.arange(50) % 2
    bins = reliability_bins(probs, labels, positive=1)
    ax = plots.reliability_diagram(bins, positive=1, interval=bins.interval("ece"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("probability of class 1", "share of class 1")
    with pytest.raises(TypeError, match="positive as an int, got str"):
        plots.reliability_diagram(bins, positive="1")
