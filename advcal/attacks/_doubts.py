"""Signs, before an attack, that it may fail for another reason than that a model is robust."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import log_odds
from advcal._typing import Model
from advcal.attacks._balls import Ball
from advcal.attacks._gradient import goal_of, gradient_at, logits_at

_FEW = 0.01  # the share of examples from which on a sign counts
_MISLED = 0.1  # the same for gradients that mislead, as they may at a kink
_SAME = 1e-4  # the relative change of logits from which on it is not rounding
_STEP = 1 / 8  # of the radius


def doubt(model: Model, region: Ball, labels: Tensor, logits: Tensor) -> None:
    """Warn of a model whose outputs are random or rounded, or whose gradients vanish or mislead.

    Looks at the examples that are right, by two forward passes and one with a gradient. Of outputs
    that are probabilities, every attack warns.

    Args:
        model: The model, frozen.
        region: The balls around the inputs.
        labels: The true labels, shape `(n,)`.
        logits: What the model says of the inputs.
    """
    if _checks.recording():
        return
    inputs, right = region.centre, logits.argmax(dim=1) == labels
    with torch.enable_grad():
        seen = gradient_at(model, inputs, goal_of("cross_entropy", model, inputs, labels).slope)
    flat = seen.gradient.flatten(1)
    blind = (flat == 0).all(dim=1)
    stripes = torch.arange(flat.shape[1], device=flat.device) % 2 * 2 - 1
    way = torch.where(blind[:, None], stripes.to(flat.dtype), flat).reshape(inputs.shape)
    near = region.project(region.ascend(inputs, way, _STEP * region.radius))
    moved = right & (near != inputs).flatten(1).any(dim=1)
    there, again = logits_at(model, near), logits_at(model, inputs)
    scale = logits.masked_fill(logits.isinf(), 0).abs().amax(dim=1)
    noise = (again - logits).nan_to_num(0).abs().amax(dim=1)
    rounding = torch.finfo(inputs.dtype).eps * scale
    fallen = log_odds(there, labels) < log_odds(logits, labels) - 4 * rounding
    found = {
        "whose outputs are random": right & (noise > _SAME * scale),
        "whose outputs are rounded": moved & (there == logits).all(dim=1),
        "whose gradients are zero": right & blind,
        "whose gradients mislead": moved & ~blind & fallen,
    }
    n, *counts = _checks.read(right.sum(), *(sign.sum() for sign in found.values()))
    least = [_FEW * n, _FEW * n, _FEW * n, _MISLED * n + 1]
    signs = [
        f"{words} ({count:g} of {n:g} examples)"
        for words, count, few in zip(found, counts, least, strict=True)
        if count > few
    ]
    if signs:
        _checks.warn(
            f"expected a model that an attack can follow, got one {' and '.join(signs)}: its "
            "robust accuracy may be far too high, see what evaluation.diagnose says of it"
        )
