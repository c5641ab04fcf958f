"""What the commands that draw print once their figures are made."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptkit.commands.output import Printer

if TYPE_CHECKING:
    from ptkit.plots.saving import PictureFolder


def say_files(printer: Printer, pictures: "PictureFolder") -> None:
    """Print how many pictures there are, where, and how to see them in TensorBoard."""
    num_pictures = sum(path.suffix == ".png" for path in pictures.files)
    what = "1 picture" if num_pictures == 1 else f"{num_pictures:,} pictures"
    printer.say(f"{what} in {pictures.folder} (tensorboard --logdir {pictures.folder})")


def say_missing_font(printer: Printer, texts: Iterable[str]) -> None:
    """Print once, if a text has characters that no font here can draw, what replaces them."""
    from ptkit.plots.fonts import cjk_font, is_drawable

    if all(map(is_drawable, texts)):
        return
    hint = (
        ""
        if cjk_font()
        else " (no font with Chinese characters is installed: fonts-noto-cjk is one)"
    )
    printer.say(f"class names that no font here can draw are shown by their index{hint}")
