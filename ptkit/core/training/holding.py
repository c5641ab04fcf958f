"""Who writes into a run's folder: one process at a time, from its first file to its last."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.file_sets import could_lock
from ptkit.core.files import check_no_link

# It is there until the run is finished, and says who is at it.
_FILE = ".running"
_LONGEST_NAME = 200
# Not through a link, even one that is made this moment: what is locked is emptied.
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)

# Of files that a process forked from this one must not keep locked when this one ends.
_descriptors: set[int] = set()


def _let_go() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@dataclass
class Hold:
    """A run's folder that this process alone writes into.

    is_unfinished: whether something of the run is still to be done, which then shows in the folder.
    """

    folder: Path
    is_unfinished: bool
    descriptor: int

    @property
    def is_there(self) -> bool:
        """Whether the folder is still where it was."""
        return _is_same(self.folder / _FILE, self.descriptor)

    def check(self) -> None:
        """Refuse to write where the folder was: whoever writes would make it anew.

        Raises:
            StorageError: it was moved or removed.
        """
        if not self.is_there:
            raise StorageError(
                f"the run folder {self.folder} was moved or removed while the run went on; nothing"
                " more is written, and --resume continues it from where it is now"
            )


@contextmanager
def held(folder: Path) -> Iterator[Hold]:
    """Let nobody else write into a run's folder meanwhile; the system lifts this when the process
    ends.

    Raises:
        UsageError: another process does. StorageError: the disk refused.
    """
    file = folder / _FILE
    was_unfinished = is_unfinished(folder)
    descriptor = _locked(file)
    _descriptors.add(descriptor)
    hold = Hold(folder, was_unfinished, descriptor)
    try:
        yield hold
    finally:
        # While it is locked: whoever waits for it finds that it is gone.
        if not hold.is_unfinished and hold.is_there:
            with suppress(OSError):
                file.unlink()
        _descriptors.discard(descriptor)
        os.close(descriptor)


def not_held(folder: Path, *, is_unfinished: bool) -> Hold:
    """Return the hold of a process that writes nothing: another one holds the folder."""
    return Hold(folder, is_unfinished, descriptor=-1)


def is_unfinished(folder: Path) -> bool:
    """Say whether something of a run is still to be done, by a process that is at it or not."""
    return (folder / _FILE).exists()


def run_of_this_job(parent: Path) -> Path | None:
    """Return the unfinished run that this job was at before torchrun started it again, if any.

    parent: of the run folders.
    """
    for file in parent.glob(f"*/{_FILE}"):
        with suppress(OSError):
            if _job() in file.read_text(errors="replace").splitlines():
                return file.parent
    return None


def _job() -> str:
    """Return what is the same when torchrun starts its processes again: its own id, or the one that
    it was given.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"job {name}" if name != "none" else f"job of {os.getppid()} on {platform.node()}"


def _locked(file: Path) -> int:
    """Open a file, lock it and write there who has it; return its descriptor."""
    check_no_link(file, inside=file.parent)
    while True:
        try:
            descriptor = os.open(file, _LOCK_FLAGS, 0o666)
        except OSError as error:
            raise StorageError(f"cannot write {file}: {error.strerror}") from error
        if not could_lock(descriptor):
            holder = os.read(descriptor, _LONGEST_NAME).decode(errors="replace").partition("\n")[0]
            os.close(descriptor)
            raise UsageError(
                f"{file.parent} is being written by {holder or 'another process'}: one at a time;"
                " wait until it has ended, or end it"
            )
        if _is_same(file, descriptor):
            break
        # Its last holder has just removed it.
        os.close(descriptor)
    # Only for people: without it the lock holds all the same.
    with suppress(OSError):
        os.truncate(descriptor, 0)
        text = f"process {os.getpid()} on {platform.node()}\n{_job()}\n"
        os.pwrite(descriptor, text.encode(), 0)
    return descriptor


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except OSError:
        return False
