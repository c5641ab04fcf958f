"""Names of run folders: which are allowed, and which is the next."""

from pathlib import Path

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder


def check_name(parent: Path, name: str) -> None:
    """Refuse a name under which no new run can be.

    Raises:
        UsageError: it is a path, or the folder exists already.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(
            f"--name must be a plain folder name, found {name!r}; --out says where runs go"
        )
    if (parent / name).exists():
        raise UsageError(
            f"the run {parent / name} exists: choose another --name, or --resume {parent / name}"
        )


def new_folder(parent: Path, name: str | None) -> Path:
    """Make and return parent/name; without a name the next free number."""
    make_folder(parent)
    if name is not None:
        check_name(parent, name)
        return make_folder(parent / name)
    numbers = [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
    number = max(numbers, default=0) + 1
    while True:
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # another run took it at this moment
            number += 1
        except OSError as error:
            raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
        else:
            return folder
