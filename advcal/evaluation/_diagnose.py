"""Diagnose: the checks that a reviewer makes before believing a robust accuracy."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._answers import watching
from advcal._markup import aligned, html
from advcal._pass import Way, one_pass
from advcal._random import resolve
from advcal._targets import away
from advcal._typing import Batch, Forward, Model, Progress
from advcal.evaluation import _probe
from advcal.evaluation._findings import PGD, SEVERITY, Finding, Verdict, findings, train_mode
from advcal.evaluation._transfer import named


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; `str` lays it out, `diagnosis["zero gradients"]` is one finding.

    Attributes:
        n: The number of examples.
        findings: One finding per check, always in the same order.
    """

    n: int
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The most severe of all verdicts."""
        return max((finding.verdict for finding in self.findings), key=SEVERITY.index)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and words, ready for JSON."""
        found = [{**vars(finding), "numbers": dict(finding.numbers)} for finding in self.findings]
        return {"n": self.n, "verdict": self.verdict, "findings": found}

    def __getitem__(self, name: str) -> Finding:
        return {finding.name: finding for finding in self.findings}[name]

    def _rows(self) -> list[list[str]]:
        rows = [[finding.name, finding.verdict, finding.evidence] for finding in self.findings]
        return [["check", "verdict", "evidence"], *rows]

    def __str__(self) -> str:
        return aligned(self._rows(), n_names=3)

    def _repr_html_(self) -> str:
        return html(self._rows())


def diagnose(
    model: Model,
    batches: Iterable[Batch],
    *,
    eps: float,
    norm: _probe.Norm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    sources: Mapping[str, Model] | None = None,
    attacks: Mapping[str, Callable[..., Tensor]] | None = None,
    steps: int = 300,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    r"""Look for the signs that an attack fails for another reason than that a model is robust.

    The checks, in order: inputs within the bounds; layers left in train mode; logits that depend
    on the other examples of a batch; random outputs; outputs that are probabilities; logits so
    large that float32 cross-entropy has no gradient (defensive distillation); gradients that are
    zero, explode, or do not foretell what a step along them does; logits that are piecewise
    constant (quantisation, rounding); one step, random search or transfer that fools when many
    steps do not; accuracy that stays above 0 as `eps` grows to the whole box; a planted adversary
    that many steps do not find; with `attacks`, one of these that fools when many steps do not, or
    that does not find the planted adversary.

    An adversary is planted by reading the logits in another way: how far they move towards where
    one of 16 random points of the ball moves them, the one that moves them farthest. The class
    changes at .9 of that, so that the point is adversarial for certain: an attack that misses it
    fails by itself, and not because the model is robust. It has the model's own gradient to find it
    by. That is the essence of the binarisation test of Zimmermann et al., who train a linear
    classifier on the features of 1,000 points for each example instead.

    A check warns from 2 % of the examples on and fails from 10 %; when two attacks are compared it
    warns from 5 % on, since none finds all there is. A hundred examples are enough; of many
    thousands take a part. A verdict is evidence, not proof: a model that passes can still be beaten
    by an attack made for it.

    The model runs and is left as in `evaluate`; the second check names the layers in train mode. It
    makes 91 forward and 44 backward passes over all examples; over those that 20 steps of PGD do
    not fool, up to `steps` + 45 forward and 40 backward passes, and for each larger radius (factors
    of 4) 22 and 20. A source makes 22 and 21.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        batches: An iterable of `(inputs, labels, *rest)`, the inputs float32, float64 or 8-bit.
        eps: The radius, in units of `inputs`, at which the model is evaluated.
        norm: `"linf"` or `"l2"`.
        bounds: The lowest and the highest valid value of an input. If inputs exceed them, the
            first check fails and the others take the range of the batch.
        sources: Names to models on which to craft examples for transfer, best trained differently.
        attacks: Names to attacks of yours, `(model, inputs, labels, eps=...) -> inputs`.
        steps: The number of steps of the random search.
        generator: The source of random points; a copy of the global one if None.
        autocast: `torch.bfloat16` to run the model in mixed precision, if it is evaluated so.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None.
        forward: `(model, batch) -> logits` as in `evaluate`.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        A `Diagnosis`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind, or inputs are in half precision,
            which rounds away the small steps that gradients are checked with.
        ValueError: If there are no batches, a shape or value is wrong, or an attack is targeted.

    Example:
        >>> batches = [(torch.rand(8, 2), torch.arange(8) % 2)]
        >>> rounded = lambda inputs: 5 * inputs.round()
        >>> diagnose(rounded, batches, eps=0.3)["zero gradients"].verdict
        'fail'

    References:
        Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 3.1;
        Carlini et al., On Evaluating Adversarial Robustness, arXiv 1902.06705, section 5;
        Carlini & Wagner, Defensive Distillation is Not Robust to Adversarial Examples, 2016;
        Pintor et al., Indicators of Attack Failure, NeurIPS 2022; Zimmermann et al., Increasing
        Confidence in Adversarial Robustness Evaluations, NeurIPS 2022.
    """
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(steps=steps, generator=generator)
    eps = _checks.number("eps", eps, above=0)
    _checks.choice("norm", norm, ("linf", "l2"))
    bounds = _batches.bounds_pair(bounds, finite=True)
    sources = {} if sources is None else named("sources", sources)
    attacks = {} if attacks is None else named("attacks", attacks, "attacks")
    for attack in attacks.values():
        away(attack, "give diagnose attacks away from the labels")
    if PGD in attacks:
        raise ValueError(f"expected names of attacks that are not taken, got {PGD!r}")
    modes = train_mode(model)
    parts = []
    with watching(warn=False), one_pass([model, *sources.values()], batches, way) as batch_parts:
        for part in batch_parts:
            inputs, labels = _batches.examples(part.floats.detach().clone(), part.labels)
            if inputs.dtype.itemsize < 4:
                found = _checks.kind(inputs)
                raise TypeError(f"expected inputs of float32 or float64, got {found}")
            least, most = (float(end) for end in inputs.aminmax())
            box = (min(bounds[0], least), max(bounds[1], most))
            generator = resolve(generator, inputs.device)
            with part.casting():
                bound = part.taking(model)
                probe = _probe.Probe(bound, inputs, labels, eps, norm, box, generator)
                others = {name: part.taking(source) for name, source in sources.items()}
                measured = probe.outputs() | probe.gradients()
                crafted = probe.plants(attacks) | probe.attacks(others, attacks, steps)
                parts.append(measured | crafted)
    seen = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return Diagnosis(len(seen["correct"]), findings(seen, modes, bounds, yours=bool(attacks)))
