"""What holds for every function that goes through batches, one table over all of them."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from advcal.attacks import fgsm, pgd, square, uca
from advcal.evaluation import (
    confidence_envelope,
    detection,
    diagnose,
    evaluate,
    sweep,
    transfer,
)
from advcal.metrics import churn, variance
from advcal.trainers import adaptive_smoothing, predict

BOUNDS = (0.0, 255.0)
FGSM = partial(fgsm, eps=20.0, bounds=BOUNDS)
N, SHAPE, CLASSES = 7, (1, 4, 4), 3


def smoothed(name, model, batches, **options):
    """Let a split of adaptive smoothing be measured, the other one out of the way."""
    other = [
        (inputs.new_full((1, *inputs.shape[1:]), 77), labels[:1]) for inputs, labels, *_ in batches
    ]
    splits = (batches, other[:1]) if name == "rank" else (other[:1], batches)
    smoothing = adaptive_smoothing(*splits, CLASSES, n_levels=1, **options)
    if name == "update":
        return smoothing.update(model).tolist()
    seen = []

    def attack(model, inputs, labels):
        seen.append(inputs.double().sum().item() + model(inputs).double().sum().item())
        return FGSM(model, inputs, labels)

    smoothing.rank(model, attack=attack)
    return seen


def records(found):
    return {name: record.as_dict() for name, record in found.items()}


def diagnosed(model, batches, **options):
    generator = torch.Generator().manual_seed(0)
    found = diagnose(
        model, batches, eps=20.0, bounds=BOUNDS, steps=5, generator=generator, **options
    )
    return found.as_dict()


def enveloped(model, batches, *, steps=2, **options):
    found = confidence_envelope(model, batches, eps=[20.0], steps=steps, bounds=BOUNDS, **options)
    return found.as_dict()


def predicted(model, batches, attack=None, **options):
    found = predict(model, batches, attack, **options)
    return found.logits.tolist(), found.labels.tolist()


def swept(model, batches, **options):
    found = sweep({"m": model}, {"d": batches}, {"none": None, "FGSM": FGSM}, **options)
    return [{key: each[key] for key in each if key != "settings"} for each in found]


PASSES = {
    "evaluate": lambda *a, **o: evaluate(*a, **o).as_dict(),
    "evaluate attacked": lambda *a, **o: evaluate(*a, FGSM, **o).as_dict(),
    "sweep": swept,
    "transfer": lambda m, b, **o: records(transfer({"a": m}, {"a": m, "b": m}, b, FGSM, **o)),
    "confidence_envelope": enveloped,
    "detection": lambda m, b, **o: detection(m, b, b, **o).as_dict(),
    "diagnose": diagnosed,
    "predict": predicted,
    "predict attacked": lambda *a, **o: predicted(*a, FGSM, **o),
    "update": partial(smoothed, "update"),
    "rank": partial(smoothed, "rank"),
}
CLEAN = ["evaluate", "detection", "predict", "update"]  # which run no attack
UNLABELLED = ["detection", "predict"]
WITH_FORWARD = [name for name in PASSES if name not in ("update", "rank")]


def data(n=N):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (n, *SHAPE), generator=generator, dtype=torch.uint8)
    return inputs, torch.arange(n) % CLASSES


def batches(dtype=torch.float32, sizes=(4, 3)):
    inputs, labels = data(sum(sizes))
    return list(zip(inputs.to(dtype).split(sizes), labels.split(sizes), strict=True))


class Model(nn.Module):
    """A network of 8-bit images that notes what it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.last = nn.Linear(64, CLASSES)
        self.seen = []

    def forward(self, inputs):
        hidden = self.norm(self.convolution(inputs.float() / 255)).relu()
        self.seen.append((inputs.dtype, hidden.dtype, inputs.stride()))
        return 3 * self.last(self.drop(hidden.flatten(1)))


every_pass = pytest.mark.parametrize("name", PASSES)


def same(found, wanted):
    """Compare results, in which NaN is NaN."""
    assert str(found) == str(wanted)


# --- the data --------------------------------------------------------------------------------


@every_pass
def test_images_of_8_bits_are_what_they_are_as_floats(name):
    wanted = PASSES[name](Model(), batches())
    model = Model()
    same(PASSES[name](model, batches(torch.uint8)), wanted)
    given = {dtype for dtype, *_ in model.seen}
    assert (given == {torch.uint8}) == (name in CLEAN)
    assert (torch.uint8 in given) == (name not in ("diagnose", "rank", "predict attacked"))


@every_pass
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_inference_tensors(name, dtype):
    model, given = Model(), batches(dtype)
    wanted = PASSES[name](model, given)
    with torch.inference_mode():
        made = batches(dtype)
        same(PASSES[name](model, made), wanted)
        same(PASSES[name](model, given), wanted)
    assert made[0][0].is_inference()
    same(PASSES[name](model, made), wanted)


@every_pass
def test_a_model_and_an_attack_that_write_into_their_inputs_do_not_reach_the_callers(name):
    plain = Model()

    class Writing(Model):
        def forward(self, inputs):
            found = super().forward(inputs)
            if not inputs.requires_grad:
                inputs.zero_()
            return found

    given = batches()
    before = copy.deepcopy(given)
    found = PASSES[name](Writing(), given)
    for batch, kept in zip(given, before, strict=True):
        assert all(map(torch.equal, batch, kept))
    if name in CLEAN:
        same(found, PASSES[name](plain, before))


@pytest.mark.parametrize("use", [evaluate, predict])
def test_an_attack_may_write_into_inputs_and_labels(use):
    def attack(model, inputs, labels):
        labels.zero_()
        return inputs.mul_(0.5)

    given = batches()
    before = copy.deepcopy(given)
    use(Model(), given, attack)
    for batch, kept in zip(given, before, strict=True):
        assert all(map(torch.equal, batch, kept))


@every_pass
def test_what_comes_after_the_labels_is_not_used_unless_asked(name):
    wanted = PASSES[name](Model(), batches())
    more = [(*batch, object(), torch.zeros(1)) for batch in batches()]
    same(PASSES[name](Model(), more), wanted)


@every_pass
@pytest.mark.parametrize("labels", [(), (None,)], ids=["absent", "None"])
def test_labels_are_wanted_where_they_are_of_use(name, labels):
    if name in ("update", "rank"):
        return
    bare = [(inputs, *labels) for inputs, _ in batches()]
    if name not in UNLABELLED:
        with pytest.raises(TypeError, match=r"expected (batches as \(inputs, labels|labels as)"):
            PASSES[name](Model(), bare)
    elif name == "predict":
        logits, found = PASSES[name](Model(), bare)
        assert found == [-1] * N
        assert logits == PASSES[name](Model(), batches())[0]
    else:
        same(PASSES[name](Model(), bare), PASSES[name](Model(), batches()))


def test_labels_of_predict_are_checked_if_they_are_there():
    for labels, error in ((torch.full((N,), 3), ValueError), (torch.zeros(N), TypeError)):
        with pytest.raises(error, match="expected labels"):
            predict(Model(), [(data()[0], labels)])


BAD = {
    "none": (lambda x, y: [], ValueError, "one batch or more, got none"),
    "an iterator that is spent": (lambda x, y: iter(()), ValueError, "one batch or more, got none"),
    "no iterable": (
        lambda x, y: 3,
        TypeError,
        "(batches|train|validation) as an iterable, got int",
    ),
    "bare tensors": (
        lambda x, y: [x],
        TypeError,
        r"batches as \(inputs, labels, ...\), got a tens",
    ),
    "nothing": (lambda x, y: [()], TypeError, "batches as .* got tuple of length 0"),
    "a list": (lambda x, y: [([1, 2], y)], TypeError, "inputs as a torch.Tensor, got list"),
    "no rows": (lambda x, y: [(x[:0], y[:0])], ValueError, r"inputs of shape \(n >= 1, ...\)"),
    "no dimension": (lambda x, y: [(x.sum(), y)], ValueError, r"inputs of shape \(n >= 1, ...\)"),
}


@pytest.mark.parametrize("name", [name for name in PASSES if name not in ("update", "rank")])
@pytest.mark.parametrize("case", BAD)
def test_bad_batches_are_refused(name, case):
    make, error, match = BAD[case]
    if name == "sweep" and case.startswith("an iterator"):
        error, match = TypeError, "batches that can be read again"
    with pytest.raises(error, match=f"expected {match}"):
        PASSES[name](Model(), make(*data()))


# --- the model -------------------------------------------------------------------------------

SENSELESS = {
    "inf": lambda z: z.index_fill(0, torch.tensor([1]), math.inf),
    "-inf": lambda z: z.index_fill(0, torch.tensor([1]), -math.inf),
    "NaN": lambda z: z.index_fill(0, torch.tensor([1]), math.nan),
}


@pytest.mark.parametrize("name", [name for name in PASSES if name != "rank"])
@pytest.mark.parametrize("kind", SENSELESS)
def test_logits_without_a_softmax_are_refused(name, kind):
    model = Model().eval()
    with pytest.raises(ValueError, match=r"expected (logits of finite maximum|logits without NaN)"):
        PASSES[name](lambda inputs: SENSELESS[kind](model(inputs)), batches())


def test_an_attack_that_gets_a_model_to_infinity_is_named_by_the_envelope_too():
    def model(t):
        return torch.cat([t[:, :1] - 0.4, 0.4 - t[:, :1]], 1) / (t[:, :1] < 0.55)

    given = [(torch.full((1, 2), 0.5), torch.tensor([0]))]
    for use in (
        partial(confidence_envelope, eps=[0.1]),
        lambda *a: evaluate(*a, partial(pgd, eps=0.1, targeted=True), targets=lambda y: y),
    ):
        with pytest.raises(ValueError, match="expected logits of finite maximum, got inf"):
            use(model, given)


@every_pass
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(name, training):
    model = Model().train(training)
    model.drop.train(not training)
    model.norm.weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    PASSES[name](model, batches())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True, True, True]
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    if training:
        assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", [name for name in PASSES if name != "diagnose"])
def test_a_model_in_train_mode_runs_in_eval_mode(name):
    same(PASSES[name](Model().train(), batches()), PASSES[name](Model().eval(), batches()))


@every_pass
def test_parts_in_train_mode_of_a_model_in_eval_mode_run_as_they_are(name):
    class Sampling(Model):
        def forward(self, inputs):
            self.seen.append([module.training for module in (self, self.norm, self.drop)])
            return super().forward(inputs)

    model = Sampling().eval()
    model.norm.train()
    statistics = model.norm.running_mean.clone(), model.norm.num_batches_tracked.clone()
    PASSES[name](model, batches())
    assert [False, True, False] in model.seen
    assert [False, False, False] not in model.seen
    assert torch.equal(model.norm.running_mean, statistics[0])
    assert torch.equal(model.norm.num_batches_tracked, statistics[1])


def test_dropout_that_samples_varies_from_pass_to_pass():
    model = Model().eval()
    model.drop.train()
    torch.manual_seed(0)
    probs = torch.stack([predict(model, batches()).probs for _ in range(5)])
    assert variance(probs).min() > 0
    assert float(churn(list(probs))) > 0


def test_statistics_of_the_batch_are_those_of_a_function():
    model = Model().eval()
    model.norm.train()
    found = predict(model, batches()).logits
    assert torch.equal(found, predict(lambda inputs: model(inputs), batches()).logits)
    assert not torch.equal(found, predict(Model().eval(), batches()).logits)


# --- the options -----------------------------------------------------------------------------


@every_pass
def test_autocast(name):
    model = Model()
    PASSES[name](model, batches(), autocast=torch.bfloat16)
    assert {hidden for _, hidden, _ in model.seen} == {torch.bfloat16}


@every_pass
def test_channels_last(name):
    model = Model()
    inputs, labels = torch.rand(2, 3, 4, 4) * 255, torch.arange(2)
    model.convolution = nn.Conv2d(3, 4, 3, padding=1)
    PASSES[name](model, [(inputs, labels)], channels_last=True)
    assert model.seen[0][2] == (48, 1, 12, 3)
    assert inputs.is_contiguous()


@every_pass
def test_progress(name):
    shown = []

    def progress(iterable):
        for item in iterable:
            shown.append(item)
            yield item

    PASSES[name](Model(), batches(), progress=progress)
    # `sweep` counts the batches of its two evaluations.
    assert len(shown) == {"detection": 4, "rank": 3, "sweep": 4}.get(name, 2)


class ReachedError(Exception):
    pass


@every_pass
def test_device_is_where_batches_go_for_a_plain_function(name):
    def model(inputs):
        raise ReachedError(inputs.device.type)

    for device in ("meta", torch.device("meta")):  # where labels cannot be read, and are refused
        with pytest.raises((ReachedError, RuntimeError, ValueError), match="meta"):
            PASSES[name](model, batches(), device=device)
    with pytest.raises(ReachedError, match="cpu"):
        PASSES[name](model, batches())


BAD_OPTIONS = {
    "autocast": ({"autocast": "bfloat16"}, "autocast as a floating torch.dtype or None, got"),
    "integer autocast": ({"autocast": torch.int8}, "autocast as a floating torch.dtype or None"),
    "channels_last": ({"channels_last": "no"}, "channels_last as True or False, got str"),
    "progress": ({"progress": 3}, "progress as a callable, got int"),
    "device": ({"device": "nowhere"}, "device as a torch.device, got 'nowhere'"),
    "forward": ({"forward": 3}, "forward as a callable, got int"),
}


@every_pass
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused_before_any_work(name, case):
    options, match = BAD_OPTIONS[case]
    if "forward" in options and name not in WITH_FORWARD:
        return
    model = Model()
    with pytest.raises(TypeError, match=f"expected {match}"):
        PASSES[name](model, batches(), **options)
    assert not model.seen


# --- more of a batch than its inputs ---------------------------------------------------------


class Conditioned(Model):
    def forward(self, inputs, shift, scale):
        found = super().forward(inputs) + shift * scale
        shift.zero_()  # it is a copy
        return found


def forward(model, batch):
    inputs, _, shift, word, scale = batch
    assert word == "of no length"
    assert scale.shape == (CLASSES,)
    return model(inputs, shift, scale)


def conditioned(sizes):
    shifts = torch.randn(sum(sizes), CLASSES, generator=torch.Generator().manual_seed(1))
    split = zip(batches(sizes=sizes), shifts.split(sizes), strict=True)
    return [(*batch, shift, "of no length", torch.ones(CLASSES)) for batch, shift in split]


@pytest.mark.parametrize("name", [name for name in WITH_FORWARD if name != "diagnose"])
def test_forward_has_all_of_a_batch(name):
    given = conditioned((4, 3))
    whole = PASSES[name](Conditioned(), given, forward=forward)
    assert all(map(torch.equal, given[0][::2][:2], conditioned((4, 3))[0][::2][:2]))
    alone = PASSES[name](Conditioned(), conditioned((1,) * N), forward=forward)
    for found, wanted in zip(numbers(alone), numbers(whole), strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    if name != "detection":  # of one set from itself
        assert str(whole) != str(PASSES[name](Model(), batches()))


def numbers(value):
    """Go through all numbers in a result, rounded so that bins do not tell passes apart."""
    if isinstance(value, dict):
        value = [value[key] for key in value if key not in ("bins", "eps")]
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) else []


def test_forward_in_diagnose():
    found = diagnosed(Conditioned(), conditioned((1,) * N), forward=forward)
    assert found["n"] == N
    one = conditioned((1,))
    shift = one[0][2].clone()
    wanted = diagnosed(Model().eval(), batches(sizes=(1,)), forward=lambda m, b: m(b[0]) + shift)
    same(diagnosed(Conditioned().eval(), one, forward=forward), wanted)


def test_an_attack_that_leaves_examples_out_takes_the_rows_along():
    attack = partial(square, eps=20.0, bounds=BOUNDS, generator=torch.Generator().manual_seed(0))
    whole = evaluate(Conditioned(), conditioned((7,)), attack, forward=forward)
    alone = evaluate(Conditioned(), conditioned((1,) * N), attack, forward=forward)
    assert whole.clean_accuracy == alone.clean_accuracy
    assert max(whole.accuracy, alone.accuracy) <= whole.clean_accuracy

    def half(model, inputs, labels):
        return torch.cat([attack(model, inputs[:3], labels[:3]), inputs[3:]])

    with pytest.raises(ValueError, match=r"expected all 7 inputs of the batch.*batched"):
        evaluate(Conditioned(), conditioned((7,)), half, forward=forward)


# --- what only some take ---------------------------------------------------------------------


def test_the_envelope_draws_from_a_generator():
    first, second, other = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    found = enveloped(Model(), batches(), steps=1, generator=first)
    same(enveloped(Model(), batches(), steps=1, generator=second), found)
    assert not torch.equal(first.get_state(), torch.Generator().manual_seed(1).get_state())
    assert enveloped(Model(), batches(), steps=1, generator=other) != found


def test_attacks_of_ones_own_widen_the_envelope():
    def brutal(model, inputs, labels, *, eps):
        assert torch.equal(labels, model(inputs).argmax(dim=1))
        return torch.zeros_like(inputs)  # outside of every ball: found by nothing else

    def answers_otherwise(model, inputs, labels, *, eps):
        return inputs.flip(0)

    model = Model()
    plain = confidence_envelope(model, batches(), eps=[1.0, 2.0], steps=1, bounds=BOUNDS)
    own = partial(uca, steps=40, bounds=BOUNDS)
    wide = confidence_envelope(
        model, batches(), eps=[1.0, 2.0], steps=1, bounds=BOUNDS, attacks=[brutal, own]
    )
    assert all(map(float.__le__, wide.lowest, plain.lowest))
    assert wide.lowest[0] < plain.lowest[0]
    assert wide.accuracy == plain.accuracy
    few = {"eps": [1.0], "steps": 1, "bounds": BOUNDS}
    confidence_envelope(model, batches(), attacks=(answers_otherwise,), **few)
    for attacks in ([3], 3, {"a": brutal}):
        with pytest.raises(TypeError, match=r"expected attacks? as a"):
            confidence_envelope(model, batches(), eps=[1.0], bounds=BOUNDS, attacks=attacks)


def test_attacks_of_ones_own_are_tried_by_diagnose():
    def stronger(model, inputs, labels, *, eps):
        return inputs.flip(0).flip(2)

    model = Model()
    given = [(inputs, model.eval()(inputs).argmax(dim=1)) for inputs, _ in batches()]
    found = diagnose(model, given, eps=1e-3, bounds=BOUNDS, attacks={"a": FGSM, "b": stronger})
    by = found["an attack of yours beats gradients"]
    assert by.verdict in ("warn", "fail")
    assert {"yours: a", "yours: b", "fooled", "survivors"} == set(by.numbers)
    own = {"an attack of yours beats gradients", "planted adversary, attacks of yours"}
    without = {each.name for each in diagnose(model, given, eps=1.0).findings}
    assert {each.name for each in found.findings} - without == own
    with pytest.raises(TypeError, match="expected attacks as a mapping of names to attacks, got"):
        diagnose(model, given, eps=1.0, attacks=[FGSM])
