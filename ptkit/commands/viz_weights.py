"""`ptkit viz-weights`."""

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.pictures import report_pictures
from ptkit.core.wording import check_choice


def viz_weights(
    printer: Printer,
    ckpt: options.Checkpoint,
    layers: options.Layers = None,
    scale: options.Scale = "layer",
    out: options.Out = None,
) -> None:
    """Draw the kernels of every convolution, as PNG files and TensorBoard images.

    The model need not be known: every four-dimensional weight is a layer. First layers with three
    inputs are drawn in colour, others signed. kernels.csv has the norm, minimum and maximum of each
    output channel and whether it is dead.

    Example: ptkit viz-weights ckpt.pkl --layers "layer1.*"
    """
    from ptkit.core.models.locate import find_weights
    from ptkit.core.models.weights import plain_names
    from ptkit.looking.pictures import picture_folder
    from ptkit.looking.weights import draw_kernels, find_kernels
    from ptkit.plots.kernels import SCALES

    check_choice("--scale", scale, SCALES)
    weights = find_weights(str(ckpt))
    kernels = find_kernels(plain_names(weights.state_dict), layers, path=ckpt)
    with picture_folder("viz-weights", run=weights.run, out=out) as pictures:
        lines = draw_kernels(kernels, pictures, source=weights.described, scale=scale)
    printer.say("\n".join((*weights.lines, *lines)))
    report_pictures(printer, pictures)
