"""Models of several inputs: each example keeps its own rows, whatever an attack leaves out."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from advcal import attacks
from advcal.attacks import alongside, batched, cascade, pgd
from advcal.certify import smoothed
from advcal.evaluation import evaluate
from advcal.trainers import ensemble
from tests.attacks.cases import seeded

N, MARKS = 12, 4
ROWS = torch.arange(N)
PLACES = 2.0 ** torch.arange(MARKS)
WEIGHTS = torch.randn(12, 4, generator=seeded(1)) / 4


def inputs():
    """Four values that spell the number of the example, and twelve for the network."""
    marks = (ROWS[:, None] // PLACES.long()) % 2
    rest = torch.rand(N, 12, generator=seeded(2)) / 2 + 0.25
    return torch.cat([0.25 + marks / 2, rest], dim=1).reshape(N, 1, 4, 4)


class Marked(nn.Module):
    """A network that refuses inputs beside the rows of others."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def forward(self, images, rows, shift):
        flat = images.flatten(1)
        spelled = ((flat[:, :MARKS].detach() > 0.5) * PLACES).sum(dim=1)
        assert torch.equal(spelled.long(), rows)
        self.sizes.add(len(images))
        return flat[:, MARKS:] @ WEIGHTS + shift


LABELS = ROWS % 4
EASY = ROWS % 3 != 0
OWN = one_hot(LABELS, 4)
PLAIN = inputs().flatten(1)[:, MARKS:] @ WEIGHTS
GAPS = (PLAIN - 100 * OWN).amax(dim=1) - PLAIN.gather(1, LABELS[:, None])[:, 0]
SHIFT = OWN * (GAPS + torch.where(EASY, 0.004 * (1 + ROWS % 5), 100.0))[:, None]

BALL = {"eps": 0.2, "bounds": (0.0, 1.0)}
ATTACKS = {
    "pgd": partial(attacks.pgd, **BALL, steps=6, stop_early=True, generator=seeded()),
    "apgd": partial(attacks.apgd, **BALL, steps=6, stop_early=True, generator=seeded()),
    "apgd, targets": partial(attacks.apgd, **BALL, steps=6, stop_early=True, n_targets=2),
    "apgd, sparse": partial(attacks.apgd, eps=0.07, norm="l1", steps=30, stop_early=True,
                            variant="sparse", generator=seeded()),
    "square": partial(attacks.square, **BALL, steps=60, generator=seeded()),
    "square, levels": partial(attacks.square, **BALL, steps=60, levels=256, generator=seeded()),
    "autoattack": partial(attacks.autoattack, **BALL, steps=5, queries=20, generator=seeded()),
    "autoattack, l1": partial(attacks.autoattack, eps=0.07, norm="l1", steps=30),
    "cascade": cascade(partial(attacks.fgsm, eps=0.05), partial(attacks.pgd, **BALL, steps=5)),
    "deepfool": attacks.deepfool,
    "cw_l2": partial(attacks.cw_l2, initial_c=20.0, search_steps=1, steps=40, step_size=0.05),
    "minimum_norm": partial(attacks.minimum_norm, norm="l2", steps=10, levels=256),
    "autocast": attacks.autocast(partial(attacks.pgd, **BALL, steps=5)),
    "batched": batched(partial(attacks.pgd, **BALL, steps=5), 5),
    "progress": partial(attacks.deepfool, progress=lambda units: units),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_rows_stay_beside_their_examples(name):
    model = Marked()
    points = ATTACKS[name](alongside(model, ROWS, SHIFT), inputs(), LABELS)
    fooled = model(points, ROWS, SHIFT).argmax(dim=1) != LABELS
    assert torch.equal(fooled, EASY)
    assert len(model.sizes) > 1 or name in ("minimum_norm", "autocast", "cw_l2")


def test_examples_that_are_wrong_from_the_start_leave_with_their_rows():
    model, wrong = Marked(), torch.where(EASY, LABELS, (LABELS + 1) % 4)
    ATTACKS["cw_l2"](alongside(model, ROWS, SHIFT), inputs(), wrong)
    assert model.sizes == {N, int(EASY.sum())}


def test_an_attack_that_leaves_nothing_out_is_that_on_a_closure():
    given = inputs(), LABELS
    attack = partial(attacks.foot, steps=5)
    closure = attack(lambda images: Marked()(images, ROWS, SHIFT), *given)
    assert torch.equal(attack(alongside(Marked(), ROWS, SHIFT), *given), closure)


def drops(model, images, labels):
    """Attack only the examples of even labels: an attack of somebody else."""
    some = labels % 2 == 0
    found = images.clone()
    if some.any():
        found[some] = pgd(model, images[some], labels[some], eps=0.2, steps=5)
    return found


def test_an_attack_of_yours_that_leaves_examples_out_takes_one_at_a_time():
    model = Marked()
    with pytest.raises(ValueError, match=r"all 12 inputs of the batch.*attacks\.batched"):
        drops(alongside(model, ROWS, SHIFT), inputs(), LABELS)
    points = batched(drops, 1)(alongside(model, ROWS, SHIFT), inputs(), LABELS)
    fooled = model(points, ROWS, SHIFT).argmax(dim=1) != LABELS
    assert torch.equal(fooled, EASY & (LABELS % 2 == 0))


@pytest.mark.parametrize("name", ["autoattack", "cw_l2", "square"])
def test_so_do_the_rows_of_batches(name):
    def forward(model, batch):
        images, _, rows, shift = batch
        return model(images, rows, shift)

    batch = (inputs(), LABELS, ROWS, SHIFT)
    batches = [[part[:7] for part in batch], [part[7:] for part in batch]]
    record = evaluate(Marked(), batches, ATTACKS[name], forward=forward)
    assert record.clean_accuracy == 1
    assert record.accuracy == pytest.approx(float((~EASY).float().mean()))


@pytest.mark.parametrize(
    "around", ["through", "expectation", "ensemble", "smoothed", "two_columns"]
)
def test_what_goes_around_such_a_model_takes_the_rows_along(around):
    model = Marked()
    bound = alongside(model, ROWS, SHIFT)
    labels = LABELS
    if around == "through":
        whole = attacks.through(bound, bound)
    elif around == "expectation":
        whole = attacks.expectation(bound, n=2)
    elif around == "ensemble":
        whole = ensemble([bound, bound])
    elif around == "smoothed":
        whole = smoothed(bound, sigma=1e-4, n=2)
    else:
        labels = (LABELS > 0).long()
        shift = torch.where(EASY, 0.02, 100.0) * (2 * labels - 1)

        def one(images, rows, shift):
            start = inputs().flatten(1)[rows, MARKS:] @ WEIGHTS
            logits = model(images, rows, 0.0 * SHIFT[rows])
            return (logits - start)[:, 0] + shift

        whole = attacks.two_columns(alongside(one, ROWS, shift))
    points = ATTACKS["pgd"](whole, inputs(), labels)
    assert torch.equal(whole(points).argmax(dim=1) != labels, EASY)
    assert len(model.sizes) > 1


def test_it_prints_as_the_call_that_made_it():
    shift = torch.tensor([0.5, 1.0, 2.0])
    assert repr(alongside(Marked(), shift[:2])) == "alongside(Marked(), tensor([0.5000, 1.0000]))"
    some = alongside(inputs, shift, torch.arange(3)).of_rows(torch.tensor([0, 2]))
    assert repr(some) == "alongside(inputs, tensor([0.5000, 2.0000]), tensor([0, 2]))"


def test_the_model_is_guarded_and_others_are_left_alone():
    class Writes(nn.Module):
        def forward(self, images, shift):
            logits = images.flatten(1)[:, :4] + shift
            shift.zero_()
            return logits

    model, shift = Writes().train(), torch.ones(N, 4)
    ATTACKS["pgd"](alongside(model, shift), inputs(), LABELS)
    assert model.training
    assert torch.equal(shift, torch.ones(N, 4))
    assert alongside(model, shift).training


def test_bad_input():
    with pytest.raises(TypeError, match="model as a callable, got int"):
        alongside(3, ROWS)
    with pytest.raises(TypeError, match=r"others\[1\] as a torch.Tensor, got list"):
        alongside(Marked(), ROWS, [1])
    with pytest.raises(ValueError, match="one or more others of one length, got none"):
        alongside(Marked())
    with pytest.raises(ValueError, match=r"others of one length, got \[12, 11\]"):
        alongside(Marked(), ROWS, SHIFT[1:])
    with pytest.raises(ValueError, match=r"others of shape \(n >= 1, ...\)"):
        alongside(Marked(), torch.tensor(3.0))


# --- several labels at once ------------------------------------------------------------------

QUESTIONS = torch.randn(16, 5, generator=seeded(3))
WANTED = (inputs().flatten(1) @ QUESTIONS > 0.3).long()


def right(images, wanted):
    return (2 * wanted - 1) * (images.flatten(1) @ QUESTIONS - 0.3)


def all_right(images, wanted):
    least = right(images, wanted).amin(dim=1)
    return torch.stack([least, 0 * least], dim=1)


@pytest.mark.parametrize("name", ["pgd", "apgd", "autoattack", "square"])
def test_the_recipe_for_several_labels_reaches_the_optimum_of_a_linear_model(name):
    eps = 0.05
    start = inputs()
    wanted = torch.where(right(start, WANTED) > 0, WANTED, 1 - WANTED)
    # A corner of the ball answers one question wrong if its sum of slopes exceeds the lead.
    leads = right(start, wanted) - eps * QUESTIONS.abs().sum(dim=0)
    possible = (leads < 0).any(dim=1)
    clear = (leads.amin(dim=1).abs() > 0.02) | (name != "square")
    options = {"steps": 300 if name == "square" else 10, "eps": eps, "generator": seeded()}
    options |= {"queries": 100} if name == "autoattack" else {}
    points = getattr(attacks, name)(
        alongside(all_right, wanted), start, torch.zeros(N).long(), **options
    )
    fooled = (right(points, wanted) < 0).any(dim=1)
    assert 0 < possible.sum() < N
    assert torch.equal(fooled[clear], possible[clear])


def test_many_labels_become_wrong_at_once():
    def wrong(images, wanted):
        loss = torch.nn.functional.softplus(-right(images, wanted)).sum(dim=1)
        return torch.stack([-loss, 0 * loss], dim=1)

    zeros = torch.zeros(N).long()
    view = alongside(wrong, WANTED)
    one = pgd(alongside(all_right, WANTED), inputs(), zeros, eps=0.3, steps=10)
    many = pgd(view, inputs(), zeros, eps=0.3, steps=10, loss="margin")
    counts = [(right(points, WANTED) < 0).sum() for points in (inputs(), one, many)]
    assert counts[0] < counts[2]
    assert counts[1] <= counts[2]


class HandsOn(nn.Module):
    """A wrapper that hands on the attributes of what it wraps, as some libraries' do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, points):
        return self.inner(1 - points)


def test_a_wrapper_that_hands_on_attributes_is_not_left_out():
    model = HandsOn(attacks.alongside(lambda points, shift: points + shift, torch.rand(4, 3)))
    attack = attacks.batched(partial(attacks.pgd, eps=0.1), 2)
    with pytest.raises(ValueError, match="expected all 4 inputs of the batch, got 2"):
        attack(model, torch.rand(4, 3), torch.zeros(4, dtype=torch.int64))
