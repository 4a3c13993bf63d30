"""Sweeps that go on where they stopped, and nothing mixed silently."""

import csv
import io
import json
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from advcal.attacks import batched, fgsm, pgd, square, worst_case
from advcal.evaluation import (
    _evaluate,
    evaluate,
    sweep,
    table,
)
from advcal.evaluation._fingerprint import fingerprint
from tests.attacks.cases import examples, linear, mlp

MODELS = {"mlp": mlp(), "linear": linear()}
DATA = {"a": [examples(6, seed=1), examples(3, seed=2)], "b": [examples(5, seed=3)]}
PGD = partial(pgd, steps=2, random_start=False)
ATTACKS = {"none": None, "FGSM": fgsm, "PGD": PGD}
EPS = [0.05, 0.2]


class Stop(Exception):  # noqa: N818
    pass


def stopping(after):
    """Let so many evaluations begin, then stop as a killed run does."""

    def progress(items):
        for i, item in enumerate(items):
            if i == after:
                raise Stop
            yield item

    return progress


def counting(seen):
    def progress(items):
        seen.append(len(items))
        return items

    return progress


def test_every_record_is_that_of_evaluate_in_order():
    records = sweep(MODELS, DATA, ATTACKS, eps=EPS)
    cells = [("none", 0.0), *((name, eps) for name in ("FGSM", "PGD") for eps in EPS)]
    wanted = [(model, data, *cell) for model in MODELS for data in DATA for cell in cells]
    keys = ("model", "data", "attack", "eps")
    assert [tuple(record[key] for key in keys) for record in records] == wanted
    for record in records:
        attack = ATTACKS[record["attack"]]
        bound = attack and partial(attack, eps=record["eps"])
        found = evaluate(MODELS[record["model"]], DATA[record["data"]], bound).as_dict()
        assert {name: record[name] for name in found} == found


def test_attacks_that_have_their_radius():
    records = sweep(MODELS, DATA, {"none": None, "FGSM": partial(fgsm, eps=0.1)})
    assert [record["eps"] for record in records[:2]] == [0.0, None]
    wanted = evaluate(MODELS["mlp"], DATA["a"], partial(fgsm, eps=0.1))
    assert records[1]["accuracy"] == wanted.accuracy


# Five evaluations of two batches, then five of one, and once more.
@pytest.mark.parametrize(("after", "kept"), [(0, 0), (1, 0), (2, 1), (9, 4), (10, 5), (17, 11)])
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_killed_sweep_goes_on(tmp_path, after, kept, cut):
    whole = sweep(MODELS, DATA, ATTACKS, eps=EPS)
    file = tmp_path / "sweep.jsonl"
    with pytest.raises(Stop):
        sweep(MODELS, DATA, ATTACKS, file, eps=EPS, progress=stopping(after))
    content = file.read_bytes() if file.exists() else b""
    assert content.count(b"\n") == kept
    if kept and cut:  # the last line is half written
        file.write_bytes(content[:-cut])
        kept -= 1
    seen = []
    again = sweep(MODELS, DATA, ATTACKS, file, eps=EPS, progress=counting(seen))
    batches = [2] * 5 + [1] * 5
    assert seen == [sum((batches * 2)[kept:])]
    assert again == whole
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines == whole
    assert sweep(MODELS, DATA, ATTACKS, str(file), eps=EPS, progress=counting(seen)) == whole
    assert seen[-1] == 0
    assert len(file.read_bytes().splitlines()) == len(whole)
    assert [each.name for each in tmp_path.iterdir()] == ["sweep.jsonl"]


@pytest.mark.parametrize("where", ["progress", "work"])
def test_ctrl_c_keeps_what_is_done_and_leaves_everything_as_it_was(tmp_path, monkeypatch, where):
    file, left, tally = tmp_path / "sweep.jsonl", [5 if where == "work" else 99], _evaluate._tally

    def counted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return tally(*arguments)

    def progress(items):
        for i, item in enumerate(items):
            yield item
            if where == "progress" and i == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(_evaluate, "_tally", counted)
    model, random = mlp().train(), torch.get_rng_state()
    arguments = {"m": model}, {"a": DATA["a"]}, {"none": None, "PGD": PGD}, file
    with pytest.raises(KeyboardInterrupt):
        sweep(*arguments, eps=EPS, progress=progress)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    assert len(file.read_bytes().splitlines()) == 2
    assert len(sweep(*arguments, eps=EPS)) == 3
    assert len(file.read_bytes().splitlines()) == 3


def test_data_without_a_length_are_shown_without_one(tmp_path):
    class Endless:
        def __iter__(self):
            return iter(DATA["a"])

    seen = []

    def progress(items):
        with pytest.raises(TypeError, match="batches with a len"):
            len(items)
        seen.append(list(items))
        return []

    records = sweep({"m": MODELS["mlp"]}, {"a": Endless()}, {"none": None}, progress=progress)
    assert len(records) == 1
    assert len(seen[0]) == 2


def test_a_sweep_may_grow(tmp_path):
    file = tmp_path / "sweep.jsonl"
    sweep({"mlp": MODELS["mlp"]}, DATA, {"FGSM": fgsm}, file, eps=EPS[:1])
    records = sweep(MODELS, DATA, ATTACKS, file, eps=EPS)
    assert records == sweep(MODELS, DATA, ATTACKS, eps=EPS)


CHANGES = {
    "a model gone": ({"models": {"mlp": MODELS["mlp"]}}, "of this sweep alone, got .*linear"),
    "a radius gone": ({"eps": [0.05]}, "of this sweep alone, got .*0.2"),
    "a radius moved": ({"eps": [0.05, 0.3]}, "of this sweep alone"),
    "an attack renamed": ({"attacks": {"none": None, "FGSM": fgsm, "P": PGD}}, "got .*'PGD'"),
    "other weights": (
        {"models": {"mlp": mlp(seed=1), "linear": MODELS["linear"]}},
        "model of .* as it is now",
    ),
    "other steps": ({"attacks": ATTACKS | {"PGD": partial(PGD, steps=3)}}, r"attack of .*steps=3"),
    "another attack": ({"attacks": ATTACKS | {"PGD": fgsm}}, "attack of .* as it is now"),
    "other bins": ({"n_bins": 10}, "n_bins of .* as it is now, 10, got 15"),
    "precision": ({"autocast": torch.bfloat16}, "autocast of .*bfloat16, got None"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_sweep_is_refused_and_the_file_left_alone(tmp_path, change):
    file = tmp_path / "sweep.jsonl"
    arguments = {"models": MODELS, "batches": DATA, "attacks": ATTACKS, "path": file, "eps": EPS}
    sweep(**arguments)
    before = file.read_bytes()
    options, match = CHANGES[change]
    with pytest.raises(ValueError, match=f"expected .*{match}"):
        sweep(**arguments | options)
    assert file.read_bytes() == before


def test_no_attack_is_called_at_radius_0():
    calls = []

    def attack(model, inputs, labels, *, eps):
        calls.append(eps)
        return fgsm(model, inputs, labels, eps=eps)

    records = sweep(MODELS, DATA, {"none": None, "x": attack}, eps=[0, 0.1])
    assert set(calls) == {0.1}
    by_attack = {
        name: [r for r in records if (r["attack"], r["eps"]) == (name, 0)] for name in ("none", "x")
    }
    strip = {"attack", "settings"}
    for clean, at_zero in zip(*by_attack.values(), strict=True):
        assert {k: v for k, v in clean.items() if k not in strip} == {
            k: v for k, v in at_zero.items() if k not in strip
        }


# --- targets ---------------------------------------------------------------------------------


def test_targets_go_to_the_targeted_attacks_alone(tmp_path):
    file = tmp_path / "sweep.jsonl"
    attacks = ATTACKS | {"towards": partial(PGD, targeted=True)}
    records = sweep(MODELS, DATA, attacks, file, eps=[0.0, 0.2], targets=next_class)
    for record in records:
        attack, bound = attacks[record["attack"]], {}
        if record["attack"] == "towards":
            bound = {"targets": next_class}
        attack = attack and partial(attack, eps=record["eps"])
        found = evaluate(MODELS[record["model"]], DATA[record["data"]], attack, **bound).as_dict()
        assert {name: record[name] for name in found} == found
        assert ("reached" in record) == (record["attack"] == "towards")
    assert sweep(MODELS, DATA, attacks, file, eps=[0.0, 0.2], targets=next_class) == records
    with pytest.raises(ValueError, match=r"expected targets of .* as it is now"):
        sweep(MODELS, DATA, attacks, file, eps=[0.0, 0.2], targets=lambda labels: labels)
    assert "reached" in table(records, figures=["accuracy", "reached"]).splitlines()[0]


def next_class(labels):
    return (labels + 1) % 3


@pytest.mark.parametrize(
    ("attacks", "targets", "match"),
    [
        ({"t": partial(PGD, targeted=True)}, None, "an attack that leads away from the labels"),
        ({"n": None, "p": PGD}, next_class, "an attack with targeted=True for targets=, got .*'p'"),
        ({"t": worst_case(partial(PGD, targeted=True))}, next_class, "got it within worst_case"),
    ],
)
def test_targets_that_do_not_fit_are_refused_before_any_work(attacks, targets, match):
    with pytest.raises(ValueError, match=f"expected .*{match}"):
        sweep(MODELS, {"a": UNTOUCHED}, attacks, eps=EPS, targets=targets)


class Untouched:
    def __iter__(self):
        raise AssertionError("the data were read")


UNTOUCHED = Untouched()


BAD = {
    "models": ({"models": MODELS["mlp"]}, TypeError, "models as a mapping of names to models, got"),
    "no models": ({"models": {}}, ValueError, "one or more in models, got none"),
    "a number": ({"models": {"m": 3}}, TypeError, r"models\['m'\] as a callable, got int"),
    "bare batches": (
        {"batches": DATA["a"]},
        TypeError,
        "batches as a mapping of names to iterables, got list",
    ),
    "no batches": ({"batches": {}}, ValueError, "one or more in batches, got none"),
    "read once": ({"batches": {"a": iter(DATA["a"])}}, TypeError, "batches that can be read again"),
    "one attack": (
        {"attacks": fgsm},
        TypeError,
        "attacks as a mapping of names to attacks, got function",
    ),
    "no attacks": ({"attacks": {}}, ValueError, "one or more in attacks, got none"),
    "attack": ({"attacks": {"x": 1}}, TypeError, r"attacks\['x'\] as a callable, got int"),
    "one eps": ({"eps": 0.1}, TypeError, "eps as a list or tuple, got float"),
    "no eps": ({"eps": []}, ValueError, "one or more in eps, got none"),
    "negative eps": ({"eps": [-0.1]}, ValueError, "eps >= 0, got -0.1"),
    "NaN": ({"eps": [float("nan")]}, ValueError, "eps >= 0, got nan"),
    "eps twice": ({"eps": [0.1, 0.1]}, ValueError, "each only once in eps"),
    "path": ({"path": 3}, TypeError, "path as the path of a file, got int"),
    "folder": ({"path": "nowhere/a.jsonl"}, ValueError, "path in a folder that exists, got"),
    "n_bins": ({"n_bins": 0}, ValueError, "n_bins >= 1, got 0"),
    "autocast": ({"autocast": "bf16"}, TypeError, "autocast as a floating torch.dtype"),
    "progress": ({"progress": 3}, TypeError, "progress as a callable, got int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_any_work(case):
    options, error, match = BAD[case]
    arguments = {"models": MODELS, "batches": {"a": UNTOUCHED}, "attacks": ATTACKS, "eps": EPS}
    with pytest.raises(error, match=f"expected {match}"):
        sweep(**arguments | options)


# --- what a model or an attack is ------------------------------------------------------------


def attack_of(eps):
    return lambda model, inputs, labels: fgsm(model, inputs, labels, eps=eps)


def test_progress_changes_no_fingerprint():
    attack = partial(square, eps=0.1)
    assert fingerprint(partial(attack, progress=list)) == fingerprint(attack)


def test_fingerprints_change_with_what_matters_and_with_nothing_else():
    same = [
        (mlp(), mlp()),
        (partial(pgd, steps=2, eps=0.1), partial(pgd, eps=0.1, steps=2)),
        (attack_of(0.1), attack_of(0.1)),
        (batched(PGD, 4), batched(PGD, 4)),
        (partial(pgd, generator=torch.Generator()), partial(pgd, generator=torch.Generator())),
        (None, None),
    ]
    for one, other in same:
        assert fingerprint(one) == fingerprint(other)
    double = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    softer = nn.Sequential(double[0], nn.GELU())
    different = [
        (mlp(), mlp(seed=1)),
        (double, softer),
        (partial(pgd, steps=2), partial(pgd, steps=3)),
        (partial(pgd, steps=2), partial(fgsm, steps=2)),
        (attack_of(0.1), attack_of(0.2)),
        (batched(PGD, 4), batched(partial(PGD, steps=3), 4)),
        (lambda x: x + 1, lambda x: x + 2),
        (fgsm, None),
    ]
    for one, other in different:
        assert fingerprint(one) != fingerprint(other)


def test_weights_of_every_dtype_and_a_function_that_knows_itself():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    model.register_buffer("n", torch.tensor(3))
    before = fingerprint(model)
    model.n += 1
    assert fingerprint(model) != before

    def recursive(model, inputs, labels):
        return recursive

    assert fingerprint(recursive) == fingerprint(recursive)


STEPS = 2
NETWORK = nn.Linear(2, 2)


def by_global_steps(model, inputs, labels):
    return pgd(model, inputs, labels, eps=0.1, steps=STEPS)


def by_global_network(inputs):
    return NETWORK(inputs)


def by_another(inputs):
    return by_global_network(inputs)


class Tempered(nn.Module):
    def __init__(self, temperature, mean):
        super().__init__()
        self.temperature = temperature
        self.register_buffer("mean", torch.tensor(mean), persistent=False)

    def forward(self, inputs):
        return (inputs - self.mean) / self.temperature


def test_functions_are_known_by_what_they_refer_to(monkeypatch):
    before = [fingerprint(each) for each in (by_global_steps, by_global_network, by_another)]
    assert before == [
        fingerprint(each) for each in (by_global_steps, by_global_network, by_another)
    ]
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "STEPS", 50)
    monkeypatch.setattr(here, "NETWORK", nn.Linear(2, 2))
    for each, old in zip((by_global_steps, by_global_network, by_another), before, strict=True):
        assert fingerprint(each) != old


LOGGER = logging.getLogger(__name__)


def test_what_does_not_matter_is_not_known():
    def logging_attack(model, inputs, labels):
        LOGGER.info("attack")
        return partial(pgd, eps=0.1)(model, inputs, labels)

    before = fingerprint(logging_attack)
    logging.getLogger("advcal.tests.another").addHandler(logging.NullHandler())
    LOGGER.setLevel(logging.DEBUG)
    assert fingerprint(logging_attack) == before
    assert fingerprint(json.dumps) == "json.dumps"


def test_what_a_function_encloses_is_known_in_its_place():
    def enclosing(low, high):
        return lambda inputs: (low, high)

    assert fingerprint(enclosing(None, 3)) != fingerprint(enclosing(3, None))


HELPER = """
def step(inputs): return NUMBER * inputs
"""
USER = """
import dataclasses, torch, helper
class Helped(torch.nn.Module):
    def forward(self, inputs): return self.head(inputs)
    def head(self, inputs): return NUMBER * inputs
class Derived(Helped):
    def forward(self, inputs): return super().forward(inputs)
class Property(torch.nn.Module):
    def forward(self, inputs): return self.scale * inputs
    @property
    def scale(self): return NUMBER
class Attack:
    def __call__(self, model, inputs, labels): return self.step(inputs)
    @staticmethod
    def step(inputs): return inputs + NUMBER
@dataclasses.dataclass(frozen=True)
class Setting:
    eps: float = 0.1
    def step(self, inputs): return inputs + NUMBER
class Made:
    def __init__(self): self.number = NUMBER
class Other(torch.nn.Module):
    def forward(self, inputs): return inputs
    def training_step(self, batch): return NUMBER
@torch.no_grad()
def decorated(model, inputs, labels): return inputs + NUMBER
def through_module(model, inputs, labels): return helper.step(inputs)
def through_class(model, inputs, labels): return Made().number * inputs
helped, derived, scaled, attack, other = Helped(), Derived(), Property(), Attack(), Other()
step, head = Setting().step, helped.head
"""


@pytest.mark.parametrize(
    "name",
    [
        *["helped", "derived", "scaled", "attack", "step", "head"],
        *["decorated", "through_module", "through_class"],
    ],
)
def test_code_of_yours_is_known_wherever_it_stands(name, tmp_path, monkeypatch):
    """In methods, properties, under decorators of others, in modules and classes."""

    def known(number, name, lines=""):
        helper = ModuleType("helper")
        helper.__file__ = str(tmp_path / "helper.py")
        monkeypatch.setitem(sys.modules, "helper", helper)
        mine = {"__name__": "mine"}
        for text, names in ((HELPER, vars(helper)), (USER, mine)):
            code = lines + text.replace("NUMBER", str(number))
            exec(compile(code, helper.__file__, "exec"), names)
        return fingerprint(mine[name])

    assert known(1, name) == known(1, name, "# a line more\n")
    assert known(1, name) != known(2, name)
    assert known(1, "other") == known(2, "other")  # a step of training changes no prediction


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripts_are_known_by_their_code_and_their_numbers():
    def made(seed, inner, wrap):
        torch.manual_seed(seed)
        return wrap(nn.Sequential(nn.Flatten(), nn.Linear(6, 3), inner).eval())

    frozen = lambda model: torch.jit.freeze(torch.jit.script(model))  # noqa: E731
    held = lambda model: nn.Sequential(torch.jit.script(model))  # noqa: E731
    traced = lambda model: torch.jit.trace(model, torch.zeros(1, 6))  # noqa: E731
    for wrap in (torch.jit.script, frozen, held, traced):
        known = fingerprint(made(0, nn.Tanh(), wrap))
        assert known == fingerprint(made(0, nn.Tanh(), wrap))
        assert known != fingerprint(made(1, nn.Tanh(), wrap))
        assert known != fingerprint(made(0, nn.ReLU(), wrap))
    data = {"a": [(torch.rand(4, 6), torch.arange(4) % 3)]}
    assert len(sweep({"frozen": made(0, nn.Tanh(), frozen)}, data, {"none": None})) == 1


def test_modules_and_objects_are_known_by_their_settings():
    assert fingerprint(Tempered(1.0, 0.0)) == fingerprint(Tempered(1.0, 0.0))
    assert fingerprint(Tempered(1.0, 0.0)) != fingerprint(Tempered(0.5, 0.0))
    assert fingerprint(Tempered(1.0, 0.0)) != fingerprint(Tempered(1.0, 5.0))
    few, many = (partial(by_global_steps, settings=SimpleNamespace(steps=n)) for n in (1, 50))
    assert fingerprint(few) != fingerprint(many)
    assert fingerprint(object()) == fingerprint(object())


def test_a_fingerprint_is_the_same_in_another_process():
    code = """if True:
        import torch
        from functools import partial
        from tests.evaluation import test_sweep as here
        here.NETWORK.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
        named = partial(here.by_global_steps, names={"a", "b", "c"})
        for each in (here.by_another, here.Tempered(1.0, 0.0), named):
            print(here.fingerprint(each))
    """
    root = Path(__file__).parents[2]
    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 3


# --- tables ----------------------------------------------------------------------------------


def test_records_as_a_table():
    records = sweep({"mlp": MODELS["mlp"]}, DATA, {"none": None, "FGSM": fgsm}, eps=[0.25])
    lines = table(records, figures=["n"]).splitlines()
    assert lines[0] == "| model | data | attack | eps  | n |"
    assert lines[3] == "| mlp   | a    | FGSM   | 0.25 | 9 |"


def test_records_as_csv_keep_all_digits():
    records = sweep(MODELS, DATA, {"none": None})
    text = table(records, columns=["model", "data"], figures=["nll", "n"], format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["nll"]) for row in rows] == [record["nll"] for record in records]
    assert [row["model"] for row in rows] == [record["model"] for record in records]


def test_records_as_latex():
    record = evaluate(nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
    rows = {("R_1 & 50 %", "none"): record}
    assert table(rows, figures=["n", "clean_accuracy"], format="latex").splitlines() == [
        r"\begin{tabular}{llrr}",
        r"\toprule",
        r"model & attack & n & clean accuracy \\",
        r"\midrule",
        r"R\_1 \& 50 \% & none & 2 & 1.0000 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("records", "options", "error", "match"),
    [
        ([], {}, ValueError, "one record or more, got none"),
        ([{"model": "a"}], {}, ValueError, "'data' in each record"),
        ([3], {}, TypeError, "records as a mapping or a list of dicts, got list of int"),
        ("ab", {}, TypeError, "records as a mapping or a list of dicts, got str"),
        ([{}], {"format": "html"}, ValueError, "format to be one of .*, got 'html'"),
    ],
)
def test_bad_tables_are_refused(records, options, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        table(records, **options)
