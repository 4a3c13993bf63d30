"""Soft labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advcal.losses import smooth_labels

LABELS = torch.tensor([0, 2, 1])


def test_by_hand():
    got = smooth_labels(LABELS, 4, 0.2)
    wanted = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05], [0.05, 0.85, 0.05, 0.05]]
    torch.testing.assert_close(got, torch.tensor(wanted))


def test_one_smoothing_per_example():
    got = smooth_labels(LABELS, 4, torch.tensor([0.0, 0.2, 1.0]))
    wanted = [[1, 0, 0, 0], [0.05, 0.05, 0.85, 0.05], [0.25, 0.25, 0.25, 0.25]]
    torch.testing.assert_close(got, torch.tensor(wanted))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    n_classes=st.integers(2, 50),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_distribution_whose_label_has_the_probability_asked_for(n_classes, share, dtype):
    labels = torch.arange(n_classes)
    smoothing = torch.full((n_classes,), share * n_classes / (n_classes - 1), dtype=dtype)
    targets = smooth_labels(labels, n_classes, smoothing)
    tolerance = {"rtol": 0, "atol": 8 * torch.finfo(dtype).eps}
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(n_classes, dtype=dtype), **tolerance)
    assert (targets >= -torch.finfo(dtype).eps).all()
    label = 1 - smoothing * (n_classes - 1) / n_classes
    torch.testing.assert_close(targets.diagonal(), label, **tolerance)


def test_limits():
    assert torch.equal(smooth_labels(LABELS, 3, 0.0), torch.eye(3)[LABELS])
    assert torch.equal(smooth_labels(LABELS, 3, 0), torch.eye(3)[LABELS])
    torch.testing.assert_close(smooth_labels(LABELS, 3, 1), torch.full((3, 3), 1 / 3))
    none_on_the_label = smooth_labels(LABELS, 3, 1.5)
    torch.testing.assert_close(none_on_the_label, (1 - torch.eye(3)[LABELS]) / 2)


def test_dtype_is_that_of_the_smoothing():
    assert smooth_labels(LABELS, 3, 0.1).dtype == torch.float32
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert smooth_labels(LABELS, 3, torch.full((3,), 0.1, dtype=dtype)).dtype == dtype


def test_gradient_flows_to_the_smoothing():
    smoothing = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda s: smooth_labels(LABELS, 3, s), smoothing)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_every_integer_dtype(dtype):
    assert torch.equal(smooth_labels(LABELS.to(dtype), 3, 0.1), smooth_labels(LABELS, 3, 0.1))


BAD = {
    "list": (([0, 1], 3, 0.1), TypeError, "labels .*got list"),
    "array": ((np.array([0, 1]), 3, 0.1), TypeError, "labels .*got an array"),
    "floating": ((LABELS.float(), 3, 0.1), TypeError, "labels of an integer dtype"),
    "boolean": ((LABELS.bool(), 3, 0.1), TypeError, "labels of an integer dtype"),
    "too high": ((LABELS, 2, 0.1), ValueError, "labels from 0 to 1, got 2"),
    "negative": ((-LABELS, 3, 0.1), ValueError, "labels from 0 to 2, got -2"),
    "2-d": ((LABELS[:, None], 3, 0.1), ValueError, "labels of shape"),
    "empty": ((LABELS[:0], 3, 0.1), ValueError, "labels of shape"),
    "one class": ((LABELS * 0, 1, 0.1), ValueError, "n_classes >= 2, got 1"),
    "floating n_classes": ((LABELS, 3.0, 0.1), TypeError, "n_classes as an int, got float"),
    "below zero": ((LABELS, 3, -0.1), ValueError, "smoothing >= 0 and <= 1.5, got -0.1"),
    "too much": ((LABELS, 3, 1.6), ValueError, "smoothing >= 0 and <= 1.5, got 1.6"),
    "NaN": ((LABELS, 3, float("nan")), ValueError, "smoothing .*got nan"),
    "word": ((LABELS, 3, "0.1"), TypeError, "smoothing as a number, got str"),
    "bool": ((LABELS, 3, True), TypeError, "smoothing as a number, got bool"),
    "list of smoothing": ((LABELS, 3, [0.1] * 3), TypeError, "smoothing as a number, got list"),
    "integers": ((LABELS, 3, LABELS), TypeError, "smoothing of a floating dtype"),
    "too few": ((LABELS, 3, torch.zeros(2)), ValueError, r"smoothing of shape \(3,\), got"),
    "column": ((LABELS, 3, torch.zeros(3, 1)), ValueError, r"smoothing of shape \(3,\), got"),
    "one below zero": (
        (LABELS, 3, torch.tensor([0.1, -0.1, 0.1])),
        ValueError,
        "smoothing >= 0 and <= 1.5, got",
    ),
    "one NaN": (
        (LABELS, 3, torch.tensor([0.1, torch.nan, 0.1])),
        ValueError,
        "smoothing .*got nan",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_refused(case):
    arguments, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        smooth_labels(*arguments)
