"""The quickstart shows what it is there to show, and speaks clearly on its command line."""

import functools
import json
from pathlib import Path

import pytest
import quickstart
import torch
from PIL import Image

from advcal import trainers
from advcal.attacks import iaa, pgd, uniform_noise
from advcal.evaluation import evaluate

EPS = 0.1
IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture(scope="module")
def mcs():
    train, test = quickstart.digits(400, seed=1)
    found = {}
    for name, objective in quickstart.objectives(EPS, steps=5, seed=1).items():
        torch.manual_seed(1)
        model = quickstart.network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        trainers.fit(model, train, objective, optimizer, n=30)
        for attack in (uniform_noise, pgd, iaa):
            record = evaluate(model, test, functools.partial(attack, eps=EPS))
            found[name, attack.__name__] = record.mcs
    return found


def test_noise_barely_moves_pgd_overstates_iaa_understates(mcs):
    assert abs(mcs["standard", "uniform_noise"]) < 0.05
    assert mcs["standard", "pgd"] > 0.2
    assert mcs["standard", "iaa"] < -0.1


def test_at_iat_brings_attacks_on_either_side_nearer_to_zero(mcs):
    assert abs(mcs["AT+IAT", "uniform_noise"]) < 0.05
    assert 0 < mcs["AT+IAT", "pgd"] < 0.6 * mcs["standard", "pgd"]
    assert 0.8 * mcs["standard", "iaa"] < mcs["AT+IAT", "iaa"] < 0


def test_attacks_by_the_predicted_label_leave_accuracy_as_it_is():
    _, test = quickstart.digits(400, seed=1)
    torch.manual_seed(1)
    records = quickstart.compare({"fresh": quickstart.network()}, test, EPS, steps=3)
    record = records["fresh", "IAA, predicted label (UCA-like)"]
    assert record.accuracy == record.clean_accuracy
    assert record.unchanged == 1
    lines = quickstart.table(records, EPS).splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("name", ["quickstart-mcs.png", "quickstart-reliability.png"])
def test_the_pictures_of_the_readme_show_what_it_makes_today(pictures, name):
    shown, made = (figures_in(folder / name) for folder in (IMAGES, pictures))
    assert shown.keys() == made.keys()
    for key, figures in made.items():
        assert shown[key] == pytest.approx(figures, abs=0.015)  # machines differ by less


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["quickstart.py", "--out", str(folder)])
        quickstart.main()
    return folder


def figures_in(path):
    """Read which figures a picture says that it shows, the lines of each model by name."""
    with Image.open(path) as image:
        found = json.loads(image.text["Comment"])
    lines = {}
    for model, value in found.items():
        named = value.items() if isinstance(value, dict) else [("", value)]
        lines |= {f"{model} {name}": figures for name, figures in named}
    return lines


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "radius in units of pixels"),
        (["--eps", "8"], 2, "--eps must be from 0.001 to 1, not 8.0"),
        (["--eps", "nan"], 2, "--eps must be from 0.001 to 1, not nan"),
        (["--steps", "many"], 2, "invalid int value: 'many'"),
        (["--n-train", "5"], 2, "--n-train must be from 50 to 1700, not 5"),
    ],
)
def test_command_line(monkeypatch, capsys, arguments, code, said):
    monkeypatch.setattr("sys.argv", ["quickstart.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        quickstart.main()
    printed = capsys.readouterr()
    assert ended.value.code == code
    assert said in (printed.out if code == 0 else printed.err.splitlines()[-1])
