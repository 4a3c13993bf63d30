"""Audits side by side."""

from collections.abc import Mapping
from typing import Literal

from advcal import _checks
from advcal.evaluation._audit import Audit
from advcal.evaluation._page import page
from advcal.evaluation._report import rows_of, tabular


def compare(
    audits: Mapping[str, Audit], *, format: Literal["markdown", "latex", "html"] = "markdown"
) -> str:
    """Put audits side by side, the most robust first: a leaderboard of robust calibration.

    Ranked by the accuracy under attack; one whose attack `diagnose` calls a failure comes last and
    says so. They should be of the same data, radius and norm.

    Args:
        audits: From the name of a model to its audit.
        format: `"markdown"`, `"latex"`, or `"html"`, a page with the pictures of each.

    Returns:
        A table or a page.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there are no audits, or their radii or norms differ.

    Example:
        >>> import torch
        >>> from advcal.evaluation import audit
        >>> batches = [(torch.rand(40, 2), torch.arange(40) % 2)]
        >>> found = audit(torch.nn.Linear(2, 2), batches, eps=0.1, steps=3)
        >>> print(compare({"one": found, "two": found}).splitlines()[0].split("|")[1].strip())
        model
    """
    _checks.choice("format", format, ("markdown", "latex", "html"))
    if not isinstance(audits, Mapping):
        raise TypeError(f"expected audits as a mapping, got {_checks.kind(audits)}")
    if not audits:
        raise ValueError("expected one audit or more, got none")
    for found in audits.values():
        if not isinstance(found, Audit):
            raise TypeError(f"expected audits of Audit, got {_checks.kind(found)}")
    for name in ("eps", "norm"):
        if len({found.settings[name] for found in audits.values()}) > 1:
            raise ValueError(f"expected audits of one {name}, got several")
    ranked = sorted(
        audits.items(), key=lambda each: (each[1].verdict == "fail", -each[1].robust_accuracy[1])
    )
    plain = {str(name): found.as_dict() for name, found in ranked}
    if format == "html":
        return page(plain)
    return tabular(rows_of(plain, several=True), format)
