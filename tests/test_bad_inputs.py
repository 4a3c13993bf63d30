"""What should be refused is, in the library's own words: a part of the standard set, and by name.

`python -m tests.bad_inputs` tries all of the set and writes its table.
"""

import re
from functools import partial
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import nn

from advcal import attacks, calibrators, evaluation, losses, metrics, trainers
from tests import bad_inputs
from tests.bad_inputs import PGD, classes, images, network, rows

CALLABLES = bad_inputs.callables()
SKETCH = "metrics.ReliabilitySketch.quantile_bins"  # has no argument that must be given
SLOW = (
    SKETCH,
    "plots.",
    "evaluation.audit",
    "evaluation.compare",
    "evaluation.diagnose",
    "attacks.cw_l2",
)
MODELS_OF_MODELS = ("attacks.expectation", "attacks.through", "attacks.two_columns")


def test_every_public_function_is_tried():
    for room in bad_inputs.ROOMS:
        names = {name.split(".")[1] for name in CALLABLES if name.startswith(f"{room}.")}
        module = getattr(bad_inputs.advcal, room)
        functions = {n for n in module.__all__ if callable(getattr(module, n))}
        functions -= {n for n in functions if isinstance(getattr(module, n), type)}
        assert functions <= names | set(bad_inputs.TYPES)


@pytest.mark.parametrize("name", [name for name in CALLABLES if not name.startswith(SLOW)][::5])
def test_the_good_call_that_is_varied_is_good(name):
    tried = CALLABLES[name]
    given = bad_inputs.good(name, tried)
    argument = next((each for each in given if each != "model"), "model")
    found, words = bad_inputs.outcome(name, tried, argument, given[argument])
    assert found in (bad_inputs.ACCEPTED, bad_inputs.WARNED), words


def test_a_part_of_the_standard_set():
    """One in fifty of the tries, the same each time."""
    found = bad_inputs.Counter()
    wrong = []
    for name, argument, bad, how, words in bad_inputs.tries(
        lambda name: not name.startswith(SLOW + bad_inputs.LEFT_OUT),
        lambda name, argument, i: crc32(f"{name} {argument} {i}".encode()) % 50 == 0,
    ):
        found[how] += 1
        if how in bad_inputs.COLUMNS[3:]:
            wrong.append((how, name, argument, bad.kind, words[:80]))
    assert found.total() > 150
    assert bad_inputs.share(found) >= 0.97, wrong


def test_sparse_tensors_are_refused_by_name():
    wrong = []
    for name, tried in CALLABLES.items():
        if name.startswith(SLOW + bad_inputs.LEFT_OUT) or name in MODELS_OF_MODELS:
            continue
        for argument, value in bad_inputs.good(name, tried).items():
            if isinstance(value, torch.Tensor) and value.ndim:
                found, words = bad_inputs.outcome(name, tried, argument, value.to_sparse())
                if found != bad_inputs.REFUSED:
                    wrong.append((name, argument, words))
    assert not wrong


def test_the_table_is_of_these_callables_and_holds_what_it_promises():
    text = bad_inputs.TABLE.read_text(encoding="utf-8")
    again = "run `python -m tests.bad_inputs`, which takes minutes"
    assert f": {len(CALLABLES)} callables." in text, again
    shares = dict(re.findall(r"^\| (\S+) \|.* (\d+\.\d) % \|$", text, re.MULTILINE))
    rooms = {room: float(shares[room]) for room in (*bad_inputs.ROOMS, "**all**")}
    low = {room for room, share in rooms.items() if share < 97}
    assert not low - {"plots"}, again


# --- numbers that cannot be trusted are not given --------------------------------------------


def nan_of_one(logits, labels):
    return torch.where(torch.arange(len(logits)) == 1, torch.nan, logits.sum(dim=1))


def log_of_the_rest(logits, labels):
    return torch.where(labels == 2, 0.0, 1.0).log() + logits.sum(dim=1)


GRADIENT_ATTACKS = [
    PGD,
    partial(attacks.fgsm, eps=0.1),
    partial(attacks.apgd, eps=0.1, steps=3),
    partial(attacks.uca, eps=0.1, steps=2),
    partial(attacks.iaa, eps=0.1, steps=2),
    partial(attacks.ddn, steps=3),
    partial(attacks.fmn, steps=3),
    partial(attacks.foot, steps=4),
    partial(attacks.deepfool, steps=2),
    partial(attacks.cw_l2, steps=2, search_steps=1),
    partial(attacks.ace, eps=0.1, search_steps=1),
]
every_attack = pytest.mark.parametrize("attack", GRADIENT_ATTACKS, ids=lambda a: a.func.__name__)


@pytest.mark.parametrize("make", [attacks.pgd, attacks.fgsm, attacks.n_fgsm])
@pytest.mark.parametrize(
    ("loss", "said"), [(nan_of_one, "nan at example 1"), (log_of_the_rest, "-inf at example 2")]
)
def test_a_loss_that_is_no_number_at_the_start_names_the_example(make, loss, said):
    with pytest.raises(ValueError, match=f"a number where the attack starts, got {said}"):
        make(network(), images(), classes(), eps=0.1, loss=loss)


def test_a_loss_that_is_infinite_where_it_is_lowered():
    with pytest.raises(ValueError, match="got -inf at example"):
        PGD(network(), images(), classes(), loss=lambda z, y: -z.sum(1) - torch.inf)
    found = PGD(network(), images(), classes(), loss=lambda z, y: z.sum(1).exp() + torch.inf)
    assert found.shape == images().shape  # as high as it gets


class Root(nn.Module):
    """A network of the square root of its inputs, whose slope is infinite at 0."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, inputs):
        return self.inner(inputs.sqrt())


@pytest.mark.parametrize(
    "attack",
    [
        partial(attacks.pgd, eps=3.0, norm="l2", steps=20),
        partial(attacks.ddn, steps=50),
        partial(attacks.fmn, steps=50, norm="l2"),
        partial(attacks.fmn, steps=50),
        attacks.foot,
        partial(attacks.deepfool, norm="l2"),
        attacks.deepfool,
    ],
)
def test_infinite_gradients_do_not_stop_an_attack(attack):
    model, inputs = Root(), (images() - 0.4).clamp(0, 1)
    assert (inputs == 0).flatten(1).any(dim=1).all()
    labels = model(inputs).argmax(dim=1)
    plain = (images() - 0.4).clamp(0.02, 1)  # of no pixel at 0
    reached = model(attack(model, plain, labels)).argmax(dim=1) != labels
    found = model(attack(model, inputs, labels)).argmax(dim=1) != labels
    assert reached.any()
    assert found.any()


# --- models that write into their inputs -----------------------------------------------------


@every_attack
def test_a_model_may_write_into_its_inputs(attack):
    model, inputs = network(), images()
    found = attack(lambda x: model(x.mul_(0.5)), inputs, classes())
    assert torch.equal(inputs, images())
    assert torch.equal(found, attack(lambda x: model(0.5 * x), inputs, classes()))


@pytest.mark.parametrize("make", [partial(attacks.expectation, n=3), None])
def test_passes_on_one_batch_do_not_see_what_others_wrote(make):
    class Half(nn.Module):
        def __init__(self, write):
            super().__init__()
            self.inner, self.write = network(), write

        def forward(self, inputs):
            return self.inner(inputs.mul_(0.5) if self.write else 0.5 * inputs)

    make = make or (lambda model: trainers.ensemble([model, model]))
    writing, plain, inputs = make(Half(True)), make(Half(False)), images()
    assert torch.equal(writing(inputs), plain(inputs))
    assert torch.equal(inputs, images())
    assert torch.equal(PGD(writing, inputs, classes()), PGD(plain, inputs, classes()))


def test_a_model_that_writes_in_secret_is_refused():
    def secret(inputs):
        with torch.no_grad():
            inputs.mul_(0.5)
        return network()(inputs)

    with pytest.raises(ValueError, match=r"pass lambda x: model\(x.clone\(\)\)"):
        PGD(secret, images(), classes())


# --- models of other answers -----------------------------------------------------------------

QUANTISED = "ignore::DeprecationWarning"


@every_attack
def test_a_model_without_a_gradient(attack):
    model = network()
    with pytest.raises(ValueError, match=r"by a gradient, got none; .* attacks.square needs no"):
        attack(lambda x: model(x.detach()), images(), classes())


@pytest.mark.filterwarnings(QUANTISED, "ignore::UserWarning")
def test_a_quantised_model_has_no_gradient():
    model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)
    for attack in (PGD, attacks.foot, attacks.deepfool):
        with pytest.raises(ValueError, match="quantised layer on the way"):
            attack(model, images(), classes())
    assert attacks.square(model, images(), classes(), eps=0.1, steps=3).shape == images().shape


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (lambda z: (z, 1), TypeError, r"pass lambda x: model\(x\)\[0\]"),
        (lambda z: {"out": z}, TypeError, r"pass lambda x: model\(x\)\['out'\]"),
        (lambda z: z[:, :1], ValueError, r"torch.stack\(\[0 \* p, p\], dim=1\), p of shape"),
        (lambda z: z[:, 0], ValueError, r"torch.stack\(\[0 \* p, p\], dim=1\)"),
        (lambda z: z[:, :, None].expand(-1, -1, 5), ValueError, r"movedim\(1, -1\).flatten\(0, -2"),
    ],
)
def test_a_model_of_another_answer_is_told_what_to_do(answer, error, said):
    model = network()
    for call in (
        lambda f: PGD(f, images(), classes()),
        lambda f: evaluation.evaluate(f, [(images(), classes())]),
        lambda f: trainers.standard()(f, (images(), classes())),
    ):
        with pytest.raises(error, match=said):
            call(lambda x: answer(model(x)))


def test_one_column_of_probabilities_becomes_two():
    p = torch.rand(5, 1, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1])
    for given in ((p, labels), (p.numpy(), labels.numpy())):
        with pytest.raises(
            ValueError, match=r"torch.stack\(\[1 - p, p\], dim=1\), p of shape \(n,\)"
        ):
            metrics.ece(*given)
    p = p[:, 0]
    assert metrics.ece(torch.stack([1 - p, p], dim=1), labels) >= 0


def test_dense_outputs_become_rows():
    dense, labels = rows(30).reshape(5, 6, 3).movedim(-1, 1), classes(30).reshape(5, 6)
    with pytest.raises(ValueError, match="flatten dense ones") as raised:
        metrics.ece(dense, labels)
    line, _, other = str(raised.value).partition("flatten dense ones: ")[2].partition(" and ")
    names = {"probs": dense, "labels": labels}
    found = metrics.ece(eval(line, names), eval(other, names))
    assert found == metrics.ece(rows(30), classes(30))
    with pytest.raises(ValueError, match=r"np.moveaxis"):
        metrics.ece(dense.numpy(), labels.numpy())


# --- rounding, and probabilities where logits belong -----------------------------------------


@pytest.mark.parametrize("value", [1.0000001, 1.0005, -1e-8])
def test_a_rounding_beyond_the_bounds_is_clamped(value):
    inputs = images()
    inputs[0, 0, 0, 0] = value
    for call in (
        lambda: PGD(network(), inputs, classes()),
        lambda: evaluation.evaluate(network(), [(inputs, classes())], PGD),
    ):
        with pytest.raises(ValueError, match=r"by inputs.clamp\(0, 1\)") as raised:
            call()
        assert f"{float(inputs.min() if value < 0 else inputs.max()):.9g}" in str(raised.value)
    PGD(network(), inputs.clamp(0, 1), classes())
    with pytest.raises(ValueError, match="before they are normalised"):
        PGD(network(), inputs - 0.5, classes())


def test_probabilities_where_logits_belong():
    model = nn.Sequential(network(), nn.Softmax(dim=1))
    objective, batch = trainers.standard(), (images(), classes())
    with pytest.warns(UserWarning, match="expected logits"):
        objective(model, batch)
    objective(model, batch)  # once is enough
    with pytest.warns(UserWarning, match="expected logits"):
        calibrators.fit_temperature(rows(), classes(30), prior=0.5)
    with pytest.warns(UserWarning, match="expected logits"):
        metrics.ece(rows(), classes(30), from_logits=True)


@pytest.mark.parametrize("eps", [1.0, 8.0])
def test_a_radius_of_the_whole_range_is_no_report(eps):
    batches = [(images(), classes())]
    told = (
        rf"expected eps below 1, the width of bounds \(0, 1\), got {eps:g}; pass {eps:g} / 255 if"
    )
    for call in (
        lambda: evaluation.audit(network(), batches, eps=eps, steps=1),
        lambda: evaluation.confidence_envelope(network(), batches, eps=[0.1, eps], steps=1),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    wide = [(255 * images(), classes())]
    options = {"eps": [eps], "steps": 1, "bounds": (0.0, 255.0)}
    evaluation.confidence_envelope(network(), wide, **options)
    evaluation.confidence_envelope(network(), batches, eps=[eps], steps=1, norm="l2")


def test_infinite_logits_give_no_figures():
    def model(inputs):
        return torch.where(torch.arange(3) == 1, torch.inf, network()(inputs))

    for call in (
        lambda: attacks.adversarial_distance(model, images()),
        lambda: attacks.adversarial_distance(model, images(), attack="linear"),
        lambda: evaluation.evaluate(model, [(images(), classes())]),
    ):
        with pytest.raises(ValueError, match="finite maximum, got inf at example 0 of the 4"):
            call()


@pytest.mark.parametrize("name", ["evaluate", "predict", "transfer", "distance", "diagnose"])
def test_infinite_logits_that_an_attack_reaches_give_no_figures(name):
    labels, batches = network()(images()).argmax(dim=1), []

    def model(inputs):
        moved = (inputs - images()[: len(inputs)]).abs().flatten(1).amax(dim=1) > 1e-2
        highest = torch.arange(3) == (labels[: len(inputs), None] + 1) % 3
        return torch.where(moved[:, None] & highest, torch.inf, network()(inputs))

    batches = [(images(), labels)]
    calls = {
        "evaluate": lambda: evaluation.evaluate(model, batches, PGD),
        "predict": lambda: trainers.predict(model, batches, PGD),
        "transfer": lambda: evaluation.transfer({"a": model}, {"a": model}, batches, PGD),
        "distance": lambda: attacks.adversarial_distance(
            model, images(), attack=partial(attacks.deepfool, overshoot=1.0)
        ),
        "diagnose": lambda: evaluation.diagnose(model, batches, eps=0.1, steps=2),
    }
    with pytest.raises(ValueError, match="finite maximum, got inf at example"):
        calls[name]()


# --- training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (torch.tensor([0, 1, 2, 3]), ValueError, "expected labels from 0 to 2, got 3"),
        (torch.tensor([0, -1, 2, 1]), ValueError, "expected labels from 0 to 2, got -1"),
        (classes()[:3], ValueError, r"expected labels of shape \(4,\)"),
        (classes()[:, None], ValueError, r"expected labels of shape \(4,\)"),
        (classes().float(), TypeError, "expected labels of an integer dtype"),
        (None, TypeError, "expected labels as a torch.Tensor"),
        (np.array([0, 1, 2, 0]), TypeError, "expected labels as a torch.Tensor"),
    ],
)
def test_labels_of_an_objective(labels, error, said):
    for objective in (trainers.standard(), trainers.mixed(trainers.standard())):
        with pytest.raises(error, match=said):
            objective(network(), (images(), labels))


def test_what_cross_entropy_takes_is_taken():
    objective, model = trainers.standard(), network()
    soft = losses.smooth_labels(classes(), 3, 0.1)
    assert objective(model, (images(), soft)).isfinite()
    assert objective(model, (images(), torch.tensor([0, -100, 1, 2]))).isfinite()
    dense = nn.Conv2d(1, 3, 1)
    labels = torch.zeros(4, 4, 4, dtype=torch.int64)
    assert objective(dense, (images(), labels)).isfinite()
