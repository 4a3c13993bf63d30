"""The checks of a reviewer: each broken model is named for what is broken, healthy ones are not."""

import copy
import dataclasses
import functools
import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, hardsigmoid

from advcal.attacks import apgd, l2, linf, pgd
from advcal.evaluation import Diagnosis, diagnose
from advcal.evaluation._plant import plant
from advcal.evaluation._probe import Probe
from tests.attacks.cases import Counted, delicate, examples, linear, mlp, seeded, state

EPS = 0.15
DATA = load_digits()
IMAGES, LABELS = torch.tensor(DATA.images / 16).float(), torch.tensor(DATA.target)
TRAIN, TEST = torch.randperm(len(IMAGES), generator=seeded())[:928].split([800, 128])
BATCHES = [(IMAGES[part], LABELS[part]) for part in TEST.split(64)]


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def mlp_of(first=None, seed=0):
    torch.manual_seed(seed)
    hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(first or nn.Identity(), nn.Flatten(), *hidden, nn.Linear(64, 10))


def cnn(seed=0):
    torch.manual_seed(seed)
    convolution = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(nn.Unflatten(1, (1, 8)), *convolution, nn.Flatten(), nn.Linear(128, 10))


def trained(model, *, n=8, attack=None, temperature=1.0):
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-2), seeded(1)
    for _ in range(n):
        for part in TRAIN[torch.randperm(len(TRAIN), generator=generator)].split(50):
            inputs, labels = IMAGES[part], LABELS[part]
            inputs = attack(model, inputs, labels) if attack else inputs
            optimizer.zero_grad()
            cross_entropy(model.train()(inputs) / temperature, labels).backward()
            optimizer.step()
    return model.eval()


@functools.cache
def plain():
    return trained(mlp_of())


@functools.cache
def plain_cnn():
    return trained(cnn())


@functools.cache
def other():
    return trained(mlp_of(seed=7))


def after(function):
    return nn.Sequential(plain(), Layer(function))


def behind(function):
    return nn.Sequential(Layer(function), plain())


def before(function):
    return trained(mlp_of(Layer(function)))


def findings(model, batches=BATCHES, **options):
    options = {
        "eps": EPS,
        "sources": {"other": other()},
        "generator": seeded(),
        "steps": 150,
    } | options
    found = diagnose(model, batches, **options)
    return {finding.name: finding.verdict for finding in found.findings}


def accused(model, batches=BATCHES, **options):
    found = findings(model, batches, **options)
    return {name for name, verdict in found.items() if verdict in ("warn", "fail")}


# --- healthy models --------------------------------------------------------------------------

ADVERSARY = functools.partial(pgd, eps=EPS, steps=3)
HEALTHY = {
    "plain": plain,
    "CNN with BatchNorm": plain_cnn,
    "robust": lambda: trained(mlp_of(seed=1), attack=ADVERSARY),
    "robust CNN": lambda: trained(cnn(seed=1), n=5, attack=ADVERSARY),
    "trained for long": lambda: trained(mlp_of(seed=2), n=25),
    "log-probabilities": lambda: after(lambda logits: logits.log_softmax(dim=1)),
    "calibrated": lambda: lambda inputs: plain()(inputs) / 2.5,
    "smooth": lambda: mlp(shape=(8, 8), n_classes=10, gain=1.0),
    "float64": lambda: copy.deepcopy(plain()).double(),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_are_not_accused(name):
    dtype = torch.float64 if name == "float64" else torch.float32
    batches = [(inputs.to(dtype), labels) for inputs, labels in BATCHES]
    assert accused(HEALTHY[name](), batches, sources=None) == set()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("linf", 0.4), ("l2", 0.3), ("l2", 2)])
def test_healthy_models_are_not_accused_at_any_radius(norm, eps):
    assert accused(plain(), BATCHES[:1], norm=norm, eps=eps) == set()


# --- models broken on purpose ----------------------------------------------------------------

MASKED = {"zero gradients", "piecewise constant", "random search beats gradients"}
MASKED |= {"planted adversary"}
UNBEATEN = {"accuracy as eps grows"}

BROKEN = {
    "quantised": (lambda: behind(lambda x: (4 * x).round() / 4), MASKED | UNBEATEN),
    "finely quantised": (
        lambda: behind(lambda x: (16 * x).round() / 16),
        MASKED | UNBEATEN | {"transfer beats gradients"},
    ),
    "quantised, straight through": (
        lambda: behind(lambda x: x + ((4 * x).round() / 4 - x).detach()),
        {"piecewise constant"},
    ),
    "hard sigmoid": (lambda: before(lambda x: hardsigmoid(1e4 * (x - 0.5))), MASKED | UNBEATEN),
    "tanh": (lambda: before(lambda x: (1e3 * (x - 0.5)).tanh()), MASKED | UNBEATEN),
    "detached": (
        lambda: lambda inputs: plain()(inputs.detach()),
        {"zero gradients", "random search beats gradients", "planted adversary"} | UNBEATEN,
    ),
    "stochastic": (lambda: before(lambda x: x + 0.3 * torch.randn_like(x)), {"random outputs"}),
    "distilled": (lambda: trained(mlp_of(), n=15, temperature=100.0), {"logit scale"}),
    "logits x 1e3": (lambda: after(lambda logits: 1e3 * logits), {"logit scale"}),
    "logits x 1e5": (lambda: after(lambda logits: 1e5 * logits), {"logit scale"}),
    "softmax": (lambda: after(lambda logits: logits.softmax(dim=1)), {"probabilities"}),
    "BatchNorm in train mode": (lambda: copy.deepcopy(plain_cnn()).train(), {"train mode"}),
    "shattered": (
        lambda: before(lambda x: x + 0.05 * (300 * x).sin()),
        {"one step beats many", "planted adversary"},
    ),
    "shattered finely": (
        lambda: before(lambda x: x + 0.1 * (1000 * x).sin()),
        {"random search beats gradients", "transfer beats gradients", "planted adversary"},
    ),
    "exploding": (
        lambda: behind(lambda x: x + 0 * (x - x.detach()).abs().sqrt()),
        {"exploding gradients", "planted adversary"},
    ),
    "wrong backward": (
        lambda: behind(lambda x: 2 * x.detach() - x),
        {"misleading gradients", "planted adversary"},
    ),
}
ALONE = ["stochastic", "distilled", "logits x 1e3", "logits x 1e5", "softmax"]
ALONE += ["BatchNorm in train mode"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_named(name):
    make, wanted = BROKEN[name]
    found = accused(make())
    assert wanted <= found
    if name in ALONE:
        assert found == wanted


def test_a_model_that_stays_in_train_mode_depends_on_the_batch():
    training = copy.deepcopy(plain_cnn()).train()
    assert "batch dependence" in accused(lambda inputs: training(inputs))
    assert findings(lambda inputs: plain_cnn()(inputs))["train mode"] == "skip"


def test_dropout_in_train_mode_is_named_and_a_mode_of_no_effect_is_not():
    model = nn.Sequential(copy.deepcopy(plain()), nn.Dropout(0.5)).train()
    found = diagnose(model, BATCHES, eps=EPS)["train mode"]
    wanted = {"batch_norms": 0, "dropouts": 1, "layers": ["1 (Dropout)"]}
    assert (found.verdict, found.numbers) == ("warn", wanted)
    assert accused(copy.deepcopy(plain()).train()) == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_outside_the_bounds_are_named(dtype):
    model = copy.deepcopy(behind(lambda x: (x + 1) / 2)).to(dtype)
    batches = [(2 * inputs.to(dtype) - 1, labels) for inputs, labels in BATCHES]
    assert accused(model, batches, eps=2 * EPS, sources=None) == {"input bounds"}


def test_values_at_the_bounds_in_their_own_precision_are_inside():
    found = diagnose(linear(), [(torch.full((4, 1, 4, 4), 0.7), torch.arange(4) % 3)],
                     eps=0.1, bounds=(0.7, 0.9))  # fmt: skip
    assert found["input bounds"].verdict == "pass"


def test_without_a_correct_prediction_there_is_nothing_to_attack():
    wrong = [(inputs, (plain()(inputs).argmax(dim=1) + 1) % 10) for inputs, _ in BATCHES]
    found = findings(plain(), wrong)
    attacks = ["one step beats many", "random search beats gradients", "accuracy as eps grows"]
    assert {found[name] for name in attacks} == {"skip"}


# --- planted adversaries ---------------------------------------------------------------------


YOURS = {
    "strong": functools.partial(pgd, steps=20),
    "by margin": functools.partial(pgd, steps=20, loss="margin"),
    "by DLR": functools.partial(apgd, steps=20, loss="dlr"),
    "one step": functools.partial(pgd, steps=1, step_size=EPS / 20, random_start=False),
    "short": functools.partial(pgd, steps=2, step_size=EPS / 20, random_start=False),
    "nothing": lambda model, inputs, labels, eps: inputs,
    "backwards": lambda *batch, eps: pgd(*batch, eps=eps, targeted=True),
}
WEAK = ["one step", "short", "nothing", "backwards"]


@pytest.mark.parametrize(
    ("model", "norm", "eps"),
    [("plain", "linf", EPS), ("robust", "l2", 0.8), ("smooth", "linf", EPS)],
)
def test_weak_attacks_miss_what_is_planted_and_strong_ones_find_it(model, norm, eps):
    mine = {name: functools.partial(each, norm=norm) if isinstance(each, functools.partial)
            else each for name, each in YOURS.items()}  # fmt: skip
    batches = [(IMAGES[TEST[:32]], LABELS[TEST[:32]])]
    found = diagnose(HEALTHY[model](), batches, eps=eps, norm=norm, attacks=mine, steps=1)
    assert found["planted adversary"].verdict == "pass"
    yours = found["planted adversary, attacks of yours"]
    assert yours.verdict == "fail"
    share = {name: yours.numbers[name] / yours.numbers["planted"] for name in mine}
    assert yours.numbers["planted"] == 32
    assert {name for name, value in share.items() if value < 0.9} == set(WEAK)
    assert "finds 0 of 32 adversarial points" in yours.evidence


def test_strong_attacks_alone_pass():
    mine = {name: each for name, each in YOURS.items() if name not in WEAK}
    found = diagnose(plain(), [(IMAGES[:16], LABELS[:16])], eps=EPS, attacks=mine, steps=1)
    assert found["planted adversary, attacks of yours"].verdict == "pass"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_planted_point_is_in_the_ball_and_adversarial(norm):
    inputs = IMAGES[TEST[:20]]
    ball = (linf if norm == "linf" else l2)(inputs, eps=EPS)
    drawn = []

    def look(points):
        drawn.append(points)
        return plain()(points).detach()

    made = plant(plain(), look, ball, seeded())
    inside, outside = made.model(inputs), [made.model(points) for points in drawn]
    assert made.planted.all()
    assert inside.shape == (20, 10)
    assert (inside.argmax(dim=1) == 0).all()
    there = torch.stack([logits.argmax(dim=1) for logits in outside])
    assert set(there.unique().tolist()) == {0, 1}
    assert (there == 1).any(dim=0).all()
    for points in drawn:
        assert (ball.length(points) <= EPS * (1 + 1e-6)).all()


def test_the_planted_point_of_a_linear_model_is_read_by_hand():
    weights = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, -0.5]])
    made = plant(lambda v: v @ weights, lambda v: v @ weights,
                 linf(torch.full((1, 2), 0.5), eps=0.25), seeded())  # fmt: skip
    # The corners move the logits by ±(1, -.5, -.5) / 4 or ±(1, -1.5, .5) / 4: the latter farther.
    far = made.model(torch.tensor([[0.75, 0.25]]))
    near = made.model(torch.tensor([[0.25, 0.75]]))
    assert sorted([float(far[0, 1]), float(near[0, 1])]) == pytest.approx([-9.5, 0.5])
    assert bool(made.stumbled)


def test_nothing_is_planted_where_no_logit_moves():
    found = diagnose(lambda v: 0 * v[:, :, 0] + torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]),
                     [(IMAGES[:4], torch.zeros(4).long())], eps=EPS, steps=1)  # fmt: skip
    assert found["planted adversary"].verdict == "skip"


@pytest.mark.parametrize("mask", [-torch.inf, -1e30])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_masked_classes_are_no_obstacle(mask, noise):
    def found(mask):
        generator = torch.Generator().manual_seed(0)

        def model(inputs):
            logits = plain()(inputs)
            logits = logits + noise * torch.randn(logits.shape, generator=generator)
            columns = [] if mask is None else [torch.full_like(logits[:, :1], mask)]
            return torch.cat([logits, *columns], dim=1)

        return findings(model, BATCHES[:1])

    assert found(mask) == found(None)


# --- the record ------------------------------------------------------------------------------


def test_the_record():
    found = diagnose(copy.deepcopy(plain_cnn()).train(), BATCHES, eps=EPS)
    assert isinstance(found, Diagnosis)
    assert found.n == 128
    assert found.verdict == "warn"
    assert found["transfer beats gradients"].verdict == "skip"
    with pytest.raises(KeyError):
        found["nothing"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.n = 3
    plain_record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain_record["verdict"] == "warn"
    assert [each["name"] for each in plain_record["findings"]] == [f.name for f in found.findings]
    lines = str(found).splitlines()
    assert found._repr_html_().count("<tr>") == len(lines) - 1
    assert len(lines) == 2 + len(found.findings)
    assert len({len(line) for line in lines}) == 1
    assert "1 BatchNorm and 0 Dropout layers are in train mode" in str(found)


@pytest.mark.parametrize("name", ["plain", "quantised"])
def test_the_same_generator_gives_the_same_record(name):
    model = plain() if name == "plain" else BROKEN[name][0]()
    first, second = (diagnose(model, BATCHES, eps=EPS, generator=seeded(3)) for _ in range(2))
    assert first == second


def test_records_of_broken_models_are_json_too():
    for name in ("exploding", "detached"):
        json.dumps(diagnose(BROKEN[name][0](), BATCHES, eps=EPS).as_dict(), allow_nan=False)


# --- contracts -------------------------------------------------------------------------------


def test_models_and_random_state_stay_as_they_were():
    model, source = delicate(), delicate()
    states, random = (state(model), state(source)), torch.get_rng_state()
    inputs, labels = examples(6)
    copies = inputs.clone(), labels.clone()
    diagnose(model, [(inputs, labels)], eps=0.1, sources={"source": source}, steps=5)
    assert (state(model), state(source)) == states
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(inputs, copies[0])
    assert torch.equal(labels, copies[1])


def test_the_number_of_passes():
    model, source = Counted(plain()), Counted(other())
    diagnose(model, BATCHES[:1], eps=EPS, sources={"other": source}, steps=50)
    assert model.forwards <= 186 + 50 + 5 * 22
    assert model.backwards <= 2 + 1 + 20 + 21 + 40 + 4 * 20
    assert source.forwards <= 22


def test_one_example_is_enough():
    assert diagnose(plain(), [(IMAGES[:1], LABELS[:1])], eps=EPS).n == 1


def test_grad_mode_does_not_matter():
    wanted = findings(plain())
    with torch.inference_mode():
        assert findings(plain()) == wanted


BAD = {
    "model": ({"model": 3}, TypeError, "model as a callable, got int"),
    "eps": ({"eps": 0}, ValueError, "eps > 0, got 0"),
    "norm": ({"norm": "l0"}, ValueError, "norm to be one of"),
    "bounds": ({"bounds": (1, 0)}, ValueError, "low < high"),
    "steps": ({"steps": 0}, ValueError, "steps >= 1, got 0"),
    "generator": ({"generator": 0}, TypeError, "generator as"),
    "name": (
        {"attacks": {"PGD of 20 steps": pgd}},
        ValueError,
        "names of attacks that are not taken, got 'PGD of 20 steps'",
    ),
    "sources": ({"sources": [plain]}, TypeError, "sources as a mapping .*, got list"),
    "no source": ({"sources": {}}, ValueError, "one or more in sources, got none"),
    "a source": ({"sources": {"a": 3}}, TypeError, r"sources\['a'\] as a callable, got int"),
    "batches": ({"batches": 3}, TypeError, "batches as an iterable, got int"),
    "no batches": ({"batches": []}, ValueError, "one batch or more, got none"),
    "half": ({"batches": [(IMAGES[:2].half(), LABELS[:2])]}, TypeError, "float32 or float64, got"),
    "NaN": ({"batches": [(IMAGES[:2] * torch.nan, LABELS[:2])]}, ValueError, "finite inputs, got"),
    "labels": ({"batches": [(IMAGES[:2], LABELS[:2] + 10)]}, ValueError, "labels from 0 to 9, got"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    options, error, match = BAD[case]
    arguments = {"model": mlp_of(), "batches": BATCHES, "eps": EPS} | options
    with pytest.raises(error, match=f"expected .*{match}"):
        diagnose(arguments.pop("model"), arguments.pop("batches"), **arguments)


class Overwriting(nn.Module):
    """Leaves something else in its inputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        logits = self.model(inputs * 1)
        inputs.mul_(0.5).sub_(0.1)
        return logits


@pytest.mark.parametrize("eps", [EPS, 2.0])
def test_a_model_may_overwrite_its_inputs_while_it_is_measured(eps):
    def measured(model):
        inputs, labels = (part.clone() for part in BATCHES[0])
        probe = Probe(model, inputs, labels, eps, "linf", (0.0, 1.0), seeded())
        found = probe.outputs() | probe.gradients()
        assert torch.equal(inputs, BATCHES[0][0])
        return {name: values.tolist() for name, values in found.items()}

    model = plain()
    with torch.no_grad():
        assert measured(Overwriting(model)) == measured(model)


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_quantised_layers_have_no_train_mode():
    quantised = torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})
    found = diagnose(quantised, BATCHES[:1], eps=EPS, steps=1)
    assert found["train mode"].verdict == "pass"
    assert found["zero gradients"].verdict == "fail"


@pytest.mark.parametrize("bounds", [(0.0, float("inf")), (-float("inf"), 1.0), None])
def test_a_diagnosis_needs_finite_bounds(bounds):
    with pytest.raises((TypeError, ValueError), match=r"expected bounds.*got (inf|-inf|None)"):
        diagnose(mlp_of(), BATCHES, eps=EPS, bounds=bounds)
