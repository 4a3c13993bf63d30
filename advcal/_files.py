"""Files: one writer at a time, written whole, and read only if they are whole."""

import errno
import os
import pickle
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeAlias, cast

import torch

from advcal._looks import of_start

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

Path: TypeAlias = str | os.PathLike[str]

_held: dict[str, int] = {}  # locks to the process that has them; a fork has its parent's in here
_one = threading.Lock()


@contextmanager
def held(path: Path, *, seconds: float = 0.0) -> Iterator[None]:
    """Be the only one to write a file, and remove what a killed writer left half written.

    The lock, `.name.lock` beside the file, ends with the process, however that ends. If there can
    be none (Windows, some network folders, folders that nobody can write to) nothing is held.

    Args:
        path: The file, which need not be there; if it is a symbolic link, what that leads to.
        seconds: How long to wait for another writer.

    Raises:
        BlockingIOError: If another one, in this process or elsewhere, has not ended by then.
    """
    folder, name = os.path.split(os.path.realpath(path))
    lock = os.path.join(folder, f".{name}.lock")
    handle, end = None, time.monotonic() + seconds
    while True:
        try:
            handle = _take(lock)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise BlockingIOError(
                    f"expected {os.fspath(path)} to be written by one at a time, got a second "
                    f"while {_owner(lock)} is at it; wait for that one, or give each its own file"
                ) from None
        time.sleep(0.02)
    try:
        if handle is not None:
            _clear(folder, name)
        yield
    finally:
        if handle is not None and _held.get(lock) == os.getpid():
            with suppress(OSError):
                os.unlink(lock)
            os.close(handle)
            del _held[lock]


def _take(lock: str) -> int | None:
    """Take a lock; return its handle, or None if there can be none.

    A lock of `fcntl.lockf` belongs to one process: a worker that was forked does not keep it when
    its parent is killed. Its threads share it, and are told apart by `_held`.
    """
    with _one:
        if _held.get(lock) == os.getpid():
            raise BlockingIOError
        while fcntl is not None:
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                return None
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), os.stat(lock)):
                    os.truncate(handle, 0)
                    os.write(handle, str(os.getpid()).encode())
                    _held[lock] = os.getpid()
                    return handle
                os.close(handle)
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise BlockingIOError from None
                if not isinstance(error, FileNotFoundError):  # removed by the one before: again
                    return None
    return None


def _owner(lock: str) -> str:
    """Say who has a lock. To close the file would end a lock of this process."""
    with _one:
        if _held.get(lock) == os.getpid():
            return "this process"
        with suppress(OSError), open(lock, "rb") as file:
            return f"process {file.read(20).decode(errors='replace')}"
    return "another process"


def _clear(folder: str, name: str) -> None:
    ours = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for each in filter(ours.fullmatch, os.listdir(folder)):
            os.unlink(os.path.join(folder, each))


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes the place of another in one piece as the block ends.

    There is the old one or the new one at any moment, also if the machine stops. A symbolic link
    stays one. If anything goes wrong the old one stays, and nothing is left beside it.

    Raises:
        OSError: If it cannot be written, for instance on a full disk; the message has its name.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    noting = _Noting()
    try:
        with open(temporary, "xb") as noting.file:
            yield cast(BinaryIO, noting)
            noting.flush()
            os.fsync(noting.file.fileno())
        with suppress(OSError):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        cause = noting.error or error
        if not isinstance(cause, OSError):
            raise
        stays = "the old one stays as it was" if os.path.exists(target) else "there is none"
        told = f"expected to write {os.fspath(path)}, got: {cause.strerror or cause}; {stays}"
        raise OSError(cause.errno or errno.EIO, told) from None
    with suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class _Noting:
    """A file that keeps the error of a write, of which torch.save makes one of its own."""

    file: BinaryIO
    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


# --- tensors and plain values ----------------------------------------------------------------


def dump(contents: object, file: BinaryIO) -> None:
    """Write tensors and plain values, each record with its checksum."""
    serialization: Any = torch.serialization  # of which torch 2.4 has no options
    sums = getattr(serialization, "get_crc32_options", lambda: True)()
    try:
        if not sums:
            serialization.set_crc32_options(True)
        torch.save(contents, file)
    finally:
        if not sums:
            serialization.set_crc32_options(False)


def load(file: Path | BinaryIO, what: str) -> Any:
    """Read what `dump` wrote, on the processor; what is in it is not executed.

    Args:
        file: The path, or a file open for reading.
        what: What it is to be, for the message, such as `"a checkpoint of epochs"`.

    Raises:
        ValueError: If it is damaged, or holds anything but tensors and plain values.
        OSError: If there is no such file, or it cannot be read.
    """
    named = isinstance(file, (str, os.PathLike))
    wanted = f"expected {os.fspath(cast(Path, file)) if named else 'the file'} to be {what}, got"
    start = 0 if named else cast(BinaryIO, file).tell()
    try:
        found = _damage(file)
        if not named:
            cast(BinaryIO, file).seek(start)
        if found is None:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        found = "one that holds other things than tensors and plain values"
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        found = "one that is damaged"
    raise ValueError(f"{wanted} {found}")  # torch's own words recommend to execute it


def _damage(file: Path | BinaryIO) -> str | None:
    """Say what is wrong with a file that `dump` is to have written, if anything is."""
    if not zipfile.is_zipfile(file):
        start = _start(file)
        return "one that is cut short" if start.startswith(b"PK") else of_start(start)
    with zipfile.ZipFile(file) as records:
        names = [each.rpartition("/")[2] for each in records.namelist()]
        if "data.pkl" not in names or "constants.pkl" in names:
            return "an archive of something else"
        if any(each.compress_type != zipfile.ZIP_STORED for each in records.infolist()):
            return "one that is compressed"
        return "one that is damaged" if records.testzip() else None


def _start(file: Path | BinaryIO) -> bytes:
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return opened.read(512)
    file.seek(0)
    return file.read(512)
