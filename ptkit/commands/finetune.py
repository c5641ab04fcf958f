"""`ptkit finetune`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ptkit.commands.training_flags import settings_of, train_and_print, with_training_flags
from ptkit.core.errors import UsageError


@with_training_flags
def finetune(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="A checkpoint, a run folder, bare weights, or a torchvision model.",
        ),
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List every tensor and what became of it.")
    ] = False,
    *,
    flags: Mapping[str, Any],
) -> None:
    """Train on from old weights: take what fits, report the rest, and move the head faster than the
    body.

    The rate is a tenth of the usual one; the head gets ten times that. Input size and normalisation
    come from the weights where they carry them. Groups of parameters have their own rate, or are
    frozen (no gradients, BatchNorm statistics kept) or excluded (left out of the optimizer).

    Example: ptkit finetune resnet18 --group "layer1: frozen" --epochs 5
    """
    if flags["resume"] is not None:
        raise UsageError(
            f"a finetuned run goes on by itself: ptkit train --resume {flags['resume']}"
        )
    settings = settings_of(
        flags, before={"optimizer": {"head_lr": 10.0}}, argument={"model": {"weights": weights}}
    )
    train_and_print(settings, flags, is_verbose=verbose)
