"""How a list of transforms is divided: what can be kept, what runs image by image, what on whole
batches, and where.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import has_form, num_draws, spec_of
from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.spec import Size, Spec


@dataclass(frozen=True)
class Step:
    """One transform, its row, and the columns of the draws that it takes."""

    transform: Any
    spec: Spec
    columns: slice


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """The steps of a list by what they run on, in the order in which they run.

    prefix: one decoded image, without randomness, uint8; the result can be kept.
    image_steps: one image.
    batch_steps: whole uint8 batches, on the CPU.
    device_steps: whole uint8 batches on the training device, where that is not a CPU.
    scale, shift: ToTensor and a Normalize right after it are float(pixels) * scale + shift, (3,)
        each; None where ToTensor is one of `image_steps`.
    float_steps: whole float batches, on the device.
    prefix_size: (height, width) after the prefix; None where it depends on the image.
    num_device_forms: how many steps at the end of `batch_steps` could run on a GPU.
    """

    prefix: tuple[Step, ...]
    image_steps: tuple[Step, ...]
    batch_steps: tuple[Step, ...]
    device_steps: tuple[Step, ...] = ()
    scale: Tensor | None
    shift: Tensor | None
    float_steps: tuple[Step, ...]
    prefix_size: Size | None
    num_device_forms: int

    @property
    def random_steps(self) -> tuple[Step, ...]:
        return self.image_steps + self.batch_steps + self.device_steps + self.float_steps

    def for_gpu(self) -> "Plan":
        """Let as many steps run on the training device as can: the last ones, as batches do not
        come back from there.
        """
        start = len(self.batch_steps) - self.num_device_forms
        return replace(
            self,
            batch_steps=self.batch_steps[:start],
            device_steps=self.batch_steps[start:] + self.device_steps,
            num_device_forms=0,
        )


def steps_of(transforms: Sequence[Any]) -> tuple[Step, ...]:
    """Give each transform its columns of the draws."""
    steps, start = [], 0
    for transform in transforms:
        end = start + num_draws(transform)
        steps.append(Step(transform, spec_of(transform), slice(start, end)))
        start = end
    return tuple(steps)


def divide(steps: Sequence[Step], sizes: Sequence[Size | None]) -> Plan:
    """Divide a list whose order has been checked; sizes: before each step and at the end."""
    first = next((k for k, step in enumerate(steps) if not step.spec.can_keep), len(steps))
    to_tensor = next(
        (k for k, step in enumerate(steps) if isinstance(step.transform, ToTensor)), len(steps)
    )
    floats = _start_of_forms(steps, sizes, first=to_tensor + 1, end=len(steps), form="floats")
    if floats != to_tensor + 1:
        # Something after ToTensor runs image by image, and so does all before it.
        batch_start = batch_end = min(floats, len(steps))
        scale = shift = None
    else:
        batch_start = _start_of_forms(steps, sizes, first=first, end=to_tensor, form="batch")
        batch_end = to_tensor
        (scale, shift), num_fused = _scale_and_shift(steps[floats:])
        floats += num_fused
    device_start = _start_of_forms(steps, sizes, first=batch_start, end=batch_end, form="device")
    return Plan(
        prefix=tuple(steps[:first]),
        image_steps=tuple(steps[first:batch_start]),
        batch_steps=tuple(steps[batch_start:batch_end]),
        float_steps=tuple(steps[floats:]),
        scale=scale,
        shift=shift,
        prefix_size=sizes[first],
        num_device_forms=batch_end - device_start,
    )


def _start_of_forms(
    steps: Sequence[Step], sizes: Sequence[Size | None], *, first: int, end: int, form: str
) -> int:
    """Return where the steps up to `end` begin that all have a form for whole batches."""
    start = end
    while start > first and _can_batch(steps[start - 1], sizes[start - 1], form):
        start -= 1
    return start


def _can_batch(step: Step, size: Size | None, form: str) -> bool:
    # A batch needs images of one size. Where that is not known, pixels are left alone until it is;
    # floats, which come last, must be of one size already if the step keeps it.
    is_one_size = size is not None or (
        form == "floats" and step.spec.size(step.transform, None) is None
    )
    return is_one_size and has_form(step.transform, size, form)


def _scale_and_shift(after: Sequence[Step]) -> tuple[tuple[Tensor, Tensor], int]:
    """Return ToTensor, with a Normalize right after it, as scale and shift; and how many of the
    steps after ToTensor that takes.
    """
    if not after or not isinstance(after[0].transform, v2.Normalize):
        return (torch.full((3,), 1 / 255), torch.zeros(3)), 0
    normalize = after[0].transform
    mean = torch.as_tensor(normalize.mean, dtype=torch.float64).reshape(-1).expand(3)
    std = torch.as_tensor(normalize.std, dtype=torch.float64).reshape(-1).expand(3)
    return ((1 / (255 * std)).float(), (-mean / std).float()), 1
