"""Craft on one model, score on another: a matrix over models in one call."""

from functools import partial

import pytest
import torch
from torch import nn

from advcal.attacks import fgsm, pgd
from advcal.evaluation import evaluate, table, transfer
from tests.attacks.cases import Counted, delicate, examples, linear, mlp, state

ATTACK = partial(pgd, eps=0.2, steps=3, random_start=False)
MODELS = {"mlp": mlp(), "linear": linear(), "other": mlp(seed=1)}
BATCHES = [examples(9, seed=1), examples(4, seed=2)]
FIGURES = ("n", "accuracy", "confidence", "ece", "mce", "mcs", "nll", "brier")


def crafted_on(source):
    return lambda model, inputs, labels: ATTACK(source, inputs, labels)


def figures(record):
    return {name: getattr(record, name) for name in (*FIGURES, "clean_accuracy", "unchanged")}


def test_every_record_is_an_evaluation_of_the_target_under_the_sources_attack():
    records = transfer(MODELS, MODELS, BATCHES, ATTACK)
    assert list(records) == [(source, target) for source in MODELS for target in MODELS]
    for (source, target), record in records.items():
        wanted = evaluate(MODELS[target], BATCHES, crafted_on(MODELS[source]))
        assert figures(record) == figures(wanted)


def test_the_white_box_is_the_strongest():
    records = transfer(MODELS, MODELS, BATCHES, ATTACK)
    for (_, target), record in records.items():
        assert records[target, target].accuracy <= record.accuracy
    assert records["mlp", "mlp"].accuracy < records["other", "mlp"].accuracy


def test_sources_are_attacked_once_and_targets_run_once():
    sources = {name: Counted(MODELS[name]) for name in ("mlp", "linear")}
    targets = {name: Counted(MODELS[name]) for name in ("mlp", "other", "linear")}
    transfer(sources, targets, BATCHES, ATTACK)
    assert {model.forwards for model in sources.values()} == {len(BATCHES) * 4}
    assert {model.backwards for model in sources.values()} == {len(BATCHES) * 3}
    assert {model.forwards for model in targets.values()} == {len(BATCHES) * (1 + 2)}
    assert {model.backwards for model in targets.values()} == {0}


def test_records_go_into_a_table():
    records = transfer(MODELS, {"mlp": MODELS["mlp"]}, iter(BATCHES), ATTACK, n_bins=5)
    lines = table(records, columns=("source", "target"), figures=["accuracy"]).splitlines()
    assert lines[0].split("|")[1:3] == [" source ", " target "]
    assert len(lines) == 2 + 3
    assert records["linear", "mlp"].bins.n_bins == 5


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_models_stay_as_they_were(mode):
    models = {"a": delicate(), "b": delicate()}
    before = [state(model) for model in models.values()]
    with mode():
        transfer(models, models, BATCHES, ATTACK)
    assert [state(model) for model in models.values()] == before


def test_progress_is_shown():
    seen = []

    def progress(batches):
        for batch in batches:
            seen.append(batch)
            yield batch

    transfer(MODELS, MODELS, BATCHES, ATTACK, progress=progress)
    assert len(seen) == len(BATCHES)


MODEL = {"a": nn.Flatten()}
BAD = {
    "sources": ({"sources": [mlp]}, TypeError, "sources as a mapping of names to models, got list"),
    "targets": ({"targets": mlp()}, TypeError, "targets as a mapping .*, got Sequential"),
    "names": ({"targets": {1: mlp()}}, TypeError, "targets as a mapping of names"),
    "no sources": ({"sources": {}}, ValueError, "one or more in sources, got none"),
    "no targets": ({"targets": {}}, ValueError, "one or more in targets, got none"),
    "a model": ({"sources": {"a": 3}}, TypeError, r"sources\['a'\] as a callable, got int"),
    "attack": ({"attack": None}, TypeError, "attack as a callable, got NoneType"),
    "n_bins": ({"n_bins": 0}, ValueError, "n_bins >= 1, got 0"),
    "batches": ({"batches": 3}, TypeError, "batches as an iterable, got int"),
    "no batches": ({"batches": []}, ValueError, "one batch or more, got none"),
    "labels": (
        {"batches": [(BATCHES[0][0], BATCHES[0][1] + 20)]},
        ValueError,
        "labels from 0 to 15, got",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    options, error, match = BAD[case]
    arguments = {
        "sources": MODEL,
        "targets": MODEL,
        "batches": BATCHES,
        "attack": partial(fgsm, eps=0.1),
    }
    with pytest.raises(error, match=f"expected .*{match}"):
        transfer(**arguments | options)
