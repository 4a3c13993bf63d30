"""The Carlini-Wagner attack: the smallest perturbation, by penalty and bisection."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free_to_read, of_rows, per_example
from advcal.attacks._gradient import Goal, goal_of, gradient_at, logits_at
from advcal.attacks._nearest import Box, Nearest
from advcal.attacks._shown import shown

_STEEPEST = 1e15  # keeps Adam's squares finite if a model's gradient is not
_SHRINK = 0.999999  # keeps arctanh finite at the bounds, as published
_HALVINGS = 8  # of the way back from the nearest success to the input
_REACH = 2.0  # how far out in w a pixel may start, plus a quarter of Adam's way


def cw_l2(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    search_steps: int = 9,
    steps: int = 1000,
    step_size: float = 1e-2,
    initial_c: float = 1e-3,
    kappa: float = 0.0,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find the smallest L2 perturbation that changes the prediction.

    Minimises $\|x' - x\|_2^2 + c\,\max(z_y - \max_{k \ne y} z_k + \kappa, 0)$ over
    $x' = \frac12(\tanh w + 1)$, scaled to `bounds`, by Adam; without bounds on both sides, over
    $x' = x + w/2$, which moves as in the middle of a box of width 1. The factor $c$ is found by
    bisection: times ten until a first success, then halfway between the last failure and success.
    Adam starts afresh at each of these search steps. What is nearest after one lies a little beyond
    the boundary and is led back by bisection, in eight forward passes, which the publication does
    not have. The published budget is `steps=10_000`. With a smaller one the search starts a
    little inside the bounds, while the published start would keep pixels at 0 or 1, on the flat of
    the tanh, for hundreds of iterations.

    Every decision is taken per example, and one that is wrong already takes no further part. An
    example that is never fooled comes back unchanged: it has no adversarial input within this
    budget, which is not a perturbation of size 0; `adversarial_distance` reports it as infinite.
    `foot` comes nearer in a tenth of the passes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        search_steps: How many factors $c$ to try.
        steps: Iterations of Adam for each.
        step_size: Adam's learning rate, in units of $w$.
        initial_c: The first $c$.
        kappa: By how much another logit must lead, $\kappa \ge 0$.
        targeted: Whether to reach `labels` instead of leaving them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import cw_l2
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = cw_l2(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), steps=200)
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).norm():.2f}")
        0.25

    References:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017,
        section V and VI.A.
    """
    _checks.number("step_size", step_size, above=0)
    calls = 1 + search_steps * (steps + 1 + _HALVINGS)
    with shown(model, progress, len(inputs), calls) as model:
        found = inputs.clone()
        goal = goal_of("margin", model, found, labels, targeted)
        logits = logits_at(model, found)
        right = (logits.argmax(dim=1) == labels) != targeted
        left = (right | (goal(logits) < kappa)).nonzero()[:, 0]
        if len(left) == 0:
            return found
        nearest = Nearest(found[left], labels[left], targeted=targeted)
        model, goal, box = of_rows((model, goal, bounds), left)
        search = _Search(model, nearest, goal, kappa, box, _REACH + steps * step_size / 4)
        c = torch.full_like(nearest.distance, initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(search_steps):
            before = nearest.distance
            fooled = search.minimise(c, steps, step_size)
            nearer = nearest.distance < before
            if not free_to_read(nearer) or bool(nearer.any()):
                search.lead_back(nearer)
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
        found[left] = nearest.points
        return found


class _Search:
    """The search among the points of a free variable, which is unbounded, for some examples."""

    def __init__(
        self,
        model: Model,
        nearest: Nearest,
        goal: Goal,
        kappa: float,
        bounds: Box,
        reach: float,
    ) -> None:
        self.model, self.nearest, self.goal, self.kappa = model, nearest, goal, kappa
        self.bounds, self.origin = bounds, lift(nearest.inputs)
        low, high = (lift(end) if isinstance(end, Tensor) else end for end in bounds)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        boxed = torch.full_like(self.origin, 1.0).mul(self.half).isfinite()
        share = ((self.origin - self.middle) / self.half * _SHRINK).nan_to_num(0)
        self.start = torch.where(boxed, torch.atanh(share).clamp(-reach, reach), 0.0)
        self.boxed = None if free_to_read(boxed) and bool(boxed.all()) else boxed  # None: all are

    def minimise(self, c: Tensor, steps: int, step_size: float) -> Tensor:
        """Run Adam for one factor per example, keep the nearest successes, say who had one."""
        w = self.start.clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=step_size)
        ever = torch.zeros_like(c, dtype=torch.bool)
        for _ in range(steps):
            fooled, w.grad = self.step(w.detach(), c.to(w.dtype))
            adam.step()
            ever |= fooled
        return ever | self.look(self.place(w.detach())[0])

    def place(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of a free variable and how fast they move with it."""
        height = w.tanh()
        points, rate = self.middle + self.half * height, self.half * (1 - height.square())
        if self.boxed is not None:
            points = torch.where(self.boxed, points, self.origin + w / 2)
            rate = torch.where(self.boxed, rate, 0.5)
        return points.clamp(*self.bounds), rate

    def step(self, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the points of a variable; return which succeed, and the slope for Adam."""
        points, rate = self.place(w)
        there = points.to(self.nearest.inputs.dtype)
        logits, lead, gradient = gradient_at(self.model, there, self.goal.slope)
        # c stays out of the model's own backward pass, which half precision may run.
        pull = per_example(torch.where(lead < self.kappa, c, 0), points) * lift(gradient)
        slope = (rate * (2 * (points - self.origin) - pull)).nan_to_num_()
        return self.keep(there, logits, lead), slope.clamp_(-_STEEPEST, _STEEPEST)

    def look(self, points: Tensor, rows: Tensor | bool = True) -> Tensor:
        """Call the model, keep the points that succeed, in some rows, and return which do."""
        there = points.to(self.nearest.inputs.dtype)
        logits = logits_at(self.model, there)
        return self.keep(there, logits, self.goal(logits), rows)

    def keep(
        self, points: Tensor, logits: Tensor, lead: Tensor, rows: Tensor | bool = True
    ) -> Tensor:
        right = (logits.argmax(dim=1) == self.nearest.labels) == self.nearest.targeted
        fooled = right & (lead >= self.kappa)
        self.nearest.keep(points, fooled & rows)
        return fooled

    def lead_back(self, rows: Tensor) -> None:
        """Bisect between the inputs and the nearest successes, in some rows."""
        offset = lift(self.nearest.points) - self.origin
        short = torch.zeros_like(self.nearest.distance)
        far = torch.ones_like(short)
        for _ in range(_HALVINGS):
            share = (short + far) / 2
            there = self.origin + per_example(share.to(offset.dtype), offset) * offset
            fooled = self.look(there.clamp(*self.bounds), rows)
            short, far = torch.where(fooled, short, share), torch.where(fooled, share, far)
