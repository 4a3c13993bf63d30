"""The file of a sweep: of its data alone, whole, strict, and written by one."""

import json
import math
import os
import random
import resource
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from advcal.attacks import fgsm
from advcal.evaluation import (
    _lines,
    corruptions,
    read_corruptions,
    sweep,
    table,
)
from tests.attacks.cases import examples
from tests.evaluation.test_sweep import ATTACKS, DATA, EPS, MODELS, PGD


def changed(batches, part, row):
    """Change one number of one example."""
    found = [tuple(each.clone() for each in batch) for batch in batches]
    values = found[-1][part]
    values[row] = (values[row] + 1) % 3 if part else values[row] * 0.5
    return found


OTHER_DATA = {
    "another size": DATA["b"],
    "one image": changed(DATA["a"], 0, 2),
    "one label": changed(DATA["a"], 1, 2),
    "one batch twice": [*DATA["a"], DATA["a"][1]],
    "labels in another order": [
        (inputs, labels.roll(1)) for inputs, labels in [examples(6, seed=1), examples(3, seed=2)]
    ],
}


@pytest.mark.parametrize("all_done", [True, False])
@pytest.mark.parametrize("other", OTHER_DATA)
def test_other_data_under_the_same_name_are_refused(tmp_path, other, all_done):
    file = tmp_path / "sweep.jsonl"
    sweep(MODELS, {"a": DATA["a"]}, {"none": None}, file)
    attacks = {"none": None} if all_done else {"none": None, "FGSM": fgsm}
    with pytest.raises(ValueError, match=r"expected data of .* as it is now"):
        sweep(MODELS, {"a": OTHER_DATA[other]}, attacks, file, eps=[0.1])


def test_the_same_data_in_other_batches_and_another_order(tmp_path):
    file = tmp_path / "sweep.jsonl"
    whole = [torch.cat(each) for each in zip(*DATA["a"], strict=True)]
    first = sweep(MODELS, {"a": DATA["a"]}, {"none": None}, file)
    single = list(zip(*(each.split(1) for each in whole), strict=True))
    doubled = [(inputs.double(), labels.int()) for inputs, labels in DATA["a"]]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*whole), 4, shuffle=True)
    random = torch.get_rng_state()
    for same in (single, single[::-1], doubled, loader):
        assert sweep(MODELS, {"a": same}, {"none": None}, file) == first
    assert torch.equal(torch.get_rng_state(), random)


def test_corrupted_data_are_known_by_what_they_are_made_of(tmp_path):
    def shifted(data, seed=0, **options):
        generator = torch.Generator().manual_seed(seed)
        return corruptions(data, kinds=["contrast"], severity=[2], generator=generator, **options)

    file, models = tmp_path / "sweep.jsonl", {"m": lambda inputs: inputs.mean(dim=(2, 3))}
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    first = sweep(models, shifted([(images, labels)]), {"none": None}, file)
    same = shifted([(images[:1], labels[:1]), (images[1:], labels[1:])], progress=lambda x: x)
    assert sweep(models, same, {"none": None}, file) == first
    for other in (shifted([(images, labels)], seed=1), shifted([(images.flip(0), labels)])):
        with pytest.raises(ValueError, match=r"expected data of .*contrast 2.* as it is now"):
            sweep(models, other, {"none": None}, file)


def test_image_folders_are_known_by_their_files(tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        where = tmp_path / "data" / "fog" / "1" / name
        where.mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / "0.png")
    file, models = tmp_path / "sweep.jsonl", {"m": lambda inputs: inputs.mean(dim=(2, 3))}
    first = sweep(models, read_corruptions(tmp_path / "data"), {"none": None}, file)
    assert sweep(models, read_corruptions(tmp_path / "data", 2), {"none": None}, file) == first
    Image.fromarray(255 - pixels).save(where / "0.png")
    with pytest.raises(ValueError, match=r"expected data of .*fog 1.* as it is now"):
        sweep(models, read_corruptions(tmp_path / "data"), {"none": None}, file)


@pytest.mark.parametrize("line", ["nonsense", "{}", "[1]", '{"model": 1}', "null"])
def test_a_damaged_line_is_refused(tmp_path, line):
    file = tmp_path / "sweep.jsonl"
    sweep(MODELS, DATA, {"none": None}, file)
    file.write_text(line + "\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="expected a record of a sweep in line 1 of"):
        sweep(MODELS, DATA, {"none": None}, file)


def test_a_record_twice_is_explained(tmp_path):
    file = tmp_path / "sweep.jsonl"
    whole = sweep(MODELS, DATA, {"none": None}, file)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines, lines[1]]), encoding="utf-8")
    told = (
        r"expected each record once, got .* in line 2 and in line 5 of .*; two sweeps wrote to it"
    )
    with pytest.raises(ValueError, match=told):
        sweep(MODELS, DATA, {"none": None}, file)
    file.write_text("".join(lines), encoding="utf-8")
    assert sweep(MODELS, DATA, {"none": None}, file) == whole


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    file = tmp_path / "sweep.jsonl"
    whole = sweep(
        {"m": MODELS["mlp"]}, {"b": DATA["b"]}, {"none": None, "F": fgsm}, file, eps=[0.1]
    )
    content, rng = file.read_bytes(), random.Random(0)
    wanted = {_lines.key_of(each): each["settings"] for each in whole}
    refused = []
    for place in (rng.randrange(8 * len(content)) for _ in range(400)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            found = _lines.read(file, wanted)
        except ValueError as error:
            refused.append(str(error))
        else:  # what is left is as it was
            assert all(each in whole for each in found.values())
    assert len(refused) > 350
    assert all(each.startswith("expected ") for each in refused)


def test_a_second_sweep_on_a_file_is_refused_with_its_name(tmp_path):
    file = tmp_path / "sweep.jsonl"
    second = []

    def progress(items):
        for item in items:
            with pytest.raises(
                BlockingIOError, match=r"sweep\.jsonl to be written by one at a time"
            ):
                sweep(MODELS, DATA, ATTACKS, file, eps=EPS)
            second.append(item)
            yield item

    first = sweep(MODELS, DATA, ATTACKS, file, eps=EPS, progress=progress)
    assert len(second) == 30
    assert sweep(MODELS, DATA, ATTACKS, file, eps=EPS) == first
    assert [each.name for each in tmp_path.iterdir()] == ["sweep.jsonl"]


def test_a_full_disk_leaves_whole_records_and_the_name(tmp_path, monkeypatch):
    file = tmp_path / "sweep.jsonl"
    whole = sweep(MODELS, DATA, ATTACKS, eps=EPS)
    limit = len(json.dumps(whole[0])) * 5 // 2  # in the midst of the third

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for record in whole:
            _lines.append(file, record)

    if (pid := os.fork()) == 0:
        try:
            work()
        except OSError as error:
            told = f"expected to write {file}, got: File too large; the records before are kept"
            os._exit(int(str(error).partition("] ")[2] != told))
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == whole[:2]
    assert sweep(MODELS, DATA, ATTACKS, file, eps=EPS) == whole


def test_when_all_is_done_the_lines_are_in_the_order_of_the_records(tmp_path):
    file, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(file)
    sweep(MODELS, {"b": DATA["b"]}, {"PGD": PGD}, link, eps=EPS[1:])
    records = sweep(MODELS, DATA, ATTACKS, link, eps=EPS)
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == records
    assert link.is_symlink()


def strictly(text):
    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def masked(inputs):
    return torch.cat([inputs.flatten(1)[:, :2], torch.full((len(inputs), 1), -torch.inf)], 1)


@pytest.mark.parametrize("name", ["m", "Infinity", "NaN"])
def test_an_infinite_nll_is_strict_json_and_comes_back(tmp_path, name):
    file = tmp_path / "sweep.jsonl"
    batches = {"NaN": [(torch.rand(3, 2), torch.tensor([0, 1, 2]))]}
    first = sweep({name: masked}, batches, {"-Infinity": None}, file)
    line = strictly(file.read_text(encoding="utf-8"))
    assert (line["nll"], line["model"], line["data"]) == ("Infinity", name, "NaN")
    again = sweep({name: masked}, batches, {"-Infinity": None}, file)
    assert again == first
    assert again[0]["nll"] == math.inf
    assert again[0]["attack"] == "-Infinity"
    assert table([line]) == table(again)
    assert " inf |" in table([line])
