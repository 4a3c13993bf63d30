"""The claims of Qin et al. (NeurIPS 2021) on AR-AdaLS, and what is found of them."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from evidence import Row, difference, higher, lower, paired, trend, untestable

Read = Callable[[str], Any]  # the content of a file of results
Values = Callable[[str, str], list[float]]  # of a figure and a method, for each seed

PLAIN, LS, ADALS = "vanilla", "label smoothing", "AdaLS"
AR, FLY, RANDOM = "AR-AdaLS, pre-computed", "AR-AdaLS, on the fly", "AR-AdaLS, random levels"
JOINED = f"ensemble of {PLAIN}"
CLEAN, SHIFTED = "clean ECE", "shifted ECE"
SMALLER = {"small_cnn": "small CNN, 3 seeds", "digits": "digits, 5 seeds"}

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
AUROC = {LS: 0.832, "mixup": 0.821, AR: 0.885}  # CIFAR-100 from CIFAR-10 by entropy
N_SHIFTED = 1_000  # images
MISSING = "not run with this network yet; the script has it"


class Network(NamedTuple):
    """What is found of one network.

    Attributes:
        shifts: The content of the file of shifts_and_ensembles.py.
        runs: What adaptive_smoothing.py found of methods that are not in it, for each seed.
        name: What to call it, and how many seeds of it there are.
        joined: What to call its ensembles.
        n_test: How many images it was tested on as they are.
        right: How often it is right.
        contrary: Why the contrary of a claim on images as they are shows, if it does.
    """

    shifts: dict[str, Any]
    runs: dict[str, list[dict[str, float]]]
    name: str
    joined: str
    n_test: int
    right: str
    contrary: str = ""

    def values(self, figure: str, method: str) -> list[float]:
        """Read a figure of a method, for each seed."""
        if method in self.shifts["figures"]:
            return of_shifts(self.shifts)(figure, method)
        return [run[figure] for run in self.runs[method]]


def rows(read: Read) -> list[Row]:
    """Judge the tables row by row against plain training, then the claims, then the pictures."""
    networks = [
        Network(
            read("shifts-quarter.json"),
            read("adaptive_smoothing-fastnet_quarter.json")["runs"],
            "quarter of fastnet, 3 seeds",
            "3 quarters of fastnet, one ensemble each",
            8_000,
            "right on five images of six",
            "the plain network is underconfident already",
        ),
        Network(
            read("shifts.json"),
            {},
            "ResNet-10, 3 seeds",
            "3 ResNet-10, one ensemble each",
            4_000,
            "right on two images of three",
        ),
    ]
    parts = (
        _table_2,
        _table_3,
        _before_and_on_the_fly,
        _strange_images,
        functools.partial(_against_each_other, read),
        _ensembles,
        functools.partial(_pictures, read),
    )
    reasons = {name: each.contrary for each in networks for name in (each.name, each.joined)}
    found = [row for part in parts for row in _by_claim(part(networks))]
    found = [
        row._replace(reason=reasons[row.network])
        if row.verdict.endswith("contrary") and "shift" not in row.claim
        else row
        for row in found
    ]
    reason = "too few of its images are at hand"
    return [
        *found,
        untestable("table 2, CIFAR-100: all nine rows", "", reason),
        untestable("ImageNet, ResNet-101", "", "the images are not at hand"),
    ]


def _by_claim(found: Iterable[Row]) -> list[Row]:
    """Put the rows of a claim beside each other, claims in the order of their first rows."""
    claims: dict[str, list[Row]] = {}
    for row in found:
        claims.setdefault(row.claim, []).append(row)
    return [row for of_claim in claims.values() for row in of_claim]


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


def _table_2(networks: Sequence[Network]) -> Iterator[Row]:
    for network in networks:
        claim = "table 2, CIFAR-10: ECE of plain training"
        yield _level(claim, TABLE_2[PLAIN], network, CLEAN)
        for method, paper in TABLE_2.items():
            claim, gain = f"table 2: {method}, ECE against plain", paper - TABLE_2[PLAIN]
            if method == JOINED:
                joined, alone = (_of_one(network, "clean", each) for each in (JOINED, PLAIN))
                change = difference(joined, alone, "ece", network.n_test)
                yield lower(claim, gain, change, network.joined)
            elif method not in network.shifts["figures"] | network.runs:
                yield untestable(claim, f"{gain:+.3f}", MISSING, network=network.name)
            elif method != PLAIN:
                yield _change(claim, gain, network, CLEAN, method, PLAIN)


def _table_3(networks: Sequence[Network]) -> Iterator[Row]:
    for network in networks:
        claim = "table 3, figure 3: shifted ECE of plain training"
        yield _level(claim, TABLE_3[PLAIN], network, SHIFTED)
        for method, paper in TABLE_3.items():
            if method != PLAIN:
                claim = f"table 3, figure 3: {method}, shifted ECE against plain"
                yield _change(claim, paper - TABLE_3[PLAIN], network, SHIFTED, method, PLAIN)


def _level(claim: str, paper: float, network: Network, figure: str) -> Row:
    ours = f"{statistics.fmean(network.values(figure, PLAIN)):.3f}"
    reason = f"another network: {network.right}"
    if figure == SHIFTED:
        reason += ", other corruptions"
    return untestable(claim, f"{paper:.3f}", reason, ours, network.name)


def _change(
    claim: str,
    paper: float | None,
    network: Network,
    figure: str,
    method: str,
    other: str,
    reason: str = "",
) -> Row:
    """Judge whether a method takes from a figure of another, over the seeds."""
    change = paired(network.values(figure, method), network.values(figure, other))
    return lower(claim, paper, change, network.name, reason)


def _before_and_on_the_fly(networks: Sequence[Network]) -> Iterator[Row]:
    reason = "the paper's are of CIFAR-100"
    for network in networks:
        for figure, paper in ((CLEAN, -0.003), (SHIFTED, -0.010)):
            claim = f"AR-AdaLS on the fly against pre-computed, {figure}"
            yield _change(claim, paper, network, figure, FLY, AR, reason)


def _strange_images(networks: Sequence[Network]) -> Iterator[Row]:
    for network in networks:
        for judge, name, method in ((higher, "AR-AdaLS", AR), (lower, "mixup", "mixup")):
            claim = f"figure 4, strange images: AUROC of {name} against label smoothing"
            paper = AUROC[method] - AUROC[LS]
            if method in network.shifts["auroc"]:
                found = paired(network.values("AUROC", method), network.values("AUROC", LS))
                yield judge(claim, paper, found, network.name)
            else:
                yield untestable(claim, f"{paper:+.3f}", MISSING, network=network.name)


def _against_each_other(read: Read, networks: Sequence[Network]) -> Iterator[Row]:
    sources: dict[str, Values] = {network.name: network.values for network in networks}
    for kind, name in SMALLER.items():
        sources[name] = _of_runs(read(f"adaptive_smoothing-{kind}.json")["runs"])
    for claim, one, other in (
        ("AR-AdaLS is better calibrated than label smoothing", AR, LS),
        ("AR-AdaLS is better calibrated than AdaLS", AR, ADALS),
        ("levels by robustness are better than levels at random", AR, RANDOM),
    ):
        paper = TABLE_2[one] - TABLE_2[other] if other in TABLE_2 else None
        for name, each in sources.items():
            change = paired(each(CLEAN, one), each(CLEAN, other))
            yield lower(claim, paper, change, name)
    for other in (LS, ADALS):
        claim = f"under shift, AR-AdaLS is better calibrated than {other}"
        for network in networks:
            yield _change(claim, TABLE_3[AR] - TABLE_3[other], network, SHIFTED, AR, other)


def _of_runs(runs: list[dict[str, Any]]) -> Values:
    return lambda figure, method: [float(run[method][figure]) for run in runs]


def _ensembles(networks: Sequence[Network]) -> Iterator[Row]:
    """Compare ensembles, of which there is one each, over the test images."""
    whole, parts = "AR-AdaLS of ensemble", f"ensemble of {AR}"
    for network in networks:
        level = f"{network.values(SHIFTED, JOINED)[0]:.3f}"
        reason = "other corruptions, another network"
        claim = f"ensembles under shift: ECE of {JOINED}"
        yield untestable(claim, f"{ENSEMBLES[JOINED]:.3f}", reason, level, network.joined)
        plain = _of_one(network, "shifted", JOINED)
        for method, paper in ENSEMBLES.items():
            if method != JOINED:
                one = _of_one(network, "shifted", method)
                change = difference(one, plain, "ece", N_SHIFTED)
                claim = f"ensembles under shift: {method} against {JOINED}"
                yield lower(claim, paper - ENSEMBLES[JOINED], change, network.joined)
        for when, n in (("clean", network.n_test), ("shifted", N_SHIFTED)):
            one, other = (_of_one(network, when, method) for method in (whole, parts))
            claim = f"AR-AdaLS of ensemble against ensemble of AR-AdaLS, {when} ECE"
            gain = ENSEMBLES[whole] - ENSEMBLES[parts] if when == "shifted" else None
            yield lower(claim, gain, difference(one, other, "ece", n), network.joined)


def _of_one(network: Network, when: str, method: str) -> dict[str, float]:
    """Take the figures of one network, or the mean over the seeds."""
    return {
        name.lower(): statistics.fmean(network.values(f"{when} {name}", method))
        for name in ("accuracy", "ECE")
    }


def _pictures(read: Read, networks: Sequence[Network]) -> Iterator[Row]:
    """Follow the figures from the least robust level to the most robust one."""
    sources = {
        network.name.replace(", ", ", mean of "): network.shifts["levels"][PLAIN]
        for network in networks
    }
    sources["small CNN, 1 seed, 500 images"] = read("networks.json")["levels"]
    reason = "rank correlation (Kendall) over ten levels"
    for judge, claim, name in (
        (higher, "figure 1: the more robust, the more often right", "accuracy"),
        (lower, "figure 1: the more robust, the better calibrated", "ece"),
        (lower, "figure 2: the more robust, the less variance over seeds", "variance"),
    ):
        for source, levels in sources.items():
            if name in levels[0]:
                yield judge(claim, None, trend([level[name] for level in levels]), source, reason)
    for network in networks:
        claim, most, least = "figure 5: 30 levels calibrate better than 3", "R = 30", "R = 3"
        yield _change(claim, None, network, CLEAN, f"AR-AdaLS, {most}", f"AR-AdaLS, {least}")
