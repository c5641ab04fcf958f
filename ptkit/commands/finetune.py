"""`ptkit finetune`."""

from typing import Annotated, Any

import typer

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.training_flags import with_setting_flags
from ptkit.core.errors import UsageError


@with_setting_flags()
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
    config: options.Config = None,
    recipe: options.Recipe = None,
    assignments: options.Assignments = None,
    name: options.RunName = None,
    resume: options.Resume = None,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **settings: Any,
) -> None:
    """Train on from old weights: take what fits, report the rest, and move the head faster than the
    body.

    The rate is a tenth of the usual one; the head gets ten times that. Input size and normalisation
    come from the weights if these carry them. Groups of parameters have their own rate, or are
    frozen (no gradients, BatchNorm statistics kept) or excluded (left out of the optimizer).

    Example: ptkit finetune resnet18 --group "layer1: frozen" --epochs 5
    """
    from ptkit.commands.training_screen import TrainingScreen, print_run
    from ptkit.core.config_layers import parse_assignments

    if resume is not None:
        raise UsageError(f"resume a finetuned run with: ptkit train --resume {resume}")
    printer = Printer(as_json=as_json, quiet=quiet)
    settings = parse_assignments(assignments or ()) | settings
    # The argument says which weights are meant.
    settings.pop("weights", None)
    result = api.finetune(
        weights,
        config=config,
        recipe=recipe,
        name=name,
        out=out,
        watch=TrainingScreen(printer, is_verbose=verbose),
        **settings,
    )
    print_run(printer, result)
