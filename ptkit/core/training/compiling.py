"""The model compiled by torch.compile, for the steps of training and for validation.

The model itself does not change: its state dict has the same names, and checkpoints load with and
without compiling.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.data.loading.batches import Forward
from ptkit.core.device import autocast, empty_cache, is_out_of_memory
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.ranks import here

# Up to here a GPU is done with a layer before Python has called the next: CUDA graphs pay.
_SMALL = 30_000_000


class CompiledForward:
    """Calls a compiled model on batches of one shape, and the plain one on others.

    The shape is that of the first batch in training and of the first in evaluation: no other, such
    as that of a last batch, is worth compiling.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        # Collecting them takes longer than looking at each.
        self._parameters = list(model.parameters())
        num_parameters = sum(parameter.numel() for parameter in self._parameters)
        # Between replays the ranks exchange gradients, which a graph must not catch.
        is_small = num_parameters <= _SMALL
        self.uses_graphs = device.type == "cuda" and is_small and here().is_alone
        self._model: nn.Module = model
        self._plain: Forward = model
        self._shapes: dict[bool, torch.Size] = {}
        # Dropout must draw the same numbers as uncompiled.
        options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": self.uses_graphs}
        self._compiled: Forward = torch.compile(model, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the outputs (n, num_outputs) of images (n, C, H, W)."""
        is_training = self._model.training
        if images.shape != self._shapes.setdefault(is_training, images.shape):
            return self._plain(images)
        if not self.uses_graphs:
            return self._compiled(images)
        # A graph writes into the same memory each time: gradients of the last step must outlive the
        # validation.
        if not is_training:
            return self._plain(images)
        # So do those of the batches before, where a step adds up several.
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
        torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(images).clone()


def compile_model(
    model: nn.Module, images: Tensor, *, dtype: torch.dtype | None
) -> tuple[CompiledForward, str]:
    """Compile a model in training mode for batches like `images`; return it and a note on the time.

    The model is left as it was, without gradients.

    Raises:
        UsageError: it cannot be compiled here.
    """
    begin = time.perf_counter()
    forward = CompiledForward(model, images.device)
    try:
        with keeping_buffers(model):
            # A graph is recorded in the second step, and what cannot be is an error there.
            for _ in range(2 if forward.uses_graphs else 1):
                with autocast(images.device, dtype):
                    outputs = forward(images)
                outputs.float().square().mean().backward()
    except (RuntimeError, ImportError) as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"train.compile: {_reason(error)}; leave it out, or fix that first"
        ) from error
    for parameter in model.parameters():
        parameter.grad = None
    how = "compiled, with CUDA graphs" if forward.uses_graphs else "compiled"
    steps = "first two steps" if forward.uses_graphs else "first step"
    return forward, f"model {how}: the {steps} took {time.perf_counter() - begin:.1f} s"


def forget_compiled(model: nn.Module) -> None:
    """Free what compiling a model took, where it is not used: code, graphs, and their memory."""
    for parameter in model.parameters():
        parameter.grad = None
    torch.compiler.reset()
    empty_cache()


def _reason(error: Exception) -> str:
    lines = map(str.strip, str(error).splitlines())
    # Before 2.7 torch begins with a line that says nothing.
    said = (line for line in lines if line and line != "backend='inductor' raised:")
    text = next(said, type(error).__name__)
    return text.removeprefix("InvalidCxxCompiler: ").rstrip(".")
