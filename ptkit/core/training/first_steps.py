"""What costs seconds before the first step and makes every later one shorter: kernels that cuDNN
tries out, and compiling. On CUDA a few measured steps and the length of the run decide.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptkit.core.config.settings import AUTO
from ptkit.core.data.loading.batches import Forward
from ptkit.core.device import (
    autocast,
    is_out_of_memory,
    passing_look,
    release_memory,
    trying_kernels,
    wait_for,
)
from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import keeping_buffers
from ptkit.core.ranks import here
from ptkit.core.training.compiling import compile_model, forget_compiled
from ptkit.core.training.loop import Training

# A guess of a gain may be wrong: it must win its cost back so many times.
_SAFETY = 2
# The first steps load kernels and fill the allocator.
_WARM_UP, _TIMED = 3, 5


@dataclass(frozen=True)
class Bargain:
    """Seconds paid at once, for steps that are `gain` times as fast."""

    seconds: float
    gain: float

    def saved(self, num_steps: int, step_s: float) -> float:
        """Return the seconds that it saves in so many steps of so many seconds."""
        return num_steps * step_s * (1 - 1 / self.gain)

    def pays(self, num_steps: int, step_s: float) -> bool:
        """Say whether it is worth its seconds, whatever is wrong with the guess of the gain."""
        return self.saved(num_steps, step_s) > _SAFETY * self.seconds


def trying(model: nn.Module) -> Bargain:
    """Return what trying out kernels for one shape costs and gains, by the model's convolutions.

    On an H100 it made the first epoch of ResNet-18 and ResNet-50 eight to eleven seconds longer,
    for three shapes. The gain is a careful guess: it was not measured alone.
    """
    return Bargain(0.15 * sum("Conv" in type(m).__name__ for m in model.modules()), 1.1)


def compiling(model: nn.Module) -> Bargain:
    """Return what compiling costs and gains, by the layers of the model.

    ResNet-18 has 52 and took 24 s on two CPU cores. Of two gains measured on an H100, 1.25 at 224
    pixels and 1.42 at 32, the smaller.
    """
    num_layers = sum(not any(module.children()) for module in model.modules())
    return Bargain(0.46 * num_layers, 1.25)


def with_faster_steps(training: Training, images: Tensor, say: Callable[[str], None]) -> Training:
    """Return the training with what makes its steps shorter, where asked for or worth its cost.

    images: a full batch. The model stays as it was.

    Raises:
        UsageError: train.compile=true, and the model cannot be compiled here.
    """
    asked, model = training.settings, training.model
    training.to_training_mode()
    num_steps = asked.epochs * len(training.train) if asked.method != "probe" else 0
    step_s: float | None = None
    compiled: Forward | None
    # Kernels are chosen by the stopwatch, so no two such runs need have the same last digits.
    if images.is_cuda and not asked.deterministic and num_steps:
        with passing_look():
            step_s = step_seconds(model, model, images, dtype=training.dtype)
        training = replace(training, tries_kernels=trying(model).pays(num_steps, step_s))
    with trying_kernels(is_on=training.tries_kernels):
        if asked.compile is True:
            compiled, note = compile_model(model, images, dtype=training.dtype)
        # Each rank would measure, and choose, for itself.
        elif asked.compile == AUTO and step_s is not None and here().is_alone:
            compiled, note = compiled_if_it_pays(
                model, images, dtype=training.dtype, num_steps=num_steps, step_s=step_s
            )
        else:
            return training
    say(note)
    return replace(training, compiled=compiled)


def compiled_if_it_pays(
    model: nn.Module, images: Tensor, *, dtype: torch.dtype | None, num_steps: int, step_s: float
) -> tuple[Forward | None, str]:
    """Compile a model in training mode if a run of so many steps wins by it, and measure that it
    does; return it, or None, and a line on why.

    step_s: seconds of one step uncompiled, forward and backward.
    """
    bargain = compiling(model)
    facts = (
        f"{num_steps:,} steps of {_ms(step_s)} could save {bargain.saved(num_steps, step_s):.1f} s,"
        f" compiling takes about {bargain.seconds:.1f} s"
    )
    if not bargain.pays(num_steps, step_s):
        return None, f"model not compiled: {facts}"
    forward, reason = None, ""
    try:
        forward, _ = compile_model(model, images, dtype=dtype)
        compiled_s = step_seconds(model, forward, images, dtype=dtype)
    except UsageError as error:
        reason = str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory(error)
        reason = "that needs more memory than there is"
    if not reason:
        # Measured again, now with the kernels of the run.
        plain_s = step_seconds(model, model, images, dtype=dtype)
        reason = f"a step takes {_ms(compiled_s)} compiled, {_ms(plain_s)} as it is"
        if compiled_s < plain_s:
            return forward, f"model compiled: {reason}; {facts}"
    del forward
    forget_compiled(model)
    return None, f"model not compiled: {reason}"


def step_seconds(
    model: nn.Module, forward: Forward, images: Tensor, *, dtype: torch.dtype | None
) -> float:
    """Return the seconds of forward and backward, the least of several; the model stays as it was,
    without gradients.

    forward: the model, or its compiled form.
    """
    seconds = []
    with keeping_buffers(model):
        for _ in range(_WARM_UP + _TIMED):
            wait_for(images.device)
            begin = time.perf_counter()
            with autocast(images.device, dtype):
                outputs = forward(images)
            outputs.float().square().mean().backward()
            wait_for(images.device)
            seconds.append(time.perf_counter() - begin)
            for parameter in model.parameters():
                parameter.grad = None
    return min(seconds[_WARM_UP:])


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
