"""How a list of transforms is divided: what can be kept, what runs image by image, what on whole
batches, and where.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import ToTensor
from ptkit.core.data.transforms.geometry import Size
from ptkit.core.data.transforms.kernels import has_form, kernel_of

_PREFIX_TYPES = (v2.Resize, v2.CenterCrop, v2.Pad, v2.Grayscale)


@dataclass(frozen=True)
class Step:
    """One transform and the columns of the draws that are its own."""

    transform: Any
    columns: slice


@dataclass(frozen=True, eq=False, kw_only=True)
class Division:
    """The parts of a list, in the order in which they run.

    prefix: deterministic steps on uint8; their result can be kept.
    middle: steps that run image by image.
    batched: steps that run on whole uint8 batches, on the CPU.
    on_device: steps that run on whole uint8 batches on the training device, where that is not a
    CPU; see `for_gpu`.
    scale, shift: float(pixels) * scale + shift is ToTensor and a Normalize right after it in one,
    (3,) each; None
        where ToTensor stands in `middle`.
    tail: steps that run on whole float batches, on the device.
    prefix_size: (height, width) after the prefix; None where it depends on the image.
    num_device_forms: how many steps at the end of `batched` could run on a GPU.
    """

    prefix: tuple[Step, ...]
    middle: tuple[Step, ...]
    batched: tuple[Step, ...]
    on_device: tuple[Step, ...] = ()
    scale: Tensor | None
    shift: Tensor | None
    tail: tuple[Step, ...]
    prefix_size: Size | None
    num_device_forms: int


DivisionT = TypeVar("DivisionT", bound=Division)


def steps_of(transforms: Sequence[Any]) -> tuple[Step, ...]:
    """Give each transform its columns of the draws."""
    steps, start = [], 0
    for transform in transforms:
        end = start + kernel_of(transform).draws(transform)
        steps.append(Step(transform, slice(start, end)))
        start = end
    return tuple(steps)


def divide(steps: Sequence[Step], sizes: Sequence[Size | None]) -> Division:
    """Divide a list whose order has been checked; sizes: before each step and at the end."""
    first = next(
        (k for k, step in enumerate(steps) if type(step.transform) not in _PREFIX_TYPES), len(steps)
    )
    to_tensor = next(
        (k for k, step in enumerate(steps) if isinstance(step.transform, ToTensor)), len(steps)
    )
    tail = _start_of_forms(steps, sizes, first=to_tensor + 1, end=len(steps), form="floats")
    if tail != to_tensor + 1:
        # Something between ToTensor and the tail runs image by image, and so does all before it.
        middle_end = batched_end = min(tail, len(steps))
        scale = shift = None
    else:
        middle_end, batched_end = (
            _start_of_forms(steps, sizes, first=first, end=to_tensor, form="batch"),
            to_tensor,
        )
        (scale, shift), num_fused = _scale_and_shift(steps[tail:])
        tail += num_fused
    device_start = _start_of_forms(steps, sizes, first=middle_end, end=batched_end, form="device")
    return Division(
        prefix=tuple(steps[:first]),
        middle=tuple(steps[first:middle_end]),
        batched=tuple(steps[middle_end:batched_end]),
        tail=tuple(steps[tail:]),
        scale=scale,
        shift=shift,
        prefix_size=sizes[first],
        num_device_forms=batched_end - device_start,
    )


def for_gpu(division: DivisionT) -> DivisionT:
    """Let as many steps run on the training device as can: the last ones, as batches do not come
    back from there.
    """
    start = len(division.batched) - division.num_device_forms
    return replace(
        division,
        batched=division.batched[:start],
        on_device=division.batched[start:] + division.on_device,
        num_device_forms=0,
    )


def _start_of_forms(
    steps: Sequence[Step], sizes: Sequence[Size | None], *, first: int, end: int, form: str
) -> int:
    """Return where the steps up to `end` begin that all have a form for whole batches."""
    start = end
    while start > first and _can_batch(steps[start - 1].transform, sizes[start - 1], form):
        start -= 1
    return start


def _can_batch(transform: Any, size: Size | None, form: str) -> bool:
    # A batch needs images of one size. Where that is not known, pixels are left alone until it is;
    # floats, which
    # come last, must be of one size already if the step keeps it.
    is_one_size = size is not None or (
        form == "floats" and kernel_of(transform).size(transform, None) is None
    )
    return is_one_size and has_form(transform, size, form)


def _scale_and_shift(tail: Sequence[Step]) -> tuple[tuple[Tensor, Tensor], int]:
    """Return ToTensor, with a Normalize right after it, as scale and shift; and how many steps that
    takes.
    """
    if not tail or not isinstance(tail[0].transform, v2.Normalize):
        return (torch.full((3,), 1 / 255), torch.zeros(3)), 0
    normalize = tail[0].transform
    mean = torch.as_tensor(normalize.mean, dtype=torch.float64).reshape(-1).expand(3)
    std = torch.as_tensor(normalize.std, dtype=torch.float64).reshape(-1).expand(3)
    return ((1 / (255 * std)).float(), (-mean / std).float()), 1
