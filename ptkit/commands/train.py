"""`ptkit train`."""

from collections.abc import Mapping
from typing import Any

from ptkit.commands.training_flags import settings_of, train_and_print, with_training_flags


@with_training_flags
def train(*, flags: Mapping[str, Any]) -> None:
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume
    from, metrics.csv, TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    train_and_print(settings_of(flags), flags)
