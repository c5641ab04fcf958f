"""Reading files that may fail for a moment, or many at once; reading text line by line; writing
files so that a reader never sees half of one.
"""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ptkit.core.errors import DataError, ImageError, StorageError
from ptkit.core.run_folders import is_run

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")
# Threads that wait for the disk and need no core: from one that answers after 10 ms, so many read
# 3,200 files a second.
NUM_READERS = 32
_FEW_READERS = 2
# Seconds a file. All of the last parts of a list took longer where the disk is slow: one does now
# and then on any machine.
_SLOW = 2e-4
_NUM_JUDGED = 3
# Files that one thread asks for alone, and parts that many ask for then before it does so again.
_NUM_PROBED, _FIRST_PARTS = 4, 2 * NUM_READERS
# What a network disk says while its server restarts.
_TRANSIENT = {errno.EIO, errno.ESTALE}

# What would not come back as it was: a quote or BOM in front, a blank at the end, control
# characters and line separators (many programs break lines at all of them), bytes that are not
# UTF-8.
_NEEDS_QUOTES = re.compile(r'\A["\ufeff]|[ \t]\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')

# With these a cell is a formula to spreadsheets, which run it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_BOM = b"\xef\xbb\xbf"


def with_retries(path: str | Path, read: Callable[..., T], *args: Any) -> T:
    """Return what `read(*args)` gives for the file of an image; a disk that fails for a moment gets
    three tries.

    Raises:
        ImageError: the file cannot be read. StorageError: the disk failed three times.
    """
    for _attempt in range(3):
        try:
            return read(*args)
        except OSError as error:
            failure = error
            if error.errno not in _TRANSIENT:
                raise ImageError(f"cannot read {path}: {error.strerror or error}") from None
    raise StorageError(f"cannot read {path} after three tries: {failure.strerror}") from failure


def from_disk(work: Callable[[Sequence[int]], T], count: int, *, at_once: int) -> Iterator[T]:
    """Yield, in order, what `work` gives for 0..count-1, up to `at_once` of these numbers at a
    time.

    work: asks the disk about some files: in many threads where an answer takes long, in two where
    the interpreter's lock is all that more of them would wait for. It may be asked again.
    """
    # `ptkit --help` needs none.
    from concurrent.futures import ThreadPoolExecutor

    def timed(part: range) -> tuple[range, T, float]:
        start = time.perf_counter()
        found = work(part)
        return part, found, (time.perf_counter() - start) / len(part)

    start, num_parts = 0, _FIRST_PARTS
    # Threads start with the first task that they get.
    with (
        ThreadPoolExecutor(_FEW_READERS, "ptkit-disk") as few,
        ThreadPoolExecutor(NUM_READERS, "ptkit-disk") as many,
    ):
        while start < count:
            # In no thread of theirs: what is waited for then is the disk.
            part, found, seconds = timed(range(start, min(start + _NUM_PROBED, count)))
            yield found
            start, is_slow = part.stop, seconds > _SLOW
            # The longer it has been slow, the later it is looked at again.
            stop = min(start + num_parts * at_once, count) if is_slow else count
            num_parts *= 1 + is_slow
            last = deque([0.0] * _NUM_JUDGED, maxlen=_NUM_JUDGED)
            rest = (range(k, min(k + at_once, stop)) for k in range(start, stop, at_once))
            pool, threads = (many, NUM_READERS) if is_slow else (few, _FEW_READERS)
            results = _in_order(pool, timed, rest, ahead=2 * threads)
            with contextlib.closing(results):
                for part, found, seconds in results:
                    yield found
                    start = part.stop
                    last.append(seconds)
                    if not is_slow and min(last) > _SLOW:
                        break


def _in_order(
    pool: "ThreadPoolExecutor", work: Callable[[range], T], parts: Iterable[range], *, ahead: int
) -> Generator[T]:
    """Yield what `work` gives for each part, in order; so many parts are begun ahead."""
    waiting: deque[Future[T]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # An error, or nobody asks for the rest.
        for future in waiting:
            future.cancel()


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers, from 1, and lines of UTF-8 text, without the BOM and with their ends.

    Raises:
        DataError: the file cannot be read or is not UTF-8 text.
    """
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{file}, line 1: this is UTF-16 text; save the file as UTF-8")
                line = line.removeprefix(_BOM)
            if b"\0" in line:
                raise DataError(f"{file}, line {number}: a zero byte; this is not a text file")
            try:
                # Nearly all lines are ASCII, and decoding makes a text of each.
                if not line.isascii():
                    line.decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{file}, line {number}: not UTF-8; save the file as UTF-8 (a path of other"
                    " bytes goes in as a JSON string)"
                ) from None
            yield number, line


def open_text(file: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        mode = file.stat().st_mode
        if stat.S_ISREG(mode):
            return file.open("rb")
    except FileNotFoundError:
        raise DataError(f"no {file} here; `ptkit split FOLDER` writes lists") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    if stat.S_ISDIR(mode):
        if is_run(file):
            raise DataError(f"{file} is a run folder; expected a list of images, such as train.txt")
        hint = f" (`ptkit split {file}` writes lists of a folder with a folder for each class)"
        with os.scandir(file) as entries:
            has_folders = any(entry.is_dir() for entry in entries)
        raise DataError(f"{file} is a folder; expected a list{hint if has_folders else ''}")
    raise DataError(f"{file} is neither file nor folder; expected a text file")


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def quoted(path: str) -> str:
    """Return the path as a list holds it: as it is, or as a JSON string where it could not be read
    back.
    """
    # isprintable is quick and true for nearly all paths; what it refuses need not need quotes.
    if path.isprintable() and path[:1] != '"' and path[-1:] != " ":
        return path
    return json.dumps(path) if _NEEDS_QUOTES.search(path) else path


def unquoted(raw: bytes, *, place: str) -> str:
    """Return a path or name, taken out of its JSON quotes if it has them.

    Raises:
        DataError: quotes that are not a JSON string, or nothing in them.
    """
    text = raw.decode()
    if not text.startswith('"'):
        return text
    try:
        value: str = json.loads(text)
        value.encode("utf-8", "surrogateescape")
    except ValueError:
        raise DataError(
            f"{place}: {text} starts with a quote but is not a JSON string; quote it as JSON does"
        ) from None
    if not value or "\0" in value:
        raise DataError(f"{place}: {text} cannot be a path")
    return value


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
        StorageError: the disk refused; `path` is as it was, unless the message says that it is new.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, write)
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        # Only where something failed: else it has its final name.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path} is new, and may be the old one again after a power cut:"
            f" {error.strerror or error}"
        ) from error


def write_synced(path: Path, write: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a new file and wait until it is on the disk; raises OSError."""
    # Opened here, not by tempfile, which makes files for the owner alone: the umask counts.
    with open(path, "xb") as file:
        if callable(write):
            write(file)
        else:
            file.write(write)
        file.flush()
        os.fsync(file.fileno())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, see `csv_bytes` and `write_atomically`."""
    write_atomically(path, csv_bytes(itertools.chain([header], rows)))


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as CSV, with LF at the ends of lines.

    A text that spreadsheets would run as a formula gets a `'` in front, which marks a text there.
    Paths may hold bytes that are not UTF-8; they are written back as they were.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _harmless(cell: Any) -> Any:
    if not (isinstance(cell, str) and cell.startswith(_FORMULA)):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


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


def check_no_link(path: Path, *, inside: Path) -> None:
    """Refuse a path below the folder `inside` of which a part is a link: what is written there
    would be somewhere else.

    Raises:
        StorageError: it is.
    """
    below = itertools.takewhile(lambda part: part != inside, (path, *path.parents))
    if link := next((part for part in below if part.is_symlink()), None):
        raise StorageError(
            f"{link} is a link to {os.readlink(link)}, and nothing is written through links in"
            f" {inside}: remove it, or put a folder in its place"
        )


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if it may be read; raises OSError."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # It may be written to, and nobody can wait for it.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
