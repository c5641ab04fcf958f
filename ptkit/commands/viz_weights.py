"""`ptkit viz-weights`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_choice
from ptkit.commands.pictures import add_events, say_files

if TYPE_CHECKING:
    import numpy as np

COMMAND = "viz-weights"


def viz_weights(
    ckpt: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or bare weights.")
    ],
    layers: options.Layers = None,
    scale: options.Scale = "layer",
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw the kernels of every convolution, as PNG files and TensorBoard images.

    The model need not be known: every four-dimensional weight is a layer. First layers with three
    inputs are drawn in colour, others signed. kernels.csv has the norm, minimum and maximum of each
    output channel and whether it is dead.

    Example: ptkit viz-weights ckpt.pkl --layers "layer1.*"
    """
    from ptkit.core.models.locate import read_weights
    from ptkit.looking.subject import output_folder
    from ptkit.looking.weights import find_kernels
    from ptkit.plots.kernel_stats import kernel_rows, kernel_stats
    from ptkit.plots.kernels import SCALES, kernel_figure
    from ptkit.plots.saving import PictureFolder, file_names

    check_choice("--scale", scale, SCALES)
    printer = Printer(as_json=as_json, quiet=quiet)
    weights = read_weights(ckpt)
    kernels = find_kernels(weights.state_dict, layers, path=ckpt)
    folder = output_folder(weights.run, command=COMMAND, out=out)
    rows, images = [], {}
    with PictureFolder(folder, command=COMMAND) as pictures:
        for file_name, (layer, weight) in zip(
            file_names("kernels-", kernels), kernels.items(), strict=True
        ):
            stats = kernel_stats(weight)
            footer = f"n = {len(weight):,} output channels · {weights.described}"
            figure = kernel_figure(weight, layer=layer, scale=scale, footer=footer)
            images[f"{layer}/kernels"] = pictures.add_figure(f"{file_name}.png", figure)
            images |= _per_output(layer, weight, scale=scale)
            rows += kernel_rows(layer, stats)
            printer.say(
                f"{layer}: {'×'.join(map(str, weight.shape))}, {stats.num_dead:,} of"
                f" {len(weight):,} dead"
            )
        pictures.add_csv(
            "kernels.csv", ["layer", "output_channel", "norm", "min", "max", "is_dead"], rows
        )
        add_events(pictures, images)
    say_files(printer, pictures)
    printer.result({"files": list(map(str, pictures.files))})


def _per_output(layer: str, weight: "np.ndarray", *, scale: str) -> "dict[str, np.ndarray]":
    """Return an image for each of the strongest output channels: its kernels side by side."""
    from ptkit.plots.kernels import output_mosaics

    return {
        f"{layer}/output {channel}": image for channel, image in output_mosaics(weight, scale=scale)
    }
