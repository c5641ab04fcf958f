"""Where a command writes if nobody has named a folder."""

from pathlib import Path

from ptkit.core.files import check_no_link


def default_folder(name: str, run: Path | None) -> Path:
    """Return RUN/NAME, or without a run ./ptkit-NAME.

    Raises:
        StorageError: a link stands in its place.
    """
    folder = run / name if run is not None else Path(f"ptkit-{name}")
    check_no_link(folder, inside=folder.parent)
    return folder
