"""`ptkit viz-featuremaps`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.pictures import report_pictures
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.core.models.hooks import Layer

_Scale = Annotated[
    str,
    typer.Option(
        metavar="layer|map", help="One scale per 'layer', or per 'map' (stretches dead ones)."
    ),
]


@options.reads_images
@options.writes_names
@options.for_bare_weights
def viz_featuremaps(
    printer: Printer,
    ckpt: options.Checkpoint,
    images: options.Images = None,
    layers: options.Layers = None,
    list_layers: Annotated[
        bool, typer.Option("--list", help="List the layers and their output shapes.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION", help="Show what this function, such as relu, makes of each layer."
        ),
    ] = None,
    scale: _Scale = "layer",
    columns: options.Columns = None,
    gap: options.Gap = None,
    gap_colour: options.GapColour = None,
    num_images: options.NumImages = 8,
    device: options.Device = "auto",
    out: options.Out = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Draw what layers give for some images, as PNG files and TensorBoard images.

    By default the last layer of each resolution, at most six; --list shows all of them. A picture
    has a row per image: the image as the network sees it, the mean magnitude, and the 16 channels
    with the largest maximum. A layer that is called several times is shown as it was the last time;
    with --after relu, what the next ReLU, a layer or a function, made of it. feature_maps.csv has
    every channel.

    Example: ptkit viz-featuremaps ckpt.pkl data/3/*.png --layers "layer1.*"
    """
    from ptkit.core.device import choose_device
    from ptkit.looking import feature_maps as looking
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.subject import load_subject

    look = looking.look_of(scale, columns=columns, gap=gap, gap_colour=gap_colour)
    place, given = choose_device(device), images or []
    subject = load_subject(ckpt, **answers)
    subject.model.to(place)
    views = looking.load_images(subject, given[:num_images], device=place, is_optional=list_layers)
    found, chosen = looking.find_layers(subject, views, None if list_layers else layers)
    for note in subject.weights.lines:
        printer.say(note)
    if list_layers:
        _list_layers(printer, found, chosen)
        return
    if len(given) > num_images:
        printer.say(f"drawing {num_images} of {len(given):,} images; --num-images draws more")
    maps = looking.record_maps(subject, views, chosen, after=after)
    with picture_folder("viz-featuremaps", run=subject.weights.run, out=out) as pictures:
        source = subject.weights.described
        lines = looking.draw_feature_maps(maps, views, pictures, source=source, look=look)
    printer.say("\n".join(lines))
    report_pictures(printer, pictures)


def _list_layers(printer: Printer, layers: "Sequence[Layer]", defaults: Sequence[str]) -> None:
    rows = [
        [
            layer.name,
            layer.kind,
            "×".join(map(str, layer.shape)),
            str(layer.num_calls),
            "*" if layer.name in defaults else "",
        ]
        for layer in layers
    ]
    printer.say(table(["layer", "kind", "output", "calls", "drawn by default"], rows))
    told = ("name", "kind", "shape", "num_calls")
    shown = [{key: getattr(layer, key) for key in told} for layer in layers]
    printer.result({"files": [], "layers": shown})
