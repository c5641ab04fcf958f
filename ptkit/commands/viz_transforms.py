"""`ptkit viz-transforms`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.pictures import report_pictures
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.looking.transforms import Sheet

# Of more images so many have a sheet.
MAX_SHEETS = 16
STATISTICS = {
    "mean": Annotated[str | None, typer.Option(help="Mean for Normalize, R,G,B in 0..1.")],
    "std": Annotated[str | None, typer.Option(help="Standard deviation for Normalize, R,G,B.")],
}


@options.with_flags(
    options.setting_flags(("transforms", "augment", "size", "fit", "alpha", "seed")),
    before="num_images",
)
@options.reads_images
@options.with_flags(STATISTICS, before="config")
def viz_transforms(
    printer: Printer,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE...", help="Image files, folders, or lists (.txt)."),
    ] = None,
    num_images: Annotated[
        int, typer.Option(help="How many draws of each step are drawn.", min=1)
    ] = 8,
    config: options.Config = None,
    trust: options.Trust = False,
    out: options.Out = None,
    **settings: Any,
) -> None:
    """Draw what transforms make of images: each step alone, and all together as the model sees it.

    The transforms are those with which `ptkit train` would train with the same flags, or with a
    run's config.toml. Draw k is what training draws in epoch k, for the images as the first of its
    list. MixUp and CutMix mix the given images with each other. A sheet an image goes to
    ./ptkit-viz-transforms, and transforms.csv has every draw.

    Example: ptkit viz-transforms data/3/*.png --transform "RandomRotation(20)" --transform
    "RandomErasing()"
    """
    from ptkit.core.config.layers import check_flags
    from ptkit.core.data.keyed import spread
    from ptkit.core.parts.trust import gather_trusted
    from ptkit.looking.image_sources import find_images
    from ptkit.looking.pictures import add_events, picture_folder
    from ptkit.looking.transform_pictures import draw_sheets
    from ptkit.looking.transforms import show_transforms

    found = find_images(images or [], ("image",))
    paths = [found.listed_path(k) for k in spread(range(len(found)), MAX_SHEETS)]
    if len(found) > len(paths):
        printer.say(f"{len(paths)} of {len(found):,} images, spread over all")
    check_flags(settings)
    chosen = gather_trusted(settings, config=config, trust=trust)
    shown = show_transforms(paths, chosen.data, num_draws=num_images, seed=chosen.train.seed)
    with picture_folder("viz-transforms", out=out) as pictures:
        add_events(pictures, draw_sheets(shown, pictures))
    printer.say(_table(shown.sheets))
    for note in shown.notes:
        printer.say(note)
    report_pictures(printer, pictures, transforms=list(map(str, shown.calls)))


def _table(sheets: "Sequence[Sheet]") -> str:
    """Return a line for each step: of how many draws it changes the image, over all images."""
    rows = []
    for steps in zip(*(sheet.steps for sheet in sheets), strict=True):
        changed = [flag for row in steps for flag in row.is_changed]
        sizes = {draw.shape[:2] for row in steps for draw in row.draws}
        shown = "×".join(map(str, sizes.pop())) if len(sizes) == 1 else "several"
        rows.append((steps[0].call, f"{sum(changed)} of {len(changed)}", shown))
    return table(["step", "changed", "size"], rows)
