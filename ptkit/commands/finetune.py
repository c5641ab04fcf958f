"""`ptkit finetune`: training from old weights, shown as `ptkit train` shows it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptkit.api import ejecting, runs, series
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.series import print_series
from ptkit.commands.train import (
    TrainingScreen,
    check_ejects_alone,
    print_ejected,
    print_run,
)
from ptkit.core.errors import UsageError


@options.reads_images
@options.with_flags(options.setting_flags(), before="verbose")
@options.with_flags(options.RUN_FLAGS)
def finetune(
    printer: Printer,
    weights: Annotated[
        str | None,
        typer.Argument(
            metavar="[WEIGHTS]",
            help="A checkpoint, a run folder, bare weights, or a model with pretrained ones:"
            " efficientnet_lite0, torchvision's, timm:NAME[.TAG]. By default those of --model.",
        ),
    ] = None,
    source: options.Source = None,
    file: Annotated[
        str | None,
        typer.Option("--weights", metavar="WEIGHTS", help="The same as the argument."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List every tensor and what became of it.")
    ] = False,
    **settings: Any,
) -> None:
    """Train on from old weights: take what fits, report the rest, and move the head faster than the
    body.

    The rate is a tenth of the usual one; the head gets ten times that. Input size and normalisation
    come from the weights if these carry them. Groups of parameters have their own rate, or are
    frozen (no gradients, BatchNorm statistics kept) or excluded (left out of the optimizer).

    Example: ptkit finetune --model timm:resnet18.a1_in1k --group "layer1: frozen" --epochs 5
    """
    from ptkit.core.config.layers import with_assignments

    if "resume" in settings:
        raise UsageError(f"resume a finetuned run with: ptkit train --resume {settings['resume']}")
    settings = with_assignments(settings.pop("assignments", ()), settings)
    is_named = bool(settings.keys() & {"model", "weights", "config", "recipe"})
    weights, source = _told_apart(weights, source, file, is_named=is_named)
    # The argument says which weights are meant.
    named = settings.pop("weights", None)
    weights = weights or named
    watch = TrainingScreen(printer, is_verbose=verbose)
    if "eject" in settings:
        check_ejects_alone(source, settings)
        _eject(printer, weights, watch, settings)
    elif series.is_asked_for(settings):
        found = series.finetune_series(weights, source, watch=watch, **settings)
        print_series(printer, found)
    else:
        print_run(printer, runs.finetune(weights, source, watch=watch, **settings))


def _eject(
    printer: Printer, weights: str | None, watch: TrainingScreen, settings: dict[str, Any]
) -> None:
    # A model that is named alone stands for its own weights.
    weights = weights or settings.pop("model", None)
    if weights is None and not settings.keys() & {"config", "recipe"}:
        raise UsageError("finetune needs weights to start from: ptkit finetune WEIGHTS")
    file = settings.pop("eject")
    print_ejected(printer, ejecting.eject(file, weights=weights, watch=watch, **settings))


def _told_apart(
    first: str | None, source: Path | None, file: str | None, *, is_named: bool
) -> tuple[str | None, Path | None]:
    """Return weights and images: the first argument names images where a flag names the weights.

    file: of --weights. is_named: whether other settings may name the weights.
    """
    if first is not None and source is None and _holds_images(first):
        if file is None and not is_named:
            raise UsageError(
                f"{first} holds no weights; name some before the images: ptkit finetune"
                f" efficientnet_lite0 {first}"
            )
        source, first = Path(first), None
    if first is not None and file is not None:
        raise UsageError(
            f"the weights are given twice, {first} and --weights {file}: leave one out"
        )
    return first or file, source


def _holds_images(text: str) -> bool:
    """Say whether a text names a table, or a folder that is no run."""
    place = Path(text)
    is_run = (place / "ckpt.pkl").exists() or (place / "config.toml").exists()
    return place.suffix in (".csv", ".tsv", ".jsonl") or (place.is_dir() and not is_run)
