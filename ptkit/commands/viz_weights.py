"""`ptkit viz-weights`."""

from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.pictures import report_pictures
from ptkit.core.wording import check_choice


def viz_weights(
    printer: Printer,
    ckpt: options.Checkpoint,
    layers: options.Layers = None,
    view: Annotated[
        str,
        typer.Option(
            metavar="auto|channels",
            help="'auto', or 'channels': a row per output, a grey tile per input.",
        ),
    ] = "auto",
    scale: options.Scale = "layer",
    columns: options.Columns = None,
    gap: options.Gap = None,
    gap_colour: options.GapColour = None,
    out: options.Out = None,
) -> None:
    """Draw the kernels of every convolution, as PNG files and TensorBoard images.

    The model need not be known: every four-dimensional weight is a layer. First layers with three
    inputs are drawn in colour, others signed; of layers with too many kernels to be seen, the
    strongest, the norms and the singular values. --view channels draws every kernel of a layer, a
    row per output. kernels.csv has the norm, minimum and maximum of each output channel and whether
    it is dead.

    Example: ptkit viz-weights ckpt.pkl --layers "layer1.*"
    """
    from ptkit.core.models.locate import find_weights
    from ptkit.core.models.weights import plain_names
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.weights import draw_kernels, find_kernels
    from ptkit.plots.kernels import SCALES, VIEWS, KernelLook
    from ptkit.plots.tiles import grid_of

    check_choice("--scale", scale, SCALES)
    check_choice("--view", view, VIEWS)
    look = KernelLook(scale, view, grid_of(columns, gap, gap_colour))
    weights = find_weights(str(ckpt))
    kernels = find_kernels(plain_names(weights.state_dict), layers, path=ckpt)
    with picture_folder("viz-weights", run=weights.run, out=out) as pictures:
        lines = draw_kernels(kernels, pictures, source=weights.described, look=look)
    printer.say("\n".join((*weights.lines, *lines)))
    report_pictures(printer, pictures)
