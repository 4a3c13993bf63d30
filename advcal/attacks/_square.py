"""The Square attack: random search over square patches, by queries alone."""

from functools import partial

import torch
from torch import Tensor

from advcal._random import draw as drawn
from advcal._typing import Bounds, Model, Norm, Progress
from advcal.attacks._balls import ball, laid_out, of_rows
from advcal.attacks._gradient import Best, goal_of, logits_at, to_be_sorted_out
from advcal.attacks._nearest import Box
from advcal.attacks._patches import MOVES
from advcal.attacks._shown import shown

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


def square(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 5000,
    initial_p: float = 0.8,
    schedule_steps: int | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Raise the margin by random patches, without a gradient.

    Starts from stripes (`linf`) or tiles (`l2`, `l1`) on the surface of the ball. Each query then
    tries to set a random square, every channel to one end of its range (`linf`), or to move the
    perturbation of one random square to another (`l2`, `l1`), and keeps what raises the margin
    $\max_{k \ne y} z_k - z_y$ or fools the model. The square covers a share `initial_p` of the
    image at first and less and less later on, by the published schedule, which ends with
    `schedule_steps`. An example that is fooled leaves the batch at once, so that `steps` is the
    most queries that one takes. The model need not be differentiable.

    Inputs of another shape than `(n, channels, height, width)` are taken as one row of values, and
    squares are then intervals. What is drawn for an example depends on `generator`, on its place in
    the batch and on the size of the batch, but not on what its neighbours are.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: How often to call the model, at most.
        initial_p: The share of the image that the first squares cover, above 0 and at most 1.
        schedule_steps: Over how many steps the squares shrink, whether so many are taken or not;
            `steps` if None. AutoAttack has 10,000.
        targeted: Whether to move towards `labels` instead of away from them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the squares; a copy of the global one if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import square
        >>> model = lambda inputs: (inputs.round() - 0.5) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.625, 0.5]]), torch.tensor([0])
        >>> adversarial = square(model, inputs, labels, eps=0.25, steps=20)
        >>> model(adversarial).argmax(dim=1)
        tensor([1])

    References:
        Andriushchenko et al., Square Attack: a Query-efficient Black-box Adversarial Attack via
        Random Search, ECCV 2020, algorithms 1 to 3. Croce & Hein, Mind the Box: l1-APGD for Sparse
        Adversarial Attacks on Image Classifiers, ICML 2021, section 4, for `l1`.
    """
    with shown(model, progress, len(inputs), steps) as model:
        box: Box = bounds
        n, shape = len(inputs), inputs.shape if inputs.ndim == 4 else (len(inputs), 1, 1, -1)
        low, high = (e.reshape(shape) if isinstance(e, Tensor) else e for e in box)
        whole = ball(norm, inputs.reshape(shape), eps, (low, high))
        goal = goal_of("margin", model, inputs, labels, targeted)

        def draw(rows: Tensor, *shape: int) -> Tensor:
            like = torch.empty(n, *shape, dtype=torch.float32, device=inputs.device)
            return drawn(torch.rand, like, generator)[rows]

        shrinking = steps if schedule_steps is None else schedule_steps
        best, here = Best(whole.centre, stop=True), MOVES[norm](whole)
        rows = torch.arange(n, device=inputs.device)
        points = laid_out(here.start(partial(draw, rows)), whole.centre)
        for step in range(steps):
            if step:
                halvings = sum(step * 10_000 // shrinking > after for after in _HALVED_AFTER)
                share = initial_p / 2**halvings
                points = best.points[rows] if len(rows) < n else best.points
                points = laid_out(here.proposal(points, share, partial(draw, rows)), points)
            logits = logits_at(model, points.reshape(len(rows), *inputs.shape[1:]))
            best.offer(points, goal.reached(logits), goal(logits), rows)
            if to_be_sorted_out(step + 1, points):
                left = best.left(rows)
                if not len(left):
                    break
                if len(left) < len(rows):
                    rows, model, goal = of_rows((rows, model, goal), left)
                    here = MOVES[norm](whole.of(rows))
        return best.points.reshape(inputs.shape)
