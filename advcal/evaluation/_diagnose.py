"""Diagnose: the checks that a reviewer makes before believing a robust accuracy."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from advcal import _batches, _checks
from advcal._answers import watching
from advcal._frozen import bare
from advcal._markup import aligned, html
from advcal._pass import Way, one_pass
from advcal._random import resolve
from advcal._targets import away
from advcal._typing import Batch, Forward, Model, Progress
from advcal.evaluation import _probe
from advcal.evaluation._plant import DRAWS
from advcal.evaluation._transfer import named

Verdict = Literal["pass", "warn", "fail", "skip"]
SEVERITY: tuple[Verdict, ...] = ("skip", "pass", "warn", "fail")

_FEW, _MANY = 0.02, 0.1  # shares of the examples from which on a finding is a warning, a failure
_BEATEN = 0.05  # the share from which on it is a warning that one attack beats another
_SAME = 1e-4  # the relative change of logits from which on it is not rounding
_UNDERFLOW = 103.0  # the lead of a logit at which float32 cross-entropy has no gradient left
_EXPLODED = 1e6  # times the median size of a gradient
_KEPT = 0.1  # of the rise that a gradient promises
_MODELESS = "torch.ao.nn.quantized"  # layers that say they train, whatever they are told

_BY = "plant by "
_PGD = f"PGD of {_probe.STEPS} steps"

Seen = dict[str, Tensor]
Look = tuple[Verdict, str, dict[str, Any]]  # the verdict, the evidence and the numbers of a finding


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was checked.
        verdict: `"pass"`, `"warn"`, `"fail"`, or `"skip"` if the check does not apply.
        evidence: The reason, one sentence with its numbers.
        numbers: The numbers alone.
    """

    name: str
    verdict: Verdict
    evidence: str
    numbers: Mapping[str, Any]


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
    if _PGD in attacks:
        raise ValueError(f"expected names of attacks that are not taken, got {_PGD!r}")
    modes = _train_mode(model)
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
    checks = (*_CHECKS, *_YOURS) if attacks else _CHECKS
    findings = (_input_bounds(seen, bounds), modes, *(check.finding(seen) for check in checks))
    return Diagnosis(n=len(seen["correct"]), findings=findings)


# --- one check each --------------------------------------------------------------------------


def _input_bounds(seen: Seen, bounds: tuple[float, float]) -> Finding:
    low, high = float(seen["low"].min()), float(seen["high"].max())
    ends = torch.tensor(bounds, dtype=seen["low"].dtype, device="cpu")
    outside = (seen["low"] < ends[0]) | (seen["high"] > ends[1])
    return Finding(
        "input bounds",
        "fail" if outside.any() else "pass",
        f"{_of(outside)} examples are outside ({bounds[0]:g}, {bounds[1]:g}): "
        f"values run from {low:.3g} to {high:.3g}",
        {"outside": int(outside.sum()), "low": low, "high": high},
    )


def _train_mode(model: Model) -> Finding:
    name = "train mode"
    if not isinstance(model, nn.Module):
        return Finding(name, "skip", "the model is not an nn.Module, so it shows no mode", {})
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    switched = getattr(bare(model), "training", False)
    layers = {  # in a model that is put in eval mode, of these kinds only
        path or "the model": layer
        for path, layer in model.named_modules()
        if getattr(layer, "training", False) and not next(layer.children(), None)
        if isinstance(layer, kinds)
        or not (switched or type(layer).__module__.startswith(_MODELESS))
    }
    norms, dropouts = (sum(isinstance(each, kind) for each in layers.values()) for kind in kinds)
    words = [f"{path} ({type(layer).__name__})" for path, layer in layers.items()]
    found = f"{norms} BatchNorm and {dropouts} Dropout layers are in train mode"
    how = "the model is in eval mode itself, so they ran as they are"
    if switched:
        how = "this diagnosis ran in eval mode, call model.eval() before other evaluations"
    found += f": {', '.join(words)}; {how}" if words else ""
    harmless = [isinstance(each, nn.RNNBase) and not each.dropout for each in layers.values()]
    numbers = {"batch_norms": norms, "dropouts": dropouts, "layers": words}
    return Finding(name, "pass" if all(harmless) else "warn", found, numbers)


def _changed(key: str, how: str, seen: Seen) -> Look:
    largest = float(seen[key].max())
    words = f"{{}} examples get other logits {how}; the largest change is {_percent(largest)}"
    return _share(seen[key] > _SAME, f"{words} of the largest logit", {"largest": largest})


def _probabilities(seen: Seen) -> Look:
    likely = seen["probabilities"]
    evidence = f"{_of(likely)} rows of outputs are >= 0 and sum to 1"
    if likely.all():
        evidence += ": probabilities, where logits are expected"
    return "fail" if likely.all() else "pass", evidence, {"rows": int(likely.sum())}


def _logit_scale(seen: Seen) -> Look:
    median = float(seen["gap"].double().median())
    return _share(
        seen["gap"] > _UNDERFLOW,
        f"in {{}} examples the first logit leads by more than {_UNDERFLOW:g}, where float32 "
        f"cross-entropy has no gradient; the median lead is {median:.3g}",
        {"median_lead": median},
    )


def _zero_gradients(seen: Seen) -> Look:
    words = "in {} examples the gradient promises no change of the loss within eps beyond rounding"
    return _share(seen["zero"], words)


def _exploding_gradients(seen: Seen) -> Look:
    slope, finite = seen["slope"], seen["finite"]
    present = slope[slope > 0]
    median = float(present.median()) if len(present) else 0.0
    return _share(
        ~finite | ((slope > _EXPLODED * median) & (slope > 0)),
        f"in {{}} examples the gradient is not finite or beyond {_EXPLODED:g} times the median, "
        f"which is {median:.3g}",
        {"median": median, "largest": float(slope.max())},
    )


def _misleading_gradients(seen: Seen) -> Look:
    kept = seen["kept"][seen["usable"]]
    median = float(kept.median())
    return _share(
        kept < _KEPT,
        f"in {{}} examples small steps along the gradient raise the loss by less than "
        f"{_percent(_KEPT)} of what it promises; the median is {_percent(median)}",
        {"median_kept": median},
    )


def _piecewise_constant(seen: Seen) -> Look:
    words = "logits stay exactly the same as a few coordinates move by up to eps / 1000"
    return _share(seen["flat"], f"in {{}} examples {words}")


def _one_step(seen: Seen) -> Look:
    one, many, n = seen["one"], seen["many"], int(seen["correct"].sum())
    sets = {"one": one, "many": many, "only_one": one & ~many, "only_many": many & ~one}
    counts = {name: int(marked.sum()) for name, marked in sets.items()}
    lead = counts["only_one"] - counts["only_many"]
    chance = lead <= 2 * math.sqrt(counts["only_one"] + counts["only_many"])
    return (
        "pass" if chance else _graded(lead / len(one), few=_BEATEN),
        f"FGSM fools {counts['one']} and PGD of {_probe.STEPS} steps {counts['many']} of {n}; "
        f"{counts['only_one']} only FGSM, {counts['only_many']} only PGD",
        counts,
    )


def _beaten(prefix: str, by: str, seen: Seen) -> Look:
    each = {key: fooled for key, fooled in seen.items() if key.startswith(prefix)}
    fooled = torch.stack([*each.values()]).any(dim=0)
    n = int(fooled.sum())
    survivors = int((seen["correct"] & ~seen["one"] & ~seen["many"] & ~seen["again"]).sum())
    counts = {key: int(marked.sum()) for key, marked in each.items() if ": " in key}
    return (
        "pass" if n < 2 else _graded(float(fooled.double().mean()), few=_BEATEN),
        f"{by} fools {n} of the {survivors} examples that FGSM and PGD do not",
        {"fooled": n, "survivors": survivors, **counts},
    )


def _growing_eps(seen: Seen) -> Look:
    words = "correctly classified examples are never fooled, not even within the whole box"
    return _share(seen["radius"][seen["correct"]] == torch.inf, f"{{}} {words}")


def _planted(yours: bool, seen: Seen) -> Look:
    """Judge PGD, or the worst of your attacks."""
    n, chance = int(seen["plant"].sum()), int(seen["plant at random"].sum())
    named = {key.removeprefix(_BY): key for key in seen if key.startswith(_BY)}
    by = {name: int(seen[key].sum()) for name, key in named.items() if (name != _PGD) == yours}
    worst = min(by, key=by.__getitem__)
    return (
        _graded(1 - by[worst] / n, few=_BEATEN),
        f"{worst} finds {by[worst]} of {n} adversarial points that were planted, and "
        f"{DRAWS} random points for each find {chance}",
        {"planted": n, "random": chance, **by},
    )


# --- the checks, in order --------------------------------------------------------------------

_RANDOM = "outputs are random; average them first with attacks.expectation"
_NO_CORRECT = "no example is classified correctly, so that there is nothing to attack"
_NO_GRADIENT = "no example has a gradient to follow"
_NO_PLANT = "none of the points that were drawn moves the logits, so that none could be planted"
_NO_SOURCE = "no other model to craft on; pass sources="

_SKIPS: dict[str, Callable[[Seen], bool]] = {
    _RANDOM: lambda seen: bool((seen["random"] > _SAME).any()),
    _NO_CORRECT: lambda seen: not seen["correct"].any(),
    _NO_GRADIENT: lambda seen: not seen["usable"].any(),
    _NO_PLANT: lambda seen: not seen["plant"].any(),
    _NO_SOURCE: lambda seen: not any(name.startswith("transfer: ") for name in seen),
}


class _Check(NamedTuple):
    name: str
    look: Callable[[Seen], Look]
    skips: tuple[str, ...] = ()  # the reasons for which it may not apply

    def finding(self, seen: Seen) -> Finding:
        for reason in self.skips:
            if _SKIPS[reason](seen):
                return Finding(self.name, "skip", reason, {})
        verdict, evidence, numbers = self.look(seen)
        return Finding(self.name, verdict, evidence, numbers)


_ATTACKED = (_RANDOM, _NO_CORRECT)
_CRAFTED = (_NO_SOURCE, *_ATTACKED)

_CHECKS = (
    _Check("batch dependence", partial(_changed, "context", "among other neighbours"), (_RANDOM,)),
    _Check("random outputs", partial(_changed, "random", "at a second pass")),
    _Check("probabilities", _probabilities),
    _Check("logit scale", _logit_scale),
    _Check("zero gradients", _zero_gradients),
    _Check("exploding gradients", _exploding_gradients),
    _Check("misleading gradients", _misleading_gradients, (_RANDOM, _NO_GRADIENT)),
    _Check("piecewise constant", _piecewise_constant, (_RANDOM,)),
    _Check("one step beats many", _one_step, _ATTACKED),
    _Check("random search beats gradients", partial(_beaten, "search", "random search"), _ATTACKED),
    _Check("transfer beats gradients", partial(_beaten, "transfer", "transfer"), _CRAFTED),
    _Check("accuracy as eps grows", _growing_eps, _ATTACKED),
    _Check("planted adversary", partial(_planted, False), (_RANDOM, _NO_PLANT)),
)
_YOURS = (
    _Check(
        "an attack of yours beats gradients",
        partial(_beaten, "yours", "an attack of yours"),
        _ATTACKED,
    ),
    _Check("planted adversary, attacks of yours", partial(_planted, True), (_RANDOM, _NO_PLANT)),
)


# --- verdicts and words ----------------------------------------------------------------------


def _share(marked: Tensor, evidence: str, numbers: Mapping[str, Any] | None = None) -> Look:
    share = float(marked.double().mean())
    return _graded(share), evidence.format(_of(marked)), {"share": share, **(numbers or {})}


def _graded(share: float, few: float = _FEW) -> Verdict:
    return "fail" if share >= _MANY else "warn" if share >= few else "pass"


def _of(marked: Tensor) -> str:
    return f"{int(marked.sum())} of {len(marked)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
