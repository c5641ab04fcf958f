"""How a model answers before its first step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ptkit.core.data.loading.batches import Batch
from ptkit.core.device import autocast, passing_look, seed_device
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.training.recording.activations import Activations
from ptkit.core.training.recording.series import Seconds
from ptkit.core.training.tasks.loss import Loss


@dataclass(frozen=True)
class Initial:
    """What the first batch gives before any step.

    loss: its mean, also of one that is a sum; NaN where it mixes images. layer_std: of the outputs
    of each layer with weights, in forward order. mean, std: (C,) of the images as the model
    gets them; largest: their largest absolute value. outputs_are_probabilities: all outputs are at
    least 0 and each row sums to 1. order: names of all modules, in the order in which they begin to
    run.
    """

    loss: float
    layer_std: Mapping[str, float]
    mean: list[float]
    std: list[float]
    largest: float
    outputs_are_probabilities: bool
    order: tuple[str, ...]


def initial_of(
    model: nn.Module, batch: Batch, loss: Loss, *, dtype: torch.dtype | None = None
) -> Initial:
    """Run a batch in the mode that the model is in; the model stays as it was.

    dtype: of autocast, None for float32.
    """
    images, order = batch.images, list[nn.Module]()
    activations = Activations(model, Seconds())
    devices = [images.device] if images.is_cuda else []
    with (
        torch.no_grad(),
        keeping_buffers(model),
        torch.random.fork_rng(devices),
        passing_look(),
        activations.seen(),
        _entering(order.append),
    ):
        # Dropout: the same seed, the same numbers.
        seed_device(images.device, 0)
        with autocast(images.device, dtype):
            outputs = model(images)
        labels = batch.labels.repeat_interleave(batch.num_crops, dim=0)
        value = torch.nan if batch.mixed is not None else float(loss(outputs, labels))
    if loss.is_sum:
        value /= len(labels)
    names = {module: name for name, module in model.named_modules()}
    std, mean = torch.std_mean(images.float(), (0, 2, 3), correction=0)
    return Initial(
        loss=value,
        layer_std={name: found["std"] for name, found in activations.taken().items()},
        mean=mean.tolist(),
        std=std.tolist(),
        largest=float(images.abs().max()),
        outputs_are_probabilities=_are_probabilities(outputs),
        order=tuple(dict.fromkeys(names[module] for module in order if module in names)),
    )


@contextmanager
def _entering(see: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call `see` with each module that begins to run."""
    hook = register_module_forward_pre_hook(lambda module, _inputs: see(module))
    try:
        yield
    finally:
        hook.remove()


def _are_probabilities(outputs: Tensor) -> bool:
    """Say whether outputs (n, K) have passed a softmax."""
    values = outputs.float()
    is_whole = torch.allclose(values.sum(1), torch.ones(()).to(values), atol=1e-3)
    return values.shape[1] > 1 and bool((values >= 0).all()) and is_whole
