"""`ptkit train`."""

from typing import Any

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.training_flags import with_setting_flags


@with_setting_flags()
def train(
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
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume
    from, metrics.csv, TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    from ptkit.commands.training_screen import TrainingScreen, print_run
    from ptkit.core.config_layers import parse_assignments

    printer = Printer(as_json=as_json, quiet=quiet)
    settings = parse_assignments(assignments or ()) | settings
    result = api.train(
        config=config,
        recipe=recipe,
        name=name,
        out=out,
        resume=resume,
        watch=TrainingScreen(printer),
        **settings,
    )
    print_run(printer, result)
