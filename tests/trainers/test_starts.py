"""Random attacks draw anew with each batch of a training, and a resumed run draws what it would."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from advcal import attacks, trainers

EPS = {"eps": 0.1}
LINF = partial(attacks.pgd, steps=2, **EPS)


def foreign(model, inputs, labels):
    """Draw from the global random state itself."""
    points = inputs + torch.empty_like(inputs).uniform_(-0.1, 0.1)
    model(points)
    return points


# Random if they are given no generator.
ATTACKS = {
    "pgd": LINF,
    "pgd-l2": partial(LINF, norm="l2"),
    "pgd-l1": partial(LINF, norm="l1"),
    "pgd-restarts": partial(LINF, restarts=2),
    "pgd-momentum": partial(LINF, momentum=0.75),
    "fgsm": partial(attacks.fgsm, random_start=True, **EPS),
    "n_fgsm": partial(attacks.n_fgsm, **EPS),
    "apgd": partial(attacks.apgd, steps=2, restarts=2, **EPS),
    "iaa": partial(attacks.iaa, steps=2, random_start=True, **EPS),
    "pgd_conf": partial(attacks.pgd_conf, steps=2, **EPS),
    "uca": partial(attacks.uca, steps=4, method="random_search", **EPS),
    "square": partial(attacks.square, steps=10, **EPS),
    "uniform_noise": partial(attacks.uniform_noise, **EPS),
    "worst_case": attacks.worst_case(LINF),
    "cascade": attacks.cascade(LINF),
    "batched": attacks.batched(LINF, 4),
    "autocast": attacks.autocast(LINF),
    "foreign": foreign,
}
OBJECTIVES = {
    "adversarial": trainers.adversarial(LINF),
    "mixed": trainers.mixed(trainers.standard(), trainers.adversarial(LINF)),
    "trades": trainers.trades(),
    "trades-pgd": trainers.trades(partial(LINF, loss="kl")),
    "mart": trainers.mart(LINF),
    "ccat": trainers.ccat(eps=0.1),
    "anti_adversarial": trainers.anti_adversarial(LINF, reference=partial(LINF, targeted=True)),
    "mixup": trainers.mixup(alpha=1.0),
    "noisy": trainers.noisy(trainers.standard(), sigma=0.1),
    "smooth_adversarial": trainers.smooth_adversarial(partial(LINF, bounds=(-9.0, 9.0)), sigma=0.1),
    "awp": trainers.awp(trainers.adversarial(LINF)),
    "awp-mart": trainers.awp(trainers.mart(LINF)),
    "awp-mixed": trainers.awp(trainers.mixed(trainers.trades(), trainers.mixup(alpha=1.0))),
    **{name: trainers.adversarial(attack) for name, attack in ATTACKS.items()},
}


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 3), []

    def forward(self, inputs):
        self.seen.append(inputs.detach().clone())
        return self.linear(inputs)


def batches(n=10):
    torch.manual_seed(0)
    inputs, labels = torch.rand(8, 4) * 0.8 + 0.1, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    return [(inputs, labels)] * n


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ten_batches_ten_starts(name):
    torch.manual_seed(0)
    model, objective, found = Watched(), OBJECTIVES[name], []
    for batch in batches():
        model.seen.clear()
        objective(model, batch)  # on the same weights and inputs each time
        found.append([points for points in model.seen if len(points) <= len(batch[0])])
    assert len({str([points.tolist() for points in seen]) for seen in found}) == 10


def test_starts_of_successive_batches_share_no_draws():
    torch.manual_seed(0)
    model, x = Watched(), batches()[0][0]
    objective = trainers.adversarial(partial(attacks.pgd, eps=0.1, steps=1))
    drawn = []
    for batch in batches():
        model.seen.clear()
        objective(model, batch)
        drawn.append((model.seen[0] - x).mul(1e5).round().flatten())
    for one, other in pairwise(drawn):
        assert torch.isin(one, other).sum() <= 2


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_seed_governs_all_draws(name):
    def losses():
        torch.manual_seed(3)
        model = nn.Linear(4, 3)
        return [OBJECTIVES[name](model, batch).item() for batch in batches(4)]

    assert losses() == losses()


@pytest.mark.parametrize("name", [name for name, each in ATTACKS.items() if type(each) is partial])
def test_an_attack_with_a_generator_of_its_own_draws_from_it(name):
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 3), batches()[0]
    points = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(5)
        torch.manual_seed(seed)
        objective = trainers.adversarial(partial(ATTACKS[name], generator=generator))
        points.append(objective.craft(model, batch)[0])
    assert torch.equal(*points)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_is_one_run_through(name, tmp_path):
    def trained(path, stop=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 3))
        objective, seen = OBJECTIVES[name], 0

        def counted(model, batch):
            nonlocal seen
            seen += 1
            if seen == stop:
                raise KeyboardInterrupt
            return objective(model, batch)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        trainers.fit(model, batches(3), counted, optimizer, n=2, checkpoint=path, every=1)
        return torch.cat([each.flatten().double() for each in model.state_dict().values()])

    wanted = trained(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop=5)
    assert torch.equal(trained(tmp_path / "stopped"), wanted)


def test_craft_leaves_the_model_as_it_was_and_the_random_state_moved_by_one_number():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    inputs, labels = batches()[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    torch.randint(2**62, ())
    state = torch.get_rng_state()
    torch.manual_seed(1)
    points = trainers.craft(LINF, model, inputs, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(points, inputs)
    assert (points - inputs).abs().max() <= 0.1 + 1e-6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


BAD = {
    "attack": (
        (None, nn.Identity(), torch.rand(2, 2)),
        TypeError,
        "attack as a callable, got None",
    ),
    "model": ((LINF, 3, torch.rand(2, 2)), TypeError, "model as a callable, got int"),
    "inputs": ((LINF, nn.Identity(), [[0.5]]), TypeError, "inputs as a torch.Tensor, got list"),
    "shape": (
        (lambda m, x, y: x[:1], nn.Identity(), torch.rand(2, 2)),
        ValueError,
        "the attack to return a tensor of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_craft_refuses(case):
    arguments, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        trainers.craft(*arguments, torch.tensor([0, 1]))
