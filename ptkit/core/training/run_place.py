"""Where the folder of a new run is to be."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder

# Of a file name on the usual disks.
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Place:
    """name: of the folder below `parent`; None for the next free number. made: the folder, where it
    exists already and is this run's own.
    """

    parent: Path = Path("runs")
    name: str | None = None
    made: Path | None = None

    def check(self) -> None:
        """Refuse a name under which no new run can be.

        Raises:
            UsageError: it is a path, or the folder exists already. StorageError: the disk refused.
        """
        name = self.name
        if self.made is not None or name is None:
            return
        if name in ("", ".", "..") or "\0" in name or Path(name).name != name:
            raise UsageError(
                f"--name must be a plain folder name, found {name!r}; --out says where runs go"
            )
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise UsageError(f"--name is longer than {_LONGEST_NAME} bytes: choose a shorter one")
        try:
            is_there = (folder := self.parent / name).exists()
        except OSError as error:
            raise _unlisted(self.parent, error) from error
        if is_there:
            raise _taken(folder)

    def folder(self) -> Path:
        """Make the folder, if it is not made yet, and return it.

        Raises:
            UsageError: see `check`. StorageError: the disk refused.
        """
        if self.made is not None:
            return self.made
        make_folder(self.parent)
        if self.name is not None:
            self.check()
            # Of several runs that ask at the same moment one gets it.
            if not _made(folder := self.parent / self.name):
                raise _taken(folder)
            return folder
        try:
            names = [entry.name for entry in self.parent.iterdir()]
        except OSError as error:
            raise _unlisted(self.parent, error) from error
        numbers = [int(name) for name in names if name.isdecimal()]
        number = max(numbers, default=0) + 1
        while not _made(folder := self.parent / str(number)):
            number += 1
        return folder

    def claimed(self) -> "Place":
        """Make the folder now, and return the place with it."""
        return replace(self, made=self.folder())


def _made(folder: Path) -> bool:
    """Make a folder and return whether it was not there yet."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
    return True


def _unlisted(parent: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot list the folder {parent}: {error.strerror}")


def _taken(folder: Path) -> UsageError:
    return UsageError(f"the run {folder} exists: choose another --name, or --resume {folder}")
