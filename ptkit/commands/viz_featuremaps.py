"""`ptkit viz-featuremaps`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.pictures import say_files
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.core.models.hooks import Layer


def viz_featuremaps(
    ckpt: options.Checkpoint,
    images: options.Images = None,
    layers: options.Layers = None,
    list_layers: Annotated[
        bool, typer.Option("--list", help="List the layers and their output shapes.")
    ] = False,
    num_images: options.NumImages = 8,
    model: options.Model = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    classes: options.Classes = None,
    device: options.Device = "auto",
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
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
    from ptkit.core.models import hooks
    from ptkit.looking.feature_maps import draw_feature_maps, load_images
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.subject import load_subject

    printer, place = Printer(as_json=as_json, quiet=quiet), choose_device(device)
    subject = load_subject(ckpt, model=model, mean=mean, std=std, size=size, classes=classes)
    given = images or []
    views = load_images(subject, given[:num_images], is_optional=list_layers)
    network, tensors = subject.model.to(place), views.tensors.to(place)
    traced = hooks.trace_layers(network, tensors)
    defaults = hooks.default_layers(traced)
    if list_layers:
        _list_layers(printer, traced, defaults)
        return
    chosen = hooks.match_layers(traced, layers) if layers else defaults
    if len(given) > num_images:
        printer.say(f"drawing {num_images} of {len(given):,} images; --num-images draws more")
    found = hooks.record_activations(network, tensors, chosen)
    with picture_folder("viz-featuremaps", run=subject.weights.run, out=out) as pictures:
        lines = draw_feature_maps(found, views, pictures, source=subject.weights.described)
    printer.say("\n".join(lines))
    say_files(printer, pictures)
    printer.result({"files": list(map(str, pictures.files))})


def _list_layers(printer: Printer, layers: "Sequence[Layer]", defaults: Sequence[str]) -> None:
    rows = [
        [layer.name, layer.kind, "×".join(map(str, layer.shape)), str(layer.num_calls), mark]
        for layer in layers
        for mark in ["*" if layer.name in defaults else ""]
    ]
    printer.say(table(["layer", "kind", "output", "calls", "drawn by default"], rows))
    printer.result({"files": [], "layers": [dataclasses.asdict(layer) for layer in layers]})
