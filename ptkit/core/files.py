"""Writing files so that a reader never sees half of one."""

import csv
import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ptkit.core.errors import DataError, StorageError

T = TypeVar("T")
# What a network disk says while its server restarts.
_TRANSIENT = {errno.EIO, errno.ESTALE}


def with_retries(path: str | Path, read: Callable[..., T], *args: Any) -> T:
    """Return what `read(*args)` gives for a file; a disk that fails for a moment gets three tries.

    Raises:
        DataError: the file cannot be read. StorageError: the disk failed three times.
    """
    for _attempt in range(3):
        try:
            return read(*args)
        except OSError as error:
            failure = error
            if error.errno not in _TRANSIENT:
                raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    raise StorageError(f"cannot read {path} after three tries: {failure.strerror}") from failure


def write_atomically(
    path: Path,
    write: bytes | Callable[[BinaryIO], object],
    *,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Write a file beside `path` and rename it over `path`: the old content stays until the new is
    on disk.

    write: the bytes, or a function that writes them to a binary file. The folder is made if
    missing.
    check: looks at the written file before the rename, and raises OSError to leave `path` as it
    was.

    Raises:
        StorageError: the disk refused; `path` is as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened here, not by tempfile, which makes files for the owner alone: the umask counts.
        with open(path.parent / f".{path.name}.{secrets.token_hex(4)}", "xb") as file:
            temporary = Path(file.name)
            if callable(write):
                write(file)
            else:
                file.write(write)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, with LF at the ends of lines; see `write_atomically`.

    Paths may hold bytes that are not UTF-8; they are written back as they were.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def make_folder(path: Path) -> Path:
    """Make a folder and its parents.

    Raises:
        StorageError: the disk refused.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}") from error
    return path


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
