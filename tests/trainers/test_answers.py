"""What a model in training answers is checked in the same way by every objective."""

import pytest
import torch
from torch import nn

from advcal import trainers
from tests.trainers.test_objectives import MAKERS

NAMES = ["standard", "adversarial", "mixup", "trades-pgd", "trades-joint", "mart", "mart-joint"]
NAMES += ["ccat-conf", "anti_adversarial", "anti_adversarial-joint", "mixed", "awp", "awp-trades"]
every_objective = pytest.mark.parametrize("name", NAMES)


class Answering(nn.Module):
    """A network that makes something else of its logits."""

    def __init__(self, answer=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.answer = nn.Linear(4, 3), answer

    def forward(self, inputs):
        return self.answer(self.inner(inputs))


def loss(name, answer):
    """Take twice the loss of what was crafted on logits."""
    objective, model = MAKERS[name](), Answering(answer)
    batch = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    crafted = objective.craft(Answering(), batch)
    return [objective.loss_of(model, crafted) for _ in range(2)]


@every_objective
@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (lambda z: (z, 1), TypeError, r"pass lambda x: model\(x\)\[0\]"),
        (lambda z: {"out": z}, TypeError, r"pass lambda x: model\(x\)\['out'\]"),
        (lambda z: z[:, :1], ValueError, r"torch.stack\(\[0 \* p, p\], dim=1\)"),
        (lambda z: z[:, :2], ValueError, "expected labels from 0 to 1, got 2"),
    ],
)
def test_another_answer_is_told_what_to_do(name, answer, error, said):
    with pytest.raises(error, match=said):
        loss(name, answer)


@every_objective
def test_probabilities_are_told_once(name):
    with pytest.warns(UserWarning, match="expected logits, got rows") as told:
        loss(name, lambda z: z.softmax(dim=1))
    assert len(told) == 1


def test_an_objective_inside_awp_gives_a_scalar():
    batch = torch.rand(6, 4), torch.arange(6) % 3
    for bad, error in ((lambda m, b: 1.0, TypeError), (lambda m, b: m(b[0]), ValueError)):
        with pytest.raises(error, match="expected the objective to"):
            trainers.awp(bad)(Answering(), batch)
