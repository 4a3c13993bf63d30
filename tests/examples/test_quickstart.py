"""The quickstart shows what it is there to show, and speaks clearly on its command line."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import quickstart
from PIL import Image

PICTURES = ["quickstart-mcs.png", "quickstart-reliability.png"]
IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run the script in an empty folder; give the folder and what it printed."""
    folder, printed = tmp_path_factory.mktemp("quickstart"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        quickstart.main()
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def mcs(made):
    folder, _ = made
    return figures_in(folder / "quickstart-results" / "quickstart-reliability.png")


def test_noise_barely_moves_pgd_overstates_iaa_understates(mcs):
    assert abs(mcs["standard, uniform noise"]) < 0.05
    assert mcs["standard, PGD-10"] > 0.2
    assert mcs["standard, IAA"] < -0.1


def test_at_iat_brings_attacks_on_either_side_nearer_to_zero(mcs):
    assert abs(mcs["AT+IAT, uniform noise"]) < 0.05
    assert 0 < mcs["AT+IAT, PGD-10"] < 0.6 * mcs["standard, PGD-10"]
    assert 0.8 * mcs["standard, IAA"] < mcs["AT+IAT, IAA"] < 0


def test_the_table_shows_that_attacks_by_the_predicted_label_leave_accuracy_as_it_is(made):
    _, printed = made
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    for line in (line for line in lines if "predicted label" in line):
        _, _, _, _, clean, attacked, *_ = line.split("|")
        assert clean.strip() == attacked.strip()


def test_it_writes_into_a_folder_of_its_own(made):
    folder, printed = made
    assert [path.name for path in folder.iterdir()] == ["quickstart-results"]
    assert sorted(path.name for path in (folder / "quickstart-results").iterdir()) == PICTURES
    assert all(f"quickstart-results/{name}" in printed for name in PICTURES)


def test_it_is_short():
    assert len(Path(quickstart.__file__).read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_readme_show_what_it_makes_today(made, name):
    folder, _ = made
    shown, now = (figures_in(at / name) for at in (IMAGES, folder / "quickstart-results"))
    assert shown.keys() == now.keys()
    for key, figures in now.items():
        assert shown[key] == pytest.approx(figures, abs=0.015)  # machines differ by less


def figures_in(path):
    """Read which figures a picture says that it shows, the lines of each model by name."""
    with Image.open(path) as image:
        found = json.loads(image.text["Comment"])
    if not isinstance(next(iter(found.values())), dict):
        return found
    return {
        f"{model}, {kind}": line for model, lines in found.items() for kind, line in lines.items()
    }
