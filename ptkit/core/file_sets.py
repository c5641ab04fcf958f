"""Several files of a folder that change together, and the lock of whoever changes them.

New contents are written aside; then a file that names them is put in place, and they are renamed
one after the other. Killed before that, nothing has changed; after it, whoever comes next renames
the rest. So there are the old files or the new ones, never some of each.
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.files import make_folder, sync_folder, write_atomically, write_synced

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
except ImportError:  # Windows, where a folder cannot be opened either
    flock = None  # type: ignore[assignment]

PENDING = ".ptkit-pending.json"
_REMOVES = "removes "
# What a split writes, into a folder and into those of folds.
_FOLD = re.compile(r"fold\d+")
_NAMES = re.compile(rf"({_FOLD.pattern}/)?((train|valid|test|classes)\.txt|split\.json)")
# How long somebody who only reads lists, or only renames, is waited for.
_PATIENCE_S = 1.0
_PAUSE_S = 0.02


class Replacing:
    """Files to replace and to remove in a folder and its subfolders, all of them or none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Name in the folder -> the file beside it that has its new content, or `_removal`.
        self._written: dict[str, str] = {}
        self._undo: list[Callable[[], object]] = []
        # Whether it will be put in place, by whoever comes next at the latest.
        self.is_decided = False

    def put(self, path: Path, content: bytes) -> None:
        """Write the new content of a file aside.

        Raises:
            StorageError: the disk refused.
        """
        make_folder(path.parent)
        name = path.relative_to(self.folder).as_posix()
        _sweep(path)
        temporary = f".{path.name}.{secrets.token_hex(4)}"
        # Remembered first: what is half written is removed as well.
        self._written[name] = temporary
        try:
            write_synced(path.with_name(temporary), content)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; what was there before is"
                " untouched"
            ) from error

    def remove(self, path: Path) -> None:
        """Remove a file, if it is still the same then.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            removal = _removal(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        self._written[path.relative_to(self.folder).as_posix()] = removal

    def undoing(self, undo: Callable[[], object]) -> None:
        """Have something called if nothing of this is put in place; it raises no error."""
        self._undo.append(undo)

    def commit(self) -> None:
        """Put all of it in place.

        Raises:
            StorageError: the disk refused.
        """
        write_atomically(self.folder / PENDING, json.dumps(self._written).encode())
        self.is_decided = True
        _put_in_place(self.folder, self._written)

    def give_up(self) -> None:
        """Remove what was written aside, and undo what else was done for it."""
        for undo in self._undo:
            undo()
        for name, temporary in self._written.items():
            if not temporary.startswith(_REMOVES):
                with suppress(OSError):
                    (self.folder / name).with_name(temporary).unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Replacing]:
    """Collect changes, which are made at the end, unless there is an error.

    Raises:
        StorageError: the disk refused.
    """
    change = Replacing(folder)
    try:
        yield change
        change.commit()
    except BaseException:
        # Else it was decided: whoever comes next goes on.
        if not (change.is_decided or os.path.lexists(folder / PENDING)):
            change.give_up()
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let nobody else change the files of a folder meanwhile, or read them as a set.

    The folder is made if it is missing, and removed again if an error leaves it empty.

    Raises:
        UsageError: somebody does. StorageError: the disk refused.
    """
    is_new = not folder.exists()
    if not is_new and not folder.is_dir():
        raise UsageError(f"--out {folder} is not a folder; lists are written into a folder")
    make_folder(folder)
    try:
        with _lock(folder, shared=False) as is_held:
            if not is_held:
                raise UsageError(
                    f"another command is at work on the lists in {folder}: try again when it has"
                    " ended"
                )
            _go_on(folder)
            yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def unchanging(*folders: Path) -> Iterator[None]:
    """Let nobody change the files of some folders while they are read as a set.

    Raises:
        DataError: somebody does just now.
    """
    with ExitStack() as stack:
        places = {folder.resolve() for folder in folders}
        for folder in places:
            finish_replacing(folder)
        # Folds change together with the folder that they are in.
        places |= {folder.parent for folder in places if _FOLD.fullmatch(folder.name)}
        for folder in sorted(places):
            if not stack.enter_context(_lock(folder, shared=True)):
                raise _is_changing(folder)
        yield


def finish_replacing(folder: Path) -> None:
    """Put in place what a killed process had begun to put in place; nearly always there is nothing.

    Raises:
        DataError: another process is at it, or this is no record of ptkit's.
        StorageError: the disk refused.
    """
    for place in (folder, folder.parent):
        if os.path.lexists(place / PENDING):
            with _lock(place, shared=False) as is_held:
                if not is_held:
                    raise _is_changing(place)
                _go_on(place)


def _is_changing(folder: Path) -> DataError:
    return DataError(f"the lists in {folder} are changing just now: try again when that has ended")


def _go_on(folder: Path) -> None:
    file = folder / PENDING
    if not os.path.lexists(file):
        return
    try:
        written = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        written = None
    if not (isinstance(written, dict) and all(_is_ours(folder, *one) for one in written.items())):
        raise DataError(f"{file} is no record of ptkit's: move it away")
    _put_in_place(folder, written)


def _is_ours(folder: Path, name: object, temporary: object) -> bool:
    """Say whether a record names what splits write into this folder: it may come from anybody."""
    if not (isinstance(name, str) and isinstance(temporary, str) and _NAMES.fullmatch(name)):
        return False
    path = folder / name
    if path.parent.is_symlink() and path.parent != folder:
        return False
    mine = rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}|{_REMOVES}[0-9a-f]{{64}}"
    return re.fullmatch(mine, temporary) is not None


def _removal(path: Path) -> str:
    """Return what stands for the removal of a file as it is now, and of no other."""
    return _REMOVES + hashlib.sha256(path.read_bytes()).hexdigest()


def _put_in_place(folder: Path, written: dict[str, str]) -> None:
    try:
        for name, temporary in written.items():
            path = folder / name
            if temporary.startswith(_REMOVES):
                if os.path.lexists(path) and _removal(path) == temporary:
                    path.unlink()
            # Renamed already, before a kill.
            elif os.path.lexists(path.with_name(temporary)):
                os.replace(path.with_name(temporary), path)
        for parent in {(folder / name).parent for name in written}:
            sync_folder(parent)
        (folder / PENDING).unlink()
    except OSError as error:
        raise StorageError(
            f"cannot put new files in place in {folder}: {error.strerror or error}; the next"
            " command that reads them goes on"
        ) from error


def _sweep(path: Path) -> None:
    """Remove what killed processes left of new contents of a file."""
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if leftover.fullmatch(name):
                (path.parent / name).unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path, *, shared: bool) -> Iterator[bool]:
    """Lock a folder and yield whether that could be done, after a little patience.

    The system lifts the lock when the process ends.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY) if flock is not None else None
    except OSError:  # one that may be written to but not read
        descriptor = None
    if descriptor is None:
        yield True
        return
    try:
        yield could_lock(descriptor, shared=shared)
    finally:
        os.close(descriptor)


def could_lock_now(descriptor: int) -> bool:
    """Lock an open file until its descriptor is closed; return whether it is locked now, which is
    never so where there are no locks.
    """
    if flock is None:
        return False
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except OSError:
        return False
    return True


def could_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder until its descriptor is closed; return whether that could be
    done, after a little patience. Where there are no locks all may pass.
    """
    if flock is None:
        return True
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            flock(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_S)
        except OSError:  # a file system without locks
            return True
