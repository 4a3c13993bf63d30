"""Files of calibrators: what is damaged, hostile or not sound is refused, and nothing misread."""

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import tensor

from advcal import calibrators
from advcal.calibrators import Affine, Ensemble, OneVsAll, Temperature, TopLabel

spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)

F = torch.float64
KNOTS = tensor([0.0, 0.5, 1.0], dtype=F)
SOUND = {
    "temperature": Temperature(3, 1.5),
    "affine": Affine(3, torch.eye(3, dtype=F), torch.zeros(3, dtype=F), True, 2.0),
    "vector": Affine(3, torch.ones(3, dtype=F), torch.zeros(3, dtype=F), False),
    "ensemble": Ensemble(3, 1.5, tensor([0.5, 0.25, 0.25], dtype=F)),
    "top": TopLabel(3, KNOTS, KNOTS),
    "one": OneVsAll(3, (KNOTS,), (KNOTS,)),
    "all": OneVsAll(3, (KNOTS,) * 3, (KNOTS,) * 3),
}
EXAMPLES = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
SOUND |= {
    "curves": calibrators.fit_beta(*EXAMPLES),
    "spline": calibrators.fit_spline(*EXAMPLES),
    "venn-abers": calibrators.fit_venn_abers(*EXAMPLES),
}
NAN, INF = float("nan"), float("inf")
# By calibrator and field, values that it must not have.
WRONG = {
    "n_classes": [1, 0, -3, 4.0, "3", None, True, 2**70, [3], tensor(3)],
    "temperature": [-1.0, 0.0, NAN, INF, -INF, "2", None, True, [1.5], tensor(1.5)],
    "weight": [
        torch.ones(4),
        torch.ones(3),
        torch.ones(3, 4, dtype=F),
        torch.ones(1, dtype=F),
        torch.full((3,), NAN, dtype=F),
        torch.full((3,), INF, dtype=F),
        torch.ones(3, 3).long(),
        [1.0, 1.0, 1.0],
        None,
        1.0,
        torch.ones(3, dtype=F).to_sparse(),
    ],
    "bias": [
        torch.ones(2, dtype=F),
        torch.ones(1, dtype=F),
        torch.ones(3),
        0.0,
        tensor([0.0, NAN, 0.0], dtype=F),
        torch.ones(3, 1, dtype=F),
    ],
    "of_log_probs": [1, "no", None, tensor(True)],
    "weights": [
        tensor([0.5, 0.5], dtype=F),
        tensor([0.5, 0.25, 0.25]),
        tensor([1.0] * 3, dtype=F),
        tensor([-0.5, 1.0, 0.5], dtype=F),
        tensor([NAN, 0.5, 0.5], dtype=F),
    ],
    "x": [KNOTS.flip(0), KNOTS[:2], KNOTS - 0.1, KNOTS * 2, KNOTS.float(), KNOTS[:0], KNOTS[None]],
    "of_class": [-1, 3, 1.0, "1", True],
    "slopes": [-torch.ones(3, 2, dtype=F), torch.ones(3, 2), torch.ones(2, 2, dtype=F), None, 1.0],
    "knots": [torch.ones(3, 7, dtype=F), torch.full((3, 2), INF, dtype=F), 1.0, "none"],
    "low_from": [(KNOTS,) * 2, (KNOTS.flip(0),) * 3, (KNOTS.float(),) * 3, KNOTS, None],
    "low": [(KNOTS,) * 3, (KNOTS * 2,) * 3, (), None],
    "high_to": [(KNOTS,) * 2, (KNOTS.flip(0),) * 3, (KNOTS.float(),) * 3, KNOTS, None],
    "high": [(KNOTS,) * 3, (KNOTS - 0.1,) * 3, (), None],
    "y": [KNOTS[:2], KNOTS - 0.1, KNOTS * 2, KNOTS * NAN, KNOTS.float(), KNOTS[:0], None],
}


def written(calibrator, **fields):
    kept = {**vars(calibrator), **fields}
    file = io.BytesIO()
    torch.save({"calibrator": type(calibrator).__name__, "fields": kept}, file)
    return file


def refused(file, told="expected the file to be a calibrator, got"):
    file.seek(0)
    with pytest.raises(ValueError, match=told) as caught:
        calibrators.load(file)
    assert caught.value.__cause__ is None
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", SOUND)
def test_sound_ones_are_read(name, tmp_path):
    calibrator = SOUND[name]
    calibrators.save(calibrator, tmp_path / "file")
    assert cases.bits(calibrators.load(tmp_path / "file")) == cases.bits(calibrator)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", SOUND)
def test_each_field_is_checked(name):
    calibrator = SOUND[name]
    for field, value in vars(calibrator).items():
        assert field in WRONG
        for wrong in WRONG[field]:
            several = isinstance(value, tuple) and isinstance(wrong, torch.Tensor)
            for given in [(wrong,) * len(value), (*value[1:], wrong)] if several else [wrong]:
                refused(written(calibrator, **{field: given}))
                with pytest.raises((TypeError, ValueError)):
                    calibrators.save(
                        type(calibrator)(**vars(calibrator) | {field: given}), io.BytesIO()
                    )
    refused(written(calibrator, more=1))
    short = dict(vars(calibrator))
    del short["n_classes"]
    file = io.BytesIO()
    torch.save({"calibrator": type(calibrator).__name__, "fields": short}, file)
    refused(file, "expected the file .* with n_classes, got none")


@pytest.mark.parametrize("classes", [2, 4, 10**9])
def test_classes_go_with_the_shapes(classes):
    for name in ("affine", "vector", "all"):
        refused(written(SOUND[name], n_classes=classes))


def test_files_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "file"
    contents = [[1], {"calibrator": "Evil", "fields": {}}, {"calibrator": "Affine"}, 3, None]
    contents += [{"calibrator": ["Affine"], "fields": {}}, {"calibrator": "Affine", "fields": [1]}]
    for content in (*contents, torch.ones(3), {"model": {}, "optimizer": {}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"expected {path} to be a calibrator, got"):
            calibrators.load(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(ValueError, match="got a tensor of"):
        calibrators.load(path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_hostile_file_is_refused_in_our_words_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (Evil(), {"calibrator": "Temperature", "fields": Evil()}, np.float64):
        file = io.BytesIO()
        torch.save(content, file)
        refused(file, "got one that holds other things than tensors and plain values")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", Path(), ".", "nowhere/file"], ids=repr)
def test_a_path_of_no_file_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected path (as the path of|in a folder)"):
        calibrators.load(path)
    with pytest.raises(TypeError, match="expected path as the path of a file, got int"):
        calibrators.load(3)
    with pytest.raises(FileNotFoundError, match="missing"):
        calibrators.load("missing")


def test_what_is_there_already_is_replaced_whole(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    for temperature in (1.0, 2.0):
        calibrators.save(Temperature(3, temperature), link)
        assert calibrators.load(path).temperature == temperature
    assert link.is_symlink()
    with pytest.raises(TypeError, match="expected a calibrator, got dict"):
        calibrators.save({}, path)
    assert calibrators.load(path).temperature == 2.0


@pytest.mark.parametrize("name", SOUND)
def test_no_bit_can_change_unseen(name):
    file = io.BytesIO()
    calibrators.save(SOUND[name], file)
    whole, wanted = file.getvalue(), cases.bits(SOUND[name])
    generator = torch.Generator().manual_seed(0)
    for at in torch.randint(8 * len(whole), (60,), generator=generator).tolist():
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        try:
            assert cases.bits(calibrators.load(io.BytesIO(flipped))) == wanted
        except ValueError as error:
            assert str(error).startswith("expected the file to be a calibrator")  # noqa: PT017
