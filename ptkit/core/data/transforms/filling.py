"""Decoded images to a batch without a tensor for each: where threads are many, they would wait for
the interpreter's lock at each of torch's operators.
"""

from collections.abc import Iterable

import numpy as np

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.pipeline import refusal
from ptkit.core.data.transforms.plan import Plan
from ptkit.core.data.transforms.spec import Draws


def can_fill(plan: Plan) -> bool:
    """Say whether one step makes uint8 images of one size of decoded ones, each into its place."""
    steps = plan.prefix + plan.image_steps
    return plan.fused is not None and [
        step.spec.into is not None and step.spec.can_into(step.transform) for step in steps
    ] == [True]


def filled(
    plan: Plan,
    images: Iterable[tuple[Pixels, Reduction | None]],
    draws: Draws,
    *,
    out: Pixels | None = None,
) -> Pixels:
    """Return what `apply_to_image` and `stack` make of images, uint8 (n, h, w, 3); see `can_fill`.

    images: uint8 (H, W, 3), with how much smaller each came. draws: (n, num_draws). out: where the
    result goes.

    Raises:
        UsageError: the transform does not fit an image.
    """
    (step,) = plan.image_steps
    size = step.spec.size(step.transform, None)
    assert step.spec.into is not None
    assert size is not None
    batch = np.empty((len(draws), *size, 3), np.uint8) if out is None else out
    columns = draws[:, step.columns]
    for k, (pixels, reduction) in enumerate(images):
        try:
            step.spec.into(
                step.transform, pixels, columns[k], out=batch[k : k + 1], reduction=reduction
            )
        except RuntimeError as error:
            raise refusal(step, error) from error
    return batch
