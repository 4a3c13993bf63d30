"""Each objective of the robust and calibrated defenses, against its formula by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from advcal import losses, trainers
from advcal.attacks import oca, pgd, pgd_conf, uca

PGD = partial(pgd, eps=0.1, steps=3)
close = torch.testing.assert_close


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(seed=0, n=6, norm=False):
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 8), *[nn.BatchNorm1d(8)] * norm, nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers), (torch.rand(n, 4), torch.randint(3, (n,)))


def kl(p, q):
    return kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)


def halve(model, inputs, labels):
    return inputs / 2


# --- two passes ------------------------------------------------------------------------------


def test_trades():
    model, (x, y) = setting()
    wanted = cross_entropy(model(x), y) + 3 * kl(model(x), model(x / 2))
    close(trainers.trades(halve, beta=3.0)(model, (x, y)), wanted)
    six = cross_entropy(model(x), y) + 6 * kl(model(x), model(x / 2))
    close(trainers.trades(halve)(model, (x, y)), six)


def test_the_attack_of_trades_by_hand():
    model, (x, y) = setting()
    x = x * 0.9 + 0.05
    points = x + 0.001 * torch.randn(x.shape, generator=seeded(3))
    for _ in range(10):
        points = points.detach().requires_grad_()
        divergence = kl_div(model(points).log_softmax(1), model(x).softmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, points)
        points = points.detach() + 0.007 * gradient.sign()
        points = torch.max(torch.min(points, x + 0.031), x - 0.031).clamp(0, 1)
    wanted = trainers.trades(lambda *_: points.detach())(model, (x, y))
    close(trainers.trades(generator=seeded(3))(model, (x, y)), wanted)


@pytest.mark.parametrize("make", [trainers.trades, trainers.mart])
def test_joint_or_in_two_passes_differ_by_batchnorm_only(make):
    def both(norm, training):
        found = []
        for joint in (False, True):
            model, batch = setting(norm=norm)
            model.train(training)
            found.append(make(halve, joint=joint)(model, batch))
        return found

    close(*both(norm=False, training=True))
    close(*both(norm=True, training=False))
    apart = both(norm=True, training=True)
    assert abs(apart[0] - apart[1]) > 1e-3


def test_mart():
    model, (x, y) = setting()
    wanted = losses.mart(model(x), y, attacked=model(x / 2), lam=2.0)
    close(trainers.mart(halve, lam=2.0)(model, (x, y)), wanted)


def test_anti_adversarial():
    model, (x, y) = setting()

    def lighter(model, inputs, labels):
        return inputs * 0.9

    objective = trainers.anti_adversarial(halve, reference=lighter, beta=2.0)
    wanted = cross_entropy(model(x / 2), y) + 2 * kl(model(x * 0.9), model(x / 2))
    close(objective(model, (x, y)), wanted)


def test_adversarial_training_with_a_reward_for_entropy():
    model, (x, y) = setting()
    p = model(x / 2).softmax(dim=1)
    wanted = cross_entropy(model(x / 2), y) + 0.5 * (p * p.log()).sum(dim=1).mean()
    penalty = partial(losses.confidence_penalty, beta=0.5)
    close(trainers.adversarial(halve, loss=penalty)(model, (x, y)), wanted)
    zero = trainers.adversarial(halve, loss=partial(penalty, beta=0.0))(model, (x, y))
    close(zero, trainers.adversarial(halve)(model, (x, y)))


def test_training_on_attacks_on_confidence():
    model, (x, y) = setting()
    under, over = partial(uca, eps=0.1), partial(oca, eps=0.1)
    points = under(model, x, y), over(model, x, y)
    wanted = sum(cross_entropy(model(each), y) for each in points)
    both = trainers.adversarial(under), trainers.adversarial(over)
    close(trainers.mixed(*both, weights=[1, 1])(model, (x, y)), wanted)


# --- CCAT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7])
def test_ccat(n):
    model, (x, y) = setting(n=n)
    shift = torch.tensor([0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4])

    def attack(model, inputs, labels):
        return inputs + shift[: len(inputs), None] * torch.tensor([1.0, -1.0, 0.5, 0.0])

    clean = (n + 1) // 2
    points = torch.cat([x[:clean], attack(model, x[clean:], y[clean:])])
    delta = np.abs((points - x).numpy()).max(axis=1)
    g = (1 - np.minimum(1, delta / 0.1)) ** 4
    onehot = np.eye(3)[y.numpy()]
    targets = torch.tensor(g[:, None] * onehot + (1 - g[:, None]) / 3).float()
    wanted = -(targets * model(points).log_softmax(dim=1)).sum(dim=1).mean()
    close(trainers.ccat(attack, eps=0.1, rho=4.0)(model, (x, y)), wanted, rtol=1e-4, atol=1e-5)


def test_ccat_without_a_perturbation_is_plain_training_and_far_off_uniform():
    model, (x, y) = setting(n=8)
    plain = trainers.ccat(lambda m, x, y: x, eps=0.1)(model, (x, y))
    close(plain, cross_entropy(model(x), y))
    far = trainers.ccat(lambda m, x, y: x + 0.5, eps=0.1)(model, (x, y))
    uniform = -model(x[4:] + 0.5).log_softmax(dim=1).mean()
    close(far, (cross_entropy(model(x[:4]), y[:4]) + uniform) / 2)


def test_ccat_attacks_the_second_half_with_its_own_attack():
    model, (x, y) = setting(n=6)
    attack = partial(pgd_conf, eps=0.1, generator=seeded(2))
    wanted = trainers.ccat(attack, eps=0.1)(model, (x, y))
    close(trainers.ccat(eps=0.1, generator=seeded(2))(model, (x, y)), wanted)


# --- AWP -------------------------------------------------------------------------------------


def moved_by_hand(model, objective, batch, gamma):
    """Gradients at the perturbed weights, on a copy."""
    loss = objective(model, batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            if weight.ndim > 1:
                weight += gamma * weight.norm() * gradient / gradient.norm()
    loss = objective(model, batch)
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("gamma", [0.01, 0.3])
def test_awp_gives_the_gradients_at_the_perturbed_weights(gamma):
    model, batch = setting()
    twin, _ = setting()
    objective = trainers.standard()
    loss, wanted = moved_by_hand(twin, objective, batch, gamma)
    found = trainers.awp(objective, gamma=gamma)(model, batch)
    close(found, loss)
    found.backward()
    close([parameter.grad for parameter in model.parameters()], list(wanted))
    assert found > objective(model, batch)


def test_awp_leaves_batch_norm_one_update():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    inputs, labels = torch.rand(20, 4), torch.randint(3, (20,))
    trainers.awp(trainers.standard())(model, (inputs, labels))
    close(model[0].running_mean, 0.1 * inputs.mean(dim=0))
    assert model[0].num_batches_tracked == 1


def test_awp_of_awp_and_of_mixup():
    model, (x, y) = setting()
    twice = trainers.awp(trainers.awp(trainers.standard()))
    assert twice(model, (x, y)) > trainers.awp(trainers.standard())(model, (x, y))
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            seen.append(inputs)
            return self.inner(inputs)

    trainers.awp(trainers.mixup(alpha=1.0, generator=seeded()))(Watched(), (x, y))
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_awp_of_nothing_is_the_objective():
    model, batch = setting()
    close(
        trainers.awp(trainers.standard(), gamma=0)(model, batch), trainers.standard()(model, batch)
    )


def test_awp_crafts_once_and_on_the_weights_that_are_trained():
    model, (x, y) = setting()
    calls = []

    def attack(given, inputs, labels):
        calls.append(given)
        return PGD(given, inputs, labels)

    objective = trainers.mixed(trainers.trades(attack), trainers.adversarial(attack))
    points = PGD(model, x, y)
    fixed = trainers.mixed(
        trainers.trades(lambda *_: points), trainers.adversarial(lambda *_: points)
    )
    wanted = trainers.awp(fixed, gamma=0.2)(model, (x, y))
    close(trainers.awp(objective, gamma=0.2)(model, (x, y)), wanted)
    assert calls == [model, model]
    objective(model, (x, y))  # afterwards everything is crafted anew
    assert len(calls) == 4


class Steady:
    """An objective of a user's in two steps."""

    def __init__(self, attack):
        self.attack = attack

    def craft(self, model, batch):
        inputs, labels = batch
        return inputs, trainers.craft(self.attack, model, inputs, labels), labels

    def loss_of(self, model, crafted):
        inputs, points, labels = crafted
        change = model(inputs).softmax(dim=1).amax(dim=1) - model(points).softmax(dim=1).amax(dim=1)
        return cross_entropy(model(points), labels) + change.square().mean()

    def __call__(self, model, batch):
        return self.loss_of(model, self.craft(model, batch))


AROUND = {
    "awp": trainers.awp,
    "awp of awp": lambda objective: trainers.awp(trainers.awp(objective)),
    "awp of mixed": lambda objective: trainers.awp(trainers.mixed(trainers.standard(), objective)),
}


def counted(calls):
    """Make a random attack that notes what it was given and what it returned."""

    def attack(model, inputs, labels):
        calls.append((model, PGD(model, inputs, labels)))
        return calls[-1][1]

    return attack


@pytest.mark.parametrize("around", AROUND)
def test_awp_crafts_once_around_an_objective_of_the_users(around):
    model, batch = setting(norm=True)
    calls = []
    objective = AROUND[around](Steady(counted(calls)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    loss = objective(model, batch)
    ((given, points),) = calls
    assert given is model
    fixed = AROUND[around](Steady(lambda *_: points))
    assert loss == fixed(setting(norm=True)[0], batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is not None


def test_awp_calls_a_plain_function_twice_the_second_time_on_the_moved_weights():
    model, batch = setting()
    calls = []
    attack = counted(calls)

    def plain(model, batch):
        return cross_entropy(model(attack(model, *batch)), batch[1])

    trainers.awp(plain, gamma=0.5)(model, batch)
    (first, one), (second, other) = calls
    assert first is model
    assert second is not model
    assert not torch.equal(one, other)


def test_two_objectives_at_once_under_awp_share_nothing():
    """Tensors of one shape, crafted by objectives that are mixed and nested, meet their own."""
    model, (x, y) = setting()
    one, other = (lambda m, x, y, k=k: x * k for k in (0.5, 0.9))
    pair = trainers.adversarial(one), trainers.anti_adversarial(other, reference=one)
    losses = [trainers.mixed(*order)(model, (x, y)) for order in (pair, pair[::-1])]
    close(*losses)
    losses = [
        trainers.awp(trainers.mixed(*order), gamma=0.2)(model, (x, y))
        for order in (pair, pair[::-1])
    ]
    close(*losses)


def test_an_attack_that_an_objective_calls_by_itself_leaves_the_model_as_it_was():
    model, (x, y) = setting(norm=True)

    def own(model, batch):
        inputs, labels = batch
        return cross_entropy(model(PGD(model, inputs, labels)), labels)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainers.awp(own)(model, (x, y)).backward()
    assert model[1].num_batches_tracked == 1
    assert all(module.training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is not None


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(self.second(self.first(inputs).tanh()).tanh())


def test_awp_moves_shared_weights_together():
    torch.manual_seed(0)
    model, twin = Tied(), Tied()
    twin.load_state_dict(model.state_dict())
    batch = torch.rand(6, 4), torch.randint(3, (6,))
    loss, wanted = moved_by_hand(twin, trainers.standard(), batch, 0.3)
    found = trainers.awp(trainers.standard(), gamma=0.3)(model, batch)
    close(found, loss)
    found.backward()
    close([parameter.grad for parameter in model.parameters()], list(wanted))


def test_awp_leaves_frozen_and_unused_parameters_alone():
    model, batch = setting()
    model[0].requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    trainers.awp(trainers.standard(), gamma=0.5)(model, batch).backward()
    assert model[0].weight.grad is None
    assert model.unused.grad is None
    assert model[2].weight.grad is not None
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"expected a model with weights .*got none"):
        trainers.awp(trainers.standard())(model, batch)


def test_awp_steps_from_the_weights_themselves():
    model, batch = setting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainers.awp(trainers.standard(), gamma=0.3)(model, batch).backward()
    optimizer.step()
    for old, parameter in zip(before, model.parameters(), strict=True):
        close(parameter.detach(), old - 0.1 * parameter.grad)


def test_awp_passes_on_what_the_model_is_given_by_name():
    class Named(nn.Linear):
        def forward(self, inputs, *, shift):
            return super().forward(inputs) + shift

    def objective(model, batch):
        return cross_entropy(model(batch[0], shift=0.5), batch[1])

    model, batch = Named(2, 3), (torch.rand(4, 2), torch.tensor([0, 1, 2, 0]))
    plain, moved = (trainers.awp(objective, gamma=gamma)(model, batch) for gamma in (0.0, 0.1))
    assert torch.equal(plain, objective(model, batch))
    assert moved > plain


def test_awp_wants_a_module():
    with pytest.raises(TypeError, match=r"expected model as a torch.nn.Module, got function"):
        trainers.awp(trainers.standard())(lambda x: x, setting()[1])


# --- mixup -----------------------------------------------------------------------------------


def test_mixup_is_a_loss_to_mixed_labels_at_mixed_inputs():
    model, (x, y) = setting(n=2)
    objective = trainers.mixup(alpha=2.0, generator=seeded())
    same, other = [], []
    for _ in range(60):
        loss = objective(model, (x, y)).item()
        # With two examples the pairing is one of two; find the share that explains the loss.
        shares = torch.linspace(0, 1, 2001)[:, None, None]
        mixed = model(shares * x + (1 - shares) * x.flip(0))
        log_p = mixed.log_softmax(dim=2)
        onehot = torch.eye(3)[y]
        targets = shares * onehot + (1 - shares) * onehot.flip(0)
        values = -(targets * log_p).sum(dim=2).mean(dim=1)
        plain = cross_entropy(model(x), y).item()
        same.append(abs(loss - plain) < 1e-5)
        other.append((values - loss).abs().min().item() < 1e-3)
    assert all(one or two for one, two in zip(same, other, strict=True))
    assert 10 < sum(same) < 50


def test_the_share_follows_the_beta_distribution():
    """A loss that reads the share off: each input is paired, and the logits are the inputs."""
    shares = []

    def read(logits, labels):
        shares.append(float(logits[0, 0]))
        return logits.sum()

    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    objective = trainers.mixup(alpha=0.4, loss=read, generator=seeded())
    for _ in range(2000):
        objective(lambda inputs: inputs, (x, torch.tensor([0, 1])))
    drawn = np.array([s for s in shares[::2] if 0 < s < 1])  # 1 where an input meets itself
    assert 700 < len(drawn) < 1300
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)
    assert drawn.var() == pytest.approx(0.25 / (2 * 0.4 + 1), rel=0.1)


def test_mixup_of_a_tiny_alpha_is_plain_training():
    model, (x, y) = setting()
    objective = trainers.mixup(alpha=1e-6, generator=seeded())
    for _ in range(5):
        close(objective(model, (x, y)), cross_entropy(model(x), y), rtol=1e-4, atol=1e-4)


CCAT = partial(trainers.ccat, eps=0.1)


@pytest.mark.parametrize("make", [trainers.mixup, trainers.trades, CCAT])
def test_objectives_that_draw(make):
    model, batch = setting()
    if make is CCAT:  # a flat model, whose attack stays where it starts
        nn.init.zeros_(model[0].weight)

    def drawn(objective):
        return [objective(model, batch).item() for _ in range(4)]

    given = drawn(make(generator=seeded(1)))
    assert given == drawn(make(generator=seeded(1)))
    assert given != drawn(make(generator=seeded(2)))
    torch.manual_seed(1)
    default = drawn(make())
    torch.manual_seed(1)
    assert drawn(make()) == default
    assert drawn(make()) != default  # the global state, which a checkpoint has, has moved on
    for each in (given, default):
        assert len(set(each)) > 1  # successive batches draw anew


@pytest.mark.parametrize("make", [trainers.mixup, trainers.trades, CCAT])
def test_a_resumed_run_draws_what_one_run_through_draws(make, tmp_path):
    batches = list(zip(torch.rand(12, 4).split(4), torch.randint(3, (12,)).split(4), strict=True))

    def trained(path, stop=None):
        torch.manual_seed(0)
        model, objective, seen = nn.Linear(4, 3), trainers.awp(make()), 0

        def counted(model, batch):
            nonlocal seen
            seen += 1
            if seen == stop:
                raise KeyboardInterrupt
            return objective(model, batch)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        trainers.fit(model, batches, counted, optimizer, n=3, checkpoint=path, every=1)
        return model.weight.detach()

    wanted = trained(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop=5)
    assert torch.equal(trained(tmp_path / "stopped"), wanted)


# --- ensembles -------------------------------------------------------------------------------


def members(n=3, norm=False):
    return [setting(seed, norm=norm)[0] for seed in range(n)]


def test_an_ensemble_predicts_the_mean_of_the_probabilities():
    models, x = members(), setting()[1][0]
    wanted = torch.stack([model(x).softmax(dim=1) for model in models]).mean(dim=0)
    logits = trainers.ensemble(models)(x)
    close(logits.exp(), wanted)
    close(logits.softmax(dim=1), wanted)
    close(trainers.ensemble(models[:1])(x), models[0](x).log_softmax(dim=1))


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_an_ensemble_of_sure_members_is_finite(scale):
    class Sure(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, inputs):
            return self.sign * scale * (inputs - 0.5)

    both = trainers.ensemble([Sure(1), Sure(-1)])
    x = torch.tensor([[0.9, 0.1, 0.2]], requires_grad=True)
    logits = both(x)
    close(logits[0, :2].exp(), torch.tensor([0.5, 0.5]))
    assert logits.isfinite().all()
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.isfinite().all()
    one_way = trainers.ensemble([Sure(1), Sure(1)])
    points = pgd(one_way, x.detach(), torch.tensor([0]), eps=0.5)
    assert one_way(points).argmax(dim=1) != 0


@pytest.mark.parametrize("attack", [PGD, partial(uca, eps=0.1)])
def test_an_attack_leaves_every_member_as_it_was(attack):
    models = members(norm=True)
    models[1].eval()
    whole, batch = trainers.ensemble(models), setting()[1]
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    modes = [module.training for module in whole.modules()]
    attack(whole, *batch)
    assert [module.training for module in whole.modules()] == modes
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_an_ensemble_is_predicted_evaluated_and_calibrated_like_a_model():
    from advcal.calibrators import fit_temperature
    from advcal.evaluation import evaluate

    whole, (x, y) = trainers.ensemble(members()).eval(), setting(n=40)[1]
    found = trainers.predict(whole, [(x, y)], PGD)
    close(found.probs.sum(dim=1), torch.ones(40, dtype=torch.float64))
    record = evaluate(whole, [(x, y)])
    assert record.accuracy == (whole(x).argmax(dim=1) == y).double().mean()
    assert fit_temperature(found.logits, found.labels, prior=1.0)(found.logits).shape == (40, 3)


def test_an_ensemble_trains_its_members():
    models, batch = members(2), setting()[1]
    whole = trainers.ensemble(models)
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    history = trainers.fit(whole, [batch], trainers.standard(), optimizer, n=20)
    assert history[-1].loss < history[0].loss
    assert (
        trainers.ensemble([model.bfloat16() for model in models])(batch[0].bfloat16()).dtype
        == torch.float32
    )


# --- bad input -------------------------------------------------------------------------------

BAD = {
    "trades-attack": (lambda: trainers.trades("kl"), TypeError, "attack as a callable, got str"),
    "trades-beta": (lambda: trainers.trades(beta=-1), ValueError, "beta >= 0, got -1"),
    "trades-NaN": (lambda: trainers.trades(beta=np.nan), ValueError, "beta >= 0, got nan"),
    "trades-joint": (
        lambda: trainers.trades(joint=1),
        TypeError,
        "joint as True or False, got int",
    ),
    "trades-generator": (lambda: trainers.trades(generator=0), TypeError, "generator .*got int"),
    "mart-attack": (lambda: trainers.mart(None), TypeError, "attack as a callable, got None"),
    "mart-lam": (lambda: trainers.mart(PGD, lam=-1), ValueError, "lam >= 0, got -1"),
    "mart-joint": (lambda: trainers.mart(PGD, joint="no"), TypeError, "joint .*got str"),
    "awp-objective": (lambda: trainers.awp(3), TypeError, "objective as a callable, got int"),
    "awp-gamma": (
        lambda: trainers.awp(trainers.standard(), gamma=-0.1),
        ValueError,
        "gamma >= 0, got -0.1",
    ),
    "ccat-attack": (lambda: trainers.ccat(3, eps=0.1), TypeError, "attack as a callable, got int"),
    "ccat-eps": (lambda: trainers.ccat(eps=0), ValueError, "eps > 0, got 0"),
    "ccat-rho": (lambda: trainers.ccat(eps=0.1, rho=0), ValueError, "rho > 0, got 0"),
    "ccat-generator": (lambda: trainers.ccat(eps=0.1, generator=1), TypeError, "generator .*got"),
    "anti-attack": (
        lambda: trainers.anti_adversarial(None, reference=PGD),
        TypeError,
        "attack as a callable, got None",
    ),
    "anti-reference": (
        lambda: trainers.anti_adversarial(PGD, reference=0.1),
        TypeError,
        "reference as a callable, got float",
    ),
    "anti-beta": (
        lambda: trainers.anti_adversarial(PGD, reference=PGD, beta=-1),
        ValueError,
        "beta >= 0, got -1",
    ),
    "mixup-alpha": (lambda: trainers.mixup(alpha=0), ValueError, "alpha > 0, got 0"),
    "mixup-loss": (lambda: trainers.mixup(loss="ce"), TypeError, "loss as a callable, got str"),
    "mixup-generator": (lambda: trainers.mixup(generator=0), TypeError, "generator .*got int"),
    "ensemble-module": (
        lambda: trainers.ensemble(nn.Linear(2, 2)),
        TypeError,
        "models as a sequence of modules, got Linear",
    ),
    "ensemble-function": (
        lambda: trainers.ensemble([lambda x: x]),
        TypeError,
        "models as torch.nn.Modules, got function",
    ),
    "ensemble-none": (lambda: trainers.ensemble([]), ValueError, "one model or more, got none"),
    "ensemble-classes": (
        lambda: trainers.ensemble([nn.Linear(2, 2), nn.Linear(2, 3)])(torch.rand(1, 2)),
        ValueError,
        "members of the same classes, got logits of 2, 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        call()


@pytest.mark.parametrize("objective", [trainers.trades(), trainers.ccat(eps=0.1)])
def test_inputs_beyond_the_bounds_of_the_own_attack(objective):
    model, (x, y) = setting()
    with pytest.raises(ValueError, match=r"within bounds \(0, 1\), .* an attack with bounds="):
        objective(model, (x - 0.5, y))


def test_soft_labels_are_refused_where_the_formula_needs_the_label():
    model, (x, y) = setting()
    soft = torch.eye(3)[y]
    for objective in (trainers.trades(halve), trainers.mart(halve), trainers.ccat(eps=0.1)):
        with pytest.raises(TypeError, match=r"expected labels of an integer dtype, got"):
            objective(model, (x, soft))
