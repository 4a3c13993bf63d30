"""The claims of Qin et al. (NeurIPS 2021) on AR-AdaLS, and what is found of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from evidence import Row, difference, higher, lower, paired, trend, untestable

Read = Callable[[str], Any]  # the content of a file of results
Values = Callable[[str, str], list[float]]  # of a figure and a method, for each seed

PLAIN, LS, ADALS = "vanilla", "label smoothing", "AdaLS"
AR, FLY, RANDOM = "AR-AdaLS, pre-computed", "AR-AdaLS, on the fly", "AR-AdaLS, random levels"
JOINED = f"ensemble of {PLAIN}"
CLEAN, SHIFTED = "clean ECE", "shifted ECE"
OURS = "ResNet-10, 3 seeds"
ONE = "3 ResNet-10, one ensemble each"

TABLE_2 = {  # ECE of a WRN-28-10 on CIFAR-10
    PLAIN: 0.0249,
    "temperature scaling": 0.0080,
    LS: 0.0107,
    ADALS: 0.0123,
    AR: 0.0064,
    "mixup": 0.0078,
    "CCAT": 0.0237,
    "Mix-n-Match": 0.0097,
    JOINED: 0.0090,
}
TABLE_3 = {PLAIN: 0.167, LS: 0.101, ADALS: 0.096, AR: 0.064}  # ResNet-29, 19 corruptions
ENSEMBLES = {  # the same, of five members
    JOINED: 0.065,
    f"ensemble of {LS}": 0.046,
    f"ensemble of {ADALS}": 0.052,
    f"ensemble of {AR}": 0.055,
    "AR-AdaLS of ensemble": 0.044,
}
N_TEST, N_SHIFTED = 4_000, 1_000  # images
AUROC = {LS: 0.832, "mixup": 0.821, AR: 0.885}  # CIFAR-100 from CIFAR-10 by entropy
MISSING = "not run with this network yet; the script has it"


def rows(read: Read) -> list[Row]:
    """Judge the tables row by row against plain training, then the claims, then the pictures."""
    shifts = read("shifts.json")
    values = of_shifts(shifts)
    return [
        *_table_2(shifts, values),
        *_table_3(values),
        *_before_and_on_the_fly(values),
        *_strange_images(values),
        *_against_each_other(read, values),
        *_ensembles(values),
        *_pictures(read, shifts, values),
        untestable("ImageNet, ResNet-101", "", "the images are not at hand"),
    ]


def of_shifts(shifts: dict[str, Any]) -> Values:
    """Read figures out of shifts.json."""

    def values(figure: str, method: str) -> list[float]:
        if figure == "AUROC":
            return [float(value) for value in shifts["auroc"][method]]
        when, name = figure.lower().split()
        found = shifts["figures"][method]
        sets = [each[name] for key, each in found.items() if (key == "clean") == (when == "clean")]
        return [statistics.fmean(of_seed) for of_seed in zip(*sets, strict=True)]

    return values


def _table_2(shifts: dict[str, Any], values: Values) -> list[Row]:
    found = [_level("table 2, CIFAR-10: ECE of plain training", TABLE_2[PLAIN], values, CLEAN)]
    for method, paper in TABLE_2.items():
        claim, gain = f"table 2: {method}, ECE against plain", paper - TABLE_2[PLAIN]
        if method == JOINED:
            joined, alone = (_of_one(values, "clean", each) for each in (JOINED, PLAIN))
            found.append(lower(claim, gain, difference(joined, alone, "ece", N_TEST), ONE))
        elif method not in shifts["figures"]:
            found.append(untestable(claim, f"{gain:+.3f}", MISSING))
        elif method != PLAIN:
            change = paired(values(CLEAN, method), values(CLEAN, PLAIN))
            found.append(lower(claim, gain, change, OURS))
    reason = "too few of its images are at hand"
    return [*found, untestable("table 2, CIFAR-100: all nine rows", "", reason)]


def _table_3(values: Values) -> list[Row]:
    found = [
        _level("table 3, figure 3: shifted ECE of plain training", TABLE_3[PLAIN], values, SHIFTED)
    ]
    for method, paper in TABLE_3.items():
        if method != PLAIN:
            claim = f"table 3, figure 3: {method}, shifted ECE against plain"
            change = paired(values(SHIFTED, method), values(SHIFTED, PLAIN))
            found.append(lower(claim, paper - TABLE_3[PLAIN], change, OURS))
    return found


def _level(claim: str, paper: float, values: Values, figure: str) -> Row:
    ours = f"{statistics.fmean(values(figure, PLAIN)):.3f}"
    reason = "another network: right on two images of three"
    if figure == SHIFTED:
        reason += ", other corruptions"
    return untestable(claim, f"{paper:.3f}", reason, ours, OURS)


def _before_and_on_the_fly(values: Values) -> list[Row]:
    reason = "the paper's are of CIFAR-100"
    return [
        lower(
            f"AR-AdaLS on the fly against pre-computed, {figure}",
            paper,
            paired(values(figure, FLY), values(figure, AR)),
            OURS,
            reason,
        )
        for figure, paper in ((CLEAN, -0.003), (SHIFTED, -0.010))
    ]


def _strange_images(values: Values) -> list[Row]:
    claim = "figure 4, strange images: AUROC of {} against label smoothing"
    found = paired(values("AUROC", AR), values("AUROC", LS))
    mixup = f"{AUROC['mixup'] - AUROC[LS]:+.3f}"
    return [
        higher(claim.format("AR-AdaLS"), AUROC[AR] - AUROC[LS], found, OURS),
        untestable(claim.format("mixup"), mixup, MISSING),
    ]


def _against_each_other(read: Read, values: Values) -> list[Row]:
    sources = {OURS: values}
    for kind, name in (("small_cnn", "small CNN, 3 seeds"), ("digits", "digits, 5 seeds")):
        sources[name] = _of_runs(read(f"adaptive_smoothing-{kind}.json")["runs"])
    found = []
    for claim, one, other in (
        ("AR-AdaLS is better calibrated than label smoothing", AR, LS),
        ("AR-AdaLS is better calibrated than AdaLS", AR, ADALS),
        ("levels by robustness are better than levels at random", AR, RANDOM),
    ):
        paper = TABLE_2[one] - TABLE_2[other] if other in TABLE_2 else None
        for name, each in sources.items():
            change = paired(each(CLEAN, one), each(CLEAN, other))
            found.append(lower(claim, paper, change, name))
    for other in (LS, ADALS):
        claim = f"under shift, AR-AdaLS is better calibrated than {other}"
        change = paired(values(SHIFTED, AR), values(SHIFTED, other))
        found.append(lower(claim, TABLE_3[AR] - TABLE_3[other], change, OURS))
    return found


def _of_runs(runs: list[dict[str, Any]]) -> Values:
    return lambda figure, method: [float(run[method][figure]) for run in runs]


def _ensembles(values: Values) -> list[Row]:
    """Compare ensembles, of which there is one each, over the test images."""
    whole, parts = "AR-AdaLS of ensemble", f"ensemble of {AR}"
    level = f"{values(SHIFTED, JOINED)[0]:.3f}"
    reason = "other corruptions, another network"
    claim = f"ensembles under shift: ECE of {JOINED}"
    found = [untestable(claim, f"{ENSEMBLES[JOINED]:.3f}", reason, level, ONE)]
    plain = _of_one(values, "shifted", JOINED)
    for method, paper in ENSEMBLES.items():
        if method != JOINED:
            change = difference(_of_one(values, "shifted", method), plain, "ece", N_SHIFTED)
            claim = f"ensembles under shift: {method} against {JOINED}"
            found.append(lower(claim, paper - ENSEMBLES[JOINED], change, ONE))
    for when, n in (("clean", N_TEST), ("shifted", N_SHIFTED)):
        one, other = (_of_one(values, when, method) for method in (whole, parts))
        claim = f"AR-AdaLS of ensemble against ensemble of AR-AdaLS, {when} ECE"
        gain = ENSEMBLES[whole] - ENSEMBLES[parts] if when == "shifted" else None
        found.append(lower(claim, gain, difference(one, other, "ece", n), ONE))
    return found


def _of_one(values: Values, when: str, method: str) -> dict[str, float]:
    """Take the figures of one network, or the mean over the seeds."""
    return {
        name.lower(): statistics.fmean(values(f"{when} {name}", method))
        for name in ("accuracy", "ECE")
    }


def _pictures(read: Read, shifts: dict[str, Any], values: Values) -> list[Row]:
    """Follow the figures from the least robust level to the most robust one."""
    sources = {
        "ResNet-10, mean of 3 seeds": shifts["levels"][PLAIN],
        "small CNN, 1 seed, 500 images": read("networks.json")["levels"],
    }
    found = []
    for judge, claim, name in (
        (higher, "figure 1: the more robust, the more often right", "accuracy"),
        (lower, "figure 1: the more robust, the better calibrated", "ece"),
        (lower, "figure 2: the more robust, the less variance over seeds", "variance"),
    ):
        for networks, levels in sources.items():
            if name in levels[0]:
                ranks = trend([level[name] for level in levels])
                reason = "rank correlation (Kendall) over ten levels"
                found.append(judge(claim, None, ranks, networks, reason))
    more = paired(values(CLEAN, "AR-AdaLS, R = 30"), values(CLEAN, "AR-AdaLS, R = 3"))
    return [
        *found,
        lower("figure 5: 30 levels calibrate better than 3", None, more, OURS),
    ]
