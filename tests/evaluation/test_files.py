"""Corruption sets that are read from files, and files that are not what they should be."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from advcal._looks import looks
from advcal.evaluation import evaluate, read_corruptions


def folder_of(tmp_path, n=20, size=(32, 32)):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (n, *size, 3), dtype=np.uint8) for name in ("snow", "frost")
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "labels.npy", np.tile(rng.integers(0, 10, n // 5), 5))
    return arrays, np.load(tmp_path / "labels.npy")


def test_files_are_read_block_by_block(tmp_path):
    arrays, labels = folder_of(tmp_path)
    sets = read_corruptions(tmp_path, 3)
    wanted = [f"{name} {severity}" for name in ("frost", "snow") for severity in range(1, 6)]
    assert list(sets) == wanted
    for key, batches in sets.items():
        name, severity = key.split()
        rows = slice(4 * (int(severity) - 1), 4 * int(severity))
        parts = list(batches)
        assert [len(part[0]) for part in parts] == [3, 1]
        assert len(batches) == 2
        inputs, targets = (torch.cat(each) for each in zip(*parts, strict=True))
        assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
        assert np.array_equal(inputs.permute(0, 2, 3, 1).mul(255).round(), arrays[name][rows])
        assert np.array_equal(targets, labels[rows])
    assert list(read_corruptions(str(tmp_path), kinds=["snow"])) == wanted[5:]


def test_files_are_mapped(tmp_path, monkeypatch):
    folder_of(tmp_path)
    modes = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: modes.append(k) or load(*a, **k))
    next(iter(read_corruptions(tmp_path)["snow 3"]))
    assert modes
    assert all(mode == {"mmap_mode": "r", "allow_pickle": False} for mode in modes)


BAD_FILES = {
    "dtype": ("snow", np.zeros((20, 32, 32, 3), dtype=np.float32), "uint8 of shape .* in snow.npy"),
    "layout": ("snow", np.zeros((20, 3, 32, 32), dtype=np.uint8), "uint8 of shape .* in snow.npy"),
    "rows": (
        "snow",
        np.zeros((15, 32, 32, 3), dtype=np.uint8),
        r"uint8 of shape \(20, .* in snow.npy",
    ),
    "labels": ("labels", np.zeros(20), "integers of shape .* in labels.npy"),
    "blocks": ("labels", np.zeros(19, dtype=np.int64), "integers of shape .* in labels.npy"),
    "objects": ("labels", np.array([{}] * 20), "a whole array in .*labels.npy"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(tmp_path, case):
    folder_of(tmp_path)
    name, array, match = BAD_FILES[case]
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ValueError, match=f"expected {match}"):
        read_corruptions(tmp_path)


def test_a_file_cut_short_is_refused(tmp_path):
    folder_of(tmp_path)
    content = (tmp_path / "snow.npy").read_bytes()
    (tmp_path / "snow.npy").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=r"expected a whole array in .*snow.npy"):
        read_corruptions(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected labels.npy and .* got none"):
        read_corruptions(tmp_path)
    folder_of(tmp_path)
    with pytest.raises(ValueError, match=r"expected kinds to be one of .* got 'fog'"):
        read_corruptions(tmp_path, kinds=["fog"])
    with pytest.raises(TypeError, match="expected path as a str or a path, got int"):
        read_corruptions(3)
    with pytest.raises(ValueError, match="expected size >= 1, got 0"):
        read_corruptions(tmp_path, 0)


# --- what is not an array --------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 153600128\n"


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def archive(kind):
    file = io.BytesIO()
    if kind == "npz":
        np.savez(file, a=np.zeros(3))
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            tar.addfile(tarfile.TarInfo("snow.npy"))
    return file.getvalue()


NOT_ARRAYS = {
    "empty": (b"", "an empty file"),
    "npz": (archive("npz"), "a zip archive, as .npz is"),
    "tar.gz": (archive("tar"), "a gzip archive"),
    "gz": (gzip.compress(b"x"), "a gzip archive"),
    "LFS pointer": (POINTER, "a pointer of Git LFS"),
    "annex pointer": (b"/annex/objects/SHA256E-s146--ab.npy\n", "a pointer of git-annex"),
    "web page": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "web page later": (b"\xef\xbb\xbf\r\n  <html>404</html>", "a web page"),
    "JSON": (b'{"error": "not found"}', "a file of text"),
    "pickle": (pickle.dumps(np.zeros(3)), "a pickle"),
    "zeros": (bytes(4096), "zeros, as of a download that was cut short"),
    "objects": (saved(np.array([{}] * 20)), "an array that is cut short, damaged or of Python"),
    "header alone": (saved(np.zeros((20, 2, 2, 3), np.uint8))[:128], "an array that is cut short"),
    "half a header": (saved(np.zeros(3))[:40], "an array that is cut short"),
    "a bad header": (saved(np.zeros(3)).replace(b"shape", b"sha(("), "an array that is cut short"),
    "magic alone": (b"\x93NUMPY", "an array that is cut short"),
    "noise": (bytes(range(1, 200)), "something else"),
}
ADVICE = re.compile("allow_pickle|pickle_|unsafe|weights_only|trust|fromfile|mmap", re.IGNORECASE)


@pytest.mark.parametrize("file", ["snow.npy", "labels.npy"])
@pytest.mark.parametrize("kind", NOT_ARRAYS)
def test_what_is_not_an_array_is_named_without_the_advice_of_numpy(tmp_path, kind, file):
    folder_of(tmp_path)
    content, words = NOT_ARRAYS[kind]
    (tmp_path / file).write_bytes(content)
    wanted = f"expected a whole array in {re.escape(str(tmp_path / file))}, got {words}"
    with pytest.raises(ValueError, match=wanted) as caught:
        read_corruptions(tmp_path)
    assert not ADVICE.search(str(caught.value))
    if file == "snow.npy":  # which nobody asked for
        assert len(read_corruptions(tmp_path, kinds=["frost"])) == 5


def test_a_file_that_breaks_after_it_was_opened_is_named(tmp_path):
    folder_of(tmp_path)
    batches = read_corruptions(tmp_path)["snow 3"]
    (tmp_path / "snow.npy").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"snow.npy, got a pointer of Git LFS"):
        next(iter(batches))


def test_hidden_files_do_not_count(tmp_path):
    folder_of(tmp_path)
    for name in ("._snow.npy", "._labels.npy", ".DS_Store", ".fog.npy"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._snow.npy").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "old.npy").mkdir()
    assert {name.split()[0] for name in read_corruptions(tmp_path)} == {"frost", "snow"}


def test_a_link_to_nowhere_is_named(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "fog.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(FileNotFoundError, match=r"fog\.npy"):
        read_corruptions(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_grey_arrays_and_both_orders(tmp_path, order):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", np.asarray(pixels, order=order))
    np.save(tmp_path / "labels.npy", np.tile(np.array([0, 1], dtype=np.uint8), 5))
    found = torch.cat(
        [inputs for each in read_corruptions(tmp_path).values() for inputs, _ in each]
    )
    assert found.shape == (10, 1, 6, 8)
    assert np.array_equal(found.mul(255).round().permute(0, 2, 3, 1).numpy(), pixels)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.array([0, -1] * 10), "labels >= 0 in labels.npy, got -1"),
        (np.zeros(0, dtype=np.int64), r"integers of shape \(5 n,\) in labels.npy"),
        (np.zeros((20, 1), dtype=np.int64), r"integers of shape \(5 n,\) in labels.npy"),
        (np.zeros(20, dtype=bool), "integers of shape"),
    ],
)
def test_bad_labels_are_refused(tmp_path, labels, match):
    folder_of(tmp_path)
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=f"expected {match}|expected a whole array in .*labels"):
        read_corruptions(tmp_path)


# --- MNIST-C ---------------------------------------------------------------------------------


def mnist_c(folder, n=7):
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("fog", "identity", "zigzag"):
        (folder / name).mkdir()
        for part in ("train", "test"):
            images = rng.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)
            labels = rng.integers(0, 10, n)
            np.save(folder / name / f"{part}_images.npy", images)
            np.save(folder / name / f"{part}_labels.npy", labels)
            arrays[name, part] = images, labels
    (folder / "._fog").write_bytes(b"")
    return arrays


def test_mnist_c(tmp_path):
    arrays = mnist_c(tmp_path)
    sets = read_corruptions(tmp_path, 4)
    assert list(sets) == ["fog", "identity", "zigzag"]
    for name, batches in sets.items():
        assert len(batches) == 2
        inputs, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        wanted, truth = arrays[name, "test"]
        assert (inputs.shape, inputs.dtype) == ((7, 1, 28, 28), torch.float32)
        assert np.array_equal(inputs.mul(255).round().permute(0, 2, 3, 1).numpy(), wanted)
        assert labels.tolist() == truth.tolist()
    assert list(read_corruptions(tmp_path, kinds=["zigzag"])) == ["zigzag"]


def test_mnist_c_with_a_broken_file(tmp_path):
    mnist_c(tmp_path)
    (tmp_path / "zigzag" / "test_labels.npy").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"zigzag.test_labels.npy, got a pointer of Git LFS"):
        read_corruptions(tmp_path)
    (tmp_path / "zigzag" / "test_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"zigzag.test_labels.npy"):
        read_corruptions(tmp_path)


# --- ImageNet-C ------------------------------------------------------------------------------

CLASSES = ["n01440764", "n01443537", "n02655020"]


def colour(seed=0, side=16):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def imagenet_c(folder, kinds=("fog", "snow"), levels=range(1, 6), classes=CLASSES, suffix=".JPEG"):
    wanted = {}
    for kind in kinds:
        for level in levels:
            for label, name in enumerate(classes):
                where = folder / kind / str(level) / name
                where.mkdir(parents=True)
                for i in range(2):
                    file = where / f"ILSVRC2012_val_{i:08}{suffix}"
                    Image.fromarray(colour(100 * level + 10 * label + i)).save(file)
                    pixels = np.asarray(Image.open(file).convert("RGB"))
                    wanted.setdefault(f"{kind} {level}", []).append((pixels, label))
    return wanted


@pytest.mark.parametrize("deeper", ["", "weather"])
@pytest.mark.parametrize("suffix", [".JPEG", ".png"])
def test_imagenet_c(tmp_path, deeper, suffix):
    wanted = imagenet_c(tmp_path / deeper, suffix=suffix)
    (tmp_path / "._fog").write_bytes(b"")
    where = tmp_path / deeper / "fog" / "3"
    (where / ".DS_Store").write_bytes(b"\0")
    (where / CLASSES[0] / f"._ILSVRC2012_val_00000000{suffix}").write_bytes(b"\0\5\x16\7")
    (where / CLASSES[0] / "Thumbs.db").write_bytes(b"\0")
    sets = read_corruptions(tmp_path, 4)
    assert list(sets) == [f"{kind} {level}" for kind in ("fog", "snow") for level in range(1, 6)]
    for name, batches in sets.items():
        assert len(batches) == 2
        inputs, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        assert (inputs.shape, inputs.dtype) == ((6, 3, 16, 16), torch.float32)
        pixels, truth = zip(*wanted[name], strict=True)
        assert labels.tolist() == list(truth)
        assert np.array_equal(inputs.mul(255).round().permute(0, 2, 3, 1).numpy(), np.stack(pixels))
    model = lambda inputs: inputs.mean(dim=(2, 3))  # noqa: E731
    assert evaluate(model, sets["fog 1"]).n == 6


def test_numbers_are_classes_in_the_order_of_their_values(tmp_path):
    imagenet_c(tmp_path, kinds=["fog"], levels=[2], classes=list(map(str, range(12))))
    [(_, labels)] = read_corruptions(tmp_path)["fog 2"]
    assert labels.tolist() == [label for label in range(12) for _ in range(2)]
    imagenet_c(tmp_path / "b", kinds=["fog"], levels=[2], classes=["9", "10", "x"])
    batches = read_corruptions(tmp_path / "b")["fog 2"]
    assert batches.classes == ["10", "9", "x"]


def of_16_bits(side=16):
    return (np.arange(side * side, dtype=np.uint16).reshape(side, side) * 255).astype(np.uint16)


def png_of_16_bits(array):
    """Write a PNG of 16 bits of colour by hand, which Pillow does not."""
    height, width, _ = array.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)

    def chunk(name, content):
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


GREY = of_16_bits()
KINDS_OF_IMAGES = {
    "16 bits": (encoded(Image.fromarray(GREY)), np.stack([GREY / 65535] * 3), 1e-6),
    "16 bits of colour": (
        png_of_16_bits(np.stack([GREY, GREY[::-1], GREY.T], axis=2)),
        np.stack([GREY, GREY[::-1], GREY.T]) / 65535,
        1 / 255,
    ),
    "grey": (
        encoded(Image.fromarray((GREY // 256).astype(np.uint8))),
        np.stack([GREY // 256 / 255] * 3),
        1e-6,
    ),
    "one bit": (
        encoded(Image.fromarray(GREY > 30000)),
        np.stack([(GREY > 30000).astype(float)] * 3),
        1e-6,
    ),
    "transparent": (
        encoded(Image.fromarray(np.dstack([colour(), colour()[..., 0]]))),
        colour().transpose(2, 0, 1) / 255,
        1e-6,
    ),
    "palette": (
        encoded(Image.fromarray((GREY // 256).astype(np.uint8)).convert("P")),
        np.stack([GREY // 256 / 255] * 3),
        1e-6,
    ),
    "print": (
        encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG"),
        np.zeros((3, 16, 16)),
        0.02,
    ),
}


@pytest.mark.parametrize("kind", KINDS_OF_IMAGES)
def test_every_kind_of_image_has_its_values(tmp_path, kind):
    content, wanted, tolerance = KINDS_OF_IMAGES[kind]
    where = tmp_path / "fog" / "1" / "a"
    where.mkdir(parents=True)
    (where / "0.png").write_bytes(content)
    [(inputs, _)] = read_corruptions(tmp_path)["fog 1"]
    np.testing.assert_allclose(inputs[0].numpy(), wanted, atol=tolerance, rtol=0)


NOT_IMAGES = {
    "empty": (b"", "an empty file"),
    "LFS pointer": (POINTER, "a pointer of Git LFS"),
    "web page": (b"<html></html>", "a web page"),
    "half": (encoded(Image.fromarray(colour(side=64)), "JPEG")[:900], "a JPEG image that is cut"),
    "half a PNG": (encoded(Image.fromarray(colour(side=64)))[:3000], "a PNG image that is cut"),
    "array": (saved(np.zeros(3)), "an array"),
    "zeros": (bytes(100), "zeros"),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_not_an_image_is_named(tmp_path, kind):
    imagenet_c(tmp_path, kinds=["fog"], levels=[1])
    file = tmp_path / "fog" / "1" / CLASSES[1] / "ILSVRC2012_val_00000001.JPEG"
    content, words = NOT_IMAGES[kind]
    file.write_bytes(content)
    wanted = f"expected an image in {re.escape(str(file))}, got {words}"
    with pytest.raises(ValueError, match=wanted) as caught:
        list(read_corruptions(tmp_path)["fog 1"])
    assert caught.value.__cause__ is None


def test_class_folders_that_do_not_agree_are_refused(tmp_path):
    imagenet_c(tmp_path)
    other = tmp_path / "snow" / "4" / CLASSES[2]
    other.rename(other.with_name("n09999999"))
    with pytest.raises(ValueError, match=r"classes of .*fog.1 in .*snow.4, got others: \['n0265"):
        read_corruptions(tmp_path)
    assert len(read_corruptions(tmp_path, kinds=["fog"])) == 5


def test_a_class_without_images_and_images_of_two_sizes(tmp_path):
    imagenet_c(tmp_path, kinds=["fog"], levels=[1])
    file = tmp_path / "fog" / "1" / CLASSES[1] / "ILSVRC2012_val_00000001.JPEG"
    Image.fromarray(colour(side=20)).save(file)
    with pytest.raises(ValueError, match=r"images of 16 x 16 pixels in .*, got 20 x 20 in .*JPEG"):
        list(read_corruptions(tmp_path)["fog 1"])
    for each in (tmp_path / "fog" / "1" / CLASSES[1]).iterdir():
        each.unlink()
    with pytest.raises(ValueError, match=r"expected images .* in .*n01443537, got none"):
        list(read_corruptions(tmp_path)["fog 1"])


def test_pillow_is_asked_for_by_name(tmp_path, monkeypatch):
    imagenet_c(tmp_path, kinds=["fog"], levels=[1])
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"needs Pillow: pip install 'advcal\[images\]'"):
        next(iter(read_corruptions(tmp_path)["fog 1"]))


def test_progress_is_of_the_batches_of_each_set(tmp_path):
    imagenet_c(tmp_path, kinds=["fog"], levels=[1, 2])
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    sets = read_corruptions(tmp_path, 4, progress=progress)
    assert [len(list(each)) for each in sets.values()] == [2, 2] == seen


def test_text_is_told_from_bytes(tmp_path):
    file = tmp_path / "x"
    file.write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert looks(file) == "a file of text"
    file.write_bytes(os.urandom(8).replace(b"\0", b"\1") + b"\0\1\2")
    assert looks(file) != "a file of text"
