"""The picture of `ptkit list schedulers --plot`."""

from pathlib import Path

from ptkit.core.data.formats import is_png
from ptkit.core.errors import UsageError
from ptkit.core.training.optimization.schedule_preview import Preview, preview_schedule
from ptkit.looking.pictures import picture_folder
from ptkit.plots.saving import save_figure
from ptkit.plots.schedule import schedule_figure


def draw_schedule(call: str, *, epochs: int, out: Path | None = None) -> tuple[Preview, Path]:
    """Draw the rates that a schedule gives, without training; return them and the picture's file.

    out: a .png file, or the folder of schedule.png.

    Raises:
        UsageError: not a schedule, or a file that is not to be replaced.
    """
    found = preview_schedule(call, epochs=epochs)
    notes, plain = found.notes, found.plain_rates
    figure = schedule_figure(
        found.call, found.epochs, found.rates, plain_rates=plain, num_epochs=epochs, notes=notes
    )
    if out is not None and out.suffix.lower() == ".png":
        _check_picture(out)
        return found, save_figure(figure, out)
    with picture_folder("list", out=out) as pictures:
        pictures.add_figure("schedule.png", figure)
    return found, pictures.files[0]


def _check_picture(file: Path) -> None:
    """Refuse to replace a file that is not a PNG."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder: name a .png file instead")
    if file.exists():
        with file.open("rb") as opened:
            start = opened.read(8)
        if not is_png(start):
            raise UsageError(f"{file} exists and is not a PNG: move it away or pass another --out")
