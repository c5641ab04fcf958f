"""What the commands that draw have in common once their figures are made."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.commands.output import Printer

if TYPE_CHECKING:
    import numpy as np

    from ptkit.plots.saving import PictureFolder


def add_events(pictures: "PictureFolder", images: "Mapping[str, np.ndarray]") -> None:
    """Write pictures, uint8 (H, W, 3), as TensorBoard images into the folder."""
    from ptkit.core.training.events import write_images

    def times() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns for path in pictures.folder.glob("events.out.tfevents.*")
        }

    before = times()
    write_images(pictures.folder, images)
    # A second run within a second writes into the file of the same name.
    for path, time in sorted(times().items()):
        if before.get(path) != time:
            pictures.adopt(path)


def say_files(printer: Printer, pictures: "PictureFolder") -> None:
    """Tell how many pictures there are, where, and how to see them in TensorBoard."""
    num_pictures = sum(path.suffix == ".png" for path in pictures.files)
    what = "1 picture" if num_pictures == 1 else f"{num_pictures:,} pictures"
    printer.say(f"{what} in {pictures.folder} (tensorboard --logdir {pictures.folder})")


def say_missing_font(printer: Printer, texts: Iterable[str]) -> None:
    """Say once, where a text has characters that no font here can draw, what stands in the pictures
    instead.
    """
    from ptkit.plots.fonts import cjk_font, has_undrawable

    if not has_undrawable(texts):
        return
    hint = (
        ""
        if cjk_font()
        else " (no font with Chinese characters is installed: fonts-noto-cjk is one)"
    )
    printer.say(f"class names that no font here can draw are shown by their index{hint}")
