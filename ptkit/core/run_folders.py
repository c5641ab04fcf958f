"""Run folders where something else is expected, and the other way round. Free of numpy."""

import filecmp
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ptkit.core.errors import DataError, UsageError

# What a run keeps in its folder.
_CHECKPOINTS = ("ckpt.pkl", "last.pkl", "previous.pkl")


def check_no_run(folder: Path) -> None:
    """Refuse a run folder where images are expected: its pictures are not those of a data set.

    Raises:
        DataError: it is one.
    """
    if is_run(folder):
        raise DataError(f"{folder} is a run folder; expected images, or a list of them")


def run_of(path: Path) -> Path:
    """Return the run folder of a checkpoint in it, of a link to one, as ./ckpt.pkl is, or of a copy
    of one in ./runs; any other path as it is.
    """
    file = Path(os.path.realpath(path))
    if file.suffix != ".pkl" or not file.is_file():
        return path
    folder = file.parent
    if file.name not in _CHECKPOINTS or not is_run(folder):
        return next(_runs_with_copy(file), path)
    here = Path(os.path.realpath("."))
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _runs_with_copy(file: Path) -> Iterator[Path]:
    for depth in ("*", "*/*"):
        for other in sorted(Path("runs").glob(f"{depth}/ckpt.pkl")):
            with suppress(OSError):
                if is_run(other.parent) and filecmp.cmp(file, other, shallow=False):
                    yield other.parent


def settings_file(path: Path) -> Path:
    """Return the file with the settings of a run, of its folder or of a checkpoint in it; another
    file as it is.

    Raises:
        UsageError: a folder that is not that of a run.
    """
    folder = run_of(path)
    if not folder.is_dir():
        return path
    if (file := folder / "config.toml").exists():
        return file
    inside = min(folder.glob("*/config.toml"), default=None)
    hint = "" if inside is None else f"; it holds runs, such as {inside.parent}"
    raise UsageError(
        f"{folder} is a folder without a config.toml: expected a TOML file or a run folder{hint}"
    )


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run with an epoch: a user's own config.toml is not enough,
    which may lie beside images.
    """
    return all((folder / name).is_file() for name in ("config.toml", "metrics.csv"))
