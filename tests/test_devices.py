"""Every public function on a device that is not the CPU, which no machine here needs to have.

Rows come from the tables of the submodules' own contract tests and, for what has none, from here.
Each gives on the device, to the last bit, what it gives on the CPU.
"""

import copy
import dataclasses
import functools
import importlib
import inspect
import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import advcal
from advcal import attacks, calibrators, certify, evaluation, losses, metrics, trainers
from advcal._values import Value
from advcal.evaluation import _corrupt
from tests.attacks import cases as of_attacks
from tests.calibrators import cases as of_calibrators
from tests.certify import cases as of_certify
from tests.losses import test_contract as of_losses
from tests.metrics import test_contract as of_metrics
from tests.pretend_device import Held, Pretend, inside
from tests.trainers import test_objectives as of_trainers


class Here:
    """The CPU, with which a device is compared."""

    def tensor(self, value):
        """Return a tensor on the device."""
        return value.clone()

    def batch(self, *parts):
        """Return a batch, which may be on the CPU."""
        return parts

    def module(self, model):
        """Return a copy of a model on the device."""
        return copy.deepcopy(model)

    def generator(self, seed=1):
        """Return a generator of the device or of the CPU."""
        return torch.Generator().manual_seed(seed)


class There(Here):
    """A pretend device, with batches and generators of its own or of the CPU's."""

    def __init__(self, device, own):
        self.device, self.own = device, own

    def tensor(self, value):
        return self.device.tensor(value)

    def batch(self, *parts):
        return tuple(map(self.tensor, parts)) if self.own else parts

    def module(self, model):
        return self.device.module(model)

    def generator(self, seed=1):
        return self.device.generator(seed, None if self.own else "cpu")


def remembered(function):
    """Make data once, before torch has another default device or dtype, and copy them then."""
    made = {}

    @functools.wraps(function)
    def again(*arguments, **options):
        key = (*map(id, arguments), *options.items())
        if key not in made:
            made[key] = arguments, function(*arguments, **options)
        return copy.deepcopy(made[key][1])

    return again


examples, network = remembered(of_attacks.examples), remembered(of_attacks.mlp)
logits_and_labels, setting = remembered(of_losses.example), remembered(of_trainers.setting)
calibration = remembered(of_calibrators.data)
perceptron, points = remembered(of_certify.perceptron), remembered(of_certify.points)


# Said once a process, of what only tensors without storage take.
pytestmark = [
    pytest.mark.filterwarnings("ignore:at..frobenius_norm is deprecated"),
    pytest.mark.filterwarnings("ignore:expected (enough )?examples"),  # to calibrate by few
]


# --- rows ------------------------------------------------------------------------------------


def attack_row(row):
    def run(at):
        attack = row.make(generator=at.generator())
        if "omega" in getattr(attack, "keywords", {}):
            attack = partial(attack, omega=at.tensor(attack.keywords["omega"].float()))
        return attack(mlp(at), *map(at.tensor, examples()))

    return run


def loss_row(name):
    def run(at):
        logits, labels = logits_and_labels(dtype=torch.float32)
        logits = at.tensor(logits).requires_grad_()
        loss = of_losses.OF_TWO.get(name, getattr(losses, name))
        value = loss(logits, at.tensor(labels))
        return value, torch.autograd.grad(value, logits)

    return run


@remembered
def predictions():
    probs, labels = map(torch.from_numpy, of_metrics.example())
    return probs.float(), labels


def metric_row(name, **options):
    def run(at):
        probs, labels = predictions()
        probs = probs.log() if options.get("from_logits") else probs
        return getattr(metrics, name)(at.tensor(probs), at.tensor(labels), **options)

    return run


def drawn_row(name, **options):
    return lambda at: metric_row(name, generator=at.generator(), resamples=40, **options)(at)


def calibrator_row(case):
    def run(at):
        logits, labels = calibration(case, n=120)
        logits = at.tensor(logits.float())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            calibrator = case.fit(logits, at.tensor(labels))
        return calibrator(logits), calibrator.log_probs(logits)

    return run


def objective_row(make):
    def run(at):
        model, *batch = setting()
        model = at.module(model)
        torch.manual_seed(1)
        loss = make()(model, tuple(map(at.tensor, batch)))
        loss.backward()
        return loss, [parameter.grad for parameter in model.parameters()]

    return run


@remembered
def images():
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def batches_of_images(at):
    return [at.batch(images(), FOUR)]


def data(at, n_batches=2):
    """Return batches on the CPU or on the device."""
    return [at.batch(*examples(seed=i)) for i in range(n_batches)]


def mlp(at, seed=0):
    return at.module(network(seed))


FGSM = partial(attacks.fgsm, eps=0.1)


def fitted(at, **options):
    model = at.module(normalised())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(2)
    objective = trainers.adversarial(partial(attacks.pgd, eps=0.1, steps=2))
    records = trainers.fit(model, data(at), objective, optimizer, n=2, max_norm=1.0, **options)
    return records, list(model.state_dict().values())


@remembered
def normalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@remembered
def splits():
    parts = [(inputs, labels, torch.arange(3)) for inputs, labels in data(Here())]
    return [parts[0]], [parts[1]]


def smoothed_labels(at):
    model, (train, validation) = mlp(at), splits()
    objective = trainers.adaptive_smoothing(
        [at.batch(*train[0])], [at.batch(*validation[0])], 3, n_levels=2
    )
    objective.rank(model)
    objective.update(model)
    return objective(model, tuple(map(at.tensor, train[0]))), objective.state.label_probs


def levels(at):
    state = losses.adaptive_smoothing(3, n_levels=2)
    state = state.update(torch.tensor([0.5, 0.9]), torch.tensor([0.4, 0.8]))
    return state.targets(at.tensor(LABELS), at.tensor(LABELS.clamp(max=1)))


def reach(at):
    return certify.interval(at.module(perceptron()), at.tensor(points(3)), eps=0.01)


def certified(at):
    model, inputs = at.module(perceptron()), at.tensor(points(2))
    found = certify.certify(model, inputs, sigma=0.05, n=1000, generator=at.generator())
    assert (found.radius > 0).any()  # the noise is another on each kind of device
    return found.labels, found.draws


def noisy(at):
    model = certify.smoothed(mlp(at), sigma=0.1, n=3, generator=at.generator())
    return model(at.tensor(examples()[0]))


def sets(at):
    probs, labels = map(at.tensor, predictions())
    found = certify.conformal(probs, labels, score="aps")
    sets = found(probs)
    return sets, certify.set_figures(sets, labels.to(sets.device))


def ball_row(name):
    def run(at):
        inputs, _ = examples()
        ball = getattr(attacks, name)(at.tensor(inputs), eps=0.3)
        return ball.project(at.tensor(inputs + 0.2)), ball.length(at.tensor(inputs + 0.2))

    return run


def sketch(at):
    found = metric_row("reliability_sketch")(at)
    return found, (found + found).quantile_bins(n_bins=5), found.smooth_ece


def table(at):
    bins = metric_row("reliability_bins")(at)
    figures = ("accuracy", "mcs", "ece")
    options = {"resamples": 40, "generator": at.generator()}
    return [bins.interval(figure, **options) for figure in figures], (bins + bins).debiased_rmsce


LABELS, FOUR = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 0])
FEW = [part.float() if i == 0 else part for i, part in enumerate(of_calibrators.draw(n=45))]
RUNS = [predictions()[0], predictions()[0].roll(1, 0)]
SCORES = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.4]), torch.tensor([0, 0, 1, 1, 1])


def corrupted(at):
    pictures = at.tensor(images())
    draws = {name: at.generator() for name in _corrupt.CORRUPTIONS}
    return [
        evaluation.corrupt(pictures, name, severity=3, generator=draw)
        for name, draw in draws.items()
    ]


ROWS = {f"attacks.{name}": attack_row(row) for name, row in of_attacks.ROWS.items()}
ROWS |= {f"losses.{name}": loss_row(name) for name in of_losses.LOSSES}
ROWS |= {f"metrics.{name}": metric_row(name) for name in of_metrics.RANGES}
ROWS |= {"metrics.rejection_threshold": metric_row("rejection_threshold")}
ROWS |= {f"calibrators.{name}": calibrator_row(case) for name, case in of_calibrators.CASES.items()}
del ROWS["attacks.autocast"], ROWS["calibrators.best"]  # not to be pretended; as fit_best
ROWS |= {f"trainers.{name}": objective_row(make) for name, make in of_trainers.MAKERS.items()}
ROWS |= {
    "attacks.adversarial_distance": lambda at: [
        attacks.adversarial_distance(mlp(at), at.tensor(examples()[0]), attack=each)
        for each in ("linear", "quick", "fast")
    ],
    "attacks.expectation": lambda at: FGSM(
        attacks.expectation(mlp(at), n=2), *map(at.tensor, examples())
    ),
    **{f"attacks.{name}": ball_row(name) for name in ("linf", "l2", "l1")},
    "calibrators.fit_best": lambda at: calibrators.fit_best(*map(at.tensor, FEW)).losses,
    "certify.certify": certified,
    "certify.conformal": sets,
    "certify.crown": lambda at: certify.crown(
        at.module(perceptron()), at.tensor(points(3)), eps=0.01
    ),
    "certify.figures": lambda at: certify.figures(
        reach(at), at.tensor(LABELS).to(reach(at).lower.device)
    ),
    "certify.interval": reach,
    "certify.set_figures": sets,
    "certify.smoothed": noisy,
    "evaluation.audit": lambda at: {
        name: {key: value for key, value in part.items() if key != "seconds"}
        for name, part in evaluation.audit(
            mlp(at), data(at, 1), eps=0.1, steps=1, attack=FGSM
        ).parts.items()
    },
    "evaluation.confidence_envelope": lambda at: evaluation.confidence_envelope(
        mlp(at), data(at, 1), eps=[0.1], steps=2, generator=at.generator()
    ),
    "evaluation.corrupt": corrupted,
    "evaluation.corruptions": lambda at: list(
        evaluation.corruptions(
            [at.batch(images(), torch.zeros(4, dtype=torch.int64))], kinds=["fog"], severity=[1]
        )["fog 1"]
    ),
    "evaluation.detection": lambda at: [
        evaluation.detection(mlp(at), data(at), data(at, 1), score=score, attack=FGSM)
        for score in ("entropy", "confidence", "energy")
    ],
    "evaluation.diagnose": lambda at: evaluation.diagnose(
        mlp(at), data(at, 1), eps=0.1, generator=at.generator()
    ),
    "evaluation.evaluate": lambda at: evaluation.evaluate(mlp(at), data(at), FGSM),
    "evaluation.sweep": lambda at: evaluation.sweep(
        {"a": mlp(at)}, {"data": data(at)}, {"fgsm": attacks.fgsm}, eps=[0.1]
    ),
    "evaluation.transfer": lambda at: evaluation.transfer(
        {"a": mlp(at)}, {"b": mlp(at, 1)}, data(at), FGSM
    ),
    "losses.adaptive_smoothing": levels,
    "losses.smooth_labels": lambda at: losses.smooth_labels(at.tensor(LABELS), 3, 0.1),
    "metrics.aupr": lambda at: metrics.aupr(*map(at.tensor, SCORES)),
    "metrics.auroc": lambda at: metrics.auroc(*map(at.tensor, SCORES)),
    "metrics.bootstrap": lambda at: [
        metrics.bootstrap(
            metric, *map(at.tensor, predictions()), resamples=5, generator=at.generator()
        )
        for metric in (metrics.nll, metrics.ece)
    ],
    "metrics.calibration_test": lambda at: [
        drawn_row("calibration_test", statistic=name)(at) for name in ("ece", "ks", "spiegelhalter")
    ],
    "metrics.churn": lambda at: metrics.churn(list(map(at.tensor, RUNS))),
    "metrics.consistency_bands": drawn_row("consistency_bands"),
    "metrics.ece_interval": drawn_row("ece_interval"),
    "metrics.entropy": lambda at: metrics.entropy(at.tensor(RUNS[0])),
    "metrics.fpr95": lambda at: metrics.fpr95(*map(at.tensor, SCORES)),
    "metrics.robust_error": lambda at: metrics.robust_error(
        *map(at.tensor, predictions()), attacked=[at.tensor(RUNS[1])], threshold=0.3
    ),
    "metrics.robustness_levels": lambda at: metrics.robustness_levels(
        at.tensor(SCORES[0]), n_levels=2
    ),
    "metrics.variance": lambda at: metrics.variance(list(map(at.tensor, RUNS))),
    "metrics.classwise_bins": metric_row("classwise_bins"),
    "metrics.crossfit_ece": lambda at: metric_row("crossfit_ece", generator=at.generator())(at),
    "metrics.detection_interval": lambda at: [
        metrics.detection_interval(
            *map(at.tensor, SCORES), figure=figure, resamples=40, generator=at.generator()
        )
        for figure in ("auroc", "aupr", "fpr95")
    ],
    "metrics.labelled": metric_row("labelled", ignore_index=1),
    "metrics.paired_test": lambda at: [
        metrics.paired_test(
            *map(at.tensor, (RUNS[0], RUNS[1], predictions()[1])),
            figure=figure,
            resamples=40,
            generator=at.generator(),
        )
        for figure in ("accuracy", "brier", "confidence", "ece", "nll")
    ],
    "metrics.uncertainty": lambda at: metrics.uncertainty(list(map(at.tensor, RUNS))),
    "metrics.reliability_bins, quantile": metric_row("reliability_bins", binning="quantile"),
    "metrics.reliability_bins, methods": table,
    "metrics.reliability_sketch, methods": sketch,
    **{
        f"metrics.{name}, logits": metric_row(name, from_logits=True)
        for name in ("ece", "nll", "brier", "decompose_nll", "classwise_ece")
    },
    "trainers.adaptive_smoothing": smoothed_labels,
    "trainers.check_disjoint": lambda at: trainers.check_disjoint(
        data(at, 1), [(examples(seed=7)[0], LABELS)]
    ),
    "attacks.alongside": lambda at: attacks.cascade(FGSM, FGSM)(
        attacks.alongside(lambda x, shift: mlp(at)(x + shift), at.tensor(0.1 * examples()[0])),
        *map(at.tensor, examples()),
    ),
    "attacks.hopskipjump": lambda at: attacks.hopskipjump(
        mlp(at), *map(at.tensor, examples()), steps=30
    ),
    "attacks.through": lambda at: attacks.fgsm(
        attacks.through(mlp(at), mlp(at)), *map(at.tensor, examples()), eps=0.1
    ),
    "attacks.two_columns": lambda at: attacks.two_columns(lambda x: mlp(at)(x)[:, 0])(
        at.tensor(examples()[0])
    ),
    "trainers.craft": lambda at: trainers.craft(FGSM, mlp(at), *map(at.tensor, examples())),
    "trainers.ensemble": lambda at: trainers.ensemble([mlp(at), mlp(at, 1)])(
        at.tensor(examples()[0])
    ),
    "trainers.epochs": fitted,
    "trainers.fit": fitted,
    "trainers.predict": lambda at: trainers.predict(mlp(at), data(at), FGSM),
    "trainers.predict, probs": lambda at: trainers.predict(mlp(at), data(at)).probs,
}
# What touches no tensor of a user's, or is what a row above gives.
NO_ROWS = {
    *("attacks.autocast", "calibrators.load", "calibrators.save"),
    *(
        "evaluation.compare",
        "evaluation.corruption_errors",
        "evaluation.costs",  # by torch.save, for which nothing pretends
        "evaluation.hypervolume",
        "evaluation.pareto",
    ),
    *("evaluation.pareto_search", "evaluation.read_corruptions", "evaluation.rows"),
    "evaluation.table",
    *("metrics.clopper_pearson", "trainers.catastrophic_overfitting", "trainers.deep_ensemble"),
}


def test_every_public_function_has_a_row():
    known = {name.split(",")[0] for name in ROWS} | NO_ROWS
    for submodule in advcal.__all__:
        if submodule == "plots":  # draws what the others found
            continue
        module = importlib.import_module(f"advcal.{submodule}")
        for name in module.__all__:
            each = getattr(module, name)
            value = inspect.isclass(each) and issubclass(each, Value)
            if inspect.isfunction(each) or value:
                full = f"{submodule}.{name}"
                fitted = name.startswith("fit_") and name[4:] in of_calibrators.CASES
                assert full in known or fitted, full


# --- the device gives what the CPU gives -----------------------------------------------------


def plain(value):
    """Take results apart, to tensors and numbers."""
    if isinstance(value, Held):
        return inside(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return value


def difference(got, wanted):
    """Return the largest difference of two results, NaN being like NaN; infinity if of kind."""
    if isinstance(wanted, torch.Tensor):
        if got.shape != wanted.shape:
            return math.inf
        got, wanted = got.detach().double(), wanted.detach().double()
        same = (got == wanted) | (got.isnan() & wanted.isnan())
        return float(torch.where(same, 0, (got - wanted).abs()).nan_to_num(math.inf).amax())
    if isinstance(wanted, dict):
        got, wanted = list(got.values()), list(wanted.values())
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        return max(map(difference, got, wanted), default=0.0)
    if isinstance(wanted, float):
        return 0.0 if got == wanted or got != got != wanted else abs(got - wanted)
    return 0.0 if callable(wanted) or got == wanted else math.inf


@pytest.fixture(scope="module")
def on_the_cpu():
    """Run each row once on the CPU."""
    found = {}

    def run(name):
        if name not in found:
            torch.manual_seed(0)
            found[name] = plain(ROWS[name](Here()))
        return found[name]

    return run


def run(name, device, own):
    """Run a row on a device, with its own batches and generators or with the CPU's."""
    with device:
        torch.manual_seed(0)
        return plain(ROWS[name](There(device, own)))


SLOW = {"evaluation.audit", "evaluation.diagnose"}
# Fitted by iteration, at whose end is a tolerance.
ITERATED = {f"calibrators.{name}" for name in ("matrix", "dirichlet", "sms", "fit_best")}
CHAOTIC = {"attacks.square-l2"}  # in float32 another proposal may be better by rounding
VARIANTS = {
    *("callable", "dlr", "margin", "momentum", "one", "predicted", "published", "restarts"),
    *("targeted", "zero"),
}


def rows(names):
    marked = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]
    return pytest.mark.parametrize("name", marked)


every_row = rows(ROWS)
# What does the same by other numbers of an attack need not be seen everywhere.
most = [name for name in ROWS if not set(name.split("-")) & VARIANTS]
most_rows = rows(most)


@every_row
def test_cuda_gives_each_bit_of_the_cpu(name, on_the_cpu):
    wanted = on_the_cpu(name)
    found = run(name, Pretend("cuda"), own=False)
    assert difference(found, wanted) <= (1e-6 if name in ITERATED else 0)


# Under the flag PyTorch mirrors a border in Python, out of reach of what pretends.
@rows(name for name in most if not name.startswith("evaluation.corrupt"))
def test_cuda_is_deterministic_and_may_be_the_default_device(name, on_the_cpu):
    wanted, device = on_the_cpu(name), Pretend("cuda", default=True)
    torch.use_deterministic_algorithms(True)
    try:
        found = run(name, device, own=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not device.unrepeatable
    assert difference(found, wanted) <= 1e-6  # running sums are taken in another order


@most_rows
def test_mps_needs_no_float64(name, on_the_cpu):
    wanted = on_the_cpu(name)
    found = run(name, Pretend("mps"), own=False)
    exact = name.startswith("metrics.") or name in ("evaluation.evaluate", "evaluation.sweep")
    if name not in CHAOTIC:
        assert difference(found, wanted) <= (0 if exact else 1e-5)


# Which make data of their own, or return numbers of the default dtype as torch does.
HERE = {"evaluation.corruptions", "losses.adaptive_smoothing"}
TYPED = {"losses.adaptive_smoothing", "losses.smooth_labels"}


@most_rows
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_another_default_dtype_breaks_nothing_and_draws_the_same(name, dtype, on_the_cpu):
    wanted = on_the_cpu(name)
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        found = plain(ROWS[name](Here()))
    finally:
        torch.set_default_dtype(torch.float32)
    rounded = name in TYPED and dtype == torch.bfloat16
    assert difference(found, wanted) <= (1e-3 if rounded else 1e-6)


@rows(name for name in most if name not in HERE)
def test_data_on_the_cpu_stay_there_whatever_the_default_device(name, on_the_cpu):
    wanted = on_the_cpu(name)
    torch.manual_seed(0)
    with torch.device("meta"):
        found = plain(ROWS[name](Here()))
    assert difference(found, wanted) == 0


class Uncast(Here):
    """The CPU, with models that leave autocast by themselves."""

    def module(self, model):
        model = copy.deepcopy(model)
        forward = model.forward

        def uncast(inputs):
            with torch.autocast("cpu", enabled=False):
                return forward(inputs)

        model.forward = uncast
        return model


# Whose gradients the caller takes, and whose records name what makes a model.
ELSEWHERE = {f"trainers.{name}" for name in (*of_trainers.MAKERS, "epochs", "fit")}
ELSEWHERE |= {"evaluation.sweep"}


@rows(name for name in most if name not in ELSEWHERE)
def test_autocast_rounds_nothing_but_what_models_compute(name, on_the_cpu):
    wanted = on_the_cpu(name)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = plain(ROWS[name](Uncast()))
    assert difference(found, wanted) == 0


# --- how often the host waits, and what compiles ---------------------------------------------

ONCE = {  # whatever the number of rows and of draws
    "reliability_bins": 3, "ece": 3, "nll": 3, "brier": 3, "mcs": 3, "accuracy": 3, "aurc": 3,
    "ks_error": 3, "classwise_mcs": 3, "calibration_test": 8, "consistency_bands": 10,
    "ece_interval": 8, "smooth_ece": 6, "kde_ece": 6, "classwise_ece": 6, "ece_sweep": 6,
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE)
def test_a_metric_waits_a_few_times_however_large(name):
    probs, labels = predictions()
    counts = []
    for repeats, resamples in ((1, 50), (60, 400)):
        options = {"resamples": resamples} if ONCE[name] > 6 else {}
        with Pretend("cuda") as device:
            there = [device.tensor(part.repeat_interleave(repeats, 0)) for part in (probs, labels)]
            device.reset()
            getattr(metrics, name)(*there, **options)
        counts.append(sum(device.waits.values()))
    assert counts[0] == counts[1] <= ONCE[name], device.waits


@pytest.mark.parametrize("name", ["accuracy", "nll", "mcs", "ece", "rmsce", "aurc"])
def test_a_bootstrap_waits_as_often_for_many_draws_as_for_few(name):
    probs, labels = predictions()
    counts = []
    for resamples in (5, 20):
        with Pretend("cuda") as device:
            there = device.tensor(probs), device.tensor(labels)
            device.reset()
            metrics.bootstrap(getattr(metrics, name), *there, resamples=resamples)
        counts.append(sum(device.waits.values()))
    assert counts[0] == counts[1] <= 12, device.waits


@pytest.mark.parametrize(("there", "most"), [(True, 2), (False, 3)])  # two of these are copies
def test_evaluate_waits_little_per_batch(there, most):
    def waits(n_batches):
        with Pretend("cuda") as device:
            model, batches = device.module(network()), data(There(device, there), n_batches)
            device.reset()
            evaluation.evaluate(model, batches)
        return sum(device.waits.values())

    assert waits(6) - waits(2) <= 4 * most


COMPILED = [
    *("accuracy", "aurc", "brier", "classwise_ece", "classwise_mcs", "confidence", "ece"),
    *("debiased_rmsce", "ks_error", "mce", "mcs", "nll", "rmsce"),
]


def test_metrics_and_tables_compile_to_one_graph():
    def all_of_them(probs, labels):
        bins = metrics.reliability_bins(probs.log(), labels, from_logits=True)
        table = [bins.counts, bins.confidences, bins.corrects, bins.ece, bins.gaps]
        return table + [getattr(metrics, name)(probs, labels) for name in COMPILED]

    torch._dynamo.reset()
    compiled = torch.compile(all_of_them, backend="aot_eager", fullgraph=True)
    assert difference(compiled(*predictions()), all_of_them(*predictions())) == 0
