"""Files are written whole, by one at a time, and read only if they are whole."""

import errno
import io
import os
import pickle
import resource
import signal
import threading
import zipfile

import pytest
import torch

from advcal import _files


def put(path, contents):
    with _files.whole(path) as file:
        _files.dump(contents, file)


def forked(work):
    """Run work in a fork and return its exit status."""
    if (pid := os.fork()) == 0:
        try:
            os._exit(work() or 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_replaced_in_one_piece(tmp_path):
    path = tmp_path / "file"
    for value in (1, 2):
        put(path, {"a": value})
        assert torch.load(path, weights_only=True) == {"a": value}
        assert names(tmp_path) == ["file"]


def test_it_is_on_the_disk_before_it_replaces(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def spy(*arguments, name=name, original=original):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, spy)
    put(tmp_path / "file", {})
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("moment", ["fsync", "replace", "body"])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, moment):
    path = tmp_path / "file"
    put(path, {"a": 1})

    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"body": (torch, "save")}.get(moment, (os, moment)), failing)
    with pytest.raises(OSError, match="No space left on device; the old one stays") as caught:
        put(path, {"a": 2})
    assert (caught.value.errno, str(path) in str(caught.value)) == (errno.ENOSPC, True)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert names(tmp_path) == ["file"]


def test_a_disk_that_is_full_is_said_in_plain_words(tmp_path):
    path = tmp_path / "file"
    put(path, {"a": 1})

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            put(path, {"weights": torch.ones(1_000_000)})
        except OSError as error:
            told = f"expected to write {path}, got: File too large; the old one stays as it was"
            return 0 if told in str(error) else 1

    assert forked(fill) == 0
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError, match="No such file or directory; there is none"):
        put(path, {})


def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "link", tmp_path / "disk" / "file"
    link.symlink_to(target)
    for value in (1, 2):
        put(link, {"a": value})
        assert link.is_symlink()
        assert torch.load(target, weights_only=True) == {"a": value}
    target.chmod(0o640)
    put(link, {})
    assert target.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path / "disk") == ["file"]
    with _files.held(link), pytest.raises(BlockingIOError, match="while this process is at it"):
        _files.held(target).__enter__()


# --- one at a time ---------------------------------------------------------------------------


def test_a_second_writer_is_refused_with_the_name(tmp_path):
    path = tmp_path / "file"

    def second():
        try:
            with _files.held(path):
                return 1
        except BlockingIOError as error:
            told = f"expected {path} to be written by one at a time, got a second while process"
            return 0 if str(error).startswith(f"{told} {os.getppid()} is at it") else 2

    with _files.held(path):
        assert forked(second) == 0
        with pytest.raises(BlockingIOError, match="while this process is at it"):
            _files.held(path).__enter__()
        with _files.held(tmp_path / "other"):
            pass
        assert forked(second) == 0  # the lock is still there
    assert names(tmp_path) == []
    assert forked(second) == 1


def test_a_second_writer_may_wait(tmp_path):
    path, order = tmp_path / "file", []
    inside = threading.Event()

    def first():
        with _files.held(path):
            inside.set()
            waiting.wait(60)
            order.append("first")

    waiting = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    threading.Timer(0.05, waiting.set).start()
    with _files.held(path, seconds=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_many_writers_take_turns(tmp_path):
    path, log = tmp_path / "file", tmp_path / "log"
    log.touch()

    def add():
        for _ in range(20):
            with _files.held(path, seconds=60):
                log.write_text(str(int(log.read_text() or 0) + 1))

    pids = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            try:
                add()
                os._exit(0)
            finally:
                os._exit(99)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 3
    assert log.read_text() == "60"
    assert names(tmp_path) == ["log"]


def test_what_a_killed_writer_left_is_taken_away(tmp_path):
    path = tmp_path / "file"
    put(path, {"a": 1})
    until, end = os.pipe()

    def dies():
        with _files.held(path), _files.whole(path) as file:
            file.write(b"half")
            file.flush()
            os.close(end)
            if os.fork() == 0:  # a worker, which outlives it
                os.read(until, 1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(dies) == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 3  # the lock and the half of a file
    other = tmp_path / ".file.pt.0123456789abcdef.tmp"  # of another file
    other.touch()
    with _files.held(path):
        pass
    os.close(end)
    assert names(tmp_path) == [other.name, "file"]
    assert torch.load(path, weights_only=True) == {"a": 1}


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_holds_nothing(tmp_path):
    tmp_path.chmod(0o500)
    with _files.held(tmp_path / "file"):
        pass
    tmp_path.chmod(0o700)


# --- reading ---------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def archive(**records):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, value in records.items():
            writer.writestr(f"x/{name.replace('_', '.')}", value)
    return file.getvalue()


def saved(contents):
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


WHOLE = saved({"a": torch.arange(100.0), "b": [1, "x"]})
FOREIGN = {
    "empty": (b"", "empty"),
    "a web page": (b"<!DOCTYPE html><html>not found</html>", "a web page"),
    "an error of a bucket": (b"\n<Error>NoSuchKey</Error>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer"),
    "text": (b"{}", "a file of text"),
    "cut": (WHOLE[:-1], "cut short"),
    "half": (WHOLE[:500], "cut short"),
    "pickled": (pickle.dumps({"a": 1}), "a pickle"),
    "pickled and hostile": (pickle.dumps(Evil()), "a pickle"),
    "an archive": (archive(a=b"1"), "an archive of something else"),
    "nothing in it": (archive(), "an archive of something else"),
    "torchscript": (archive(data_pkl=b"", constants_pkl=b""), "an archive of something else"),
    "hostile": (saved(Evil()), "other things than tensors and plain values"),
    "hostile by hand": (
        archive(data_pkl=pickle.dumps(Evil()), version=b"3"),
        "other things|damaged",
    ),
    "a function": (saved(print), "other things than tensors"),
    "no pickle": (archive(data_pkl=b"", version=b"3"), "damaged|other things"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("opened", [False, True])
def test_what_is_not_ours_is_refused_by_name_and_not_executed(name, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, told = FOREIGN[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    told = f"expected {'the file' if opened else path} to be ours, got .*({told})"
    with pytest.raises(ValueError, match=told) as caught:
        _files.load(io.BytesIO(content) if opened else path, "ours")
    assert caught.value.__cause__ is None
    assert "weights_only" not in str(caught.value)
    assert names(tmp_path) == ["file"]


def test_compressed_records_are_not_unpacked(tmp_path):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("x/data.pkl", bytes(1000))
    with pytest.raises(ValueError, match="got one that is compressed"):
        _files.load(path, "ours")


def test_no_bit_can_change_unseen(tmp_path):
    generator = torch.Generator().manual_seed(0)
    wanted = torch.arange(100.0)
    refused = 0
    for _ in range(300):
        at = int(torch.randint(8 * len(WHOLE), (), generator=generator))
        flipped = bytearray(WHOLE)
        flipped[at // 8] ^= 1 << at % 8
        try:
            found = _files.load(io.BytesIO(flipped), "ours")
        except ValueError as error:
            assert str(error).startswith("expected the file to be ours, got ")  # noqa: PT017
            refused += 1
            continue
        assert torch.equal(found["a"], wanted)
        assert found["b"] == [1, "x"]
    assert refused > 100


def test_a_file_that_is_not_there_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _files.load(tmp_path / "nowhere", "ours")


def test_checksums_are_written_whatever_torch_is_set_to(tmp_path):
    options = getattr(torch.serialization, "set_crc32_options", lambda _: None)
    options(False)
    try:
        put(tmp_path / "file", {"a": torch.ones(3)})
        assert options.__name__ == "<lambda>" or not torch.serialization.get_crc32_options()
    finally:
        options(True)
    assert _files.load(tmp_path / "file", "ours")["a"].sum() == 3
