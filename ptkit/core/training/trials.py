"""What is done before the first epoch: a model is fitted to its images, and what cannot work is
refused in one line, not after minutes.
"""

import torch
from torch import Tensor, nn

from ptkit.core.data.keyed import spread
from ptkit.core.data.loading.batches import Batch, batches_at
from ptkit.core.device import autocast, passing_look
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import keeping_buffers, taking
from ptkit.core.models.zoo import check_forward
from ptkit.core.training.loop import Training
from ptkit.core.training.optimization.optimizers import freeze_statistics
from ptkit.core.training.setup_data import PreparedData
from ptkit.core.training.tasks.loss import Loss
from ptkit.core.training.tasks.losses import RULES

# How many training images a model with `fit_inputs` gets.
_FITTED_IMAGES = 2000


def try_first_batch(
    model: nn.Module,
    loss: Loss,
    data: PreparedData,
    *,
    batch: Batch,
    num_outputs: int,
) -> None:
    """Try the first batch on the loss and on the model.

    Raises:
        UsageError: labels that a user's loss does not take, or images that the model does not take.
    """
    check_own_loss(loss, batch.labels, num_outputs=num_outputs)
    # The square was tried with the model; transforms may have made another size of it, and in
    # evaluation, if they are the user's own, another number of channels.
    is_unknown = data.valid.pipeline.channels is None
    tried = {(batch.images.shape[1], *data.sides)}
    for one in (batch, *([next(data.valid.epoch(0))] if is_unknown else ())):
        _, channels, height, width = one.images.shape
        if (channels, height, width) not in tried:
            check_forward(model, (height, width), num_classes=num_outputs, channels=channels)


def fit_to_images(model: nn.Module, data: PreparedData) -> tuple[str, ...]:
    """Let a model that has `fit_inputs` set its weights from training images, in place; return the
    names of those that it set.
    """
    fit_inputs = getattr(model, "fit_inputs", None)
    if not callable(fit_inputs):
        return ()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    some = spread(range(len(data.reference.images)), _FITTED_IMAGES)
    fit_inputs(torch.cat(list(batches_at(data.reference, some))))
    return tuple(name for name, p in model.named_parameters() if not torch.equal(p, before[name]))


def try_smallest_batch(images: Tensor, training: Training) -> None:
    """Run the smallest batch of an epoch in training mode; the model stays as it was.

    images: a full batch. BatchNorm refuses a single value per channel, which one image gives where
    its maps have shrunk to one place.

    Raises:
        UsageError: the model does not take so few images.
    """
    model, batches, sampling = training.model, training.train, training.train.sampling
    count = sampling.smallest_batch(len(batches.images))
    some = images[: count * batches.pipeline.num_crops]
    is_rest = count < sampling.batch_size
    remedy = ": choose another --batch-size" + (", or --set data.drop_last=true" if is_rest else "")
    model.train()
    freeze_statistics(model, training.optimizer_setup.always_frozen)
    devices = [some.device] if some.is_cuda else []
    with (
        taking(model, some, in_training=True, remedy=remedy),
        keeping_buffers(model),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        passing_look(),
        autocast(some.device, training.dtype),
    ):
        model(some)


def check_own_loss(loss: Loss, labels: Tensor, *, num_outputs: int) -> None:
    """Try a user's own loss on the labels of one batch.

    Raises:
        UsageError: it fails, or gives something else than one number that has a gradient.
    """
    name = type(loss.criterion).__name__
    if name in RULES:
        return
    outputs = torch.zeros(len(labels), num_outputs, device=labels.device, requires_grad=True)
    try:
        value = loss(outputs, labels)
    except Exception as error:  # the user's code may raise anything
        shapes = f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}"
        raise UsageError(f"{name} fails on {shapes}: {type(error).__name__}: {error}") from error
    found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    if isinstance(value, Tensor) and not value.ndim:
        if value.requires_grad:
            return
        found = "no gradient"
    raise UsageError(
        f"{name} must give one number with a gradient, the mean of the batch; found {found}"
    )
