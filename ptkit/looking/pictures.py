"""Figures of one command as TensorBoard images beside its files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ptkit.core.training.events import write_images
from ptkit.looking.output_folders import default_folder
from ptkit.plots.saving import PictureFolder


def picture_folder(
    command: str, *, run: Path | None = None, out: Path | None = None
) -> PictureFolder:
    """Return where a command's pictures go: `out`, else RUN/COMMAND, else ./ptkit-COMMAND.

    Raises:
        StorageError: where nobody has named the folder, a link stands in its place.
    """
    folder = out if out is not None else default_folder(command, run)
    return PictureFolder(folder, command=command)


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
