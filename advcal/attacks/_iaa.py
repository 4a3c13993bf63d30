"""The inverse adversarial attack: same answer, lost confidence."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import Apart, finite, masked
from advcal._sums import wide
from advcal._typing import Bounds, Model, Norm
from advcal.attacks._balls import Ball, ball
from advcal.attacks._gradient import Best, Goal, Point, climb, logits_at, predicted
from advcal.attacks._keeping import Look, Stage, descend_keeping, unchanged_or
from advcal.attacks._pgd import first_step
from advcal.attacks._search import Method, search_keeping
from advcal.losses import inverse_adversarial, margin


def iaa(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    lam: float = 5.0,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    label: Literal["true", "predicted"] = "true",
    variant: Literal["accept", "published"] = "accept",
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Lower the confidence and keep the label: an attack on calibration, not on accuracy.

    Minimises $\mathrm{CE}(f(x + N), G) + \lambda\,\mathrm{CE}(f(x + N), \mathrm{uniform})$ over
    $\|N\| \le \varepsilon$. (Elsewhere "inverse adversarial example" means the opposite, an input
    of *higher* likelihood.)

    By default an example that has left $G$ is led back, and its steps are halved at each crossing;
    the best of all points seen that keep $G$ is returned. With `label="true"`, the authors' choice,
    $G$ is the true label: wrong predictions are moved towards it, so accuracy can *rise* above
    clean. With `label="predicted"` $G$ is the model's clean prediction: no prediction changes and
    accuracy is exactly the clean one, which a last forward pass makes sure of. A prediction that is
    $G$ at the input never becomes more confident: the objective alone would raise a confidence
    below $(1 + \lambda/K) / (1 + \lambda)$.

    `variant="published"` is the authors' algorithm, for comparison: radius $t\varepsilon/T$ and
    step $\varepsilon/T$ at step $t$, always a random start, which this radius crushes, every step
    accepted and the last point returned, even if it is more confident. Added are the clamp to
    `bounds` and the last of the $T$ updates, which their loop leaves out. It has no use for
    `step_size` and `random_start`.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: The true integer labels, shape `(n,)`; with `label="predicted"` only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        lam: $\lambda \ge 0$. The larger, the lower the confidence; the authors study 1 to 10.
        steps: The number of steps; with random search the number of queries.
        step_size: The first length of a step in `norm`; `eps / steps` if None.
        random_start: Whether to start at a random point of the ball instead of at the input.
        label: Which label is kept, `"true"` or `"predicted"`.
        variant: `"accept"` or `"published"`.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`,
            and is not for the published variant.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random numbers; a copy of the global one if None.

    Returns:
        Inputs of lower confidence, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import iaa
        >>> model = lambda inputs: inputs @ torch.tensor([[8.0, -8.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
        >>> model(inputs).softmax(dim=1).max().item() > 0.99
        True
        >>> model(iaa(model, inputs, labels, eps=0.5)).softmax(dim=1).max().item() < 0.7
        True

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack,
        arXiv 2504.06358, eq. 3 and algorithm 1.
    """
    region = ball(norm, inputs, eps, bounds)
    if method == "random_search" and variant == "published":
        raise ValueError("expected method 'gradient' with the published variant, got another")
    if label == "predicted":
        clean = logits_at(model, inputs)
        _checks.label_range(labels, clean.shape[1])
        labels = predicted(clean)
    loss = partial(inverse_adversarial, lam=lam, reduction="none")
    goal = Goal(loss, labels, labels, targeted=True)
    aim, best, start = _Down(lam), Best(inputs), inputs
    if random_start or variant == "published":
        start = region.random_point(generator)
    if random_start and variant == "accept":  # the input counts too
        logits = logits_at(model, inputs)
        _checks.label_range(labels, logits.shape[1])
        score = aim.look(logits, Apart.of(logits, labels), Stage()).score
        best.offer(inputs, logits.argmax(dim=1) == labels, score)
    if variant == "published":
        points = climb(model, start, goal, _Growing(region, steps), steps)
    elif method == "random_search":

        def score_of(logits: Tensor) -> Tensor:
            kept = logits.argmax(dim=1) == labels
            value = torch.where(kept, goal(logits), -margin(logits, labels, reduction="none"))
            return aim.unless_surer(value, Apart.of(logits, labels))

        points = search_keeping(model, start, labels, score_of, region, steps, generator, best)
    else:
        size = first_step(step_size, region, steps, spans=1)
        points = descend_keeping(model, start, labels, aim, region, steps, size, best=best)
    return unchanged_or(model, points, labels, inputs) if label == "predicted" else points


class _Down:
    """Lower the loss, a weighted sum of log-probabilities whose gradient is written out."""

    slope: Tensor  # of what is lowered, to the log-probabilities

    def __init__(self, lam: float) -> None:
        self.lam = lam
        self.weights: Tensor | None = None  # of the log-probabilities, in what is raised
        self.most: Tensor | None = None  # log-odds of labels that lead at the inputs

    def look(self, logits: Tensor, apart: Apart, stage: Stage) -> Look:
        """Look at logits; the first, at the inputs, tell which classes are masked."""
        log_p = logits.log_softmax(dim=1)
        if self.weights is None:
            off, n_classes = masked(logits), logits.shape[1]
            share = self.lam * (n_classes / (~off).sum(dim=1, keepdim=True)).to(logits.dtype)
            weights = (share / n_classes).expand_as(logits).masked_fill(off, 0)
            self.weights = weights.scatter_add(1, apart.column, torch.ones_like(share))
            self.slope = -self.weights
        score = (finite(log_p) * self.weights).sum(dim=1)
        back = torch.ops.aten._log_softmax_backward_data
        gradient = back(self.slope, log_p, 1, log_p.dtype)
        return Look(self.unless_surer(score, apart), gradient)

    def unless_surer(self, score: Tensor, apart: Apart) -> Tensor:
        """Let no point count that is more confident in a label than the input, which has it too."""
        odds = wide(apart.label)[:, 0] - wide(apart.others).logsumexp(dim=1)
        if self.most is None:
            leads = apart.label[:, 0] >= apart.others.amax(dim=1)
            self.most = torch.where(leads, odds, torch.inf)
        return score.masked_fill(odds > self.most, -torch.inf)


@dataclass(frozen=True, eq=False)
class _Growing:
    """The rule of the authors: steps of one length in a ball that grows by as much."""

    region: Ball
    steps: int
    taken: int = 0

    def step(self, points: Tensor, seen: Point) -> tuple[Tensor, Self]:
        """Step to the edge of the next larger ball."""
        eps, taken = self.region.radius, self.taken + 1
        region = replace(self.region, radius=eps * taken / self.steps)
        points = region.project(region.ascend(points, seen.gradient, eps / self.steps))
        return points, replace(self, taken=taken)
