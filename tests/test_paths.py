"""Where a file is to be written, a path that names none is refused before any work."""

from pathlib import Path

import pytest
import torch
from torch import nn

from advcal import calibrators, evaluation, trainers

BATCHES = [(torch.eye(2), torch.tensor([0, 1]))]


def trained(path, train=trainers.fit):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return train(model, BATCHES, trainers.standard(), optimizer, n=1, checkpoint=path)


def swept(path):
    return evaluation.sweep({"m": nn.Identity()}, {"d": BATCHES}, {"clean": None}, path)


WRITERS = {
    "fit": trained,
    "epochs": lambda path: trained(path, trainers.epochs),
    "sweep": swept,
    "save": lambda path: calibrators.save(calibrators.Temperature(2, 1.5), path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("path", ["", Path(), Path("nowhere/file"), "nowhere/file", "."], ids=repr)
def test_a_path_of_no_file_is_refused(writer, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected (path|checkpoint) (as the path|in a folder)"):
        WRITERS[writer](path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("make", [str, Path])
def test_a_path_of_a_file_is_written_to(writer, make, tmp_path):
    for _ in WRITERS[writer](make(tmp_path / "file")) or ():
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
