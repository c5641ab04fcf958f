"""What the commands that draw print once their figures are made."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ptkit.commands.output import Printer
from ptkit.core.wording import counted

if TYPE_CHECKING:
    from ptkit.plots.saving import PictureFolder


def report_pictures(printer: Printer, pictures: "PictureFolder", **facts: Any) -> None:
    """Print how many pictures there are, where, and how to see them in TensorBoard; with --json the
    facts and all files.
    """
    num_pictures = sum(path.suffix == ".png" for path in pictures.files)
    where = f"{pictures.folder} (tensorboard --logdir {pictures.folder})"
    printer.say(f"{counted(num_pictures, 'picture')} in {where}")
    printer.result({**facts, "files": list(map(str, pictures.files))})


def say_missing_font(printer: Printer, texts: Iterable[str]) -> None:
    """Print once, if a text has characters that no font here can draw, what replaces them."""
    from ptkit.plots.fonts import cjk_font, is_drawable

    if all(map(is_drawable, texts)):
        return
    install = " (no font with Chinese characters is installed: fonts-noto-cjk is one)"
    hint = "" if cjk_font() else install
    printer.say(f"class names that no font here can draw are shown by their index{hint}")
