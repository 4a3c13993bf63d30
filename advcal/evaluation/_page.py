"""Audits as one page of HTML, by itself: tables, and pictures in SVG that follow its colours."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from advcal._markup import html
from advcal.evaluation._report import rows_of

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #ffffff; --faint: #d9d9d9;
  --clean: #0072b2; --attacked: #c44e00; --certified: #555555; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --back: #141414; --faint: #3a3a3a;
  --clean: #5db7f0; --attacked: #ff9b52; --certified: #b0b0b0; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
@media (max-width: 40rem) { body { padding: .75rem; } table { font-size: .75rem; }
  td { white-space: normal; } th, td { padding: .3rem .2rem; } }
th:first-child, td:first-child { text-align: left; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1.2rem 0; }
figure { margin: 0; flex: 1 1 17rem; max-width: 24rem; } figcaption { font-size: .85rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font-size: 11px; }
.note { border-left: 3px solid var(--attacked); padding-left: .8rem; }
.small { font-size: .85rem; } summary { cursor: pointer; }
"""
_SIZE, _LEFT, _FOOT, _RIM = 240, 34, 30, 14  # of a picture, and what is kept free around it


def page(audits: Mapping[str, Any]) -> str:
    """Lay out audits, from names to what `Audit.as_dict` returns, as one page."""
    settings = next(iter(audits.values()))["settings"]
    ball = "L∞" if settings["norm"] == "linf" else "L2"
    title = f"Robustness and calibration, {ball} radius {settings['eps']:.4g}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{_KINDS}</p>"]
    if len(audits) > 1:
        body.append(_table(rows_of(audits, several=True)))
    for name, found in audits.items():
        body += [f"<h2>{escape(name)}</h2>"] * bool(name) + _section(found)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return "\n".join(
        [f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>', *body, "</body></html>\n"]
    )


_KINDS = (
    "Clean figures are estimates with 95 % intervals over the examples. Attacked ones are what "
    "this attack found, with intervals given this attack; another may find more. Certified ones "
    "hold against every attack in the ball."
)


def _section(found: Mapping[str, Any]) -> list[str]:
    parts, lines = found["parts"], []
    verdict = parts["diagnosis"]["verdict"]
    if verdict == "fail":
        lines.append(
            '<p class="note">The diagnosis of the attack failed: its figures are not to be '
            "believed.</p>"
        )
    lines.append(_table(rows_of(found)))
    lines.append('<div class="pictures">')
    for side in ("clean", "attacked"):
        words = f"Accuracy against confidence, {side}; on the line they are the same."
        lines.append(_figure(_reliability(parts[side]["bins"], side), words))
    words = "Mean confidence that attacks reach without changing a prediction; dashed: accuracy"
    words += "; dotted: certified." if parts["envelope"]["certified_lowest"] else "."
    lines += [_figure(_envelope(parts["envelope"]), words), "</div>"]
    rows = [["check", "verdict", "evidence"]]
    rows += [[f["name"], f["verdict"], f["evidence"]] for f in parts["diagnosis"]["findings"]]
    cost = ", ".join(f"{name} {part['seconds']:.0f} s" for name, part in parts.items())
    lines.append(
        f"<details><summary>Diagnosis of the attack: {escape(verdict)}</summary>{_table(rows)}"
        f'</details><p class="small">{parts["clean"]["n"]} examples. It took: {cost}. '
        f"Attack: {escape(found['settings']['words'][:200])}</p>"
    )
    return lines


def _table(rows: Sequence[Sequence[str]]) -> str:
    return f'<div class="wide">{html(rows)}</div>'


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _x(value: float) -> float:
    return round(_LEFT + value * (_SIZE - _LEFT - _RIM), 1)


def _y(value: float) -> float:
    return round(_RIM + (1 - value) * (_SIZE - _FOOT - _RIM), 1)


def _axes(label: str, across: Sequence[tuple[float, str]], up: str, shapes: Sequence[str]) -> str:
    """Draw a frame with ticks around shapes in the unit square."""
    ticks = [
        f'<text x="{_x(at)}" y="{_y(0) + 13}" text-anchor="{"end" if at == 1 else "middle"}">'
        f"{word}</text>"
        for at, word in across
    ]
    ticks += [
        f'<text x="{_LEFT - 4}" y="{_y(at) + 4}" text-anchor="end">{at:g}</text>'
        f'<path d="M{_x(0)} {_y(at)}H{_x(1)}" stroke="var(--faint)"/>'
        for at in (0, 0.5, 1)
    ]
    ticks.append(f'<text x="{_x(0.5)}" y="{_SIZE - 3}" text-anchor="middle">{escape(label)}</text>')
    inner = "".join([*ticks, *shapes])
    return f'<svg viewBox="0 0 {_SIZE} {_SIZE}" role="img" aria-label="{escape(up)}">{inner}</svg>'


def _reliability(bins: Mapping[str, Sequence[float]], side: str) -> str:
    """Draw accuracy against confidence, each dot as large as its bin is full."""
    shapes = [f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="var(--text)"/>']
    total = sum(bins["counts"])
    columns = zip(bins["counts"], bins["confidences"], bins["corrects"], strict=True)
    for count, confidence, correct in columns:
        if count:
            radius = round(2 + 9 * (count / total) ** 0.5, 1)
            shapes.append(
                f'<circle cx="{_x(confidence / count)}" cy="{_y(correct / count)}" r="{radius}" '
                f'fill="var(--{side})" fill-opacity=".65"/>'
            )
    across = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    return _axes("confidence", across, f"accuracy against confidence, {side}", shapes)


def _envelope(found: Mapping[str, Any]) -> str:
    """Draw the least and the greatest mean confidence against the radius."""
    eps, start = found["eps"], found["confidence"]
    places = [0.0, *(each / eps[-1] for each in eps)]
    shapes = []
    pairs = [("certified_lowest", "certified_highest", "certified", ".12", "2 3")]
    pairs.append(("lowest", "highest", "attacked", ".3", ""))
    for low, high, colour, opacity, dashes in pairs:
        if not found[low]:
            continue
        ends = [[start, *found[low]], [start, *found[high]]]
        lower, upper = (
            [f"{_x(a)} {_y(b)}" for a, b in zip(places, end, strict=True)] for end in ends
        )
        area = "L".join([*lower, *reversed(upper)])
        shapes.append(f'<path d="M{area}Z" fill="var(--{colour})" fill-opacity="{opacity}"/>')
        for line in (lower, upper):
            style = f'stroke="var(--{colour})" stroke-dasharray="{dashes}" fill="none"'
            track = "L".join(line)
            shapes.append(f'<path d="M{track}" {style}/>')
    dashed = 'stroke="var(--clean)" stroke-dasharray="6 3"'
    shapes.append(f'<path d="M{_x(0)} {_y(found["accuracy"])}H{_x(1)}" {dashed}/>')
    across = [(0.0, "0"), (0.5, f"{eps[-1] / 2:.3g}"), (1.0, f"{eps[-1]:.3g}")]
    return _axes("radius", across, "mean confidence against the radius of attacks", shapes)
