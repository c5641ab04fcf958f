"""The order of a list of transforms, checked, and its steps by what they run on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from ptkit.core.data.transforms.catalogue import (
    has_form,
    inner_calls,
    is_foreign,
    is_mix,
    num_draws,
    spec_of,
)
from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.spec import PIL, UINT8, Size, Spec
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call


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


Kinds = frozenset[str]


def check_order(calls: Sequence[Call], transforms: Sequence[Any], *, mix: Call | None) -> None:
    """Refuse a list in which a transform cannot work at its place.

    calls: what the transforms were built from. mix: the call at the end that mixes batches.

    Raises:
        UsageError: the message says what is wrong with which call.
    """
    kinds: Kinds = frozenset({UINT8})
    for call, transform in zip(calls, transforms, strict=True):
        kinds = _after(call, transform, kinds)
    if PIL in kinds:
        raise UsageError(
            "the transforms must end in a float tensor: add ToTensor() after ToPILImage()"
        )
    if UINT8 in kinds:
        raise UsageError("the transforms must end in a float tensor: add ToTensor()")
    _check_crops(calls, transforms, mix)
    alternating = [call for call, t in zip(calls, transforms, strict=True) if spec_of(t).alternates]
    if len(alternating) > 1:
        second = alternating[1]
        raise second.error(f"{second.name} appears twice: the second undoes the first")


def check_sizes(
    calls: Sequence[Call], transforms: Sequence[Any], sizes: Sequence[Size | None]
) -> None:
    """Refuse a transform that does not fit the images, where their size is known.

    sizes: before each transform.

    Raises:
        UsageError: the message shows both sizes.
    """
    for call, transform, size in zip(calls, transforms, sizes, strict=False):
        if size is not None and (reason := spec_of(transform).misfit(transform, size)):
            raise call.error(reason)


def _after(call: Call, transform: Any, kinds: Kinds) -> Kinds:
    """Return what an image may be after a transform that it enters as one of `kinds`."""
    if is_mix(call):
        raise call.error(
            f"{call.name} mixes whole batches: put it at the end, once;"
            " RandomChoice([MixUp(), CutMix()]) takes turns"
        )
    spec = spec_of(transform)
    if spec.is_container:
        return _after_container(call, transform, kinds)
    for kind in sorted(kinds & spec.refuses.keys()):
        raise call.error(spec.refuses[kind].format(call.name))
    modes = spec.tensor_modes
    if modes and kinds - {PIL} and InterpolationMode(transform.interpolation) not in modes:
        names = ", ".join(mode.name for mode in modes)
        raise call.error(
            f"{call.name}: of a tensor the interpolation is {names}; others need ToPILImage()"
            " before it"
        )
    return frozenset({spec.gives}) if spec.gives else kinds


def _after_container(call: Call, transform: Any, kinds: Kinds) -> Kinds:
    results, here = [], kinds
    for inner, inner_transform in zip(inner_calls(call), transform.transforms, strict=True):
        assert isinstance(inner, Call)
        if spec_of(inner_transform).num_crops > 1:
            raise inner.error(
                f"{inner.name} makes several images of each: it cannot be in {call.name}"
            )
        if spec_of(inner_transform).alternates:
            raise inner.error(
                f"{inner.name} takes turns from epoch to epoch: it cannot be in {call.name}"
            )
        here = _after(
            inner, inner_transform, here if isinstance(transform, v2.RandomApply) else kinds
        )
        if isinstance(transform, v2.RandomOrder) and here != kinds:
            raise inner.error(
                f"{inner.name} changes what an image is: in a RandomOrder the others could not"
                " follow it"
            )
        results.append(here)
    return kinds | here if isinstance(transform, v2.RandomApply) else frozenset().union(*results)


def _check_crops(calls: Sequence[Call], transforms: Sequence[Any], mix: Call | None) -> None:
    places = [k for k, transform in enumerate(transforms) if spec_of(transform).num_crops > 1]
    if not places:
        return
    crop = calls[places[0]]
    if len(places) > 1:
        second = calls[places[1]]
        raise second.error(
            f"{second.name} cannot follow {crop.name}: the image is several images already"
        )
    if mix is not None:
        raise mix.error(f"{mix.name} mixes single images: it cannot be used with {crop.name}")
    for call, transform in list(zip(calls, transforms, strict=True))[places[0] + 1 :]:
        if isinstance(transform, v2.ToPILImage) or is_foreign(transform):
            raise call.error(
                f"{call.name} takes one image, not the crops of one: put it before {crop.name}"
            )


def sizes_of(transforms: Sequence[Any]) -> list[Size | None]:
    """Return the size before each transform, and at the end; None where it depends on the image."""
    sizes: list[Size | None] = [None]
    for transform in transforms:
        sizes.append(spec_of(transform).size(transform, sizes[-1]))
    return sizes
