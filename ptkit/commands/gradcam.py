"""`ptkit gradcam`."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Annotated, Any, Unpack

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, end_without, naming_on_bad
from ptkit.commands.pictures import report_pictures, say_missing_font
from ptkit.core.config.settings import ON_BAD
from ptkit.core.wording import check_choice, counted


@options.reads_images
@options.writes_names
@options.for_bare_weights
@naming_on_bad()
def gradcam(
    printer: Printer,
    ckpt: options.Checkpoint,
    sources: options.Sources,
    layers: options.Layers = None,
    class_names: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Explain this class, not the answer. May be repeated.",
        ),
    ] = None,
    num_images: options.NumImages = 8,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    on_bad: options.OnBad = "stop",
    root: options.Root = None,
    out: options.Out = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Draw where a model looked: Grad-CAM's heat over images, with the box of the hottest region.

    Explained is the class that the model answers, or --class; in the last layer with maps on which
    the outputs depend, or --layers. gradcam.csv has the box of every image, in pixels of the image
    as the network sees it; the picture shows --num-images of them.

    Example: ptkit gradcam ckpt.pkl data/3 --class 3 --layers "layer2.*"
    """
    from ptkit.core.device import choose_device
    from ptkit.looking.gradcam import draw_regions, find_classes, find_regions
    from ptkit.looking.image_sources import find_images
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.subject import load_subject

    check_choice("--on-bad", on_bad, ON_BAD)
    place = choose_device(device)
    subject = load_subject(ckpt, **answers)
    classes = find_classes(subject, class_names or [])
    images = find_images(sources, subject.class_names, root=root)
    more = f"drawing {num_images} of {len(images):,} images; --num-images draws more"
    for note in (*subject.weights.lines, *([more] if len(images) > num_images else [])):
        printer.say(note)
    bad: dict[int, str] | None = {} if on_bad == "skip" else None
    regions = find_regions(
        subject, images, layers=layers, classes=classes, device=place, workers=workers, bad=bad
    )
    with picture_folder("gradcam", run=subject.weights.run, out=out) as pictures:
        rows = draw_regions(
            regions,
            images,
            pictures,
            num_images=num_images,
            classes=class_names or [],
            source=subject.weights.described,
        )
    printer.say("\n".join(_lines(rows)))
    say_missing_font(printer, subject.class_names)
    report_pictures(printer, pictures, regions=rows)
    end_without([bad[index] for index in sorted(bad)] if bad else [])


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each layer: how large the boxes are."""
    lines = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        shares = [row["share"] for row in rows if row["layer"] == layer]
        known = [share for share in shares if share is not None]
        boxes = f"{counted(len(known), 'box', 'boxes')}, no region in {len(shares) - len(known):,}"
        size = f", median {median(known):.1%} of the image" if known else ""
        lines.append(f"{layer}: {boxes}{size}")
    return lines
