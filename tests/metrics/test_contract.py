"""What holds for every metric, one table over all of them."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from advcal import metrics

# The least and the greatest value; None for what is not a number.
RANGES = {
    "accuracy": (0, 1),
    "augrc": None,
    "aurc": None,  # not a mean
    "brier": (0, 2),
    "classwise_ece": (0, 1),
    "classwise_mcs": None,
    "confidence": (0, 1),
    "debiased_classwise_rmsce": None,
    "debiased_rmsce": None,  # not a mean: doubled data have less bias
    "decompose_brier": None,
    "decompose_nll": None,
    "e_aurc": None,
    "ece": (0, 1),
    "ece_sweep": None,
    "kde_ece": None,
    "ks_error": (0, 1),
    "mce": (0, 1),
    "mcs": (-1, 1),
    "nll": (0, math.inf),
    "reliability_bins": None,
    "reliability_sketch": None,
    "rmsce": (0, 1),
    "selective_risk": None,
    "smooth_ece": (0, 1),
    "summary": None,
}
# What takes something else, or cannot be asked of any predictions.
OTHERS = {"aupr", "auroc", "churn", "entropy", "fpr95", "rejection_threshold", "robust_error"}
OTHERS |= {
    "bootstrap",
    "detection_interval",
    "calibration_test",
    "consistency_bands",
    "ece_interval",
}
OTHERS |= {"classwise_bins", "crossfit_ece", "labelled", "uncertainty"}
OTHERS |= {"paired_test", "robustness_levels", "variance", "clopper_pearson"}
BINNED = [
    "classwise_ece",
    "debiased_classwise_rmsce",
    "debiased_rmsce",
    "ece",
    "mce",
    "reliability_bins",
    "rmsce",
    "summary",
]
VECTORS = ["classwise_mcs"]
# The same examples twice are another number.
NOT_MEANS = {
    "augrc",
    "aurc",
    "debiased_classwise_rmsce",
    "debiased_rmsce",
    "e_aurc",
    "ece_sweep",
    "kde_ece",
    "selective_risk",
}
REDUCED = ["accuracy", "brier", "confidence", "nll"]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]

every_metric = pytest.mark.parametrize("name", RANGES)


def call(name, probs, labels, **options):
    """Return the result as a dictionary of tensors, arrays or scalars."""
    result = getattr(metrics, name)(probs, labels, **options)
    residuals = {}
    if isinstance(result, metrics.ReliabilitySketch):
        residuals, result = {"residuals": result.residuals}, result.bins
    if isinstance(result, metrics.Summary):
        residuals, result = {"sums": result.sums}, result.bins
    if isinstance(result, metrics.ReliabilityBins):
        fields = ("edges", "counts", "confidences", "corrects")
        return {field: getattr(result, field) for field in fields} | residuals
    if isinstance(result, metrics.Decomposition):
        return result._asdict()
    return {"value": result}


def example(n=90, n_classes=5, seed=0):
    """Draw probabilities in 64ths, which every floating dtype holds exactly, with many ties."""
    rng = np.random.default_rng(seed)
    cuts = np.array([np.sort(rng.choice(63, n_classes - 1, replace=False)) + 1 for _ in range(n)])
    edges = np.concatenate([np.zeros((n, 1)), cuts, np.full((n, 1), 64)], axis=1)
    return np.diff(edges, axis=1) / 64, rng.integers(0, n_classes, n)


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for field in got:
        np.testing.assert_array_equal(np.asarray(got[field]), np.asarray(wanted[field]), field)


def test_every_metric_is_here():
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert functions == RANGES.keys() | OTHERS
    for name in RANGES:
        parameters = inspect.signature(getattr(metrics, name)).parameters
        assert list(parameters)[:2] == ["probs", "labels"]
        assert ("n_bins" in parameters) == (name in BINNED)
        assert ("reduction" in parameters) == (name in REDUCED)


# --- kinds and dtypes ------------------------------------------------------------------------


@every_metric
def test_tensors_give_tensors_and_arrays_give_numpy_scalars_of_the_same_value(name):
    probs, labels = example()
    from_tensors = call(name, torch.from_numpy(probs), torch.from_numpy(labels))
    from_arrays = call(name, probs, labels)
    for field, tensor in from_tensors.items():
        array = from_arrays[field]
        whole = field in ("counts", "corrects")
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == (torch.int64 if whole else torch.float64)
        vector = name.startswith(("reliability", "summary")) or name in VECTORS
        assert isinstance(array, np.ndarray if vector else np.float64)
        assert array.dtype == (np.int64 if whole else np.float64)
        assert array.shape == tuple(tensor.shape)
    assert_same(from_tensors, from_arrays)


@pytest.mark.parametrize("name", REDUCED)
def test_no_reduction_gives_one_float64_value_per_example(name):
    probs, labels = example()
    tensor = call(name, torch.from_numpy(probs).half(), torch.from_numpy(labels), reduction="none")
    array = call(name, probs.astype(np.float32), labels, reduction="none")
    assert tensor["value"].dtype == torch.float64
    assert array["value"].dtype == np.float64
    assert isinstance(array["value"], np.ndarray)
    assert array["value"].shape == (90,)
    assert_same(tensor, array)


@every_metric
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_floating_dtype_is_computed_in_float64(name, dtype):
    probs, labels = map(torch.from_numpy, example())
    got = call(name, probs.to(dtype), labels)
    assert all(each.dtype == torch.float64 or not each.is_floating_point() for each in got.values())
    assert_same(got, call(name, probs, labels))


@every_metric
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_every_floating_dtype_of_numpy(name, dtype):
    probs, labels = example()
    assert_same(call(name, probs.astype(dtype), labels), call(name, probs, labels))


@every_metric
@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype_of_labels(name, dtype):
    probs, labels = example()
    wanted = call(name, probs, labels)
    assert_same(call(name, probs, labels.astype(dtype)), wanted)
    tensor = torch.from_numpy(labels).to(getattr(torch, dtype))
    assert_same(call(name, torch.from_numpy(probs), tensor), wanted)


# --- layouts ---------------------------------------------------------------------------------

LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "all strides negative": lambda a: np.flip(np.flip(a).copy()),
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big endian backwards": lambda a: a[::-1].astype(a.dtype.newbyteorder(">"))[::-1],
}


@every_metric
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_every_layout_of_arrays(name, layout, writable):
    probs, labels = example()
    views = [LAYOUTS[layout](probs), LAYOUTS[layout](labels)]
    np.testing.assert_array_equal(views[0], probs)
    for view in views:
        view.flags.writeable = writable
    assert_same(call(name, *views), call(name, probs, labels))
    assert [view.flags.writeable for view in views] == [writable] * 2


@every_metric
def test_strided_and_expanded_tensors(name):
    probs, labels = map(torch.from_numpy, example())
    wanted = call(name, probs, labels)
    assert_same(call(name, probs.t().contiguous().t(), labels), wanted)
    assert_same(call(name, probs.repeat(1, 2)[:, :5], labels.repeat_interleave(2)[::2]), wanted)
    one = torch.tensor([0.5, 0.25, 0.25])
    assert_same(
        call(name, one.expand(7, 3), torch.tensor(1).expand(7)),
        call(name, one.repeat(7, 1), torch.ones(7, dtype=torch.int64)),
    )


@every_metric
def test_inputs_are_not_modified(name):
    for probs, labels in (example(), tuple(map(torch.from_numpy, example()))):
        before = (np.asarray(probs).copy(), np.asarray(labels).copy())
        call(name, probs, labels)
        np.testing.assert_array_equal(np.asarray(probs), before[0])
        np.testing.assert_array_equal(np.asarray(labels), before[1])


@every_metric
def test_tensors_that_require_grad_and_every_grad_mode(name):
    probs, labels = map(torch.from_numpy, example())
    wanted = call(name, probs, labels)
    leaf = probs.clone().requires_grad_()
    for value in call(name, leaf, labels).values():
        assert not value.requires_grad
    assert_same(call(name, leaf, labels), wanted)
    assert leaf.grad is None
    with torch.no_grad():
        assert_same(call(name, leaf, labels), wanted)
    with torch.inference_mode():
        assert_same(call(name, leaf, labels), wanted)
        inside = call(name, probs * 1, labels * 1)
    assert_same(inside, wanted)
    assert_same(call(name, torch.nn.Parameter(probs), labels), wanted)


@pytest.mark.parametrize("name", sorted(RANGES.keys() - NOT_MEANS))
def test_more_rows_than_one_pass_takes(name):
    probs, labels = example()
    times = 1_000  # 90,000 rows of five classes
    many = call(name, np.tile(probs, (times, 1)), np.tile(labels, times))
    one = call(name, probs, labels)
    for field in many:
        factor = times if field in ("counts", "confidences", "corrects", "residuals", "sums") else 1
        np.testing.assert_allclose(many[field], one[field] * factor, rtol=1e-12)


# --- properties ------------------------------------------------------------------------------


@st.composite
def predictions(draw):
    """Draw probabilities with zeros, ones and ties, and labels."""
    n, n_classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    weights = draw(arrays.arrays(np.int64, (n, n_classes), elements=st.integers(0, 12)))
    weights[weights.sum(axis=1) == 0, 0] = 1
    labels = draw(arrays.arrays(np.int64, n, elements=st.integers(0, n_classes - 1)))
    return weights / weights.sum(axis=1, keepdims=True), labels


@every_metric
@settings(max_examples=60, deadline=None, derandomize=True)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(name, data, random):
    probs, labels = data
    order = random.sample(range(len(labels)), len(labels))
    wanted, got = call(name, probs, labels), call(name, probs[order], labels[order])
    for field in wanted:
        np.testing.assert_allclose(got[field], wanted[field], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in RANGES if RANGES[name]])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(predictions())
def test_within_its_range(name, data):
    least, most = RANGES[name]
    value = call(name, *data)["value"]
    assert least <= value <= most + 1e-12
    doubled = call(name, *(np.concatenate([part, part]) for part in data))["value"]
    np.testing.assert_allclose(doubled, value, rtol=1e-12, atol=1e-12)  # a mean, not a sum


@settings(max_examples=100, deadline=None, derandomize=True)
@given(predictions(), st.integers(1, 30))
def test_how_the_calibration_errors_are_ordered(data, n_bins):
    ece, mce = metrics.ece(*data, n_bins=n_bins), metrics.mce(*data, n_bins=n_bins)
    assert abs(metrics.mcs(*data)) <= ece + 1e-12 <= mce + 2e-12
    assert ece <= metrics.ece(*data, n_bins=2 * n_bins) + 1e-12  # halves of bins
    one_bin = metrics.ece(*data, n_bins=1)
    np.testing.assert_allclose(one_bin, abs(metrics.mcs(*data)), atol=1e-12)


# --- bad input -------------------------------------------------------------------------------

GOOD = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
LABELS = torch.tensor([0, 2])


def with_value(value):
    probs = GOOD.clone()
    probs[1, 1] = value
    return probs


BAD_TENSORS = {
    "rows that sum to 1.5": (
        GOOD * 1.5,
        LABELS,
        ValueError,
        r"sum to 1, got a sum of 1\.5 in row 0",
    ),
    "a row that sums to 1.1": (with_value(0.7), LABELS, ValueError, r"got a sum of 1\.1 in row 1"),
    "logits": (torch.randn(2, 3) * 3, LABELS, ValueError, "pass logits through softmax first"),
    "zeros": (torch.zeros(2, 3), LABELS, ValueError, "got a sum of 0 in row 0"),
    "NaN": (with_value(torch.nan), LABELS, ValueError, "got a sum of nan in row 1"),
    "infinity": (with_value(torch.inf), LABELS, ValueError, "got a sum of inf in row 1"),
    "a negative": (
        torch.tensor([[0.5, 0.3, 0.2], [-0.2, 0.9, 0.3]]),
        LABELS,
        ValueError,
        r"got a probability of -0\.2 in row 1",
    ),
    "1-d": (torch.tensor([0.5, 0.9]), LABELS, ValueError, r"torch\.stack\(\[1 - p, p\], dim=1\)"),
    "3-d": (GOOD[None], LABELS[:1], ValueError, "shape"),
    "0-d": (torch.tensor(0.5), LABELS[0], ValueError, "shape"),
    "no rows": (torch.zeros(0, 3), LABELS[:0], ValueError, "n >= 1"),
    "no classes": (torch.zeros(2, 0), LABELS, ValueError, "classes >= 2"),
    "one class": (torch.ones(2, 1), LABELS * 0, ValueError, r"torch\.stack\(\[1 - p, p\], dim=1\)"),
    "integer probabilities": (
        torch.tensor([[1, 0, 0], [0, 1, 0]]),
        LABELS,
        TypeError,
        r"floating dtype, got .*int64",
    ),
    "boolean probabilities": (GOOD > 0.4, LABELS, TypeError, "bool"),
    "complex probabilities": (GOOD + 0j, LABELS, TypeError, "complex64"),
    "floating labels": (
        GOOD,
        LABELS.float(),
        TypeError,
        r"labels of an integer dtype, got .*float32",
    ),
    "boolean labels": (GOOD, LABELS.bool(), TypeError, "labels .*got .*bool"),
    "a label too high": (GOOD, torch.tensor([0, 3]), ValueError, "labels from 0 to 2, got 3"),
    "a negative label": (GOOD, torch.tensor([-1, 0]), ValueError, "labels from 0 to 2, got -1"),
    "the ignored label of torch": (GOOD, torch.tensor([0, -100]), ValueError, "got -100"),
    "a label beyond int64": (
        GOOD,
        torch.tensor([0, 2**64 - 1], dtype=torch.uint64),
        ValueError,
        "labels from 0 to 2, got",
    ),
    "too few labels": (GOOD, LABELS[:1], ValueError, r"labels of shape \(2,\), got .*\(1,\)"),
    "too many labels": (
        GOOD,
        LABELS.repeat(2),
        ValueError,
        r"labels of shape \(2,\), got .*\(4,\)",
    ),
    "one-hot labels": (GOOD, torch.eye(3)[LABELS].long(), ValueError, r"got .*\(2, 3\)"),
    "labels in a column": (GOOD, LABELS[:, None], ValueError, r"got .*\(2, 1\)"),
    "one label": (GOOD, torch.tensor(1), ValueError, r"got .*\(\)"),
}
BAD_KINDS = {
    "a list of probabilities": (GOOD.tolist(), LABELS, TypeError, "probs .*got list"),
    "no probabilities": (None, LABELS, TypeError, "probs .*got NoneType"),
    "a number": (0.5, LABELS, TypeError, "probs .*got float"),
    "a list of labels": (GOOD, LABELS.tolist(), TypeError, "labels .*got list"),
    "no labels": (GOOD, None, TypeError, "labels .*got NoneType"),
    "array and tensor": (
        GOOD.numpy(),
        LABELS,
        TypeError,
        "labels as a numpy.ndarray .*got a tensor",
    ),
    "tensor and array": (
        GOOD,
        LABELS.numpy(),
        TypeError,
        "labels as a torch.Tensor .*got an array",
    ),
    "objects": (GOOD.numpy().astype(object), LABELS.numpy(), TypeError, "numbers, got .*object"),
    "words": (GOOD.numpy().astype(str), LABELS.numpy(), TypeError, "numbers, got"),
    "word labels": (GOOD.numpy(), LABELS.numpy().astype(str), TypeError, "labels of numbers, got"),
}


def refused(function, error, match, *args, **options):
    with pytest.raises(error, match=match) as caught:
        function(*args, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith("expected "), message
    assert ", got " in message, message


@every_metric
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_and_arrays_are_refused(name, case):
    probs, labels, error, match = BAD_TENSORS[case]
    metric = getattr(metrics, name)
    refused(metric, error, match, probs, labels)
    refused(metric, error, match.replace("float32", "float"), probs.numpy(), labels.numpy())


@every_metric
@pytest.mark.parametrize("case", BAD_KINDS)
def test_bad_kinds_are_refused(name, case):
    probs, labels, error, match = BAD_KINDS[case]
    refused(getattr(metrics, name), error, match, probs, labels)


@every_metric
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1.5, -0.5])
def test_one_bad_row_among_many_is_found_and_named(name, bad):
    probs = torch.full((200_000, 2), 0.5)
    probs[190_123, 1] = bad
    labels = torch.zeros(200_000, dtype=torch.int64)
    refused(getattr(metrics, name), ValueError, "in row 190123", probs, labels)


@pytest.mark.parametrize("name", BINNED)
def test_bad_numbers_of_bins_are_refused(name):
    metric = getattr(metrics, name)
    for n_bins in (0, -3):
        refused(metric, ValueError, f"n_bins >= 1, got {n_bins}", GOOD, LABELS, n_bins=n_bins)
    for n_bins in (1.5, 15.0, True, "15", None, torch.tensor(15), [0.0, 0.5, 1.0]):
        refused(metric, TypeError, "n_bins as an int, got", GOOD, LABELS, n_bins=n_bins)
    metric(GOOD, LABELS, n_bins=np.int32(4))


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("reduction", ["average", "Mean", "", None, 0, ["mean"]])
def test_unknown_reductions_are_refused(name, reduction):
    metric = getattr(metrics, name)
    refused(metric, ValueError, "reduction to be one of 'mean'", GOOD, LABELS, reduction=reduction)


@every_metric
def test_options_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        getattr(metrics, name)(GOOD, LABELS, 10)


@every_metric
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_may_miss_one_by_the_rounding_of_their_dtype(name, dtype):
    torch.manual_seed(0)
    probs = torch.randn(300, 50, dtype=torch.float64).softmax(dim=1)
    call(name, probs.to(dtype), torch.zeros(300, dtype=torch.int64))


@every_metric
def test_subclasses_of_arrays(name, tmp_path):
    probs, labels = example()
    mapped = np.memmap(tmp_path / "probs", dtype=np.float64, mode="w+", shape=probs.shape)
    mapped[:] = probs
    assert_same(call(name, mapped, labels), call(name, probs, labels))


@every_metric
def test_a_field_of_packed_records(name):
    probs, labels = example()
    records = np.zeros(len(probs), dtype=[("probs", "f8", (5,)), ("label", "i1")])
    records["probs"], records["label"] = probs, labels
    assert_same(call(name, records["probs"], records["label"]), call(name, probs, labels))


@every_metric
def test_masked_arrays_are_refused_because_the_mask_would_be_ignored(name):
    probs, labels = (np.ma.masked_array(part) for part in example())
    refused(
        getattr(metrics, name), TypeError, "probs without a mask, got MaskedArray", probs, labels
    )


# --- options ---------------------------------------------------------------------------------

SCORES, ONES = torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1])
# What each function takes, if it is not probabilities and labels.
GIVEN = {
    "aupr": (SCORES, ONES), "auroc": (SCORES, ONES), "fpr95": (SCORES, ONES),
    "bootstrap": (metrics.ece, GOOD, LABELS), "churn": ([GOOD, GOOD],), "entropy": (GOOD,),
    "detection_interval": (SCORES, ONES), "paired_test": (GOOD, GOOD, LABELS),
    "robustness_levels": (SCORES,), "uncertainty": ([GOOD, GOOD],),
    "variance": ([GOOD, GOOD],), "clopper_pearson": (1,),
}  # fmt: skip
# Of each option, values that it cannot have anywhere, and what is said of them.
REFUSED = {
    "bandwidth": [(0.0, ValueError, "bandwidth >="), ("wide", TypeError, "bandwidth as a number")],
    "binning": [("width", ValueError, "binning to be one of 'uniform', 'quantile', got 'width'")],
    "coverage": [(0, ValueError, "coverage > 0"), (1.1, ValueError, "coverage .*<= 1")],
    "figure": [("max", ValueError, "figure to be one of 'a.*got 'max'")],
    "from_logits": [("no", TypeError, "from_logits as True or False, got str"), (None, TypeError,
        "from_logits as True or False"), (0, TypeError, "from_logits as True or False, got int")],
    "generator": [(0, TypeError, r"generator as a torch\.Generator or None, got int")],
    "ignore_index": [(1.5, TypeError, "ignore_index as an int"), (None, TypeError, "ignore_index")],
    "level": [(0, ValueError, "level > 0"), (1, ValueError, "level .*got 1"),
        ("95", TypeError, "level as a number")],
    "n": [(0, ValueError, "n >= 1"), (2.0, TypeError, "n as an int")],
    "n_bins": [(0, ValueError, "n_bins >= 1, got 0"), (2.0, TypeError, "n_bins as an int")],
    "n_levels": [(0, ValueError, "n_levels >= 1"), (True, TypeError, "n_levels as an int")],
    "positive": [(3, ValueError, "positive from 0 to 2, got 3"), (-1, ValueError, "positive >= 0"),
        (True, TypeError, "positive as an int"), (0.0, TypeError, "positive as an int")],
    "reduction": [("max", ValueError, "reduction to be one of 'mean', 'sum', 'none', got 'max'")],
    "resamples": [(0, ValueError, "resamples >= 1"), (10.0, TypeError, "resamples as an int")],
    "statistic": [("max", ValueError, "statistic to be one of 'ece', 'rmsce', .*got 'max'")],
    "threshold": [("high", TypeError, "threshold as a number"), (math.nan, ValueError,
        "threshold finite")],
    "tpr": [(0, ValueError, "tpr > 0"), (2, ValueError, "tpr .*<= 1")],
    "weights": [([1.0], TypeError, r"weights as a torch\.Tensor"), (torch.ones(1), ValueError,
        "weights of shape"), (-torch.ones(len(LABELS)), ValueError, "weights >= 0")],
}  # fmt: skip
NEEDED = {"clopper_pearson": {"n": 3}}
FREE = {"attacked"}  # checked with what it holds


@pytest.mark.parametrize("name", sorted(RANGES.keys() | OTHERS))
def test_every_option_is_checked_alike_in_every_metric(name):
    function = getattr(metrics, name)
    parameters = inspect.signature(function).parameters.values()
    names = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} - FREE
    for option in names:
        for value, error, match in REFUSED[option]:
            options = NEEDED.get(name, {}) | {option: value}
            with pytest.raises(error, match=f"expected {match}"):
                function(*GIVEN.get(name, (GOOD, LABELS)), **options)
