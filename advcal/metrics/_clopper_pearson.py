"""The interval of a share, such as an accuracy, from a count alone."""

from advcal import _checks
from advcal.metrics import _intervals
from advcal.metrics._intervals import Interval


def clopper_pearson(count: int, *, n: int, level: float = 0.95) -> Interval[float]:
    r"""Compute a share, such as an accuracy, with the exact interval of that of the population.

    Of `k` found among `n`, the lower end is the share of the population at which `k` or more are
    found with probability `(1 - level) / 2`, and 0 if `k` is 0; the upper end is that at which `k`
    or fewer are, and 1 if `k` is `n`. Whatever the share and `n`, the interval covers it with
    probability `level` or more. Wilson's, which is narrower by 6 % at 100 examples and by 2 % at
    1,000, covers as little as .84 instead of .95 of a share near 0 or 1.

    Args:
        count: How many have the property, from 0 to `n`.
        n: How many there are.
        level: The confidence level, in `(0, 1)`.

    Returns:
        The share and the ends.

    Raises:
        TypeError: If a number is not an int.
        ValueError: If `count` is not from 0 to `n`, or `level` not in `(0, 1)`.

    Example:
        >>> found = clopper_pearson(100, n=100)
        >>> found.value, round(found.low, 3), found.high
        (1.0, 0.964, 1.0)

    References:
        Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the
        binomial, Biometrika 26, 1934.
    """
    _checks.arguments(n=n, level=level)
    if _checks.count("count", count, least=0) > n:
        raise ValueError(f"expected count <= {n}, got {count}")
    return Interval(count / n, *_intervals.share_ends(count, n, level))
