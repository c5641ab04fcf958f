"""Folders that get their name when they are complete."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.file_sets import could_lock_now
from ptkit.core.files import make_folder

# Held by the process that fills a folder, for as long as it lives.
_LOCK = ".filling"


@contextmanager
def new_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a folder that becomes `folder` at the end of the block, and one for what is needed
    meanwhile. Where the block fails, nothing is left of either; what killed processes left is
    removed by the next one.

    Raises:
        UsageError: it is the working directory, which would be another folder then.
        StorageError: the disk refused, or `folder` is there and not empty.
    """
    target = Path(os.path.realpath(folder))
    if target == Path(os.path.realpath(".")):
        raise UsageError(f"{folder} is the working directory: name a new folder in it")
    parent = make_folder(target.parent)
    _sweep(target)
    # Never one that a killed process left.
    work = parent / f".{target.name}.{secrets.token_hex(4)}"
    descriptor = None
    try:
        work.mkdir()
        descriptor = _locked(work)
        finished, scratch = make_folder(work / "new"), make_folder(work / "scratch")
        yield finished, scratch
        # Renaming replaces an empty folder, and no other.
        finished.rename(target)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _locked(work: Path) -> int:
    """Put a locked file into a folder and return its descriptor."""
    descriptor = os.open(work / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    # Only a file that is locked has its name: whoever sweeps meanwhile finds it held.
    if could_lock_now(descriptor):
        os.rename(work / f"{_LOCK}.new", work / _LOCK)
    return descriptor


def _sweep(target: Path) -> None:
    """Remove what killed processes had made of a folder."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if leftover.fullmatch(name) and _is_left(target.parent / name):
                shutil.rmtree(target.parent / name, ignore_errors=True)


def _is_left(work: Path) -> bool:
    """Say whether a folder was begun here, by a process that has ended."""
    if work.is_symlink():
        return False
    try:
        descriptor = os.open(work / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return could_lock_now(descriptor)
    finally:
        os.close(descriptor)
