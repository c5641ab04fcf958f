"""Where the folder of a new run is to be."""

from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder


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
            UsageError: it is a path, or the folder exists already.
        """
        name = self.name
        if self.made is not None or name is None:
            return
        if name in ("", ".", "..") or Path(name).name != name:
            raise UsageError(
                f"--name must be a plain folder name, found {name!r}; --out says where runs go"
            )
        if (folder := self.parent / name).exists():
            raise UsageError(
                f"the run {folder} exists: choose another --name, or --resume {folder}"
            )

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
            return make_folder(self.parent / self.name)
        numbers = [int(entry.name) for entry in self.parent.iterdir() if entry.name.isdecimal()]
        number = max(numbers, default=0) + 1
        while True:
            folder = self.parent / str(number)
            try:
                folder.mkdir()
            except FileExistsError:  # another run took it at this moment
                number += 1
            except OSError as error:
                raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
            else:
                return folder

    def claimed(self) -> "Place":
        """Make the folder now, and return the place with it."""
        return replace(self, made=self.folder())
