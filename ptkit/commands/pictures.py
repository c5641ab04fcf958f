"""What the commands that draw print once their figures are made."""

import shlex
from collections.abc import Sequence
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
    seen = f"tensorboard --logdir {shlex.quote(str(pictures.folder))}"
    printer.say(f"{counted(num_pictures, 'picture')} in {pictures.folder} ({seen})")
    printer.result({**facts, "files": list(map(str, pictures.files))})


def say_missing_font(printer: Printer, class_names: Sequence[str]) -> None:
    """Print once, if class names have characters that no font here can draw, the numbers that
    replace them, and how to get a font.
    """
    from ptkit.plots.fonts import missing_font_note

    if note := missing_font_note(class_names, remedy="--font FILE"):
        printer.say(note)
