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


@options.reads_images
@options.for_bare_weights
def viz_featuremaps(
    printer: Printer,
    ckpt: options.Checkpoint,
    images: options.Images = None,
    layers: options.Layers = None,
    list_layers: Annotated[
        bool, typer.Option("--list", help="List the layers and their output shapes.")
    ] = False,
    num_images: options.NumImages = 8,
    device: options.Device = "auto",
    out: options.Out = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Draw what layers give for some images, as PNG files and TensorBoard images.

    By default the last layer of each resolution, at most six; --list shows all of them. A picture
    has a row per image: the image as the network sees it, the mean magnitude, and the 16 channels
    with the largest maximum on one scale.
    A layer that is called several times is shown as it was the last time. feature_maps.csv has
    every channel.

    Example: ptkit viz-featuremaps ckpt.pkl data/3/*.png --layers "layer1.*"
    """
    from ptkit.core.device import choose_device
    from ptkit.core.models.hooks import record_activations
    from ptkit.looking.feature_maps import draw_feature_maps, find_layers, load_images
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.subject import load_subject

    place, given = choose_device(device), images or []
    subject = load_subject(ckpt, **answers)
    subject.model.to(place)
    views = load_images(subject, given[:num_images], device=place, is_optional=list_layers)
    found, chosen = find_layers(subject, views, None if list_layers else layers)
    for note in subject.weights.lines:
        printer.say(note)
    if list_layers:
        _list_layers(printer, found, chosen)
        return
    if len(given) > num_images:
        printer.say(f"drawing {num_images} of {len(given):,} images; --num-images draws more")
    maps = record_activations(subject.model, views.tensors, chosen)
    with picture_folder("viz-featuremaps", run=subject.weights.run, out=out) as pictures:
        lines = draw_feature_maps(maps, views, pictures, source=subject.weights.described)
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
