"""`ptkit finetune`."""

from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.training_flags import settings_of, train_and_print
from ptkit.core.config import Layer


def finetune(
    weights: Annotated[str, typer.Argument(help="A checkpoint, a run folder, bare weights, or a torchvision model.")],
    verbose: Annotated[bool, typer.Option("--verbose", help="List every tensor and what became of it.")] = False,
    train_list: options.TrainList = None,
    valid_list: options.ValidList = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    model: options.TrainModel = None,
    size: options.InputSize = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.Rate = None,
    loss: options.LossCall = None,
    optimizer: options.OptimizerCall = None,
    scheduler: options.SchedulerCall = None,
    augment: options.Augment = None,
    transform: options.Transforms = None,
    init: options.Inits = None,
    group: options.Groups = None,
    precision: options.Precision = None,
    name: options.RunName = None,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    device: options.TrainDevice = None,
    workers: options.TrainWorkers = None,
    seed: options.TrainSeed = None,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train on from old weights: take what fits, report the rest, and move the head faster than the body.

    The rate is a tenth of the usual one; the head gets ten times that. Input size and normalisation come from the
    weights where they carry them. Groups of parameters have their own rate, or are frozen (no gradients, BatchNorm
    statistics kept) or excluded (left out of the optimizer).

    Example: ptkit finetune resnet18 --group "layer1: frozen" --epochs 5
    """
    flags = dict(locals())
    before: Layer = {"model": {"weights": weights}, "optimizer": {"head_lr": 10.0}}
    train_and_print(settings_of(flags, before=before), flags)
