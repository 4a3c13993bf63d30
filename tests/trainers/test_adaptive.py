"""AdaLS and AR-AdaLS as an objective that carries its validation split."""

import io

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from advcal import attacks, losses, metrics, trainers
from advcal.trainers import adaptive_smoothing, epochs


def examples(n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(n, 4, generator=generator)
    labels = (inputs @ torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [1, 1, 1]])).argmax(dim=1)
    flips = torch.rand(n, generator=generator) < 0.3
    return inputs, torch.where(flips, (labels + 1) % 3, labels)


def batches(rows, size=16, seed=0):
    inputs, labels = examples(seed=seed)
    parts = (inputs[rows], labels[rows], torch.arange(len(inputs[rows])))
    return list(zip(*(part.split(size) for part in parts), strict=True))


def splits():
    return batches(slice(0, 60)), batches(slice(60, 100), size=15)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def made(**options):
    return adaptive_smoothing(*splits(), 3, **{"n_levels": 4, **options})


def stacked(part):
    return [torch.cat(each) for each in zip(*part, strict=True)]


class Mean(nn.Module):
    """The logarithm of the mean probability of the members."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs):
        logs = torch.stack([member(inputs).log_softmax(dim=1) for member in self.members])
        return logs.logsumexp(dim=0) - np.log(len(self.members))


# --- what it computes ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["published", "shrunk"])
def test_training_equals_algorithm_1_by_hand(variant):
    train, validation = splits()
    vanilla = network(1).eval()
    model = network()
    smoothing = made(step_size=0.5, variant=variant)
    smoothing.rank(vanilla, attack="precise")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    gaps = [smoothing.update(model) for _ in epochs(model, train, smoothing, optimizer, n=4)]

    by_hand = network()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    ranks = [
        distances.argsort(stable=True).argsort() * 4 // len(distances)
        for distances in (
            attacks.adversarial_distance(vanilla, stacked(part)[0]) for part in (train, validation)
        )
    ]
    state = losses.adaptive_smoothing(3, n_levels=4, step_size=0.5)
    inputs, labels, _ = stacked(validation)
    for epoch in range(4):
        by_hand.train()
        for x, y, i in train:
            p = state.label_probs[ranks[0][i]]
            soft = ((1 - p) / 2)[:, None].repeat(1, 3)
            soft[range(len(y)), y] = p
            optimizer.zero_grad()
            cross_entropy(by_hand(x), soft.float()).backward()
            optimizer.step()
        by_hand.eval()
        with torch.no_grad():
            confidence, predicted = by_hand(inputs).double().softmax(dim=1).max(dim=1)
        right = (predicted == labels).double()
        means = [
            torch.stack([each[ranks[1] == r].mean() for r in range(4)])
            for each in (confidence, right)
        ]
        torch.testing.assert_close(gaps[epoch], means[0] - means[1], rtol=0, atol=1e-6)
        sizes = torch.bincount(ranks[1]) if variant == "shrunk" else None
        state = state.update(*means, n=sizes)
    torch.testing.assert_close(smoothing.state.label_probs, state.label_probs, rtol=0, atol=1e-5)
    assert smoothing.state.label_probs.min() < 1
    assert torch.equal(smoothing.levels, ranks[0])
    assert torch.equal(smoothing.validation_levels, ranks[1])
    for got, wanted in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_one_level_needs_neither_indices_nor_ranks():
    train, validation = ([batch[:2] for batch in part] for part in splits())
    smoothing = adaptive_smoothing(train, validation, 3, n_levels=1, step_size=0.5)
    model = network()
    predictions = trainers.predict(model, validation)
    confidence = float(metrics.confidence(predictions.probs, predictions.labels))
    accuracy = float(metrics.accuracy(predictions.probs, predictions.labels))
    (gap,) = smoothing.update(model)
    assert float(gap) == pytest.approx(confidence - accuracy, abs=1e-6)
    wanted = losses.adaptive_smoothing(3, step_size=0.5).update(confidence, accuracy)
    torch.testing.assert_close(smoothing.state.label_probs, wanted.label_probs)
    model.eval()
    inputs, labels = train[0]
    loss = cross_entropy(model(inputs), wanted.targets(labels))
    torch.testing.assert_close(smoothing(model, train[0]), loss)


def test_before_the_first_update_labels_are_hard_and_need_no_ranks():
    smoothing, model = made(), network().eval()
    batch = splits()[0][0]
    assert smoothing(model, batch) == cross_entropy(model(batch[0]), torch.eye(3)[batch[1]])


def test_batches_in_another_order_are_matched_by_their_indices():
    model = network()
    wanted = made()
    wanted.rank(model)
    gap = wanted.update(model)
    loaders = [
        DataLoader(TensorDataset(*stacked(part)), batch_size=7, shuffle=True) for part in splits()
    ]
    smoothing = adaptive_smoothing(*loaders, 3, n_levels=4)
    smoothing.rank(model)
    assert torch.equal(smoothing.levels, wanted.levels)
    assert torch.equal(smoothing.validation_levels, wanted.validation_levels)
    torch.testing.assert_close(smoothing.update(model), gap)
    model.eval()
    rows = torch.tensor([5, 3, 30])
    inputs, labels, _ = stacked(splits()[0])
    soft = smoothing.state.targets(labels[rows], smoothing.levels[rows])
    got = smoothing(model, (inputs[rows], labels[rows], rows))
    torch.testing.assert_close(got, cross_entropy(model(inputs[rows]), soft))


def test_ranks_from_outside_and_on_the_fly():
    smoothing, model = made(), network().eval()
    distances = torch.rand(60), torch.rand(40)
    smoothing.rank_by(*distances)
    assert torch.equal(smoothing.levels, metrics.robustness_levels(distances[0], n_levels=4))
    smoothing.rank(model)
    inputs = stacked(splits()[0])[0]
    found = attacks.adversarial_distance(model, inputs, attack="linear")
    assert torch.equal(smoothing.levels, metrics.robustness_levels(found, n_levels=4))
    before = smoothing.levels
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(16, 4) * 3)
    smoothing.rank(model)
    assert not torch.equal(smoothing.levels, before)


def test_the_model_and_the_random_state_are_left_alone():
    model = network().train()
    loader = DataLoader(TensorDataset(*stacked(splits()[0])), batch_size=7, shuffle=True)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    smoothing = adaptive_smoothing(loader, splits()[1], 3, n_levels=4)
    smoothing.rank(model)
    smoothing.update(model)
    smoothing.unseen([(examples(seed=1)[0],) * 2])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_grad_and_inference_mode():
    model = network()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            smoothing = made()
            smoothing.rank(model)
            assert smoothing.update(model).shape == (4,)


# --- ensembles -------------------------------------------------------------------------------


def test_ar_adals_of_an_ensemble_in_lockstep():
    train, validation = splits()
    members = [network(seed) for seed in range(3)]
    ensemble = Mean(members)
    smoothing = made(step_size=0.5)
    smoothing.rank(ensemble)
    runs = [
        epochs(member, train, smoothing, torch.optim.SGD(member.parameters(), lr=0.5), n=3)
        for member in members
    ]
    for _ in zip(*runs, strict=True):
        gaps = smoothing.update(ensemble)
    inputs, labels, _ = stacked(validation)
    with torch.no_grad():
        probs = torch.stack([m.eval()(inputs).double().softmax(dim=1) for m in members]).mean(dim=0)
    confidence, predicted = probs.max(dim=1)
    for r in range(4):
        rows = smoothing.validation_levels == r
        wanted = confidence[rows].mean() - (predicted == labels)[rows].double().mean()
        assert float(gaps[r]) == pytest.approx(float(wanted), abs=1e-6)


def test_an_ensemble_of_ar_adals_has_a_state_for_each_member():
    train, _ = splits()
    members = [network(seed) for seed in range(2)]
    states = [made(step_size=0.5) for _ in members]
    for member, smoothing in zip(members, states, strict=True):
        optimizer = torch.optim.SGD(member.parameters(), lr=0.5)
        for epoch in epochs(member, train, smoothing, optimizer, n=3):
            if epoch.epoch % 2:
                smoothing.rank(member)
            smoothing.update(member)
    assert not torch.equal(*(smoothing.state.label_probs for smoothing in states))


# --- splits ----------------------------------------------------------------------------------


def test_a_validation_example_that_is_trained_on_is_refused():
    train, validation = splits()
    inputs, labels, indices = (part.clone() for part in validation[1])
    inputs[2] = train[0][0][5]
    message = r"not trained on, got 1 of 40 inputs in both \(validation example 17 is the first\)"
    wrong = [validation[0], (inputs.double(), labels, indices), *validation[2:]]
    for n_levels in (1, 4):
        with pytest.raises(ValueError, match=message):
            adaptive_smoothing(train, wrong, 3, n_levels=n_levels)


def test_spent_data_are_refused_for_a_report():
    smoothing, (train, validation) = made(), splits()
    fresh = batches(slice(100, 120))
    assert smoothing.unseen(fresh) is fresh
    for name, spent in (("train", train), ("validation", validation)):
        message = rf"apart from train and validation, got 1 inputs of {name} \(example 20 "
        with pytest.raises(ValueError, match=message):
            smoothing.unseen([*fresh, (spent[0][0][:1], spent[0][1][:1])])


# --- checkpoints -----------------------------------------------------------------------------


def test_a_saved_state_goes_on_as_if_nothing_had_been():
    model, smoothing = network(), made(step_size=0.5)
    smoothing.rank(model)
    smoothing.update(model)
    file = io.BytesIO()
    torch.save(smoothing.state_dict(), file)
    file.seek(0)
    other = made(step_size=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    batch = splits()[0][0]
    assert other(model, batch) == smoothing(model, batch)
    smoothing.update(model)
    other.update(model)
    assert torch.equal(other.state.label_probs, smoothing.state.label_probs)
    unranked = made()
    unranked.load_state_dict(made().state_dict())
    with pytest.raises(ValueError, match="got no ranks yet"):
        unranked.update(model)


def test_a_state_does_not_change_with_what_it_was_taken_from():
    model, smoothing = network(), made(step_size=0.5)
    smoothing.rank(model)
    state = smoothing.state_dict()
    probs = state["label_probs"].clone()
    smoothing.update(model)
    assert torch.equal(state["label_probs"], probs)
    smoothing.load_state_dict(state)
    state["levels"].zero_()
    assert smoothing.levels.any()


STATE = made().state_dict()
BAD_STATES = {
    "no dict": ([], TypeError, "state as a dict, got list"),
    "a key less": ({"levels": STATE["levels"]}, ValueError, "state with the keys"),
    "other levels": (
        STATE | {"label_probs": torch.ones(3)},
        ValueError,
        "label_probs of 4 levels, got",
    ),
    "NaN": (STATE | {"label_probs": torch.full((4,), torch.nan)}, ValueError, "label_probs in"),
    "a list": (STATE | {"label_probs": [1.0] * 4}, TypeError, "label_probs as a tensor, got list"),
    "other data": (
        STATE | {"levels": STATE["levels"][:9]},
        ValueError,
        r"levels of shape \(60,\), got",
    ),
    "a level too high": (STATE | {"levels": STATE["levels"] + 4}, ValueError, "levels from 0 to 3"),
    "a number": (STATE | {"ranked": 1}, TypeError, "ranked as True or False, got int"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_states_are_refused_and_change_nothing(case):
    state, error, match = BAD_STATES[case]
    smoothing = made()
    with pytest.raises(error, match=f"expected {match}"):
        smoothing.load_state_dict(state)
    assert smoothing.state.label_probs.tolist() == [1.0] * 4


# --- bad input -------------------------------------------------------------------------------

TRAIN, VALIDATION = splits()


def ranked():
    smoothing = made()
    smoothing.rank(network())
    return smoothing


def with_indices(change):
    return [(inputs, labels, change(indices)) for inputs, labels, indices in TRAIN]


BAD = {
    "no ranks": (lambda: made().update(network()), ValueError, "4 levels, got no ranks yet"),
    "no third part": (
        lambda: ranked()(network(), TRAIN[0][:2]),
        ValueError,
        r"batches of train as \(inputs, labels, indices\), got two parts",
    ),
    "no third part in train": (
        lambda: adaptive_smoothing([b[:2] for b in TRAIN], VALIDATION, 3),
        ValueError,
        "batches of train as .* got two parts",
    ),
    "no third part in validation": (
        lambda: adaptive_smoothing(TRAIN, [b[:2] for b in VALIDATION], 3),
        ValueError,
        "batches of validation as .* got two parts",
    ),
    "floating indices": (
        lambda: ranked()(network(), (*TRAIN[0][:2], torch.rand(16))),
        TypeError,
        "indices of train of an integer dtype",
    ),
    "an index too high": (
        lambda: ranked()(network(), (*TRAIN[0][:2], torch.arange(16) + 50)),
        ValueError,
        "indices of train from 0 to 59, got 65",
    ),
    "indices from 1": (
        lambda: adaptive_smoothing(with_indices(lambda i: i + 1), VALIDATION, 3),
        ValueError,
        "indices of train from 0 to 59, got 60",
    ),
    "an example twice": (
        lambda: adaptive_smoothing(with_indices(lambda i: i // 2 * 2), VALIDATION, 3),
        ValueError,
        "every example of train once in each pass, got example 0 2 times",
    ),
    "too few distances": (
        lambda: made().rank_by(torch.rand(59), torch.rand(40)),
        ValueError,
        r"distances of shape \(60,\), one per example, got .*\(59,\)",
    ),
    "too few for validation": (
        lambda: made().rank_by(torch.rand(60), torch.rand(60)),
        ValueError,
        r"validation of shape \(40,\), one per example, got .*\(60,\)",
    ),
    "NaN distances": (
        lambda: made().rank_by(torch.full((60,), torch.nan), torch.rand(40)),
        ValueError,
        "distances that are numbers, got nan",
    ),
    "a list of distances": (
        lambda: made().rank_by([0.1] * 60, torch.rand(40)),
        TypeError,
        "distances as a torch.Tensor, got list",
    ),
    "other classes": (
        lambda: adaptive_smoothing(TRAIN, VALIDATION, 4, n_levels=1).update(network()),
        ValueError,
        "logits of 4 classes, got",
    ),
    "no data": (lambda: adaptive_smoothing([], VALIDATION, 3), ValueError, "train with one batch"),
    "no iterable": (
        lambda: adaptive_smoothing(3, VALIDATION, 3),
        TypeError,
        "batches as an iterable",
    ),
    "bare tensors": (
        lambda: adaptive_smoothing([TRAIN[0][0]], VALIDATION, 3),
        TypeError,
        "batches as",
    ),
    "more levels than examples": (
        lambda: made(n_levels=41),
        ValueError,
        "validation of 41 examples or more, got 40",
    ),
    "an unknown variant": (lambda: made(variant="plain"), ValueError, "variant to be one of"),
    "no loss": (lambda: made(loss=None), TypeError, "loss as a callable, got NoneType"),
    "autocast by name": (lambda: made(autocast="bfloat16"), TypeError, "autocast as a floating"),
    "no step": (lambda: made(step_size=0), ValueError, "step_size > 0, got 0"),
    "one class": (
        lambda: adaptive_smoothing(TRAIN, VALIDATION, 1),
        ValueError,
        "n_classes >= 2, got 1",
    ),
    "an unknown attack": (lambda: made().rank(network(), attack="slow"), ValueError, "attack to"),
    "no model": (lambda: ranked().update(None), TypeError, "model as a callable, got NoneType"),
    "nothing unseen": (lambda: made().unseen([]), ValueError, "batches with one batch or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        call()


def test_a_loader_that_changes_its_length_is_noticed():
    train, validation = splits()
    smoothing = adaptive_smoothing(train, validation, 3, n_levels=4)
    train.pop()
    with pytest.raises(ValueError, match="train once in each pass, got example 48 0 times"):
        smoothing.rank(network())


# --- the controller --------------------------------------------------------------------------


def controlled(seed, *, step_size, shrunk, n=50, n_levels=10):
    """Run 60 updates on a model whose confidence follows the common level more than its own."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.linspace(0.55, 0.99, n_levels).double()
    draws = torch.rand(n_levels, n, generator=generator)
    accuracy = (draws < truth[:, None]).double().mean(dim=1)
    state = losses.adaptive_smoothing(10, n_levels=n_levels, step_size=step_size)
    for _ in range(60):
        p = state.label_probs
        start = truth + 0.6 * (1 - truth)
        confidence = (start - 0.1 * (1 - p) - 0.6 * (1 - p.mean())).clamp(0.1, 1)
        sizes = torch.full((n_levels,), n) if shrunk else None
        state = state.update(confidence, accuracy, n=sizes)
    return state.label_probs


def test_small_levels_run_away_under_the_published_rule_and_not_by_default():
    published = [controlled(seed, step_size=0.1, shrunk=False).min() for seed in range(20)]
    default = [controlled(seed, step_size=0.02, shrunk=True).min() for seed in range(20)]
    assert np.mean(published) < 0.25
    assert min(default) > 0.6


def test_shrinkage_steadies_the_levels_at_the_same_step():
    for step_size in (0.02, 0.05, 0.1):
        spread = [
            torch.stack(
                [controlled(seed, step_size=step_size, shrunk=shrunk) for seed in range(20)]
            )
            .std(dim=0)
            .mean()
            for shrunk in (False, True)
        ]
        assert spread[1] < spread[0]


# --- the cheap ranks -------------------------------------------------------------------------


def test_ranks_on_the_fly_agree_with_a_full_budget():
    train, _ = splits()
    model = network()
    trainers.fit(
        model, train, trainers.standard(), torch.optim.Adam(model.parameters(), lr=1e-2), n=20
    )
    inputs = stacked(train)[0]
    precise = attacks.adversarial_distance(model, inputs)
    for attack in ("linear", "quick"):
        cheap = attacks.adversarial_distance(model, inputs, attack=attack)
        assert spearmanr(cheap, precise).statistic > 0.95


def test_a_model_of_other_classes_and_an_iterator_are_refused():
    train, validation = ([(torch.rand(4, 2), torch.arange(4) % 2)] for _ in range(2))
    smoothing = trainers.adaptive_smoothing(train, validation, 2, n_levels=1)
    with pytest.raises(ValueError, match="expected logits of 2 classes, got a tensor"):
        smoothing(nn.Linear(2, 5), train[0])
    with pytest.raises(TypeError, match="batches that can be read again"):
        trainers.adaptive_smoothing(iter(train), validation, 2, n_levels=1)
