"""The interval of a share, such as an accuracy, from a count alone."""

from advcal import _checks
from advcal.metrics import _intervals
from advcal.metrics._intervals import Interval


def wilson(count: int, *, n: int, level: float = 0.95) -> Interval[float]:
    r"""Compute a share, such as an accuracy, with Wilson's interval of that of the population.

    $(k + z^2 / 2 \pm z \sqrt{k (n - k) / n + z^2 / 4}) / (n + z^2)$ for `k` of `n`, with `z` the
    normal quantile of `(1 + level) / 2`. It has a width at 0 and 1 too.

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
        >>> found = wilson(100, n=100)
        >>> found.value, round(found.low, 3), found.high
        (1.0, 0.963, 1.0)

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    _checks.arguments(n=n, level=level)
    if _checks.count("count", count, least=0) > n:
        raise ValueError(f"expected count <= {n}, got {count}")
    return Interval(count / n, *_intervals.wilson(count, n, level))
