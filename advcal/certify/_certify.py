"""Randomized smoothing: a label, a radius and bounds of the confidence that hold in L2."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from scipy import special
from torch import Tensor

from advcal import _batches, _checks
from advcal._frozen import frozen
from advcal._random import resolve
from advcal._sums import home
from advcal._typing import Model, Progress
from advcal.certify._binomial import z_lower, z_upper
from advcal.certify._draws import Drawer
from advcal.certify._noise import seeds
from advcal.certify._reach import Reach, tightened
from advcal.certify._shift import FINE, VOTES, Scale, majority_shift, mean_bounds

_FIRST_LOOK = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Certificates:
    """What draws of noise showed of a smoothed classifier, and what follows from it.

    `reach(eps)` says what the probabilities can be within a radius. The radii hold with
    probability `1 - alpha` for each example, and so do all bounds of its probabilities together;
    both with `1 - 2 alpha`.

    Attributes:
        labels: The class that is predicted within the radius, int64, shape `(n,)`; -1 if the
            certificate abstains.
        radius: The certified radius in L2, float64, shape `(n,)`; 0 if it abstains.
        guesses: The class that the first draws spoke for, whether it was certified or not.
        draws: The number of draws of each example, int64, shape `(n,)`.
        counts: How many draws reached each threshold of a score, int64, shape
            `(n, classes + 1, thresholds)`: the scores are the probabilities of the classes, then
            half of one plus the lead of the guess over the next class.
        seeds: The seed of the noise of each example, int64, shape `(n,)`.
        sigma: The standard deviation of the noise.
        alpha: The probability that a radius is too large, for each example.
        looks: How often the counts may have been looked at before drawing stopped.
    """

    labels: Tensor
    radius: Tensor
    guesses: Tensor
    draws: Tensor
    counts: Tensor
    seeds: Tensor
    sigma: float
    alpha: float
    looks: int = 1

    def reach(self, eps: float) -> Reach:
        r"""Bound the probability of every class anywhere within a radius.

        With P the probability that a score exceeds t, from below
        $\sum_i (t_i - t_{i-1}) \Phi(\Phi^{-1}(\underline P_i) - \varepsilon/\sigma)$ and from above
        likewise. The bounds of all P hold at once, so those at several radii do too.

        Args:
            eps: The radius in L2, in units of the inputs.

        Returns:
            The `Reach`, which holds with probability `1 - 2 alpha` for each example.

        Raises:
            TypeError: If `eps` is not a number.
            ValueError: If `eps` is negative.
        """
        eps = _checks.number("eps", eps, least=0)
        scale, classes = _scale(self.counts), self.counts.shape[1] - 1
        low, high = mean_bounds(
            self.counts[:, :-1].cpu().numpy(),
            self.draws.cpu().numpy(),
            scale,
            alpha=self.alpha / self.looks / (2 * classes * scale.n),
            shift=eps / self.sigma,
        )
        lower, upper = tightened(torch.from_numpy(low), torch.from_numpy(high))
        device = self.radius.device
        labels = self.labels.where(self.radius > eps, -1)
        return Reach(lower.to(device), upper.to(device), labels, 2 * self.alpha)


def certify(
    model: Model,
    inputs: Tensor,
    *,
    sigma: float,
    n: int = 10_000,
    alpha: float = 1e-4,
    votes: bool = False,
    eps: float | None = None,
    n_pilot: int = 100,
    size: int = 1000,
    state: Certificates | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Certificates:
    r"""Certify a model averaged over Gaussian noise, in L2: labels, radii and bounds of confidence.

    The smoothed classifier is $g(x) = \mathbb E\, p(x + \sigma z)$, z normal, with p the softmax of
    the model, or with `votes=True` one for its predicted class and zero for the others, as Cohen et
    al. have it. Its prediction is the class of highest g, its confidence that g. The statements are
    of this exact mean: `smoothed` evaluates it to sampling error.

    For votes the radius is $\sigma\Phi^{-1}(\underline p)$ with the lower Clopper-Pearson bound of
    the probability of the class that the first draws, which do not count, spoke for. For the
    softmax it is the largest radius at which the mean lead of this class over the next is certainly
    positive. Bounds of a mean come from a fixed grid of thresholds with an exact bound at each, in
    memory that does not grow with `n`.

    The noise is not clipped, and is added before any normalisation that the model does. The model
    sees the sum rounded to a grid of about `sigma / 2**16`, which keeps the certificates sound in
    floating point. Every example has noise of its own, which does not depend on the other examples.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: Inputs, shape `(n, ...)`.
        sigma: The standard deviation of the noise, in units of the inputs.
        n: The number of draws for each example.
        alpha: The probability that a certificate is wrong, for each example. `figures` turns it
            into that of a statement about a data set.
        votes: Whether the classifier averages votes (0 or 1) and not probabilities.
        eps: A radius to decide on, or None. Drawing for an example then stops as soon as it is
            certified to this radius or is not to be. There are looks after 100, 200, 400, ... draws
            and `alpha` is divided by their number.
        n_pilot: The number of further draws that choose the class.
        size: How many noisy inputs the model gets at a time.
        state: An earlier result for the same inputs, to go on from up to `n` draws in all. Whether
            to go on must not depend on what it says.
        generator: Seeds the noise; None uses a copy of the global generator. Pass one and the same
            to all calls of which the results are used together.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        `Certificates`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape or value is wrong, or `state` is not of such inputs and options.

    Example:
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, generator = torch.tensor([[0.5, 0.0]]), torch.Generator().manual_seed(0)
        >>> found = certify(model, inputs, sigma=0.5, votes=True, generator=generator)
        >>> print(f"class {int(found.labels)} within {float(found.radius):.2f}")  # of 0.5
        class 0 within 0.48

    References:
        Cohen, Rosenfeld & Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML
        2019; Kumar et al., Certifying Confidence via Randomized Smoothing, NeurIPS 2020; Voráček &
        Hein, Sound Randomized Smoothing in Floating-Point Arithmetic, ICLR 2023.
    """
    _checks.arguments(model=model, votes=votes, sigma=sigma, n=n, n_pilot=n_pilot, size=size)
    _checks.arguments(progress=progress)
    _checks.number("alpha", alpha, above=0, most=0.5)
    points = _batches.inputs(inputs).detach()
    if eps is not None:
        _checks.number("eps", eps, above=0)
    if state is not None:
        _check_state(state, len(points), sigma=sigma, alpha=alpha, votes=votes, n=n, eps=eps)
        key = state.seeds
    else:
        key = seeds(len(points), resolve(generator, points.device))
    drawer = Drawer(model, sigma, votes, size, n_pilot)
    looks = _looks(n, eps)
    each: Any = range(len(points)) if progress is None else progress(range(len(points)))
    found = []
    with frozen(model, grad=False, late=False):
        for i in each:
            earlier = None if state is None else _one(state, i)
            examples = drawer.counted(points[i], int(key[i]), looks, earlier)
            found.append(_until(examples, looks, eps, sigma, alpha))
    guesses, draws, counts = (torch.stack(parts) for parts in zip(*found, strict=True))
    radius = sigma * _radius_shift(counts, draws, alpha / len(looks))
    where = home(points[:0]).device
    radius, guesses, draws, counts = (part.to(where) for part in (radius, guesses, draws, counts))
    labels = guesses.where(radius > 0, -1)
    return Certificates(
        labels, radius, guesses, draws, counts, key, float(sigma), float(alpha), len(looks)
    )


def _looks(n: int, eps: float | None) -> list[int]:
    if eps is None:
        return [n]
    looks = [_FIRST_LOOK]
    while looks[-1] < n:
        looks.append(2 * looks[-1])
    return [*[look for look in looks if look < n], n]


def _until(
    looks_of: Iterator[tuple[Tensor, Tensor, Tensor]],
    looks: list[int],
    eps: float | None,
    sigma: float,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw until it is known whether the radius reaches `eps`, or to the end."""
    for found in looks_of:
        if eps is None:
            continue
        _, n, counts = found
        scale = _scale(counts)
        lead, draws = counts[None, -1].numpy(), n[None].numpy()
        level = alpha / len(looks) / scale.n
        low = special.ndtr(z_lower(lead, draws, level) - eps / sigma) @ scale.below
        # It costs no certainty to give up, so this may be bold.
        high = special.ndtr(z_upper(lead, draws, 0.01) - eps / sigma) @ scale.below
        if low[0] > 0.5 or high[0] <= 0.5:
            break
    return found


def _radius_shift(counts: Tensor, draws: Tensor, alpha: float) -> Tensor:
    scale = _scale(counts)
    z = z_lower(counts[:, -1].numpy(), draws.numpy(), alpha / scale.n)
    return torch.from_numpy(majority_shift(z, scale))


def _scale(counts: Tensor) -> Scale:
    return VOTES if counts.shape[-1] == VOTES.n else FINE


def _one(state: Certificates, i: int) -> tuple[Tensor, int, Tensor]:
    return state.guesses[i].cpu(), int(state.draws[i]), state.counts[i].cpu()


def _check_state(state: Any, rows: int, **options: Any) -> None:
    """Check that an earlier result can be gone on from."""
    if not isinstance(state, Certificates):
        raise TypeError(f"expected state as Certificates or None, got {_checks.kind(state)}")
    if len(state.labels) != rows:
        raise ValueError(f"expected state of {rows} examples, got {len(state.labels)}")
    votes = state.counts.shape[-1] == VOTES.n
    for name, value in {"sigma": state.sigma, "alpha": state.alpha, "votes": votes}.items():
        if options[name] != value:
            raise ValueError(f"expected {name}={value!r} as in state, got {options[name]!r}")
    if options["eps"] is not None or state.looks > 1:
        raise ValueError("expected no eps beside a state: looks are planned before the first draw")
    most = int(state.draws.max())
    if options["n"] < most:
        raise ValueError(f"expected n >= {most}, the draws of state, got {options['n']}")
