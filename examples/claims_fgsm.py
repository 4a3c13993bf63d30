"""The claims of the course project on FGSM adversarial training, and what is found of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evidence import Record, Row, difference, figure, higher, lower, near, untestable

Read = Callable[[str], Any]  # the content of a file of results
Key = tuple[str, str, str]  # training, attack and figure

PLAIN, TRAINED = "standard", "FGSM-AT"
NETWORKS = ("published_cnn", "small_cnn")
TABLE = {  # of the project's small CNN
    (PLAIN, "none", "accuracy"): 0.7496,
    (PLAIN, "FGSM", "accuracy"): 0.0620,
    (PLAIN, "PGD-10", "accuracy"): 0.0029,
    (PLAIN, "none", "ece"): 0.1591,
    (PLAIN, "FGSM", "ece"): 0.8835,
    (TRAINED, "none", "accuracy"): 0.6200,
    (TRAINED, "FGSM", "accuracy"): 0.3525,
    (TRAINED, "PGD-10", "accuracy"): 0.2913,
    (TRAINED, "none", "ece"): 0.1084,
    (TRAINED, "FGSM", "ece"): 0.1152,
}
TABLE_LARGE = {  # of its ResNet-18
    (PLAIN, "none", "accuracy"): 0.8155,
    (PLAIN, "FGSM", "accuracy"): 0.0173,
    (PLAIN, "PGD-10", "accuracy"): 0.0000,
    (PLAIN, "none", "ece"): 0.1278,
    (PLAIN, "FGSM", "ece"): 0.9477,
}
REASONS = {
    (PLAIN, "FGSM", "accuracy"): "a JPEG copy of the images, or chance: one seed each",
    (PLAIN, "FGSM", "ece"): "as sure as there, and less often right",
    (TRAINED, "none", "ece"): "underconfident by as much; one seed each",
    (TRAINED, "FGSM", "ece"): "overconfident by as much; one seed each",
}
NAMES = {"none": "clean", "accuracy": "accuracy", "ece": "ECE"}


def rows(read: Read) -> list[Row]:
    """Judge the table number by number, then the claims on two networks, then the sweep."""
    records = {name: read(f"{name}.json")["results"] for name in NETWORKS}
    large = read("resnet18.json")["results"]
    found = _of_table(records["published_cnn"], TABLE, "table", "published_cnn", REASONS)
    found += _of_table(large, TABLE_LARGE, "table, ResNet-18", "resnet18", {})
    said, reason = ".654, .315, .252; .117, .442", "not trained yet: hours of a processor"
    found += [untestable(f"table, ResNet-18, {TRAINED}", said, reason)]
    for name in NETWORKS:
        found += _claims(records[name], f"{name}, 1 seed")
    found += _sweep(read("beyond_fgsm.json")["sweep"])
    return [*found, *_larger(large, records["published_cnn"])]


def _of_table(
    records: dict[str, Record],
    paper: dict[Key, float],
    title: str,
    network: str,
    why: dict[Key, str],
) -> list[Row]:
    found = []
    for key, value in paper.items():
        training, attack, name = key
        record = records[f"{training} / {attack}"]
        words = f"{title}, {training}: {NAMES.get(attack, attack)} {NAMES[name]}"
        ours = figure(record, name, record["n"])
        found.append(near(words, value, ours, f"{network}, 1 seed", why.get(key, "")))
    return found


def _larger(large: dict[str, Record], small: dict[str, Record]) -> list[Row]:
    """Compare the two networks after plain training."""
    network, found = "resnet18 and published_cnn, 1 seed", []
    for attack, name, words in (
        ("none", "accuracy", "ResNet-18 is more accurate than the CNN, plainly trained"),
        ("FGSM", "ece", "ResNet-18 is less calibrated under FGSM, plainly trained"),
    ):
        one, other = (each[f"{PLAIN} / {attack}"] for each in (large, small))
        paper = TABLE_LARGE[PLAIN, attack, name] - TABLE[PLAIN, attack, name]
        found.append(higher(words, paper, difference(one, other, name, one["n"]), network))
    return found


def _claims(records: dict[str, Record], network: str) -> list[Row]:
    def change(to: tuple[str, str], since: tuple[str, str], name: str) -> tuple[float, Any, str]:
        one, other = (records[" / ".join(key)] for key in (to, since))
        paper = TABLE[*to, name] - TABLE[*since, name]
        return paper, difference(one, other, name, one["n"]), network

    clean, fgsm, pgd = ((PLAIN, attack) for attack in ("none", "FGSM", "PGD-10"))
    clean_at, fgsm_at, pgd_at = ((TRAINED, attack) for attack in ("none", "FGSM", "PGD-10"))
    return [
        lower("plain training: FGSM makes it wrong", *change(fgsm, clean, "accuracy")),
        lower("plain training: PGD-10 leaves less than FGSM", *change(pgd, fgsm, "accuracy")),
        higher("plain training: FGSM raises the ECE", *change(fgsm, clean, "ece")),
        higher("FGSM-AT withstands FGSM better", *change(fgsm_at, fgsm, "accuracy")),
        higher("FGSM-AT withstands PGD-10 better", *change(pgd_at, pgd, "accuracy")),
        lower("FGSM-AT costs clean accuracy", *change(clean_at, clean, "accuracy")),
        lower("FGSM-AT is better calibrated under FGSM", *change(fgsm_at, fgsm, "ece")),
        lower("FGSM-AT is better calibrated on clean images", *change(clean_at, clean, "ece")),
    ]


def _sweep(sweep: dict[str, Record]) -> list[Row]:
    """Compare the largest radius with none, and one network with the other there."""

    def at(training: str, radius: int) -> Record:
        return sweep[f"{training} / FGSM / {radius}/255"]

    network = "small_cnn of 6 epochs, 1 seed, 500 images"
    plain, trained = ((at(name, 0), at(name, 16)) for name in (PLAIN, TRAINED))
    return [
        higher(
            "sweep, standard: ECE rises with the radius, 0 to 16/255",
            None,
            difference(plain[1], plain[0], "ece", 500),
            network,
        ),
        lower(
            "sweep, FGSM-AT: accuracy falls with the radius, 0 to 16/255",
            None,
            difference(trained[1], trained[0], "accuracy", 500),
            network,
        ),
        lower(
            "sweep: at 16/255 FGSM-AT has the lower ECE",
            None,
            difference(trained[1], plain[1], "ece", 500),
            network,
        ),
    ]
