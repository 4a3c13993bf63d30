"""Adversarial weight perturbation: any objective at weights that are moved to its disadvantage."""

from dataclasses import KW_ONLY, dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advcal import _checks
from advcal._frozen import buffers_kept
from advcal._sums import wide
from advcal._typing import Batch, Model, Objective
from advcal.trainers._crafting import Crafting, first_met, scalar, two_steps


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class awp(Crafting):
    r"""Train any objective against a small worst change of the weights too.

    Adversarial weight perturbation: the objective is taken at the weights $w + v$ that one ascent
    step leads to. $v_l = \gamma\,\|w_l\|\,g_l / \|g_l\|$ for each weight $w_l$, with $g$ the
    gradient of the objective at $w$. The loss is that at $w + v$, and so are the gradients that
    `backward` gives the parameters; the parameters themselves are never touched, so the optimizer
    steps from $w$. (The authors step from $w + v$ and take $v$ off afterwards; that differs if the
    optimizer decays the weights.) It needs no optimizer, and works in any loop.

    Weights are the parameters of two dimensions or more that require a gradient; biases and the
    scales of normalisations stay, as with the authors. Shared weights move together.

    What an objective crafts or mixes is made once, at $w$, and the loss of it is taken twice: that
    of an objective of this module, or of yours if it has the methods `craft(model, batch) ->
    crafted` and `loss_of(model, crafted) -> loss`. A plain function is called twice instead, the
    second time at $w + v$, with the attack in it. The buffers of the model, BatchNorm's statistics
    among them, see the second pass only, in which the objective gets a module that can be called,
    without the attributes of yours. It was not made for models wrapped for distributed training.

    Args:
        objective: Any `(model, batch) -> scalar loss`.
        gamma: $\gamma \ge 0$, the size of the step relative to each weight; the authors take .01
            with adversarial training and .005 with TRADES.

    Returns:
        An objective, for models that are an `nn.Module`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `gamma` is out of range.

    Example:
        >>> from advcal.trainers import standard
        >>> model, batch = nn.Linear(2, 2), (torch.rand(3, 2), torch.tensor([0, 1, 1]))
        >>> bool(awp(standard(), gamma=0.1)(model, batch) > standard()(model, batch))
        True

    References:
        Wu et al., Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020,
        section 4.
    """

    objective: Objective
    _: KW_ONLY
    gamma: float = 0.01

    def craft(self, model: Model, batch: Batch) -> Any:
        _weights(model)
        return two_steps(self.objective)[0](model, batch)

    def loss_of(self, model: Model, crafted: Any) -> Tensor:
        whole, weights = _weights(model)
        loss_of = two_steps(self.objective)[1]
        with buffers_kept(whole), torch.enable_grad():
            loss = scalar("objective", loss_of(model, crafted))
            _checks.differentiable(loss, "the parameters")
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        offsets = {
            name: _offset(weight.detach(), gradient, self.gamma)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
        moved = _Moved(whole, offsets)
        first_met(moved)  # its answers look like those of the model
        return loss_of(moved, crafted)


def _weights(model: Model) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Check a model and return it, and what of it is to be moved."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model as a torch.nn.Module, got {_checks.kind(model)}")
    named = model.named_parameters()
    weights = {name: each for name, each in named if each.requires_grad and each.ndim > 1}
    if not weights:
        raise ValueError("expected a model with weights that require a gradient, got none")
    return model, weights


def _offset(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    length = torch.linalg.vector_norm(wide(gradient))
    size = gamma * torch.linalg.vector_norm(wide(weight))
    offset: Tensor = gradient * (size / torch.where(length > 0, length, 1.0))
    return offset.to(weight.dtype)


class _Moved(nn.Module):
    """A model as it would be with other weights, whose gradients run to the weights that it has."""

    def __init__(self, model: nn.Module, offsets: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.offsets = model, offsets
        self.training = model.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        moved = {
            name: attrgetter(name)(self.model) + offset for name, offset in self.offsets.items()
        }
        return functional_call(self.model, moved, inputs, named)
