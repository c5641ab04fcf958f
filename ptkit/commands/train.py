"""`ptkit train`."""

from typing import Any

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer


@options.with_flags(options.setting_flags() | options.RUN_FLAGS)
def train(printer: Printer, **settings: Any) -> None:
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume
    from, metrics.csv, TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    from ptkit.commands.training_screen import TrainingScreen, print_run
    from ptkit.core.config_layers import parse_assignments

    settings = parse_assignments(settings.pop("assignments", ())) | settings
    result = api.train(watch=TrainingScreen(printer), **settings)
    print_run(printer, result)
