"""`ptkit probe`: a head on frozen features, shown as `ptkit train` shows a run."""

from typing import Annotated, Any

import typer

from ptkit.api import probing
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.train import TrainingScreen, check_is_no_model, print_run

# Of the settings that train takes, those that have an effect without steps.
_KEYWORDS = (
    "train", "valid", "model", "root", "size", "fit", "transforms", "alpha", "workers",
    "batch_size", "seed", "device", "precision",
)  # fmt: skip

_OF_RUNS = ("assignments", "name", "out", *options.SourceFlags.__annotations__)


@options.reads_images
@options.with_flags(
    options.setting_flags(_KEYWORDS) | {name: options.RUN_FLAGS[name] for name in _OF_RUNS}
)
def probe(
    printer: Printer,
    source: options.Source = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="WEIGHTS",
            help="A checkpoint, a run folder, or a model with pretrained weights, by default"
            " efficientnet_lite0. Of several, the best in cross-validation. May be repeated.",
        ),
    ] = None,
    knn: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Also say how often the vote of the K nearest training images is right.",
            min=1,
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Fit a linear head to the features of a pretrained network, without training steps.

    The network stays as it is. Its features of each image, and of the mirror image where training
    may mirror, are computed once, and kept on disk for the next time (`ptkit cache`); the penalty
    of the head is chosen by cross-validation on the training images. Also says how accurate fewer
    images would be. The run folder is that of `ptkit train`.

    Example: ptkit probe --backbone efficientnet_lite0
    """
    from ptkit.core.config.layers import with_assignments

    check_is_no_model(source, "--backbone")
    settings = with_assignments(settings.pop("assignments", ()), settings)
    # --backbone says which weights are meant.
    settings.pop("weights", None)
    result = probing.probe(
        weights or "efficientnet_lite0", source, knn=knn, watch=TrainingScreen(printer), **settings
    )
    print_run(printer, result)
