"""The attacks on calibration: predictions stay, confidence goes where it is told."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from advcal._logits import log_odds, renyi
from advcal.attacks import ace, fgsm, generalised_ace, iaa, mma, oca, rca, uca
from advcal.metrics import ece
from tests.attacks.cases import UNIFORM, Counted, examples, linear, mlp, seeded

WIDE = (-100.0, 100.0)  # bounds that no attack here reaches
DUAL = {"linf": 1, "l2": 2}
SEARCH = {"method": "random_search", "steps": 30}
KEEPING = {
    "uca": uca,
    "oca": oca,
    "mma": mma,
    "rca": rca,
    "uca-search": partial(uca, **SEARCH),
    "oca-search-l2": partial(oca, norm="l2", **SEARCH),
    "iaa-search": partial(iaa, label="predicted", **SEARCH),
    "generalised_ace-search": partial(generalised_ace, eta=1.0, omega=UNIFORM, **SEARCH),
    "ace": ace,
    "generalised_ace": partial(generalised_ace, eta=-1.0, omega=UNIFORM),
    "iaa": partial(iaa, label="predicted"),
}

every_norm = pytest.mark.parametrize("norm", DUAL)
few = settings(max_examples=6, deadline=None, derandomize=True)


def answers(model, inputs):
    with torch.no_grad():
        return model(inputs).argmax(dim=1)


def confidences(model, inputs):
    with torch.no_grad():
        return model(inputs).double().softmax(dim=1).amax(dim=1)


def leads(model, inputs):
    with torch.no_grad():
        first, second = model(inputs).topk(2, dim=1).values.T
        return first - second


def two_classes(n=40, bias=0.0):
    model = linear(seed=1, n_classes=2, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.mul_(4)
        model[1].bias.fill_(0).add_(torch.tensor([bias, 0.0]))
    inputs, labels = examples(n, dtype=torch.float64)
    return model.requires_grad_(False), inputs, labels % 2


def reach(model, eps, norm):
    weight = model[1].weight
    return eps * float(torch.linalg.vector_norm(weight[0] - weight[1], DUAL[norm]))


@pytest.fixture(scope="module")
def trained():
    """A model of digits that makes mistakes."""
    images, labels = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(40):
            loss = cross_entropy(model(inputs[:200]), labels[:200])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), inputs[1000:1200], labels[1000:1200]


# --- predictions -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEEPING)
@settings(parent=few)
@given(
    seed=st.integers(0, 2**20),
    eps=st.sampled_from([0, 1e-3, 0.03, 0.3, 2.0]),
    gain=st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_no_prediction_changes(name, seed, eps, gain, dtype):
    model = mlp(seed, dtype=dtype, gain=gain)
    inputs, labels = examples(8, seed=seed, dtype=dtype)
    found = KEEPING[name](model, inputs, labels, eps=eps)
    assert torch.equal(answers(model, found), answers(model, inputs))


@pytest.mark.parametrize("name", KEEPING)
def test_confidence_moves_only_where_it_should(name):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(30, dtype=torch.float64)
    change = confidences(model, KEEPING[name](model, inputs, labels, eps=0.1)) - confidences(
        model, inputs
    )
    right = answers(model, inputs) == labels
    down, up = (change <= 0).all(), (change >= 0).all()
    assert change.abs().max() > 0.01
    if name.startswith("uca"):
        assert down
    elif name.startswith("oca"):
        assert up
    elif name in ("mma", "ace"):
        assert (change[right] <= 1e-12).all()
        assert (change[~right] >= (0 if name == "mma" else -0.05)).all()
        assert 0 < right.sum() < 30


def test_a_model_whose_answer_wavers_keeps_the_inputs():
    """The last forward pass is what decides: here it disagrees with all before it."""

    class Wavering(Counted):
        def __call__(self, inputs):
            logits = super().__call__(inputs)
            return logits.flip(1) if self.forwards == 6 else logits

    inputs, labels = examples(4)
    base = two_classes()[0].float()
    found = uca(Wavering(base), inputs, labels % 2, eps=0.1, steps=3)
    assert torch.equal(found, inputs)


# --- closed forms ----------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_two_classes(norm, eps):
    model, inputs, labels = two_classes()
    gain, lead = reach(model, eps, norm), leads(model, inputs)
    options = {"eps": eps, "norm": norm, "bounds": WIDE, "steps": 72}
    raised = leads(model, oca(model, inputs, labels, **options))
    torch.testing.assert_close(raised, lead + gain, rtol=1e-6, atol=1e-6)
    lowered = leads(model, uca(model, inputs, labels, **options))
    far = lead * 0.99 > gain
    torch.testing.assert_close(lowered[far], (lead - gain)[far], rtol=1e-6, atol=1e-6)
    assert (lowered[~far] <= 0.01 * lead[~far] + 1e-3).all()
    assert far.any() or eps > 0.1
    assert (~far).any() or eps < 0.4


def test_uca_reaches_one_kth():
    """With all logits free, every class becomes as likely as the predicted one."""
    model = nn.Flatten()
    inputs = torch.tensor([[0.9, 0.5, 0.3, 0.1], [0.2, 0.3, 0.1, 0.6]], dtype=torch.float64)
    found = uca(lambda x: 8 * model(x), inputs, torch.tensor([0, 3]), eps=0.5, steps=100)
    assert (confidences(lambda x: 8 * x, found) < 0.27).all()


@every_norm
@pytest.mark.parametrize("name", ["uca", "oca", "mma"])
def test_more_steps_never_find_less(name, norm):
    """From 10 steps on, each number of steps sees what a smaller one sees, and more."""
    model, (inputs, labels) = mlp(5, dtype=torch.float64, gain=8), examples(30, dtype=torch.float64)
    eps = {"linf": 0.3, "l2": 0.8}[norm]
    before = confidences(model, inputs)
    gains = []
    for steps in (10, 11, 12, 31, 40, 90):
        found = KEEPING[name](model, inputs, labels, eps=eps, norm=norm, steps=steps)
        gains.append((confidences(model, found) - before).abs())
    for fewer, more in itertools.pairwise(gains):
        assert (more >= fewer - 1e-12).all()
    assert name == "oca" or gains[-1].mean() > 1.005 * gains[0].mean()


@pytest.mark.parametrize("options", [{}, {"random_start": True}, SEARCH])
@pytest.mark.parametrize("label", ["true", "predicted"])
def test_iaa_never_raises_a_confidence(label, options):
    """Not even if it is below what its objective is least at."""
    torch.manual_seed(3)
    model, n_classes = nn.Linear(6, 20).double(), 20
    inputs = torch.rand(60, 6, dtype=torch.float64)
    labels = torch.where(torch.arange(60) % 3 == 0, 7, answers(model, inputs))
    before = confidences(model, inputs)
    assert before.median() < (1 + 5 / n_classes) / 6
    options = {"generator": seeded(), **options}
    found = iaa(model, inputs, labels, eps=0.3, label=label, **options)
    kept = answers(model, found) == answers(model, inputs)
    assert (confidences(model, found) <= before)[kept].all()
    assert kept.all() or label == "true"
    published = {"variant": "published", "eps": 0.3, "generator": seeded()}
    theirs = iaa(model, inputs, labels, **published)
    assert (confidences(model, theirs) > before)[
        answers(model, theirs) == answers(model, inputs)
    ].any()


@pytest.mark.parametrize("options", [{}, {"random_start": True}, {**SEARCH, "steps": 10}])
@pytest.mark.parametrize("case", ["saturated", "ties", "masked", "masked by a number", "half"])
def test_iaa_never_raises_a_confidence_that_is_hard_to_tell(case, options):
    """Its log-odds are compared, in float64: float32 does not tell neighbours apart."""
    torch.manual_seed(0)
    dtype = torch.float16 if case == "half" else torch.float32
    layers, rows = nn.Linear(6, 20, dtype=dtype), torch.arange(20)
    off = {"masked": -torch.inf, "masked by a number": -1e4}

    def model(points):
        logits = layers(points) * (300 if case == "saturated" else 1)
        if case == "ties":  # of every prediction with another class
            logits = torch.where(rows == 0, logits.amax(dim=1, keepdim=True), logits)
        return torch.where((rows > 2) & (rows < 6), off[case], logits) if case in off else logits

    def odds(points):
        logits = model(points).detach().double()
        one, label = logits, logits.argmax(dim=1)[:, None]
        return one.gather(1, label)[:, 0] - one.scatter(1, label, -torch.inf).logsumexp(dim=1)

    inputs = torch.rand(20, 6).to(dtype)
    labels = model(inputs).argmax(dim=1)
    options = {"generator": seeded(), "label": "predicted", **options}
    found = iaa(model, inputs, labels, eps=0.1, **options)
    assert model(found).argmax(dim=1).equal(labels)
    assert (odds(found) <= odds(inputs) + 1e-12).all()


def test_mma_is_uca_and_oca():
    model, (inputs, labels) = mlp(), examples(20)
    right = answers(model, inputs) == labels
    both = [attack(model, inputs, labels, eps=0.1) for attack in (uca, oca)]
    wanted = torch.where(right[:, None, None, None], *both)
    assert torch.equal(mma(model, inputs, labels, eps=0.1), wanted)


@pytest.mark.parametrize("tol", [0.01, 0.002])
def test_rca_hits_targets_within_reach(tol):
    model, inputs, labels = two_classes()
    options = {"eps": 3.0, "bounds": WIDE, "tol": tol, "steps": 40}
    found = rca(model, inputs, labels, generator=seeded(), **options)
    drawn = torch.rand(len(inputs), generator=seeded(), dtype=torch.float64)
    targets = 0.55 + (0.99 - 0.55) * drawn
    assert ((confidences(model, found) - targets).abs() <= tol).all()


def test_rca_goes_as_near_as_it_can():
    model, inputs, labels = two_classes()
    found = rca(model, inputs, labels, eps=0.01, bounds=WIDE, generator=seeded())
    drawn = torch.rand(len(inputs), generator=seeded(), dtype=torch.float64)
    targets = 0.55 + (0.99 - 0.55) * drawn
    before, after = ((confidences(model, x) - targets).abs() for x in (inputs, found))
    assert (after <= before + 1e-12).all()
    assert after.mean() < before.mean() - 0.005


def test_only_mma_and_ace_look_at_the_labels():
    model, (inputs, labels) = mlp(), examples(20)
    for name, attack in KEEPING.items():
        options = {} if name == "ace" or "generalised" in name else {"generator": seeded()}
        found = attack(model, inputs, labels, eps=0.1, **options)
        if options:
            options = {"generator": seeded()}
        other = attack(model, inputs, (labels + 1) % 3, eps=0.1, **options)
        assert torch.equal(found, other) == (name not in ("mma", "ace")), name


# --- strength --------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [4 / 255, 16 / 255, 0.15])
@pytest.mark.parametrize("steps", [5, 20])
def test_in_order_of_confidence(trained, eps, steps):
    model, inputs, labels = trained
    options = {"eps": eps, "steps": steps}
    points = [
        uca(model, inputs, labels, **options),
        iaa(model, inputs, labels, label="predicted", **options),
        inputs,
        oca(model, inputs, labels, **options),
    ]
    means = [float(confidences(model, x).mean()) for x in points]
    assert means == sorted(means)
    assert means[0] < means[1] - 0.005
    assert means[3] > means[2] + 0.005


@pytest.mark.parametrize("eps", [4 / 255, 16 / 255])
def test_uca_is_stronger_than_the_published_schedule(trained, eps):
    """For the same labels: given the true ones, that schedule corrects mistakes as well."""
    model, inputs, labels = trained
    published = partial(iaa, variant="published", label="predicted", generator=seeded())
    theirs, ours = (attack(model, inputs, labels, eps=eps) for attack in (published, uca))
    assert confidences(model, ours).mean() < confidences(model, theirs).mean() - 0.005


def test_mma_miscalibrates_most(trained):
    model, inputs, labels = trained

    def error(points):
        return float(ece(model(points).detach().softmax(dim=1), labels))

    assert (answers(model, inputs) != labels).sum() > 5
    most = error(mma(model, inputs, labels, eps=0.1))
    for attack in (uca, oca):
        assert most > error(attack(model, inputs, labels, eps=0.1))


@every_norm
def test_random_search_needs_no_gradient(trained, norm):
    model, inputs, labels = trained[0], trained[1][:50], trained[2][:50]
    eps = 0.1 if norm == "linf" else 0.8
    clean = confidences(model, inputs).mean()

    @torch.no_grad()
    def opaque(points):
        return model(points)

    options = {"eps": eps, "norm": norm, "method": "random_search", "steps": 60}
    lower = confidences(model, uca(opaque, inputs, labels, **options)).mean()
    higher = confidences(model, oca(opaque, inputs, labels, **options)).mean()
    for attack in (
        partial(iaa, label="predicted"),
        partial(generalised_ace, eta=-1.0, omega=torch.full((10,), 0.1)),
    ):
        found = attack(opaque, inputs, labels, **options)
        assert confidences(model, found).mean() < clean - 0.05
        assert answers(model, found).equal(answers(model, inputs))
    gradient = confidences(model, uca(model, inputs, labels, eps=eps, norm=norm)).mean()
    assert gradient < lower < clean - 0.05
    assert higher > clean + 0.02
    more = {**options, "steps": 200}
    assert confidences(model, uca(opaque, inputs, labels, **more)).mean() < lower


def test_random_search_of_iaa_wins_true_labels_too(trained):
    model, inputs, labels = trained[0], trained[1][:200], trained[2][:200]
    found = iaa(model, inputs, labels, eps=0.1, method="random_search", steps=60)
    was, now = answers(model, inputs) == labels, answers(model, found) == labels
    assert now[was].all()
    assert now.sum() > was.sum()
    with pytest.raises(ValueError, match="published variant"):
        iaa(model, inputs, labels, eps=0.1, method="random_search", variant="published")


def test_confident_models_are_attacked_too():
    """Their probabilities are 1 in float32, and those at a gain of 1e6 in float64."""
    model, inputs, labels = two_classes()
    for gain in (1e2, 1e6):
        scaled = lambda x, gain=gain: gain * model(x)  # noqa: E731
        lowered = leads(model, uca(scaled, inputs, labels, eps=0.01, bounds=WIDE))
        far = leads(model, inputs) * 0.99 > reach(model, 0.01, "linf")
        wanted = leads(model, inputs) - reach(model, 0.01, "linf")
        torch.testing.assert_close(lowered[far], wanted[far], rtol=1e-6, atol=1e-6)


# --- the entropy -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0.25, 0.98, 1.0, 2.0, 8.0])
def test_entropy(order):
    logits = torch.randn(6, 5, generator=seeded(), dtype=torch.float64)
    labels = torch.arange(6) % 5
    p = logits.softmax(dim=1)
    if order == 1:
        wanted = torch.special.entr(p).sum(dim=1)
    else:
        wanted = (p**order).sum(dim=1).log() / (1 - order)
    tolerance = 0.02 if abs(order - 1) < 0.01 else 1e-9
    torch.testing.assert_close(renyi(logits, labels, order), wanted, rtol=0, atol=tolerance)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: renyi(z, labels, order), logits)


# --- ACE -------------------------------------------------------------------------------------


def test_ace_halves_until_the_prediction_is_kept():
    """In steps of 0.4, 0.2, ...: the boundary is 0.15 away."""
    model = lambda x: torch.cat([x - 0.35, torch.zeros_like(x)], dim=1)  # noqa: E731
    inputs, labels = torch.tensor([[0.5], [0.9]]), torch.tensor([0, 0])
    counted = Counted(model)
    found = ace(counted, inputs, labels, eps=0.4)
    torch.testing.assert_close(found, torch.tensor([[0.4], [0.5]]))
    assert (counted.forwards, counted.backwards) == (1 + 3, 1)
    assert torch.equal(ace(model, inputs, labels, eps=0.4, search_steps=2)[0], inputs[0])


def test_ace_gives_up_after_fifteen_tries():
    model = lambda x: torch.where(x == 0.5, 1.0, -1.0) * torch.tensor([[1.0, 0.0]]) + x * 0  # noqa: E731
    inputs, labels = torch.full((2, 2), 0.5), torch.tensor([0, 0])
    sloped = lambda x: model(x) + 1e-3 * x * torch.tensor([[1.0, -1.0]])  # noqa: E731
    counted = Counted(sloped)
    assert torch.equal(ace(counted, inputs, labels, eps=0.4), inputs)
    assert counted.forwards == 1 + 15


def test_ace_without_a_crossing_is_one_step():
    model, inputs, labels = two_classes()
    right = answers(model, inputs) == labels
    found = ace(model, inputs, labels, bounds=WIDE)
    clear = leads(model, inputs) > reach(model, 0.005, "linf")
    other = torch.where(right, labels, 1 - labels)
    down = fgsm(model, inputs, other, eps=0.005, bounds=WIDE)
    up = fgsm(model, inputs, other, eps=0.005, targeted=True, bounds=WIDE)
    wanted = torch.where(right[:, None, None, None], down, up)
    torch.testing.assert_close(found[clear], wanted[clear])


@pytest.mark.parametrize("eta", [-1.0, 1.0, -0.5])
@pytest.mark.parametrize("omega", ["uniform", "predicted", "rows"])
def test_generalised_ace(eta, omega):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(12, dtype=torch.float64)
    onehot = torch.nn.functional.one_hot(answers(model, inputs), 3).double()
    target = {"uniform": UNIFORM, "predicted": onehot, "rows": (onehot + 2 * UNIFORM) / 3}[omega]
    found = generalised_ace(model, inputs, labels, eps=0.1, eta=eta, omega=target)
    rows = target.expand(12, 3)
    before, after = (eta * cross_entropy(model(x), rows, reduction="none") for x in (inputs, found))
    assert (after >= before - 1e-12).all()
    assert after.mean() > before.mean() + 0.01 * abs(eta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.3), ("l1", 0.5)])
@pytest.mark.parametrize("offset", [0.0, 1e-8, 1e-4])
def test_steep_entries_do_not_stand_in_the_way(norm, eps, offset, dtype):
    weights = torch.randn(16, 4, generator=seeded(1)).to(dtype)
    inputs = torch.rand(32, 16, generator=seeded()).to(dtype)
    inputs[:, :3] = 0  # where the slope of a root is infinite, or nearly

    def model(x):
        return (x.clamp_min(0) + offset).sqrt() @ weights

    labels = model(inputs).argmax(dim=1)
    for attack, sign in ((uca, 1), (oca, -1)):
        found = attack(model, inputs, labels, eps=eps, norm=norm)
        logits, before = model(found), model(inputs)
        assert torch.equal(logits.argmax(dim=1), labels)
        gains = sign * (log_odds(logits, labels) - log_odds(before, labels))
        assert gains.mean() > 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 0.6), ("l1", 1.0)])
def test_pixels_that_are_fixed_do_not_shorten_steps(norm, eps):
    model = mlp(shape=(1, 4, 15), dtype=torch.float64)
    inputs, labels = examples(shape=(1, 4, 15), dtype=torch.float64)
    free = torch.arange(60).reshape(4, 15) < 20
    low, high = inputs.masked_fill(free, 0), inputs.masked_fill(free, 1)
    found = uca(model, inputs, labels, eps=eps, norm=norm, bounds=(low, high))

    def of_free(part):
        return model(inputs.masked_scatter(free.expand_as(inputs), part))

    part = inputs[:, :, free]
    wanted = uca(of_free, part, labels, eps=eps, norm=norm)
    torch.testing.assert_close(found[:, :, free], wanted)
