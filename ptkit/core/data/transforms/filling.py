"""Decoded images to a batch without a tensor for each: where threads are many, they would wait for
the interpreter's lock at each of torch's operators.
"""

from collections.abc import Iterable

import numpy as np

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import refusal
from ptkit.core.data.transforms.plan import Plan, Step
from ptkit.core.data.transforms.spec import Draws


def filled_shape(plan: Plan) -> tuple[int, int, int] | None:
    """Return (h, w, C) of the uint8 images that the prefix, or one step after it, makes of any
    decoded one; None where more steps work on single images, or sizes differ.
    """
    size = None
    if plan.fused is None:
        return None
    if not plan.image_steps:
        size = plan.prefix_size
    elif plan.prefix_channels == 3 and len(plan.image_steps) == 1:
        (step,) = plan.image_steps
        if step.spec.into is not None and step.spec.can_into(step.transform):
            size = step.spec.size(step.transform, None)
    return None if size is None else (*size, plan.prefix_channels)


def filled(
    plan: Plan,
    images: Iterable[tuple[Pixels, Reduction | None]],
    draws: Draws,
    *,
    out: Pixels | None = None,
) -> Pixels:
    """Return what `apply_to_image` and `stack` make of images, uint8 (n, h, w, C); see
    `filled_shape`.

    images: uint8 (H, W, C) after the prefix, with how much smaller each came. draws: (n,
    num_draws). out: where the result goes.

    Raises:
        UsageError: a transform does not fit an image.
    """
    shape = filled_shape(plan)
    assert shape is not None
    batch = np.empty((len(draws), *shape), np.uint8) if out is None else out
    if plan.image_steps:
        (step,) = plan.image_steps
        _by_one_step(step, images, draws, batch)
    else:
        for place, (pixels, _) in zip(batch, images, strict=True):
            place[:] = pixels
    return batch


def _by_one_step(
    step: Step, images: Iterable[tuple[Pixels, Reduction | None]], draws: Draws, batch: Pixels
) -> None:
    assert step.spec.into is not None
    columns = draws[:, step.columns]
    for k, (pixels, reduction) in enumerate(images):
        try:
            step.spec.into(
                step.transform, pixels, columns[k], out=batch[k : k + 1], reduction=reduction
            )
        except (RuntimeError, ValueError) as error:
            raise refusal(step, error) from error
