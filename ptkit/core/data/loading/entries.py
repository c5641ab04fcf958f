"""The decoded images on disk: where they are, which entries there are, how one is written and
removed.

An entry is a folder `NAME` with `pixels.bin`, `hashes.bin` (of the files), `entry.json` and, where
the images differ in size, `sizes.bin`. It is made under a temporary name and renamed when all of it
is on the disk: an entry with its final name is complete.
"""

import errno
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ptkit.core.data.loading.checksums import BlockSums, sums_of
from ptkit.core.errors import StorageError

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
except ImportError:  # Windows, where an open file cannot be removed either
    flock = None  # type: ignore[assignment]

FORMAT, FORMAT_VERSION = "ptkit.cache", 3
PIXELS, SIZES, HASHES, FACTS = "pixels.bin", "sizes.bin", "hashes.bin", "entry.json"
_FILES = {PIXELS, SIZES, HASHES, FACTS}
COMPLETE, BUILDING, LEFT_OVER = "complete", "being built", "left over"

# Folders with other names are the user's: they are neither listed nor removed.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}-[0-9a-f]{16}")
_TEMPORARY = re.compile(rf"\.({_NAME.pattern})\.[0-9a-f]{{8}}")
# From the folder of an entry to its lock.
_BEGINNING_S = 10.0


@dataclass(frozen=True)
class Entry:
    """One entry; facts: what entry.json says."""

    name: str
    folder: Path
    state: str
    nbytes: int
    facts: Mapping[str, Any]


def cache_folder() -> Path:
    """Return the folder of all entries: $PTKIT_CACHE, $XDG_CACHE_HOME/ptkit or ~/.cache/ptkit."""
    if own := os.environ.get("PTKIT_CACHE"):
        return Path(own).expanduser()
    # A relative $XDG_CACHE_HOME does not count (XDG Base Directory Specification).
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "ptkit"


def shown(folder: Path) -> str:
    """Return a folder as people write it, with `~` for their home."""
    if not folder.is_relative_to(Path.home()):
        return str(folder)
    return f"~/{folder.relative_to(Path.home()).as_posix()}"


def free_disk_bytes() -> int:
    """Return how much more fits on the disk that has the cache's folder; 0 where the system does
    not say.
    """
    folder = cache_folder().absolute()
    # The first entry makes the folder; until then the disk is that of the nearest parent.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def entry_name(list_file: Path, key: str) -> str:
    """Return the name of the entry with a key (hexadecimal), which begins with the list's own."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", list_file.stem)[:32] or "list"
    return f"{stem}-{key[:16]}"


def list_entries() -> list[Entry]:
    """Return all entries by name, complete or not.

    Raises:
        StorageError: the folder cannot be read.
    """
    folder = cache_folder()
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read the cache {folder}: {error.strerror}") from None
    return [_entry(folder / name) for name in names if _is_ours(folder / name)]


def find_entry(name: str, *, key: str) -> Entry | None:
    """Return the entry of that name if it is complete and its full key is this one."""
    folder = cache_folder() / name
    if not _is_ours(folder):
        return None
    entry = _entry(folder)
    # The name has only 16 digits of the key.
    return entry if entry.state == COMPLETE and entry.facts["key"] == key else None


def is_whole(entry: Entry, *, pixels: memoryview | None = None) -> bool:
    """Say whether the bytes of a complete entry are those that were written; reads all of them.

    pixels: of the length that the entry tells; gets them on the way.

    Raises:
        OSError: they cannot be read.
    """
    told = entry.facts.get("checksums")
    return isinstance(told, dict) and all(
        sums_of(entry.folder / name, into=pixels if name == PIXELS else None) == sums
        for name, sums in told.items()
        if name in _FILES
    )


def remove_entry(entry: Entry) -> None:
    """Remove the files of an entry, and its folder.

    Raises:
        StorageError: the disk refused, or something that is not ptkit's is there.
    """
    try:
        # What makes it an entry goes first: nobody may find one without its pixels.
        for name in (FACTS, SIZES, HASHES, PIXELS):
            (entry.folder / name).unlink(missing_ok=True)
        # Not rmtree: a file that somebody else put there stays, and is an error.
        entry.folder.rmdir()
    except FileNotFoundError:
        # Another process has just removed the folder.
        return
    except OSError as error:
        raise StorageError(f"cannot remove {entry.folder}: {error.strerror}") from None


class EntryWriter:
    """Makes an entry; as a context it removes what `finish` has not made complete.

    facts: what is known of it from the start. Write the pixels to `pixels`, one image after the
    other.

    Raises:
        StorageError: the disk refused; the message has the folder and what to do.
    """

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        self.name = name
        self.facts = {"format": FORMAT, "format_version": FORMAT_VERSION, **facts}
        # A unique name: several processes may make the same entry at once.
        # Beside the finished entry: a rename works within one file system only.
        self.folder = cache_folder() / f".{name}.{secrets.token_hex(4)}"
        self.pixels: BinaryIO
        self._sums = BlockSums()

    def __enter__(self) -> "EntryWriter":
        try:
            self.folder.mkdir(parents=True)
            self.pixels = open(self.folder / PIXELS, "wb")  # closed by __exit__
            if _lock(self.pixels):
                _sweep()
            # From the start, so that `ptkit cache` can say what is being built.
            _write(self.folder / FACTS, json.dumps(self.facts).encode())
        except OSError as error:
            # Python calls __exit__ only after an __enter__ that succeeded.
            self.__exit__()
            raise refusal(error) from error
        return self

    def write(self, data: Any) -> None:
        """Append the bytes of an array to the pixels."""
        try:
            self.pixels.write(data)
            self._sums.update(data)
        except OSError as error:
            raise refusal(error) from error

    def finish(self, facts: Mapping[str, Any], *, hashes: bytes, sizes: Any = None) -> None:
        """Complete the entry with further facts, and the sizes of the images where they differ.

        hashes: of the files, int64.

        Where another process was faster its entry stays: both are equal.
        """
        try:
            # Before the rename: a power cut must not leave a final name without its bytes.
            self.pixels.flush()
            os.fsync(self.pixels.fileno())
            checksums = {PIXELS: self._sums.sums}
            for name, data in ((HASHES, hashes), (SIZES, sizes)):
                if data is not None:
                    _write(self.folder / name, data)
                    checksums[name] = sums_of(self.folder / name)
            whole = {**self.facts, **facts, "checksums": checksums}
            _write(self.folder / FACTS, json.dumps(whole).encode())
            self._rename(facts.get("bad"))
        except OSError as error:
            raise refusal(error) from error

    def __exit__(self, *_error: object) -> None:
        if hasattr(self, "pixels"):
            self.pixels.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _rename(self, bad: Any) -> None:
        target = cache_folder() / self.name
        try:
            # Refused where a folder with files is: an entry in use is never replaced unseen.
            os.rename(self.folder, target)
        except OSError:
            if not _is_ours(target):
                raise
            there = _entry(target)
            # JSON knows no tuples.
            listed = [list(pair) for pair in bad or ()]
            is_same = there.state == COMPLETE and there.facts.get("bad") == listed
            if is_same and is_whole(there):
                return
            # Damaged from outside, or images that could not be read then.
            remove_entry(there)
            os.rename(self.folder, target)


def refusal(error: OSError) -> StorageError:
    """Return what to say when the disk refuses the cache."""
    # No number: our own estimate says that it will not fit.
    is_full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)
    room = "make room (`ptkit cache` lists what is there), " if is_full else ""
    return StorageError(
        f"cannot keep decoded images in {cache_folder()}: {error.strerror or error}; {room}name"
        " another folder by the environment variable PTKIT_CACHE, or pass --set data.cache=off"
    )


def _is_ours(folder: Path) -> bool:
    """Say whether this has the name and the form of an entry: a real folder with nothing else in
    it.
    """
    if not (_NAME.fullmatch(folder.name) or _TEMPORARY.fullmatch(folder.name)):
        return False
    # A link leads to another folder, which is not ours to empty.
    try:
        return not folder.is_symlink() and set(os.listdir(folder)) <= _FILES
    except OSError:
        return False


def _entry(folder: Path) -> Entry:
    facts = _facts(folder)
    sizes = {name: _size_of(folder / name) for name in _FILES}
    state = LEFT_OVER
    if not _NAME.fullmatch(folder.name):
        state = BUILDING if _is_locked(folder / PIXELS) else LEFT_OVER
    else:
        # Lengths alone, as for a list of entries; whoever opens one looks at the checksums.
        told = (facts.get("nbytes"), facts.get("sizes_nbytes"), facts.get("hashes_nbytes", 0))
        if told == (sizes[PIXELS], sizes[SIZES], sizes[HASHES]):
            state = COMPLETE
    return Entry(folder.name, folder, state, sum(sizes.values()), facts)


def _facts(folder: Path) -> dict[str, Any]:
    """Return what entry.json says; nothing where it is missing, damaged, or of another format."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    is_known = isinstance(facts, dict) and facts.get("format") == FORMAT
    is_known = is_known and facts.get("format_version") == FORMAT_VERSION
    return facts if is_known and _is_sound(facts) else {}


def _is_sound(facts: Mapping[str, Any]) -> bool:
    """Say whether what a complete entry would say of its pixels, if it is said, makes sense."""
    size, bad, key = facts.get("size"), facts.get("bad", []), facts.get("key")
    counts = [facts.get(name, 1) for name in ("num_images", "nbytes", "channels")]
    if not (_are_numbers(counts, 3) and (size is None or _are_numbers(size, 2)) and counts[2]):
        return False
    num_images, nbytes, channels = counts
    return (
        isinstance(key, str)
        and isinstance(bad, list)
        # In whole numbers of any length: numpy's would overflow.
        and (
            size is None
            or "nbytes" not in facts
            or math.prod([num_images, *size, channels]) == nbytes
        )
        and all(
            isinstance(one, list) and len(one) == 2 and type(one[0]) is int and type(one[1]) is str
            for one in bad
        )
    )


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is int and value >= 0 for value in values)
    )


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _write(file: Path, data: Any) -> None:
    with open(file, "wb") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())


def _lock(file: BinaryIO) -> bool:
    """Show that this process is alive, for as long as the file is open; return whether that can be
    shown here.
    """
    # The system lifts it when the process ends, even if it is killed: no lock goes stale.
    if flock is not None:
        with suppress(OSError):  # a file system without locks
            flock(file, LOCK_EX | LOCK_NB)
            return True
    return False


def _sweep() -> None:
    """Remove what killed processes left half built."""
    for entry in list_entries():
        if entry.state == LEFT_OVER and _TEMPORARY.fullmatch(entry.name):
            with suppress(OSError, StorageError):
                # One that is just begun is not locked yet.
                if time.time() - entry.folder.stat().st_mtime > _BEGINNING_S:
                    remove_entry(entry)


def _is_locked(file: Path) -> bool:
    if flock is None:
        return False
    try:
        # Refused while a builder holds its own; else given back at once, as the file closes.
        with open(file, "rb") as opened:
            flock(opened, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
