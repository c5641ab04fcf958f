"""A loss that became NaN or infinite: where, and what helps."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptkit.core.errors import DivergedError
from ptkit.core.sharding import is_part
from ptkit.core.training.tasks.loss import Totals

if TYPE_CHECKING:
    # The loop looks for it.
    from ptkit.core.training.loop import Training


def check_finite(totals: Totals, training: "Training", epoch: int) -> None:
    """Look at the losses of an epoch so far, which waits for the device.

    Raises:
        DivergedError: one of them is NaN or infinite.
    """
    bad = totals.read().first_bad
    if bad is None:
        training.scaler.check()
        return
    # `bad` counts the batches of the epoch, not its steps.
    accumulate = training.settings.accumulate
    step = (epoch - 1) * -(-len(training.train) // accumulate) + bad // accumulate + 1
    # The gradients are those of the newest step, some after the one that failed.
    values = (
        (name, _dense(parameter if parameter.grad is None else parameter.grad))
        for name, parameter in training.model.named_parameters()
    )
    first = next((name for name, v in values if not v.isfinite().all()), None)
    where = f"; first in the gradient of {first}" if first else ""
    raise DivergedError(
        f"the loss became NaN or infinite at step {step} (epoch {epoch}){where}; "
        + remedy(training, num_steps=step - 1),
        step=step,
        where=first,
    )


def remedy(training: "Training", *, num_steps: int) -> str:
    """Return what can help against a loss that is not finite after so many optimizer steps."""
    # fp16 ends at 65,504, which large outputs pass.
    wider = "try --precision fp32, or " if training.dtype is torch.float16 else ""
    if not num_steps:
        return (
            f"no step was made before it, so neither --lr nor clipping can help: {wider}look at the"
            " arguments of the loss, the transforms and the initial weights"
        )
    settings = training.settings
    is_clipped = settings.clip_grad is not None or settings.clip_value is not None
    # LBFGS measures curvature by differences of gradients, which clipping falsifies.
    can_clip = not is_clipped and not isinstance(training.optimizer, torch.optim.LBFGS)
    advice = f"{wider or 'try '}a lower --lr" + (" or --set train.clip_grad=1" if can_clip else "")
    call = training.loss.call
    # Such as a mean over nothing, in a batch of one class.
    return f"{advice}; or {call.name} itself gives it for some batch" if call.prefix else advice


def _dense(gradient: Tensor) -> Tensor:
    # Of a model that is divided each rank looks at its part: no other need come here.
    gradient = gradient.to_local() if is_part(gradient) else gradient  # type: ignore[attr-defined]
    return gradient.coalesce().values() if gradient.is_sparse else gradient
