"""Deterministic bounds of the probabilities of a ReLU network in L-infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advcal import _batches, _checks
from advcal._frozen import frozen
from advcal._sums import exact
from advcal._typing import Bounds
from advcal.certify._affine import Affine, affine_maps
from advcal.certify._reach import Reach, tightened
from advcal.certify._relax import Box, crown_margins, interval_margins

_SLACK = 1e-5  # of a margin, for the rounding of a network that runs in float32 or wider
_ENTRIES = 1 << 24  # of the coefficients that are in memory at once


def interval(
    model: nn.Module,
    inputs: Tensor,
    *,
    eps: float,
    affine: tuple[type, ...] = (),
    bounds: Bounds = (0.0, 1.0),
) -> Reach:
    r"""Bound the probabilities of a ReLU network in L∞ by interval arithmetic.

    A layer $Wx + b$ maps intervals of centre c and radius r to $Wc + b$ and $|W| r$. The last
    layer is bounded in its margins $z_k - z_j$, from which the softmax follows. It costs two passes
    and is loose, unless the network was trained for it; `crown` is tighter. See there for the
    layers.

    Args:
        model: An `nn.Sequential`, nested as you like.
        inputs: Inputs within `bounds`, shape `(n, ...)`.
        eps: The radius in L∞, in units of the inputs.
        affine: Types of further layers that are affine, such as one that normalises.
        bounds: The lowest and the highest valid value of an input: numbers, tensors that broadcast
            to the inputs, or None.

    Returns:
        A `Reach`, which holds without exception.

    Raises:
        TypeError: If an argument is of the wrong kind or a layer is not known.
        ValueError: If a shape or value is wrong or a layer is not affine.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        >>> reach = interval(model, torch.tensor([[0.75, 0.25]]), eps=0.125)
        >>> print(f"{float(reach.lower[0, 0]):.2f} to {float(reach.upper[0, 0]):.2f}")
        0.62 to 0.82

    References:
        Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models, 2018.
    """
    return _reach(interval_margins, model, inputs, eps, affine, bounds)


def crown(
    model: nn.Module,
    inputs: Tensor,
    *,
    eps: float,
    affine: tuple[type, ...] = (),
    bounds: Bounds = (0.0, 1.0),
) -> Reach:
    r"""Bound the probabilities of a ReLU network in L∞ by linear bounds of each ReLU (CROWN).

    Every margin $z_k - z_j$ is bounded below by a linear function of the inputs, which is carried
    back through the network, and taken at its least over the ball and `bounds`. Bounds of each
    hidden layer come from the same. Intervals are taken if they are tighter. Then
    $p_k \ge 1 / (1 + \sum_j e^{-m_{kj}})$ with the least margins, and at most likewise: margins
    give far tighter probabilities than bounds of the logits would.

    A network is made of ReLU, Linear, Conv1d, Conv2d, Flatten, AvgPool, AdaptiveAvgPool2d,
    BatchNorm with running statistics, Dropout (which does nothing) and Identity. It is taken in
    eval mode and in float64, as matrices, and is for small networks: a convolution costs a matrix
    of its outputs by its inputs. Margins are widened by 1e-5 for the rounding of the network
    itself, which is ample for float32 and not a proof for it; in half precision by as many
    roundings, 0.08 for float16 and 0.66 for bfloat16, with which little is certified.

    Args:
        model: An `nn.Sequential`, nested as you like.
        inputs: Inputs within `bounds`, shape `(n, ...)`.
        eps: The radius in L∞, in units of the inputs.
        affine: Types of further layers that are affine, such as one that normalises.
        bounds: The lowest and the highest valid value of an input: numbers, tensors that broadcast
            to the inputs, or None.

    Returns:
        A `Reach`, which holds without exception.

    Raises:
        TypeError: If an argument is of the wrong kind or a layer is not known.
        ValueError: If a shape or value is wrong or a layer is not affine.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        >>> reach = crown(model, torch.tensor([[0.75, 0.25]]), eps=0.125)
        >>> print(f"{float(reach.lower[0, 0]):.2f} to {float(reach.upper[0, 0]):.2f}")
        0.62 to 0.82

    References:
        Zhang et al., Efficient Neural Network Robustness Certification with General Activation
        Functions, NeurIPS 2018.
    """
    return _reach(crown_margins, model, inputs, eps, affine, bounds)


def _reach(
    margins: Callable[[Box, list[Affine], Tensor], Tensor],
    model: Any,
    inputs: Any,
    eps: Any,
    affine: Any,
    bounds: Any,
) -> Reach:
    points = _batches.inputs(inputs).detach()
    eps = _checks.number("eps", eps, least=0)
    if not isinstance(affine, tuple) or not all(isinstance(each, type) for each in affine):
        raise TypeError(f"expected affine as a tuple of types, got {affine!r}")
    box = _batches.box(bounds, points)
    low, high = (
        torch.as_tensor(end, dtype=points.dtype, device=points.device).expand_as(points)
        for end in box
    )
    if not bool(((low <= points) & (points <= high)).all()):
        least, most = (float(end) for end in points.aminmax())
        raise _batches.outside(*box, least, most, do="certify")
    with frozen(model, grad=True, late=False):
        maps = affine_maps(model, points, affine)
    points, low, high = exact(points), exact(low), exact(high)
    rows, places = _pairs(len(maps[-1].offset), points.device)
    ends = [
        torch.clamp(points - eps, min=low).flatten(1),
        torch.clamp(points + eps, max=high).flatten(1),
    ]
    widest = max(max(each.matrix.shape) for each in maps)
    size = max(1, _ENTRIES // (2 * widest * widest))
    with torch.no_grad():
        boxes = zip(*(end.split(size) for end in ends), strict=True)
        found = torch.cat([margins(Box(*box), maps, rows) for box in boxes])
    found = found.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # of a box too large to compute in
    return _probabilities(found - _slack(model, inputs) * (1 + found.abs()), places)


def _slack(model: nn.Module, inputs: Tensor) -> float:
    """Return by what share of itself a margin is widened, in the coarsest precision there is."""
    kinds = [inputs.dtype, *(each.dtype for each in model.parameters())]
    roundings = [torch.finfo(kind).eps for kind in kinds if kind.is_floating_point]
    return _SLACK * max(1.0, max(roundings) / torch.finfo(torch.float32).eps)


def _pairs(n_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows `e_k - e_j` of all pairs, and where they stand in a matrix of k and j."""
    one = torch.eye(n_classes, dtype=torch.float64, device=device)
    places = (~one.bool()).nonzero()
    return one[places[:, 0]] - one[places[:, 1]], places


def _probabilities(margins: Tensor, places: Tensor) -> Reach:
    """Turn least margins of all pairs into bounds of the softmax."""
    n_classes = int(places.max()) + 1
    least = margins.new_full((len(margins), n_classes, n_classes), torch.inf)
    least[:, places[:, 0], places[:, 1]] = margins  # z_k - z_j at [k, j]; no rival of itself
    greatest = -least.transpose(1, 2)
    greatest = greatest.masked_fill(torch.eye(n_classes, device=margins.device).bool(), torch.inf)
    lower, upper = (torch.sigmoid(-(-m).logsumexp(dim=2)) for m in (least, greatest))
    ahead = (least > 0).all(dim=2)
    labels = torch.where(ahead.any(dim=1), ahead.int().argmax(dim=1), -1)
    return Reach(*tightened(lower, upper), labels)
