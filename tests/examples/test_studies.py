"""The scripts of the studies on CIFAR-10 run through, on a few random images."""

import argparse
import functools
import json
import sys

import adaptive_smoothing
import audits
import beyond_fgsm
import cifar10_data
import composition
import composition_digits
import composition_tables
import defenses
import deployed
import fgsm_training
import imagenet_confidence
import inverse_digits
import models
import networks_under_attack
import numpy as np
import pytest
import shifts_and_ensembles
import torch

# Random images have no temperature.
pytestmark = pytest.mark.filterwarnings("ignore:expected labels of which some contradict")
KEPT = {"date", "versions"}


def tiny(n_classes=10, *, width=8):
    """Stand in for a network: what the scripts do with one is tested here, not the network."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3, stride=2),
        torch.nn.BatchNorm2d(width),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * width, n_classes),
    )


@pytest.fixture
def run(monkeypatch, tmp_path):
    def random_images(*_):
        generator = torch.Generator().manual_seed(0)
        parts = []
        for n in (600, 120):
            shape = (n, 3, 32, 32)
            parts.append(torch.randint(256, shape, dtype=torch.uint8, generator=generator))
            parts.append(torch.randint(10, (n,), generator=generator))
        return cifar10_data.Cifar10(*parts, classes=tuple("abcdefghij"))

    monkeypatch.setattr(cifar10_data, "load_or_exit", random_images)
    monkeypatch.setattr(models, "resnet10", tiny)
    monkeypatch.setattr(models, "small_cnn", functools.partial(tiny, width=4))

    def main(script, *arguments):
        line = [script.__name__, "--data", "none", "--out", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", line)
        script.main()
        return tmp_path

    return main


SMALL = ["--n-train", "128", "--n-validation", "100", "--n-test", "40"]
SHORT = ["--epochs-standard", "1", "--epochs", "1", "--train-steps", "1", "--model", "resnet10"]


def test_defenses_train_what_is_missing_and_keep_it(run, capsys):
    folder = run(defenses, *SMALL, *SHORT, "--only", "standard", "AT+IAT")
    studies = {path.name: json.loads(path.read_text()) for path in folder.glob("defense-*.json")}
    plain = "defense-resnet10-standard-0.json"
    assert set(studies) == {plain, "defense-resnet10-AT+IAT-0.json"}
    for study in studies.values():
        assert study["settings"].keys() >= KEPT
        assert len(study["curve"]) == 1
        assert study["seconds"] > 0
        assert study["all test images"]["n"] == study["with mirror images"]["n"] == 120
        found = study["results"]
        clean = found["none"]["accuracy"]
        for name in ("IAA, predicted", "UCA", "OCA"):
            assert found[name]["accuracy"] == clean
        assert found["UCA"]["confidence"] <= found["none"]["confidence"]
        assert found["worst case"]["robust error"] >= 1 - clean
    together = json.loads((folder / "defenses.json").read_text())
    assert list(together.values()) == [studies[name] for name in sorted(studies)]
    table = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("| standard | ", "| AT+IAT | ")) for line in table) == 2
    assert (folder / "defenses-curves.png").exists()
    assert (folder / "defenses-pareto.png").exists()
    before = (folder / plain).stat().st_mtime_ns
    run(defenses, *SMALL, *SHORT, "--only", "standard")
    assert (folder / plain).stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_deployed_forms_are_attacked_once_and_measured(run, tmp_path, capsys):
    weights = tmp_path / "small_cnn-none.pt"
    torch.manual_seed(0)
    torch.save(tiny(width=4).state_dict(), weights)
    few = ["--n-test", "10", "--n-clean", "40", "--steps", "1", "--queries", "2"]
    few += ["--envelope-steps", "1", "--n", "1", "--weights", str(weights)]
    folder = run(deployed, *few)
    study = json.loads((folder / "deployed.json").read_text())
    assert study["settings"].keys() >= KEPT
    assert study["forms"].keys() == study["costs"].keys()
    assert len(study["forms"]) == 5
    for found in study["forms"].values():
        assert (found["n"], found["attacked"]) == (40, 10)
        assert found["lowest_mcs"] <= found["highest_mcs"]
    sizes = {name: cost["bytes"] for name, cost in study["costs"].items()}
    assert sizes["int8, static"] < sizes["bfloat16"] < sizes["float32"]
    printed = capsys.readouterr().out
    assert printed.endswith(deployed.table(study) + "\n")
    run(deployed, *few)
    assert "'accuracy'" not in capsys.readouterr().out  # nothing was made again


def test_the_table_of_defenses_joins_seeds():
    def study(accuracy, mcs):
        worst = {"robust error": 0.5, "robust error with rejection": 0.25}
        results = {"none": {"accuracy": accuracy, "mcs": mcs}, "worst case": worst}
        return {"defense": "IAT", "results": results}

    *_, row = defenses.summary({"a": study(0.5, -0.1), "b": study(0.7, 0.3)}).splitlines()
    assert row == "| IAT | 0.600 ± 0.141, +0.100 ± 0.283 | 0.500 ± 0.000 | 0.250 ± 0.000 |"


def test_a_defense_starts_from_the_plain_network_of_its_seed(run):
    with pytest.raises(SystemExit, match=r"resnet10-standard-3\.pt: No such file"):
        run(defenses, *SMALL, *SHORT, "--only", "IAT", "--seeds", "3")


@pytest.fixture
def few_digits(monkeypatch):
    def few(seed, digits=inverse_digits.digits):
        for batches in (found := digits(seed)):
            batches.images, batches.labels = batches.images[:60], batches.labels[:60]
        return found

    monkeypatch.setattr(inverse_digits, "digits", few)


@pytest.mark.usefixtures("few_digits")
def test_a_seed_on_digits_is_run_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(inverse_digits, "NAMES", ("standard", "AT+IAT"))
    line = ["inverse_digits.py", "--epochs", "1", "--n-seeds", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    inverse_digits.main()
    path = tmp_path / "inverse_digits.json"
    studies, before = json.loads(path.read_text()), path.stat().st_mtime_ns
    assert list(studies) == ["standard-0", "AT+IAT-0", "standard-1", "AT+IAT-1"]
    plain = [studies[f"standard-{seed}"]["results"]["none"] for seed in (0, 1)]
    assert plain[0] != plain[1]
    for study in studies.values():
        assert study["settings"].keys() >= KEPT
        assert study["results"].keys() == {*defenses.attackers(0.1), "worst case"}
    printed = capsys.readouterr().out
    inverse_digits.main()
    assert printed.endswith(capsys.readouterr().out)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", list(defenses.defenses(1.0, 1, torch.Generator())))
def test_every_defense_has_a_loss(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    batch = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    objective = defenses.defenses(0.1, 1, torch.Generator().manual_seed(0))[name]
    assert objective(model, batch).isfinite()


def test_fgsm_training_keeps_what_it_has(run, capsys):
    line = ["--model", "resnet10", "--epochs-standard", "1", "--epochs-adversarial", "1"]
    folder = run(fgsm_training, *line)
    study = json.loads((folder / "resnet10.json").read_text())
    assert study["settings"].keys() >= KEPT
    names = {f"{t} / {a}" for t in ("standard", "FGSM-AT") for a in fgsm_training.ATTACKS}
    assert study["results"].keys() == names
    printed = capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.checkpoint")}
    assert len(before) == 2
    run(fgsm_training, *line)
    assert capsys.readouterr().out == printed[printed.index("| training") :]
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.checkpoint")}


FEW = ["--n-train", "100", "--n-validation", "100", "--n-test", "100", "--model", "resnet10"]
ONCE = ["--epochs-standard", "1", "--epochs", "1", "--n-levels", "4"]


def test_adaptive_smoothing_runs_every_method(run):
    folder = run(adaptive_smoothing, *FEW, *ONCE, "--seeds", "0")
    study = json.loads((folder / "adaptive_smoothing-resnet10.json").read_text())
    assert study["settings"].keys() >= KEPT
    plain = ["vanilla", *adaptive_smoothing.POST_HOC]
    lockstep = adaptive_smoothing.LOCKSTEP
    assert list(study["runs"]) == [*plain, *adaptive_smoothing.TRAINED, "CCAT", lockstep]
    assert {len(runs) for runs in study["runs"].values()} == {1}
    clean = [study["summary"][name]["clean accuracy"] for name in plain[:2]]
    assert clean[0] == clean[1]
    assert all(seconds[0] > 0 for seconds in study["seconds"].values())
    for name, figures in study["summary"].items():
        assert ("lowest label" in figures) == ("AdaLS" in name)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    run(adaptive_smoothing, *FEW, *ONCE, "--seeds", "0")
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}


def test_adaptive_smoothing_chooses_a_strength_on_held_out_images(run, monkeypatch):
    def record(model, batches, **_):
        assert len(batches.labels) == 20
        return argparse.Namespace(ece=next(eces))

    methods = ["label smoothing", adaptive_smoothing.PRECOMPUTED]
    line = [*FEW, *ONCE, "--seeds", "0", "--only", *methods]
    line += ["--smoothings", "0.1", "0.3", "--step-sizes", "0.1", "0.5"]
    eces = iter([0.5, 0.25, 0.125, 0.25])
    monkeypatch.setattr(adaptive_smoothing.evaluation, "evaluate", record)
    monkeypatch.setattr(adaptive_smoothing.defenses, "train_one", trained_by_nobody)
    monkeypatch.setattr(adaptive_smoothing.training, "train_fast", trained_by_nobody)
    folder = run(adaptive_smoothing, *line)
    study = json.loads((folder / "adaptive_smoothing-resnet10.json").read_text())
    smoothings, steps = {"0.1": 0.5, "0.3": 0.25}, {"0.1": 0.125, "0.5": 0.25}
    assert study["choice"] == dict(zip(methods, [smoothings, steps], strict=True))
    assert study["settings"]["strengths"] == dict(zip(methods, [0.3, 0.1], strict=True))


def trained_by_nobody(*arguments, path=None, **_):
    """Write random weights where a training would."""
    if path is None:
        name, seed, *_, args = arguments
        path = args.out / defenses.stem(args.model, name, seed)
    torch.save(models.resnet10().state_dict(), path.with_name(f"{path.name}.pt"))
    return adaptive_smoothing.training.Run([{"lowest label": 0.9, "highest label": 1.0}], 1.0)


def test_shifts_and_ensembles_goes_on_from_the_networks_of_a_study(run, tmp_path):
    needed = [*shifts_and_ensembles.JOINED[1:], shifts_and_ensembles.LOCKSTEP]
    line = [*FEW, *ONCE, "--seeds", "0", "1", "--only", *needed]
    study = run(adaptive_smoothing, *line) / "adaptive_smoothing-resnet10.json"
    strange = tmp_path / "strange.npz"
    images = np.random.default_rng(0).integers(256, size=(30, 32, 32, 3), dtype=np.uint8)
    np.savez(strange, images=images)
    line = ["--study", str(study), "--strange", str(strange), "--n-shifted", "60"]
    folder = run(shifts_and_ensembles, *line, "--names", "contrast")
    found = json.loads((folder / "shifts.json").read_text())
    assert found["settings"].keys() >= KEPT
    for name, of_study in json.loads(study.read_text())["runs"].items():
        assert len(found["figures"][name]) == 6
        if name == shifts_and_ensembles.LOCKSTEP:
            continue
        eces = [each["clean ECE"] for each in of_study]
        assert found["figures"][name]["clean"]["ece"] == pytest.approx(eces, abs=1e-4)
        assert len(found["auroc"][name]) == 2
    members = found["figures"]["vanilla"]["clean"]["nll"]
    assert found["figures"]["ensemble of vanilla"]["clean"]["nll"][0] < sum(members) / 2  # Jensen
    assert {"AR-AdaLS, R = 3", "AR-AdaLS, R = 30"} < set(found["levels"])
    assert len(list(folder.glob("shifts-*.png"))) == 4


def test_shifts_and_ensembles_wants_networks_to_join(run, tmp_path):
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"settings": {"seeds": [0], "only": []}}))
    with pytest.raises(SystemExit, match="expected two seeds or more of label smoothing"):
        run(shifts_and_ensembles, "--study", str(study))
    study.write_text("{}")
    with pytest.raises(SystemExit, match="no study of this kind"):
        run(shifts_and_ensembles, "--study", str(study))


def test_composition_trains_and_measures_recipes(run):
    run(defenses, *SMALL, *SHORT, "--train-only", "--only", "standard", *composition.BASELINES)
    recipes = ["PGD-AT, AR-AdaLS", "AT+IAT, AdaLS", "TRADES, AR-AdaLS", "CAAT, AdaLS"]
    recipes += ["CAAT, hard labels", "AT+IAT, CAAT", "AT+IAT, longer"]
    line = ["--n-train", "128", "--n-validation", "100", "--n-test", "100", "--n-attacked", "10"]
    line += ["--model", "resnet10", "--epochs", "1", "--train-steps", "1", "--seeds", "0"]
    folder = run(composition, *line, "--n-levels", "2", "--only", *recipes)
    study = json.loads((folder / "composition.json").read_text())
    assert study["settings"].keys() >= KEPT
    assert list(study["runs"]) == [f"{name} / 0" for name in (*composition.BASELINES, *recipes)]
    for found in study["runs"].values():
        assert found.keys() == {"all", *composition_tables.KINDS}
        accuracies = {found["plain"][name]["accuracy"] for name in ("none", "UCA", "OCA")}
        assert len(accuracies) == 1


@pytest.mark.usefixtures("few_digits")
def test_compositions_on_digits_are_run_once_and_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(composition, "BASELINES", ("AT+IAT",))
    monkeypatch.setattr(composition, "RECIPES", ("AT+IAT, AR-AdaLS", "AT+IAT, longer"))
    line = ["composition_digits.py", "--epochs", "1", "--n-seeds", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    composition_digits.main()
    path = tmp_path / "composition_digits.json"
    seeds, before = json.loads(path.read_text())["seeds"], path.stat().st_mtime_ns
    assert list(seeds) == ["0", "1"]
    assert len(seeds["0"]) == 12
    assert seeds["0"]["AT+IAT, as it is"] != seeds["1"]["AT+IAT, as it is"]
    assert seeds["0"]["AT+IAT, as it is"] != seeds["0"]["AT+IAT, longer, as it is"]
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if line.startswith("| AT+IAT")]) == 12 + 10
    composition_digits.main()
    assert path.stat().st_mtime_ns == before


def test_who_is_ahead_of_the_reference():
    def row(*values):
        return dict(zip(["PGD-20", *composition_tables.LESS_IS_BETTER], values, strict=True))

    seeds = range(10)
    base = [0.5 + 0.01 * (seed % 3) for seed in seeds]
    less = [value - 0.1 - 0.001 * seed for seed, value in zip(seeds, base, strict=True)]
    rows = {
        composition_tables.REFERENCE: row(base, base, base, base),
        composition_tables.LONGER: row(less, less, less, less),
        "better, as it is": row(base, less, less, less),
        "better, longer, as it is": row(base, less, base, less),
        "less robust, as it is": row(less, base, base, less),
    }
    _, _, *found = composition_tables.comparison(rows).splitlines()
    assert [line.split(" | ")[-2:] for line in found] == [
        ["clean ECE, PGD-20 ECE, envelope", " |"],
        ["PGD-20", "PGD-20 ECE |"],
        ["envelope", "PGD-20 |"],
    ]
    _, _, *found = composition_tables.comparison(rows, least=2).splitlines()
    assert len(found) == 1


def test_a_temperature_by_level_mends_each_level_by_itself():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator).double()
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    distances = torch.arange(4000).double()
    wrong = torch.where(distances[:, None] < 2000, 3 * logits, logits / 3)
    by_level = composition.TemperatureByLevel(wrong, labels, distances, 2)
    temperatures = [fit.temperature for fit in by_level.fits]
    assert temperatures == pytest.approx([3, 1 / 3], rel=0.1)
    expected = torch.cat(
        [fit(part) for fit, part in zip(by_level.fits, wrong.split(2000), strict=True)]
    )
    torch.testing.assert_close(by_level(wrong, distances), expected)


@pytest.fixture
def weights(tmp_path):
    paths = []
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"small_cnn-{name}.pt")
        torch.save(models.small_cnn().state_dict(), paths[-1])
    return [str(path) for path in paths]


def test_networks_under_attack_draws_its_pictures(run, weights):
    folder = run(networks_under_attack, "--weights", *weights, "--n-test", "20", "--steps", "1")
    study = json.loads((folder / "networks.json").read_text())
    assert study["settings"].keys() >= KEPT
    assert len(study["levels"]) == networks_under_attack.N_LEVELS
    distances = [level["median distance"] for level in study["levels"]]
    assert distances == sorted(distances)
    assert set(study["lambda"]) == {"published", "accept"}
    accuracies = {point["accuracy"] for point in study["radius"]["UCA"]}
    assert len(accuracies) == 1
    assert set(study["defenses"]["PGD"]) == {"small_cnn-first", "small_cnn-second"}
    assert study["defenses"]["UCA"]["small_cnn-first"] == study["radius"]["UCA"]
    assert set(study["transfer"]["IAA"]) == {
        f"small_cnn-{source} to small_cnn-{to}"
        for source in ("first", "second")
        for to in ("first", "second")
    }
    assert len(list(folder.glob("networks-*.png"))) == 5


def test_beyond_fgsm_makes_its_seven_studies(run, weights, capsys, monkeypatch):
    quick = functools.partial(beyond_fgsm.AUTOATTACK, steps=5, n_targets=1, queries=5)
    monkeypatch.setattr(beyond_fgsm, "AUTOATTACK", quick)
    quick = functools.partial(beyond_fgsm.CW, search_steps=1, steps=5)
    monkeypatch.setattr(beyond_fgsm, "CW", quick)
    monkeypatch.setattr(beyond_fgsm, "RADII", [0, 8])
    sizes = ["--n-test", "10", "--n-attacked", "4", "--n-validation", "100"]
    options = [*sizes, "--n-draws", "2", "--weights", *weights]
    folder = run(beyond_fgsm, *options)
    study = json.loads((folder / "beyond_fgsm.json").read_text())
    assert study["settings"].keys() >= KEPT
    assert study.keys() == {"settings", *beyond_fgsm.STUDIES}
    for name in ("small_cnn-first", "small_cnn-second"):
        clean = study["reliability"][f"{name} / none"]
        assert clean["n"] == 10
        assert len(clean["bins"]["counts"]) == beyond_fgsm.N_BINS
        for attack in ("FGSM", "PGD-10"):
            swept = [study["sweep"][f"{name} / {attack} / {k}/255"] for k in beyond_fgsm.RADII]
            assert swept[0] == {figure: clean[figure] for figure in beyond_fgsm.FIGURES}
        assert study["temperature"]["results"][f"{name} / nothing / none"] == swept[0]
        assert study["temperature"]["temperatures"][f"{name} / PGD-10"] > 0
        tax = study["tax"][name]
        assert tax["clean ece"] == clean["ece"]
        assert tax["AutoAttack accuracy"] == study["attacks"][f"{name} / AutoAttack"]["accuracy"]
        found = [
            study["attacks"][f"{name} / {attack}"]["accuracy"] for attack in ("none", "PGD-10")
        ]
        assert study["attacks"][f"{name} / AutoAttack"]["accuracy"] <= min(found)
        assert set(study["distances"][name]) == {"CW", "precise"}
        assert {f"{name} / PGD-10", f"{name}, smoothed / PGD-10"} <= study["smoothing"].keys()
    assert len(list(folder.glob("beyond_fgsm-*.png"))) == 3
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| small_cnn-first, smoothed ") for line in printed) == 2
    for name in beyond_fgsm.STUDIES:
        monkeypatch.delattr(beyond_fgsm, "stronger" if name == "attacks" else name)
    run(beyond_fgsm, *options)  # makes nothing again


def test_mixed_precision_crafts_and_does_not_judge():
    torch.manual_seed(0)
    networks = {"one": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))}
    images = torch.randint(256, (20, 3, 4, 4), dtype=torch.uint8)
    test = cifar10_data.Batches(images, torch.arange(20) % 3, 10)
    found, mixed = (
        beyond_fgsm.measure(networks, test, beyond_fgsm.ATTACKS, bfloat16=bfloat16)
        for bfloat16 in (False, True)
    )
    assert mixed["one", "none"].as_dict() == found["one", "none"].as_dict()
    for name in ("FGSM", "PGD-10"):
        assert mixed["one", name].nll == pytest.approx(found["one", name].nll, rel=0.02)


def test_smoothing_averages_probabilities():
    noise = torch.tensor([-1.0, 2.0])[:, None, None, None]

    def model(inputs):
        return torch.cat([inputs, torch.zeros_like(inputs)], dim=1).flatten(1)

    inputs = torch.tensor([0.0, 1.0])[:, None, None, None]
    expected = torch.tensor([[-1.0, 2.0], [0.0, 3.0]]).sigmoid().mean(dim=1)
    found = beyond_fgsm.smoothed(model, noise)(inputs).exp()
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("script", [networks_under_attack, beyond_fgsm])
def test_weights_that_do_not_fit_end_in_one_line(run, tmp_path, script):
    torch.save(models.resnet10().state_dict(), tmp_path / "small_cnn-resnet.pt")
    (tmp_path / "small_cnn-text.pt").write_text("no weights")
    for name in ("small_cnn-resnet.pt", "small_cnn-text.pt"):
        with pytest.raises(SystemExit, match=rf"{name}: expected weights of small_cnn$"):
            run(script, "--weights", str(tmp_path / name))
    with pytest.raises(SystemExit, match=r"No such file or directory$"):
        run(script, "--weights", str(tmp_path / "small_cnn-missing.pt"))
    with pytest.raises(SystemExit, match=r"missing.pt: expected the name of a network: publ"):
        run(script, "--weights", str(tmp_path / "missing.pt"))


def test_beyond_fgsm_tells_networks_apart_by_name(run, weights, capsys):
    with pytest.raises(SystemExit):
        run(beyond_fgsm, "--weights", weights[0], weights[0])
    assert "must have names of their own" in capsys.readouterr().err.splitlines()[-1]


def test_imagenet_confidence_tells_what_it_moves(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 5)
    )
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    monkeypatch.setattr(imagenet_confidence, "network", lambda: model)
    monkeypatch.setattr(imagenet_confidence, "photographs", lambda: (images, labels))
    line = ["imagenet_confidence.py", "--steps", "2", "--radii", "2", "8", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    imagenet_confidence.main()
    study = json.loads((tmp_path / "imagenet.json").read_text())
    assert study["settings"].keys() >= KEPT
    found = study["results"]
    assert len(found) == 1 + 2 * 7
    assert found["UCA / 8/255"]["accuracy"] == found["none"]["accuracy"]
    assert found["UCA / 8/255"]["confidence"] <= found["UCA / 2/255"]["confidence"]
    before, after = study["images"]["none"], study["images"]["UCA / 8/255"]
    assert [each["prediction"] for each in before] == [each["prediction"] for each in after]
    assert "| UCA | " in capsys.readouterr().out
    assert (tmp_path / "imagenet-confidence.png").exists()


def test_imagenet_confidence_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(imagenet_confidence.importlib, "import_module", missing)
    with pytest.raises(SystemExit, match=r"efficientnet_lite_pytorch.*what to install"):
        imagenet_confidence.network()


def test_audits_leave_a_leaderboard_and_a_page(run, monkeypatch, capsys):
    def small():
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3072, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10)
        )

    ways = audits.objectives

    def two(eps, generator):
        return {name: ways(eps, generator)[name] for name in ("AT+IAT", "noise")}

    monkeypatch.setattr(audits, "network", small)
    monkeypatch.setattr(audits, "objectives", two)
    line = ["--n-train", "128", "--n-validation", "100", "--epochs", "1", "--n-test", "20"]
    line += ["--n-draws", "100", "--n-passes", "2", "--steps", "2"]
    folder = run(audits, *line)
    found = json.loads((folder / "audits.json").read_text())
    assert list(found) == ["AT+IAT", "noise", audits.SMOOTHED]
    for study in found.values():
        assert study["parts"]["certified"]["accuracy_low"] <= 1
        assert study["parts"]["clean"]["sets"]["n"] == 20
    page = (folder / "audits.html").read_text(encoding="utf-8")
    assert all(f"<h2>{name}</h2>" in page for name in found)
    printed = capsys.readouterr().out
    before = (folder / "audit-noise.json").stat().st_mtime_ns
    run(audits, *line)
    assert (folder / "audit-noise.json").stat().st_mtime_ns == before
    table = printed[printed.rindex("| model") :]
    assert capsys.readouterr().out.endswith(table)
