"""Figures of one command as TensorBoard images beside its files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ptkit.core.files import check_no_link
from ptkit.core.training.events import write_images
from ptkit.plots.saving import PictureFolder


def picture_folder(
    command: str, *, run: Path | None = None, out: Path | None = None
) -> PictureFolder:
    """Return where a command's pictures go: `out`, else RUN/COMMAND, else ./ptkit-COMMAND.

    Raises:
        StorageError: where nobody has named the folder, a link stands in its place.
    """
    default = run / command if run is not None else Path(f"ptkit-{command}")
    if out is None:
        check_no_link(default, inside=default.parent)
    return PictureFolder(out or default, command=command)


def add_events(pictures: PictureFolder, images: Mapping[str, np.ndarray]) -> None:
    """Write pictures, uint8 (H, W, 3), as TensorBoard images into the folder."""

    def times() -> set[tuple[Path, int]]:
        files = pictures.folder.glob("events.out.tfevents.*")
        return {(path, path.stat().st_mtime_ns) for path in files}

    before = times()
    write_images(pictures.folder, images)
    # A second run within a second writes into the file of the same name.
    for path, _ in sorted(times() - before):
        pictures.adopt(path)
