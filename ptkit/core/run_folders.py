"""Run folders where something else is expected. Free of numpy."""

from pathlib import Path

from ptkit.core.errors import DataError


def check_no_run(folder: Path) -> None:
    """Refuse a run folder where images are expected: its pictures are not those of a data set.

    Raises:
        DataError: it is one.
    """
    if is_run(folder):
        raise DataError(f"{folder} is a run folder; expected images, or a list of them")


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run with an epoch: a user's own config.toml is not enough,
    which may lie beside images.
    """
    return all((folder / name).is_file() for name in ("config.toml", "metrics.csv"))
