"""The claims of Cheng et al. (arXiv 2504.06358) on inverse attacks, and what is found of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from evidence import Found, Row, difference, figure, higher, lower, near, paired, untestable

Read = Callable[[str], Any]  # the content of a file of results
Studies = dict[str, dict[str, Any]]  # of each network

CNN = "small CNN, 1 seed, 500 images"
PHOTOGRAPHS = "EfficientNet-Lite0, 20 photographs"
NETWORKS = {"small_cnn": "small CNN", "fastnet_quarter": "quarter of fastnet"}
TABLE_3 = {"ResNet-18": -0.689, "MobileNet": -0.719, "VGG-19": -0.240}  # MCS at a radius of .03


class Claim(NamedTuple):
    """That a figure under an attack is lower, or higher, for one defense than for another."""

    figure: str
    attack: str
    method: str
    other: str
    words: str
    lower: bool = True
    reason: str = ""  # why it does not show, if it does not


CLAIMS = (
    Claim("|mcs|", "IAA", "IAT", "standard", "IAT withstands IAA better than plain training"),
    Claim(
        "|mcs|",
        "PGD-20",
        "IAT",
        "standard",
        "IAT withstands PGD better than plain training",
        reason="its examples give the label away",
    ),
    Claim("|mcs|", "IAA", "AT+IAT", "standard", "AT+IAT withstands IAA better than plain training"),
    Claim("|mcs|", "IAA", "AT+IAT", "PGD-AT", "AT+IAT withstands IAA better than PGD-AT"),
    Claim(
        "|mcs|",
        "IAA, predicted",
        "AT+IAT",
        "PGD-AT",
        "AT+IAT withstands IAA of the predicted label better than PGD-AT",
    ),
    Claim("|mcs|", "UCA", "AT+IAT", "PGD-AT", "AT+IAT withstands UCA better than PGD-AT"),
    Claim(
        "|mcs|",
        "PGD-20",
        "AT+IAT",
        "PGD-AT",
        "AT+IAT withstands PGD better than PGD-AT",
        reason="half of its loss is of inverse examples",
    ),
    Claim(
        "accuracy",
        "PGD-20",
        "AT+IAT",
        "standard",
        "AT+IAT is right more often under PGD than plain training",
        lower=False,
    ),
    Claim(
        "ece",
        "none",
        "AT+IAT",
        "standard",
        "AT+IAT is better calibrated than plain training",
        reason="the plain network is calibrated already",
    ),
    Claim("ece", "none", "AT+IAT", "PGD-AT", "AT+IAT is better calibrated than PGD-AT"),
    Claim("|mcs|", "IAA", "CCAT", "PGD-AT", "CCAT is more exposed to IAA than PGD-AT", lower=False),
    Claim(
        "|mcs|",
        "IAA",
        "entropy-AT",
        "PGD-AT",
        "entropy-AT, in place of ACE-AT, is more exposed to IAA than PGD-AT",
        lower=False,
    ),
)


def rows(read: Read) -> list[Row]:
    """Judge the claims on the attack, then those on the defenses, then those on transfer."""
    networks = read("networks.json")
    names = ("defenses.json", "defenses-quarter.json", "defenses-fastnet.json")
    digits, cifar10 = read("inverse_digits.json"), _two_networks(read("cifar10.json"))
    studies = [digits, cifar10, *(read(name) for name in names)]
    return [
        *_photographs(read("imagenet.json")["images"]),
        *_signs(studies),
        *_radii(networks),
        *_lambdas(networks["lambda"]["published"]),
        *_defenses(studies),
        *_transfer(networks["transfer"]["IAA"]),
    ]


def _photographs(images: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """Compare the same photographs with and without an attack."""

    def sure(key: str) -> list[float]:
        return [float(each["confidence"]) for each in images[key]]

    def gaps(key: str) -> list[float]:
        return [each["confidence"] - (each["prediction"] == each["label"]) for each in images[key]]

    iaa, pgd = "IAA, as published / 1/255", "PGD / 1/255"
    return [
        lower(
            "figures 1 and 8: IAA takes the confidence away, 1/255",
            None,
            paired(sure(iaa), sure("none")),
            PHOTOGRAPHS,
            "every answer is right then; another network and other photographs",
        ),
        higher(
            "figures 1 and 8: PGD makes wrong and sure: MCS, 1/255",
            None,
            paired(gaps(pgd), gaps("none")),
            PHOTOGRAPHS,
        ),
    ]


def _signs(studies: list[Studies]) -> list[Row]:
    """Ask of every plain network whether noise, PGD and IAA move its MCS as the paper says."""
    found = []
    for study in studies:
        compared = _compare(study, "mcs", ("standard", "noise"), ("standard", "none"))
        if compared is not None:
            claim = "noise leaves the MCS of a plain network as it is"
            found.append(near(claim, 0.0, *compared, sign="+"))
    for attack, judge in (("PGD-20", higher), ("IAA", lower), ("IAA, predicted", lower)):
        verb = "raises" if judge is higher else "lowers"
        for study in studies:
            compared = _compare(study, "mcs", ("standard", attack), ("standard", "none"))
            if compared is not None:
                name = {"PGD-20": "PGD", "IAA": "IAA"}.get(attack, "IAA of the predicted label")
                claim = f"{name} {verb} the MCS of a plain network"
                found.append(judge(claim, None, *compared))
    return found


def _compare(
    studies: Studies, name: str, one: tuple[str, str], other: tuple[str, str]
) -> tuple[Found, str] | None:
    """Compare two pairs of a defense and an attack, and name the network; None if one is not there.

    Over the seeds that both have, or over images if that is one.
    """
    of_one, of_other = (_by_seed(studies, *pair) for pair in (one, other))
    seeds = sorted(of_one.keys() & of_other.keys())
    if not seeds:
        return None
    figure_name, distance = name.strip("|"), name.startswith("|")
    settings = next(s["settings"] for s in studies.values() if s["defense"] == one[0])
    network = NETWORKS.get(model := settings.get("model", "small_cnn"), model)
    inputs = "digits" if model == "perceptron" else "images"
    network += f" on {settings['n_train']:,} {inputs}"
    if len(seeds) == 1:
        records = of_one[seeds[0]], of_other[seeds[0]]
        found = difference(*records, figure_name, settings["n_test"], distance=distance)
        return found, f"{network}, 1 seed"
    values, others = (
        [abs(found[s][figure_name]) if distance else found[s][figure_name] for s in seeds]
        for found in (of_one, of_other)
    )
    return paired(values, others), f"{network}, {len(seeds)} seeds"


def _by_seed(studies: Studies, defense: str, attack: str) -> dict[int, dict[str, float]]:
    return {
        int(study["settings"]["seed"]): study["results"][attack]
        for study in studies.values()
        if study["defense"] == defense and attack in study["results"]
    }


def _two_networks(study: dict[str, Any]) -> Studies:
    """Bring the figures of examples/cifar10.py into the form of examples/defenses.py."""
    attacks = {
        "none": "none",
        "noise": "uniform noise",
        "PGD-20": "PGD-10",
        "IAA": "IAA",
        "IAA, predicted": "IAA, predicted label (UCA-like)",
    }
    return {
        defense: {
            "defense": defense,
            "settings": study["settings"] | {"model": "small_cnn"},
            "results": {
                attack: study["results"][f"{defense} / {name}"] for attack, name in attacks.items()
            },
        }
        for defense in ("standard", "AT+IAT")
    }


def _radii(networks: dict[str, Any]) -> list[Row]:
    """Read MCS at the paper's radii."""
    pgd = _at(networks["radius"]["PGD"])
    published, accepted = (_at(networks["lambda"][form]["5.0"]) for form in ("published", "accept"))
    claim = "figures 5 to 7: MCS under PGD, ResNet-18, radius .02"
    reason = "higher than there; another network, the best iterate"
    found = [near(claim, 0.85, figure(pgd[0.02], "mcs", 500), CNN, reason, "+")]
    ours = f"{published[0.03]['mcs']:+.3f}, accepted steps {accepted[0.03]['mcs']:+.3f}"
    reason = "not measured yet; ours is of another network"
    for network, paper in TABLE_3.items():
        claim = f"table 3: MCS under IAA, {network}, radius .03"
        found.append(untestable(claim, f"{paper:+.3f}", reason, ours, CNN))
    return found


def _at(records: list[dict[str, float]]) -> dict[float, dict[str, float]]:
    return {record["eps"]: record for record in records}


def _lambdas(published: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Compare the largest λ with the smallest."""
    large, small = (_at(published[lam])[0.03] for lam in ("10.0", "1.0"))
    return [
        lower(
            f"figures 2 and 4: λ = 10 leaves less {name} than λ = 1, radius .03",
            None,
            difference(large, small, name, 500),
            CNN,
        )
        for name in ("confidence", "accuracy")
    ]


def _defenses(studies: list[Studies]) -> list[Row]:
    """Judge each claim on every network that can be asked."""
    found = []
    for claim in CLAIMS:
        judge = lower if claim.lower else higher
        for study in studies:
            pairs = ((claim.method, claim.attack), (claim.other, claim.attack))
            compared = _compare(study, claim.figure, *pairs)
            if compared is not None:
                row = judge(claim.words, None, *compared)
                shows = row.verdict == "reproduced"
                found.append(row if shows else row._replace(reason=claim.reason))
    return [
        *found,
        untestable("ACE-AT is exposed to IAA", "", "its loss is not public"),
        untestable("table 1: the defenses on CIFAR-10", "", "empty in the paper; ours is below"),
        untestable(
            "table 2: the same on other images", "", "empty in the paper; ours of digits is below"
        ),
    ]


def _transfer(mcs: dict[str, float]) -> list[Row]:
    """Judge IAA that is crafted on one network and scored on another."""
    found = []
    for source in ("FGSM-AT", "AT+IAT"):
        for to, reason in (
            ("standard", ""),
            *((to, "underconfident without an attack") for to in ("FGSM-AT", "AT+IAT")),
        ):
            if source != to:
                claim = f"table 3: MCS under IAA from another network, {source} to {to}"
                record = {"accuracy": 0.5, "mcs": mcs[f"{source} to {to}"]}
                carried = figure(record, "mcs", 500)
                found.append(near(claim, (0.02, 0.07), carried, CNN, reason, "+"))
    return found
