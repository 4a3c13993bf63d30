"""The ACE attack and its general form: worse confidence in one short step."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from advcal import _checks
from advcal._logits import log_odds, masked
from advcal._sums import wide, widest
from advcal._typing import Bounds, Model, Norm
from advcal.attacks._balls import ball, each_of, per_example
from advcal.attacks._gradient import (
    gradient_at,
    logits_at,
    predicted,
    select,
    slope_of,
    to_be_sorted_out,
)
from advcal.attacks._keeping import Lower, descend_keeping, unchanged_or
from advcal.attacks._pgd import first_step
from advcal.attacks._search import Method, search_keeping


def ace(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor = 0.005,
    norm: Norm = "linf",
    search_steps: int = 15,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    r"""Take one step to a worse confidence, halved until the prediction is kept.

    $x' = \Pi(x \mp \varepsilon_i\,\mathrm{sign}\,\nabla_x p_{\hat y}(x))$: away from the confidence
    in the predicted class $\hat y$ if it is correct and towards it if it is wrong. The radius
    $\varepsilon_i$ of an example is halved until its prediction is the clean one, at most
    `search_steps` points being tried; after that the input itself is returned. The gradient is
    taken of the log-odds, which have the direction of the probability and do not go flat.

    **Uses the true labels**, to know which predictions are correct. No prediction changes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: The true integer labels, shape `(n,)`.
        eps: The first radius, in units of `inputs`: a number, or one for each example.
        norm: `"linf"`, as published, `"l2"` or `"l1"`.
        search_steps: How many radii to try at most.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.

    Returns:
        Miscalibrated inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import ace
        >>> model = lambda inputs: inputs @ torch.tensor([[2.0, -2.0], [0.0, 0.0]])
        >>> inputs, labels = torch.full((2, 2), 0.5), torch.tensor([0, 1])
        >>> ace(model, inputs, labels, eps=0.25)[:, 0]
        tensor([0.2500, 0.7500])

    References:
        Galil & El-Yaniv, Disrupting Deep Uncertainty Estimation Without Harming Accuracy,
        NeurIPS 2021, algorithm 1.
    """
    region = ball(norm, inputs, eps, bounds)
    first = each_of(region.radius, inputs, widest(inputs.device))

    def confidence(logits: Tensor) -> Tensor:
        """Log-odds of the predicted class, turned round if it is wrong."""
        _checks.label_range(labels, logits.shape[1])
        predicted = logits.detach().argmax(dim=1)
        return log_odds(logits, predicted) * torch.where(predicted == labels, -1.0, 1.0)

    logits, _, gradient = gradient_at(model, inputs, slope_of(confidence))
    predicted, direction = logits.argmax(dim=1), region.steepest(-gradient, inputs)
    found, open_ = inputs, torch.ones_like(predicted, dtype=torch.bool)
    for halvings in range(search_steps):
        radius = torch.where(open_, (first * 0.5**halvings).float(), 0.0)
        step = (per_example(radius, inputs) * direction).to(inputs.dtype)
        tried = select(open_, region.project(inputs + step), found)
        kept = logits_at(model, tried).argmax(dim=1) == predicted
        found, open_ = select(kept, tried, inputs), open_ & ~kept
        if to_be_sorted_out(halvings + 1, inputs) and not open_.any():
            break
    return found


def generalised_ace(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    eta: float,
    omega: Tensor,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Move the prediction towards a distribution, or away from it, and keep its class.

    Maximises $\eta\,\mathrm{CE}(f(x'), \omega)$ over the ball, keeping the prediction. The $(\eta,
    \omega)$-ACE attack. With $\eta = -1$ the prediction moves towards the distribution $\omega$,
    with $\eta = 1$ away from it. With a uniform $\omega$ that lowers or raises the confidence as a
    rule, not of each example: it is the cross-entropy that is followed. A point that has lost the
    prediction is led back, with halved steps, and the best point seen is returned.

    Uses the predicted labels only; `labels` are checked (an `omega` made of true labels uses them).
    No prediction changes, which a last forward pass makes sure of.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        eta: The sign and the weight of the cross-entropy, not 0.
        omega: Probabilities, shape `(classes,)` or `(n, classes)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps; with random search the number of queries.
        step_size: The first length of a step in `norm`; `2.5 * eps / steps` if None.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: What random search draws from; a copy of the global one if None.

    Returns:
        Perturbed inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import generalised_ace
        >>> model = lambda inputs: inputs @ torch.tensor([[8.0, -8.0], [0.0, 0.0]])
        >>> inputs, labels, uniform = torch.full((1, 2), 0.5), torch.tensor([0]), torch.ones(2) / 2
        >>> found = generalised_ace(model, inputs, labels, eps=0.25, eta=-1.0, omega=uniform)
        >>> print(f"{float(model(found).softmax(dim=1).max()):.4f}")
        0.9820

    References:
        Emde et al., Towards Certification of Uncertainty Calibration under Adversarial Attacks,
        ICLR 2025.
    """
    region = ball(norm, inputs, eps, bounds)
    if _checks.number("eta", eta) == 0:
        raise ValueError(f"expected eta other than 0, got {eta}")
    omega = _distribution(omega, inputs)
    clean = logits_at(model, inputs)
    _checks.label_range(labels, clean.shape[1])
    if omega.shape[1] != clean.shape[1]:
        raise ValueError(f"expected omega of {clean.shape[1]} classes, got {_checks.kind(omega)}")
    kept, omega = predicted(clean), _unmasked(omega, clean)

    def objective(logits: Tensor) -> Tensor:
        cross = -(omega * log_softmax(wide(logits), dim=1)).nan_to_num(0.0).sum(dim=1)
        return -eta * cross

    if method == "random_search":
        points = search_keeping(
            model, inputs, kept, lambda logits: -objective(logits), region, steps, generator
        )
    else:
        size = first_step(step_size, region, steps, spans=2.5)
        aim = Lower(objective)
        points = descend_keeping(model, inputs, kept, aim, region, steps, size)
    return unchanged_or(model, points, kept, inputs)


def _unmasked(omega: Tensor, logits: Tensor) -> Tensor:
    """Give what omega has of masked classes to the others, in proportion."""
    off = masked(logits)
    kept = omega.masked_fill(off, 0)
    total = kept.sum(dim=1, keepdim=True)
    return torch.where(off.any(dim=1, keepdim=True) & (total > 0), kept / total, omega)


def _distribution(omega: Tensor, inputs: Tensor) -> Tensor:
    rows = _checks.tensor("omega", omega).detach()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) not in (1, len(inputs)) or omega.numel() == 0:
        raise ValueError(
            f"expected omega of shape (classes,) or ({len(inputs)}, classes), "
            f"got {_checks.kind(omega)}"
        )
    if rows.device != inputs.device:
        raise ValueError(f"expected omega on {inputs.device} like the inputs, got {rows.device}")
    with torch.inference_mode(False):
        held = wide(rows).clone()
    if not bool((held >= 0).all()) or not bool(((held.sum(dim=1) - 1).abs() <= 1e-3).all()):
        raise ValueError("expected omega >= 0 and summing to 1, got other rows")
    return held
