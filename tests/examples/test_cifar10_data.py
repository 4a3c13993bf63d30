"""Loading CIFAR-10 from both layouts, refusing hostile pickles, and minibatches."""

import copyreg
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import cifar10_data
import numpy as np
import pytest
import safe_pickle
import torch
from cifar10_data import Batches, load, split
from hypothesis import given
from hypothesis import strategies as st

DATA = Path(__file__).parents[3] / "shared" / "data"
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


# --- A writer of Python 2's protocol 2, as cPickle wrote the data set ---


def string(text):
    raw = text.encode("latin-1") if isinstance(text, str) else text
    short = len(raw) < 256
    return (b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw


def integer(value):
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def listing(items):
    return b"](" + b"".join(items) + b"e"


def mapping(items):
    return b"}(" + b"".join(string(key) + value for key, value in items.items()) + b"u"


def array(values, dtype="u1", subtype=b"cnumpy\nndarray\n", reconstruct=b"_reconstruct"):
    shape = b"(" + b"".join(integer(n) for n in values.shape) + b"t"
    return b"".join(
        (
            b"cnumpy.core.multiarray\n" + reconstruct + b"\n",
            subtype + integer(0) + b"\x85" + string("b") + b"\x87R",
            b"(" + integer(1) + shape,
            b"cnumpy\ndtype\n" + string(dtype) + integer(0) + integer(1) + b"\x87R",
            b"(" + integer(3) + string("|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb",
            b"\x89" + string(values.tobytes()) + b"tb",
        )
    )


def document(value):
    return b"\x80\x02" + value + b"."


def batch(images, labels):
    items = {"batch_label": string("training batch"), "labels": listing(map(integer, labels))}
    return document(mapping(items | {"data": array(images), "filenames": listing([])}))


@pytest.fixture
def pickles(tmp_path):
    """Write six batches of four images each and return their folder and the images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(batch(images[i], [i, 9, 0, 3]))
    meta = mapping({"num_vis": integer(3072), "label_names": listing(map(string, CLASSES))})
    (folder / "batches.meta").write_bytes(document(meta))
    return folder, images


@pytest.fixture
def image_folder(tmp_path):
    """Write five images as PNG files in two classes and return their folder and the images."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images"
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    names = ["train/cat/1.png", "train/ant/1.png", "train/ant/0.PNG", "test/ant/0.png"]
    for name, values in zip([*names, "test/cat/0.png"], pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values).save(folder / name)
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    return folder, pixels


# --- The pickles ---


@pytest.mark.parametrize("where", ["itself", "parent"])
def test_pickles_are_read_exactly(pickles, where):
    folder, images = pickles
    data = load(folder if where == "itself" else str(folder.parent))
    expected = torch.from_numpy(images).view(6, 4, 3, 32, 32)
    torch.testing.assert_close(data.train_images, expected[:5].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(data.test_images, expected[5], rtol=0, atol=0)
    assert data.train_labels.tolist() == [k for i in range(5) for k in (i, 9, 0, 3)]
    assert data.test_labels.tolist() == [5, 9, 0, 3]
    assert data.train_labels.dtype == torch.int64
    assert data.classes == CLASSES


def test_neither_layout_is_said_in_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.*train/<class>"):
            load(path)


IMAGES = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        document(listing([])),
        document(mapping({"labels": listing([integer(0)] * 2)})),
        document(mapping({"data": string("x" * 3072), "labels": listing([integer(0)])})),
        batch(IMAGES, [0]),
        batch(IMAGES, [0, 10]),
        batch(IMAGES, [0, -1]),
        batch(IMAGES[:, 1:], [0, 1]),
        batch(IMAGES.reshape(2, 3, 1024), [0, 1]),
        document(mapping({"data": array(IMAGES), "labels": listing([integer(0), b"\x89"])})),
        document(mapping({"data": array(IMAGES), "labels": listing([integer(0), string("1")])})),
        document(mapping({"data": array(IMAGES), "labels": array(IMAGES[:, 0])})),
    ],
)
def test_wrong_content_names_the_file(pickles, content):
    folder, _ = pickles
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_3: expected uint8 data"):
        load(folder)


def again(value, protocol, key=str.encode):
    """Pickle a dict as Python 3 does, its keys made from text by ``key``."""
    return pickle.dumps({key(name): entry for name, entry in value.items()}, protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", [str, str.encode])
@pytest.mark.parametrize("text", [str, str.encode])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_content_pickled_again_is_read_exactly(pickles, protocol, key, text, layout):
    folder, images = pickles
    expected = load(folder)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        entries = {
            "batch_label": text("training batch"),
            "labels": [i, 9, 0, 3],
            "data": layout(images[i]),
            "filenames": [text("a.png"), text("a.png"), text("ü.png"), text("")],
        }
        (folder / name).write_bytes(again(entries, protocol, key))
    names = [text(name) for name in CLASSES]
    meta = {"num_cases_per_batch": 10_000, "label_names": names, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(again(meta, protocol, key))
    assert same(load(folder), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_original_pickled_again_by_way_of_bytes_is_read_exactly(pickles, protocol):
    folder, _ = pickles
    expected = load(folder)
    for file in folder.iterdir():
        content = pickle.loads(file.read_bytes(), encoding="bytes")
        file.write_bytes(pickle.dumps(content, protocol))
    assert same(load(folder), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": [np.int64(1), 2]}, "refused global numpy._?core.multiarray.scalar"),
        ({"data": IMAGES.astype(np.int16)}, "refused a call of numpy.dtype"),
        ({"data": np.array([{}, {}])}, "refused a call of numpy.dtype"),
        ({"labels": [1.0, 2.0]}, "refused opcode BINFLOAT"),
        ({"labels": (1, 2)}, "refused tuple as a value"),
        ({"labels": [True, False]}, "expected uint8 data"),
        ({"labels": b"\1\2"}, "expected uint8 data"),
        ({"data": IMAGES.tobytes()}, "expected uint8 data"),
        ({"data": IMAGES.T}, "expected uint8 data"),
    ],
)
def test_wrong_content_pickled_again_names_the_file(pickles, protocol, entries, message):
    folder, _ = pickles
    content = again({"data": IMAGES, "labels": [3, 7]} | entries, protocol)
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises((ValueError, pickle.UnpicklingError), match=f"data_batch_3: {message}"):
        load(folder)


@pytest.mark.parametrize("names", [CLASSES[:9], (1,) * 10])
def test_wrong_class_names_name_the_file(pickles, names):
    folder, _ = pickles
    values = [string(name) if isinstance(name, str) else integer(name) for name in names]
    (folder / "batches.meta").write_bytes(document(mapping({"label_names": listing(values)})))
    with pytest.raises(ValueError, match=r"batches\.meta: expected ten"):
        load(folder)


def is_plain(value):
    match value:
        case dict():
            return all(map(is_plain, [*value, *value.values()]))
        case list():
            return all(map(is_plain, value))
    return isinstance(value, (str, bytes, int, type(None), np.ndarray))


def original_or_again(protocol):
    if protocol is None:
        return batch(IMAGES, [3, 7])
    return pickle.dumps({b"data": IMAGES, b"labels": [3, 7]}, protocol)


@given(st.data(), st.sampled_from([None, 2, 3, 4, 5]))
def test_a_truncated_pickle_is_refused(data, protocol):
    content = original_or_again(protocol)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(pickle.UnpicklingError):
        safe_pickle.loads(content[:cut])


@given(
    st.binary(max_size=60), st.integers(0, 300), st.booleans(), st.sampled_from([None, 2, 3, 4, 5])
)
def test_a_mangled_pickle_never_becomes_more_than_plain_data(noise, position, header, protocol):
    content = original_or_again(protocol)
    content = content[:position] + noise + content[position + len(noise) :] if header else noise
    try:
        value = safe_pickle.loads(content)
    except (pickle.UnpicklingError, Warning):
        return
    assert is_plain(value)


def test_damage_names_the_file(pickles):
    folder, _ = pickles
    for content in (
        b"",
        b"\x80\x02",
        batch(IMAGES, [3, 7])[:-5],
        document(b"R"),
        document(b"h\x07"),
    ):
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(pickle.UnpicklingError, match="test_batch: damaged pickle"):
            load(folder)


# --- Hostile pickles: each would touch the canary if it ran ---


class Call:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def command(canary):
    return f"touch '{canary}'"


def call(module, name, *arguments):
    """Call a global with strings, in the data set's own opcodes."""
    target = f"c{module}\n{name}\n".encode("latin-1")
    return target + b"(" + b"".join(map(string, arguments)) + b"tR"


CLASS = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
FUNCTION = b"cnumpy.core.multiarray\n_reconstruct\n"

HOSTILE = {
    "os.system": lambda c: call("os", "system", command(c)),
    "posix.system": lambda c: call("posix", "system", command(c)),
    "subprocess": lambda c: call("subprocess", "getoutput", command(c)),
    "eval": lambda c: call("__builtin__", "eval", f"open({str(c)!r}, 'w')"),
    "exec": lambda c: call("builtins", "exec", f"open({str(c)!r}, 'w')"),
    "open": lambda c: call("builtins", "open", str(c), "w"),
    "getattr": lambda c: b"cbuiltins\ngetattr\n" + CLASS + string("tofile") + b"\x86R",
    "dotted name": lambda c: call("numpy", "f2py.os.system", command(c)),
    "name in a module": lambda c: call("numpy.core.multiarray", "fromfile", str(c)),
    "numpy.load": lambda c: call("numpy", "load", str(c)),
    "numpy.fromfile": lambda c: call("numpy", "fromfile", str(c)),
    "numpy.save": lambda c: call("numpy", "save", str(c), "x"),
    "import": lambda c: call("builtins", "__import__", "antigravity"),
    "INST": lambda c: b"(" + string(command(c)) + b"ios\nsystem\n",
    "OBJ": lambda c: b"(cos\nsystem\n" + string(command(c)) + b"o",
    "NEWOBJ": lambda c: CLASS + string("x") + b"\x85\x81",
    "NEWOBJ of an admitted name": lambda c: CLASS + b"(" + integer(2) + b"\x85t\x81",
    "STACK_GLOBAL": lambda c: string("os") + string("system") + b"\x93",
    "persistent id": lambda c: b"Pos.system\n",
    "binary persistent id": lambda c: string("os.system") + b"Q",
    "extension code": lambda c: b"\x82\xf0" + string(command(c)) + b"\x85R",
    "out-of-band buffer": lambda c: b"\x97",
    "protocol 0 string": lambda c: b"S'x'\n",
    "object array": lambda c: array(IMAGES, dtype="O"),
    "object dtype alone": lambda c: DTYPE + string("O8") + b"K\x00K\x01\x87R",
    "other array subtype": lambda c: array(IMAGES, subtype=b"cnumpy\nmatrix\n"),
    "memory map subtype": lambda c: array(IMAGES, subtype=b"cnumpy\nmemmap\n"),
    "function as subtype": lambda c: array(IMAGES, subtype=b"cos\nsystem\n"),
    "dtype as subtype": lambda c: array(IMAGES, subtype=DTYPE),
    "other constructor": lambda c: array(IMAGES, reconstruct=b"scalar"),
    "odd arguments": lambda c: FUNCTION + string(str(c)) + b"\x85R",
    "no arguments": lambda c: FUNCTION + b")R",
    "call of ndarray": lambda c: CLASS + integer(2) + b"\x85R",
    "call of a string": lambda c: string("numpy dtype") + b"(tR",
    "state of a class": lambda c: CLASS + mapping({"__setstate__": FUNCTION}) + b"b",
    "state of a function": lambda c: FUNCTION + mapping({"__code__": string("x")}) + b"b",
    "slot state of a function": lambda c: FUNCTION + b"N" + mapping({"x": b"N"}) + b"\x86b",
    "state of a dict": lambda c: mapping({}) + mapping({"x": b"N"}) + b"b",
    "state before construction": lambda c: CLASS + b"(" + integer(1) + b"tb",
    "class as a value": lambda c: CLASS,
    "unfinished array as a value": lambda c: (
        FUNCTION + CLASS + b"K\x00\x85" + string("b") + b"\x87R"
    ),
    "dtype as a value": lambda c: DTYPE + string("u1") + b"K\x00K\x01\x87R",
    "tuple with a class": lambda c: CLASS + b"\x85",
    "key that is no string": lambda c: b"}" + integer(1) + integer(1) + b"s",
    "key that is a tuple": lambda c: b"}" + b"N\x85\x85" + integer(1) + b"s",
}


@pytest.mark.parametrize("attempt", HOSTILE)
@pytest.mark.parametrize("where", ["data", "label", "whole file", "batches.meta"])
def test_hostile_pickles_are_refused_and_nothing_runs(pickles, attempt, where):
    folder, _ = pickles
    canary = folder / "canary"
    hostile = HOSTILE[attempt](canary)
    content = {
        "data": mapping({"labels": listing([]), "data": hostile}),
        "label": mapping({"labels": listing([hostile]), "data": array(IMAGES)}),
    }.get(where, hostile)
    file = folder / ("batches.meta" if where == "batches.meta" else "test_batch")
    file.write_bytes(document(content))
    with pytest.raises(pickle.UnpicklingError, match=f"{file.name}: refused"):
        load(folder)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_calls_are_refused_at_every_protocol(pickles, protocol):
    folder, _ = pickles
    canary = folder / "canary"
    content = pickle.dumps({"data": Call(os.system, command(canary))}, protocol)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="test_batch: refused"):
        load(folder)
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists(), "the attempt is harmless and proves nothing"


def test_the_refused_global_is_named(pickles):
    folder, _ = pickles
    (folder / "test_batch").write_bytes(document(call("os", "system", "true")))
    with pytest.raises(pickle.UnpicklingError, match=r"refused global os\.system"):
        load(folder)


def test_registered_extension_codes_are_refused_even_when_cached(pickles):
    folder, _ = pickles
    canary = folder / "canary"
    copyreg.add_extension("os", "system", 240)
    try:
        harmless = pickle.loads(document(b"\x82\xf0"))
        assert harmless is os.system
        (folder / "test_batch").write_bytes(document(HOSTILE["extension code"](canary)))
        with pytest.raises(pickle.UnpicklingError, match="refused opcode EXT1"):
            load(folder)
    finally:
        copyreg.remove_extension("os", "system", 240)
        copyreg.clear_extension_cache()
    assert not canary.exists()


# --- The image folder ---


@pytest.mark.parametrize("where", ["itself", "parent"])
def test_an_image_folder_is_read_in_the_order_of_its_names(image_folder, tmp_path, where):
    folder, pixels = image_folder
    data = load(folder if where == "itself" else folder.parent, cache=tmp_path / "cache")
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    torch.testing.assert_close(data.train_images, expected[[2, 1, 0]], rtol=0, atol=0)
    torch.testing.assert_close(data.test_images, expected[[3, 4]], rtol=0, atol=0)
    assert data.train_labels.tolist() == [0, 0, 1]
    assert data.test_labels.tolist() == [0, 1]
    assert data.train_labels.dtype == torch.int64
    assert data.classes == ("ant", "cat")


def test_jpeg_and_grey_files_become_three_channels(image_folder, tmp_path):
    from PIL import Image

    folder, _ = image_folder
    Image.new("L", (32, 32), 100).save(folder / "test" / "ant" / "1.jpeg")
    data = load(folder, cache=tmp_path / "cache")
    assert data.test_images.shape == (3, 3, 32, 32)
    assert (data.test_images[1] == 100).all()


def test_sixteen_bits_are_grey_and_hidden_files_nothing(image_folder, tmp_path):
    from PIL import Image

    folder, _ = image_folder
    ramp = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
    Image.fromarray(ramp).save(folder / "test" / "ant" / "1.png")
    (folder / "test" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7")
    data = load(folder, cache=tmp_path / "cache")
    assert data.test_images.shape == (3, 3, 32, 32)
    for channel in data.test_images[1]:
        assert np.array_equal(channel, ramp // 257)


def test_a_wrong_size_names_the_file(image_folder, tmp_path):
    from PIL import Image

    folder, _ = image_folder
    Image.new("RGB", (31, 32)).save(folder / "train" / "cat" / "odd.png")
    with pytest.raises(ValueError, match=r"odd\.png: expected a 32x32 image, got 31x32"):
        load(folder, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"GIF89a", "cut"])
def test_a_damaged_image_names_the_file(image_folder, tmp_path, content):
    folder, _ = image_folder
    file = folder / "train" / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:900] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"cat/1\.png: "):
        load(folder, cache=tmp_path / "cache")


def test_class_folders_must_agree_and_hold_images(image_folder, tmp_path):
    folder, _ = image_folder
    (folder / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match="expected class folders"):
        load(folder, cache=tmp_path / "cache")
    (folder / "test" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"images in .*dog, got none"):
        load(folder, cache=tmp_path / "cache")


def test_pillow_is_asked_for_by_name(image_folder, tmp_path, monkeypatch):
    folder, _ = image_folder
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="needs Pillow"):
        load(folder, cache=tmp_path / "cache")


# --- The cache ---


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True)) and a[4] == b[4]


@pytest.fixture
def decoded(monkeypatch):
    """Record each file that is decoded."""
    files = []
    decode = cifar10_data._decode_image
    monkeypatch.setattr(cifar10_data, "_decode_image", lambda f: (files.append(f), decode(f))[1])
    return files


def test_the_second_load_decodes_nothing(image_folder, tmp_path, decoded):
    folder, _ = image_folder
    first = load(folder, cache=tmp_path / "cache")
    assert len(decoded) == 5
    assert same(first, load(folder, cache=str(tmp_path / "cache")))
    assert len(decoded) == 5
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".npz"]


def test_a_changed_or_added_file_is_noticed(image_folder, tmp_path, decoded):
    folder, _ = image_folder
    first = load(folder, cache=tmp_path / "cache")
    file = folder / "test" / "cat" / "0.png"
    os.utime(file, ns=(0, 0))
    assert same(first, load(folder, cache=tmp_path / "cache"))
    assert len(decoded) == 10
    (file.parent / "1.png").write_bytes(file.read_bytes())
    assert len(load(folder, cache=tmp_path / "cache").test_labels) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "pickle", "other arrays"])
def test_a_damaged_cache_is_rebuilt(image_folder, tmp_path, decoded, damage):
    folder, _ = image_folder
    first = load(folder, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    content, canary = file.read_bytes(), tmp_path / "canary"
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "cut": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "text": b"not an archive",
        "pickle": pickle.dumps(Call(os.system, command(canary))),
    }
    if damage == "other arrays":
        np.savez(file, train_images=np.zeros(3))
    else:
        file.write_bytes(damaged[damage])
    assert same(first, load(folder, cache=tmp_path / "cache"))
    assert same(first, load(folder, cache=tmp_path / "cache"))
    assert len(decoded) == 10
    assert not canary.exists()


def test_the_default_cache_folder(image_folder, tmp_path, monkeypatch):
    folder, _ = image_folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(folder)
    assert len(list((tmp_path / "xdg" / "advcal").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(folder)
    assert len(list((tmp_path / "home" / ".cache" / "advcal").iterdir())) == 1


def test_pickles_are_not_cached(pickles, tmp_path):
    load(pickles[0], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# --- Minibatches ---


def numbered(n, side=4):
    """Return n constant images, image k of value k and label k."""
    labels = torch.arange(n)
    return labels.to(torch.uint8).view(n, 1, 1, 1).expand(n, 3, side, side).contiguous(), labels


def orders(batches, n_passes=2):
    return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(n_passes)]


@given(st.integers(1, 50), st.integers(1, 60), st.booleans(), st.booleans())
def test_every_example_comes_once_with_its_label(n, batch_size, shuffle, augment):
    batches = Batches(*numbered(n), batch_size=batch_size, shuffle=shuffle, augment=augment)
    passed = list(batches)
    assert len(passed) == len(batches)
    assert all(len(labels) == batch_size for _, labels in passed[:-1])
    assert sorted(torch.cat([labels for _, labels in passed]).tolist()) == list(range(n))
    for inputs, labels in passed:
        assert inputs.dtype == torch.float32
        assert inputs.shape == (len(labels), 3, 4, 4)
        values = inputs.flatten(1).amax(1) * 255
        assert (values.round() <= labels).all() if augment else values.round().equal(labels.float())


def test_indices_tell_where_an_example_is():
    images, labels = numbered(20)
    for inputs, of, rows in Batches(images, labels, 6, shuffle=True, indices=True):
        assert torch.equal(of, labels[rows])
        assert torch.equal((inputs * 255).round().to(torch.uint8), images[rows])


def test_inputs_span_zero_to_one_exactly():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    ((inputs, _),) = Batches(images, torch.zeros(1))
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert torch.equal((inputs * 255).round().to(torch.uint8), images)


def test_order_is_kept_without_shuffling():
    assert orders(Batches(*numbered(20), batch_size=6)) == [list(range(20))] * 2


def test_shuffling_depends_on_the_seed_and_the_pass_alone():
    first, second = orders(Batches(*numbered(50), batch_size=7, shuffle=True, seed=3))
    assert first != second
    assert orders(Batches(*numbered(50), batch_size=9, shuffle=True, seed=3)) == [first, second]
    assert orders(Batches(*numbered(50), shuffle=True, seed=4))[0] != first
    left_early = Batches(*numbered(50), batch_size=7, shuffle=True, seed=3)
    next(iter(left_early))
    assert orders(left_early, 1) == [second]


def test_augmentation_repeats_with_its_seed():
    images = torch.randint(256, (30, 3, 32, 32), dtype=torch.uint8)

    def passes(seed):
        batches = Batches(images, torch.arange(30), seed=seed, augment=True)
        return [next(iter(batches))[0] for _ in range(2)]

    first, second = passes(0)
    assert not torch.equal(first, second)
    assert all(map(torch.equal, (first, second), passes(0)))
    assert not torch.equal(first, passes(1)[0])


def test_the_global_random_state_is_untouched():
    before = torch.get_rng_state()
    list(Batches(*numbered(9), shuffle=True, augment=True))
    split(*numbered(9), 3)
    assert torch.equal(before, torch.get_rng_state())


def test_an_augmented_image_is_a_crop_of_the_padded_image_or_of_its_mirror_image():
    images = torch.randint(1, 256, (40, 3, 8, 8), dtype=torch.uint8)
    ((augmented, _),) = Batches(images, torch.arange(40), augment=True)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).float() / 255
    flips, offsets = set(), set()
    for i in range(40):
        crops = {
            (top, left, flip): crop.flip(2) if flip else crop
            for top in range(9)
            for left in range(9)
            for crop in [padded[i, :, top : top + 8, left : left + 8]]
            for flip in (False, True)
        }
        (found,) = [key for key, crop in crops.items() if torch.equal(crop, augmented[i])]
        offsets.add(found[:2])
        flips.add(found[2])
    assert flips == {False, True}
    assert {min(map(min, offsets)), max(map(max, offsets))} == {0, 8}
    assert len(offsets) > 20


def test_bad_batches_are_refused():
    images, labels = numbered(4)
    with pytest.raises(TypeError, match=r"expected uint8 images, got torch\.float32"):
        Batches(images.float(), labels)
    for bad in ((images[0], labels), (images, labels[:3]), (images[:0], labels[:0])):
        with pytest.raises(ValueError, match="expected images"):
            Batches(*bad)
    with pytest.raises(ValueError, match="expected a positive batch_size, got 0"):
        Batches(images, labels, batch_size=0)


@given(st.integers(0, 30), st.data())
def test_split_is_a_seeded_partition(n, data):
    n_validation, seed = data.draw(st.integers(0, n)), data.draw(st.integers(0, 2**32))
    training, validation = split(*numbered(n), n_validation, seed)
    assert len(validation[1]) == n_validation
    assert sorted([*training[1].tolist(), *validation[1].tolist()]) == list(range(n))
    for images, labels in (training, validation):
        assert torch.equal(images[:, 0, 0, 0], labels.to(torch.uint8))
    assert torch.equal(validation[1], split(*numbered(n), n_validation, seed)[1][1])


def test_split_refuses_impossible_sizes():
    for n_validation in (-1, 5):
        with pytest.raises(ValueError, match="expected n_validation from 0 to 4"):
            split(*numbered(4), n_validation)


# --- The real files, where present ---


def extracted(archive, tmp_path, wanted):
    if not (DATA / archive).is_file():
        pytest.skip(f"needs {archive}")
    with tarfile.open(DATA / archive) as tar:
        members = [member for member in tar if wanted(member.name)]
        tar.extractall(tmp_path, members, filter="data")
    return tmp_path


def test_the_original_pickles(tmp_path):
    data = load(extracted("cifar-10-python-part.tar.gz", tmp_path, lambda name: True))
    assert data.train_images.shape == (5085, 3, 32, 32)
    assert data.test_images.shape == (1017, 3, 32, 32)
    assert data.classes == CLASSES
    for labels in (data.train_labels, data.test_labels):
        assert labels.unique().tolist() == list(range(10))
        assert labels.bincount().min() > 0.08 * len(labels)


def test_jpeg_copies_match_the_original_images(tmp_path):
    original = load(extracted("cifar-10-python-part.tar.gz", tmp_path, lambda name: True))
    copies = extracted(
        "cifar10-jpeg.tar.gz", tmp_path / "jpeg", lambda n: n.endswith(("/0000.jpg", "/0001.jpg"))
    )
    data = load(copies, cache=tmp_path / "cache")
    assert data.classes == CLASSES
    for label in range(10):
        exact = original.test_images[original.test_labels == label][:2].double()
        lossy = data.test_images[data.test_labels == label].double()
        psnr = 10 * (255**2 / (exact - lossy).square().mean((1, 2, 3))).log10()
        assert psnr.min() > 23
