"""Early stopping, the alarm for catastrophic overfitting, and the check of the split."""

import contextlib
import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advcal.attacks import fgsm, pgd
from advcal.evaluation import evaluate
from advcal.trainers import (
    EarlyStopping,
    adaptive_smoothing,
    adversarial,
    catastrophic_overfitting,
    check_disjoint,
    epochs,
    fit,
)

# --- early stopping --------------------------------------------------------------------------


def weighted(value):
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    return model


@pytest.mark.parametrize(
    ("scores", "patience", "stops", "best"),
    [
        ([0.1, 0.2, 0.3], 1, None, 3),
        ([0.3, 0.2], 1, 2, 1),
        ([0.3, 0.2, 0.4, 0.1, 0.1], 2, 5, 3),
        ([0.3, 0.3, 0.3], 2, 3, 1),  # as good is not better
        ([0.3] * 20, None, None, 1),
        ([-5, -2.0, -3], 1, 3, 2),
        ([torch.tensor(0.5), np.float32(0.6), 0.1], 1, 3, 2),
    ],
)
def test_keeps_the_best_and_stops_when_patience_runs_out(scores, patience, stops, best):
    stopping = EarlyStopping(patience)
    told = [stopping.update(weighted(i), score) for i, score in enumerate(scores, 1)]
    assert told == [i == stops for i in range(1, len(scores) + 1)]
    assert stopping.epoch == best
    assert stopping.score == pytest.approx(float(scores[best - 1]))
    assert stopping.waited == len(scores) - best
    model = weighted(0)
    stopping.restore(model)
    assert bool((model.weight == best).all())


def test_the_weights_are_a_copy():
    model, stopping = weighted(1.0), EarlyStopping()
    stopping.update(model, 0.5)
    nn.init.constant_(model.weight, 2.0)
    assert bool((stopping.weights["weight"] == 1).all())
    stopping.restore(model)
    nn.init.constant_(model.weight, 3.0)
    assert bool((stopping.weights["weight"] == 1).all())


def test_a_compiled_model_is_kept_by_its_own_names():
    model = weighted(1.0)
    stopping = EarlyStopping()
    stopping.update(torch.compile(model, backend="eager"), 0.5)
    assert stopping.weights.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: nn.Sequential(weighted(1.0)), "'0.weight' is .* here and missing there"),
        (lambda: nn.Linear(2, 2, bias=False), "'bias' is missing here and .* there"),
        (lambda: nn.Linear(2, 3), r"'weight' is \(3, 2\) here and \(2, 2\) there"),
    ],
    ids=["other names", "fewer", "another shape"],
)
def test_weights_of_another_model_are_refused(other, match):
    stopping, model = EarlyStopping(), other()
    stopping.update(weighted(1.0), 0.5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"expected weights of this model, .* {match}"):
        stopping.restore(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_goes_on_from_its_state():
    stopping, other = EarlyStopping(2), EarlyStopping(2)
    for score in (0.3, 0.5, 0.4):
        stopping.update(weighted(score), score)
    other.load_state_dict(stopping.state_dict())
    assert (other.score, other.epoch, other.waited) == (0.5, 2, 1)
    assert other.update(weighted(0), 0.1)


def test_bad_scores():
    model, stopping = weighted(1.0), EarlyStopping()
    for score, error in ((math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="expected score"):
            stopping.update(model, score)
    with pytest.raises(TypeError, match="score as a number, got a tensor"):
        stopping.update(model, torch.ones(2))
    with pytest.raises(TypeError, match=r"model as a torch.nn.Module, got function"):
        stopping.update(lambda x: x, 1.0)
    with pytest.raises(ValueError, match="a score before weights are restored, got none"):
        stopping.restore(model)
    assert stopping.epoch == 0


@pytest.mark.parametrize(("patience", "error"), [(0, ValueError), (1.5, TypeError)])
def test_bad_patience(patience, error):
    with pytest.raises(error, match="expected patience"):
        EarlyStopping(patience)


# --- catastrophic overfitting ----------------------------------------------------------------

CURVES = {
    "sudden": ([(0.4, 0.3), (0.5, 0.4), (0.9, 0.01), (0.95, 0.0)], 3),
    "within two epochs": ([(0.4, 0.3), (0.5, 0.4), (0.7, 0.2), (0.9, 0.05)], 4),
    "PGD at once 0": ([(0.5, 0.4), (0.5, 0.0)], 2),
    "lists": ([[0.5, 0.4], [0.8, 0.0]], 2),
    "healthy": ([(0.3, 0.2), (0.5, 0.4), (0.6, 0.5)], None),
    "slow overfitting": ([(0.6, 0.5), (0.62, 0.45), (0.65, 0.35), (0.7, 0.3)], None),
    "both fall": ([(0.6, 0.5), (0.3, 0.0)], None),
    "from the beginning": ([(0.1, 0.0), (0.2, 0.0), (0.9, 0.0)], 3),
    "the noise of the first epochs": ([(0.1, 0.1), (0.15, 0.02), (0.3, 0.2)], None),
    "within the first epoch": ([(1.0, 0.0)], 1),
    "one epoch": ([(0.5, 0.4)], None),
    "none": ([], None),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves(name):
    curve, epoch = CURVES[name]
    found = catastrophic_overfitting(curve)
    assert (None if found is None else found.epoch) == epoch
    if found is not None:
        fgsm, pgd = curve[epoch - 1]
        best = max([0.0, *(pgd for _, pgd in curve[: epoch - 1])])
        assert found.evidence == (
            f"in epoch {epoch} accuracy is {fgsm:.3f} under FGSM and {pgd:.3f} under PGD; "
            f"before, at best {best:.3f} under PGD"
        )


def test_the_threshold():
    curve = [(0.5, 0.4), (0.8, 0.21)]
    assert catastrophic_overfitting(curve) is None
    assert catastrophic_overfitting(curve, threshold=0.5).epoch == 2


def fgsm_training(eps, n):
    """Train a small network on digits with FGSM; return its accuracies under FGSM and PGD."""
    torch.manual_seed(0)
    data = load_digits()
    inputs = torch.tensor(data.images[:400, None] / 16).float()
    rows = list(zip(inputs.split(50), torch.tensor(data.target[:400]).split(50), strict=True))
    convolutions = [
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
    ]
    dense = [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    model = nn.Sequential(*convolutions, *dense)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    fit(model, rows, adversarial(partial(fgsm, eps=eps / 2)), optimizer, n=10)
    attacks = partial(fgsm, eps=eps), partial(pgd, eps=eps, steps=10)
    records = []
    for _ in epochs(model, rows, adversarial(attacks[0]), optimizer, n=n):
        records.append([evaluate(model, rows[:4], attack).accuracy for attack in attacks])
        if catastrophic_overfitting(records):
            break
    return records


def test_a_network_that_overfits_and_one_that_does_not():
    records = fgsm_training(0.3, n=30)
    found = catastrophic_overfitting(records)
    assert found.epoch == len(records)
    assert records[-1][0] >= 4 * records[-1][1]
    assert catastrophic_overfitting(fgsm_training(0.1, n=3)) is None


@pytest.mark.parametrize(
    ("records", "options", "error", "match"),
    [
        (0.5, {}, TypeError, "records as a sequence of pairs, got float"),
        ("0.5", {}, TypeError, "records as a sequence of pairs, got str"),
        ([0.5], {}, TypeError, r"records of \(FGSM, PGD\), got float"),
        ([(0.5,)], {}, ValueError, r"records of \(FGSM, PGD\), got 1 at epoch 1"),
        ([(50, 40)], {}, ValueError, "the accuracies of epoch 1 >= 0 and <= 1, got 50"),
        ([(0.5, 0.4), (0.5, math.nan)], {}, ValueError, "the accuracies of epoch 2 .*got nan"),
        ([(0.5, "x")], {}, TypeError, "the accuracies of epoch 1 as a number, got str"),
        ([], {"threshold": 0}, ValueError, "threshold > 0 and <= 1, got 0"),
        ([], {"threshold": math.nan}, ValueError, "threshold > 0 and <= 1, got nan"),
    ],
)
def test_bad_records(records, options, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        catastrophic_overfitting(records, **options)


# --- the split -------------------------------------------------------------------------------


def images(n, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.rand(n, 1, 4, 4).to(dtype)


def batches(inputs, size=4):
    return [(part, torch.zeros(len(part)).long()) for part in inputs.split(size)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_disjoint_data_pass(dtype):
    inputs = images(20).mul(1000).to(dtype)
    check_disjoint(batches(inputs[:12]), batches(inputs[12:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_what_is_in_both_is_numbered(dtype):
    inputs = images(20).mul(200).to(dtype)
    validation = torch.cat([inputs[15:], inputs[3:4], inputs[10:11]])
    with pytest.raises(ValueError, match=r"inputs, got 2 of 7: 5 is 3, 6 is 10$"):
        check_disjoint(batches(inputs[:15]), batches(validation, 3))


def test_many_are_counted_and_ten_numbered():
    inputs = images(20)
    with pytest.raises(ValueError, match=r"got 20 of 20: 0 is 0, .*, 9 is 9, \.\.\.$"):
        check_disjoint(batches(inputs), batches(inputs))


def test_layout_and_the_sign_of_zero_do_not_matter():
    inputs = images(6)
    inputs[0, 0, 0] = 0.0
    other = inputs.contiguous(memory_format=torch.channels_last)[:1].clone()
    other[0, 0, 0] = -0.0
    strided = images(6).repeat(1, 1, 1, 2)[..., :4]
    with pytest.raises(ValueError, match="got 1 of 1: 0 is 0"):
        check_disjoint(batches(inputs), batches(other))
    with pytest.raises(ValueError, match="got 5 of 6"):
        check_disjoint(batches(inputs), batches(strided))


def test_copies_among_the_training_data_are_no_matter():
    inputs = images(4)
    check_disjoint(batches(torch.cat([inputs[:2]] * 3)), batches(inputs[2:]))


def test_data_loaders_and_more_than_labels():
    rows = TensorDataset(images(8), torch.zeros(8).long(), torch.arange(8))
    first, second = (torch.utils.data.Subset(rows, range(*cut)) for cut in ((0, 5), (4, 8)))
    with pytest.raises(ValueError, match="got 1 of 4: 0 is 4"):
        check_disjoint(DataLoader(first, batch_size=2), DataLoader(second, batch_size=3))


def refusing(both):
    words = "in both|among the training inputs"
    return pytest.raises(ValueError, match=words) if both else contextlib.nullcontext()


PAIRS = {
    "the same": (lambda x: x, True),
    "float64 beside": (lambda x: x.double() + 1e-12, True),
    "float64": (lambda x: x.double(), True),
    "float16 of other values": (lambda x: (x / 3).half(), False),
    "8 bits": (lambda x: x.byte(), True),
    "integers": (lambda x: x.int(), True),
    "bfloat16": (lambda x: x.bfloat16(), True),
    "one level up": (lambda x: x.byte() + 1, False),
    "channels last": (lambda x: x.contiguous(memory_format=torch.channels_last), True),
    "other signs of zero": (lambda x: torch.where(x == 0, -0.0, x), True),
    "beside": (lambda x: x + 1e-3, False),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_both_checks_of_two_splits_agree(case, dtype):
    change, both = PAIRS[case]
    inputs = torch.randint(1, 200, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    inputs[:, 0, 0, 0] = 0
    train, validation = inputs[:8].to(dtype), change(inputs[6:8].float())
    if case == "other signs of zero" and dtype == torch.uint8:
        return
    for use in (check_disjoint, partial(adaptive_smoothing, n_classes=3, n_levels=1)):
        with refusing(both):
            use(batches(train), batches(validation))
        use(batches(train), batches(inputs[8:].to(validation.dtype)))
    smoothing = adaptive_smoothing(batches(train), batches(inputs[8:10]), 3, n_levels=1)
    if both:
        with pytest.raises(ValueError, match="apart from train and validation, got 2 inputs"):
            smoothing.unseen(batches(validation))
    else:
        smoothing.unseen([(validation,)])


def test_tiny_values_are_told_apart_among_their_like():
    inputs = images(6).double() * 1e-9
    check_disjoint(batches(inputs[:3]), batches(inputs[3:]))
    check_disjoint(batches(inputs), batches(2 * inputs))
    check_disjoint(batches(inputs), batches(torch.zeros(2, 1, 4, 4)))


@pytest.mark.parametrize(
    ("train", "validation", "error", "match"),
    [
        (3, batches(images(2)), TypeError, "batches as an iterable, got int"),
        (batches(images(2)), 3, TypeError, "validation as an iterable, got int"),
        (images(2), batches(images(2)), TypeError, r"batches as \(inputs, labels, ...\), got a te"),
        ([], batches(images(2)), ValueError, "inputs in both, got 0 and 2"),
        (batches(images(2)), [], ValueError, "inputs in both, got 2 and 0"),
        (
            batches(images(2)),
            batches(images(2)[..., :2]),
            ValueError,
            r"inputs of one shape, got \(1, 4, 2\) and \(1, 4, 4\)",
        ),
        ([(torch.rand(()),)], batches(images(2)), ValueError, "inputs of shape .n >= 1, ..."),
    ],
)
def test_bad_data(train, validation, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        check_disjoint(train, validation)
    if isinstance(train, list) and isinstance(validation, list) and train and validation:
        with pytest.raises(error, match=f"expected {match}"):
            adaptive_smoothing(train, validation, 3, n_levels=1)
