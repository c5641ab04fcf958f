"""`ptkit train`."""

from ptkit.commands import options
from ptkit.commands.training_flags import settings_of, train_and_print


def train(
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
    """Train a classifier on train.txt and valid.txt, as `ptkit split` leaves them here.

    Writes a run folder (runs/NAME, or into --out) with the best checkpoint, the state to resume from, metrics.csv,
    TensorBoard events and pictures, and links ./ckpt.pkl to the best checkpoint.

    Example: ptkit train --model resnet20 --epochs 30 --transform "RandomCrop(32, padding=4)"
    """
    flags = dict(locals())
    train_and_print(settings_of(flags), flags)
