"""The order of a list of transforms, checked, and its steps by what they run on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import (
    build_transform,
    has_form,
    inner_calls,
    is_foreign,
    is_mix,
    num_draws,
    spec_of,
)
from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.spec import PIL, UINT8, Size, Spec, mode_of
from ptkit.core.errors import DataError, UsageError
from ptkit.core.parts.calls import Call, joined
from ptkit.core.wording import counted


@dataclass(frozen=True)
class Step:
    """One transform, the call that it was built from, its row, and the columns of the draws that it
    takes.
    """

    call: Call
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
    fused: scale and shift, one number each or one a channel: ToTensor and a Normalize right after
        it are float(pixels) * scale + shift; None where ToTensor is one of `image_steps`.
    float_steps: whole float batches, on the device.
    prefix_size: (height, width) after the prefix; None where it depends on the image.
    prefix_channels: of an image after the prefix.
    num_device_forms: how many steps at the end of `batch_steps` could run on a GPU.
    """

    prefix: tuple[Step, ...]
    image_steps: tuple[Step, ...]
    batch_steps: tuple[Step, ...]
    device_steps: tuple[Step, ...] = ()
    fused: tuple[Tensor, Tensor] | None
    float_steps: tuple[Step, ...]
    prefix_size: Size | None
    prefix_channels: int
    num_device_forms: int

    def for_gpu(self) -> "Plan":
        """Let as many steps run on the training device as can: the last ones, as batches do not
        come back from there.
        """
        start = len(self.batch_steps) - self.num_device_forms
        return replace(
            self,
            batch_steps=self.batch_steps[:start],
            device_steps=self.batch_steps[start:] + self.device_steps,
            # None is left to move: asked again, the plan stays as it is.
            num_device_forms=0,
        )


def steps_of(calls: Sequence[Call]) -> tuple[Step, ...]:
    """Build each call's transform and give it its columns of the draws.

    Raises:
        UsageError, DataError: see `build_transform`.
    """
    steps, start = [], 0
    for call in calls:
        transform = build_transform(call)
        end = start + num_draws(transform)
        # Columns go by place in the list: a step has the same draws wherever it runs.
        steps.append(Step(call, transform, spec_of(transform), slice(start, end)))
        start = end
    return tuple(steps)


def divide(
    steps: tuple[Step, ...], sizes: Sequence[Size | None], channels: Sequence[int | None]
) -> Plan:
    """Divide a list whose order has been checked; sizes, channels: before each step and at the
    end.
    """
    # The prefix ends before the first step that is random or no longer takes uint8.
    first = next((k for k, step in enumerate(steps) if not step.spec.can_keep), len(steps))
    # Without a ToTensor of its own, as when a RandomChoice has it, all runs image by image.
    to_tensor = next(
        (k for k, step in enumerate(steps) if isinstance(step.transform, ToTensor)), len(steps)
    )
    starts = partial(_start_of_forms, steps, list(zip(sizes, channels, strict=True)))
    floats = starts(first=to_tensor + 1, end=len(steps), form="floats")
    if floats != to_tensor + 1:
        # Something after ToTensor runs image by image, and so does all before it.
        batch_start = batch_end = min(floats, len(steps))
        fused = None
    else:
        batch_start = starts(first=first, end=to_tensor, form="batch")
        batch_end = to_tensor
        fused, num_fused = _scale_and_shift(steps[floats:])
        floats += num_fused
    device_start = starts(first=batch_start, end=batch_end, form="device")
    prefix_channels = channels[first]
    # What is kept is no user's own.
    assert prefix_channels is not None
    return Plan(
        prefix=steps[:first],
        image_steps=steps[first:batch_start],
        batch_steps=steps[batch_start:batch_end],
        float_steps=steps[floats:],
        fused=fused,
        prefix_size=sizes[first],
        prefix_channels=prefix_channels,
        num_device_forms=batch_end - device_start,
    )


def _start_of_forms(
    steps: Sequence[Step],
    images: Sequence[tuple[Size | None, int | None]],
    *,
    first: int,
    end: int,
    form: str,
) -> int:
    """Return where the steps up to `end` begin that all have a form for whole batches.

    images: size and channels before each step.
    """
    # From the end: a batch is never taken apart into images again.
    start = end
    while start > first and _can_batch(steps[start - 1], *images[start - 1], form=form):
        start -= 1
    return start


def _can_batch(step: Step, size: Size | None, channels: int | None, *, form: str) -> bool:
    # A batch needs images of one size. Where that is not known, pixels are left alone until it is;
    # floats, which come last, must be of one size already if the step keeps it.
    is_one_size = size is not None or (
        form == "floats" and step.spec.size(step.transform, None) is None
    )
    return (
        is_one_size
        and has_form(step.transform, size, form)
        and _keeps_channels_inside(step.transform, channels)
    )


def _keeps_channels_inside(transform: Any, channels: int | None) -> bool:
    """Say whether no transform in a container, if it is one, changes the number of channels: the
    forms for batches put images that went through one back among the others.
    """
    inner = transform.transforms if spec_of(transform).is_container else ()
    return all(
        spec_of(one).channels(one, channels) == channels and _keeps_channels_inside(one, channels)
        for one in inner
    )


def _scale_and_shift(after: Sequence[Step]) -> tuple[tuple[Tensor, Tensor], int]:
    """Return ToTensor, with a Normalize right after it, as scale and shift; and how many of the
    steps after ToTensor that takes.
    """
    if not after or not isinstance(after[0].transform, v2.Normalize):
        return (torch.full((1,), 1 / 255), torch.zeros(1)), 0
    normalize = after[0].transform
    # Normalize also takes a single number for all channels.
    mean, std = torch.broadcast_tensors(
        *(
            torch.as_tensor(values, dtype=torch.float64).reshape(-1)
            for values in (normalize.mean, normalize.std)
        )
    )
    # Computed in float64 and rounded once.
    return ((1 / (255 * std)).float(), (-mean / std).float()), 1


Kinds = frozenset[str]


def check_order(steps: Sequence[Step], *, mix: Call | None) -> None:
    """Refuse a list in which a transform cannot work at its place.

    mix: the call at the end that mixes batches.

    Raises:
        UsageError: the message says what is wrong with which call.
    """
    # A set: after a choice among transforms an image may be of several kinds.
    kinds: Kinds = frozenset({UINT8})
    for step in steps:
        kinds = _after(step.call, step.transform, kinds)
    if kinds & {PIL, UINT8}:
        place = " after ToPILImage()" if PIL in kinds else ""
        raise UsageError(f"the transforms must end in a float tensor: add ToTensor(){place}")
    _check_crops(steps, mix)
    for second in [step.call for step in steps if step.spec.alternates][1:]:
        raise second.error(f"{second.name} appears twice: the second undoes the first")


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
    # Sorted: which of two reasons is given must not depend on the order of a set.
    for kind in sorted(kinds & spec.refuses.keys()):
        raise call.error(spec.refuses[kind].format(call.name))
    # PIL images are interpolated by Pillow, which has every mode.
    modes = spec.tensor_modes
    if modes and kinds - {PIL} and mode_of(transform.interpolation) not in modes:
        names = ", ".join(mode.name for mode in modes)
        raise call.error(
            f"{call.name}: of a tensor the interpolation is {names}; others need ToPILImage()"
            " before it"
        )
    return frozenset({spec.gives}) if spec.gives else kinds


def _after_container(call: Call, transform: Any, kinds: Kinds) -> Kinds:
    results, here, is_chain = [], kinds, isinstance(transform, v2.RandomApply)
    for inner, inner_transform in zip(inner_calls(call), transform.transforms, strict=True):
        assert isinstance(inner, Call)
        spec = spec_of(inner_transform)
        if spec.num_crops > 1 or spec.alternates:
            does = (
                "makes several images of each"
                if spec.num_crops > 1
                else "takes turns from epoch to epoch"
            )
            raise inner.error(f"{inner.name} {does}: it cannot be in {call.name}")
        # RandomApply runs all of them, one after the other; RandomChoice runs one.
        here = _after(inner, inner_transform, here if is_chain else kinds)
        if isinstance(transform, v2.RandomOrder) and here != kinds:
            raise inner.error(
                f"{inner.name} changes what an image is: in a RandomOrder the others could not"
                " follow it"
            )
        results.append(here)
    if is_chain:
        # With p below 1 it may also leave the image as it was.
        return here if transform.p >= 1 else kinds | here
    return frozenset().union(*results)


def _check_crops(steps: Sequence[Step], mix: Call | None) -> None:
    crop: Call | None = None
    for step in steps:
        call = step.call
        if crop is None:
            crop = call if step.spec.num_crops > 1 else None
        elif step.spec.num_crops > 1:
            raise call.error(
                f"{call.name} cannot follow {crop.name}: the image is several images already"
            )
        elif isinstance(step.transform, v2.ToPILImage) or is_foreign(step.transform):
            raise call.error(
                f"{call.name} takes one image, not the crops of one: put it before {crop.name}"
            )
    if crop is not None and mix is not None:
        raise mix.error(f"{mix.name} mixes single images: it cannot be used with {crop.name}")


def channels_of(steps: Sequence[Step]) -> list[int | None]:
    """Return the number of channels before each step, and at the end; None after a transform of the
    user's own.

    Raises:
        UsageError: a step with numbers for more or fewer channels, or in a container one that
            changes them for some images only.
    """
    # Files are decoded to RGB.
    channels: list[int | None] = [3]
    for step in steps:
        channels.append(_channels_after(step.call, step.transform, channels[-1]))
    return channels


def _channels_after(call: Call, transform: Any, channels: int | None) -> int | None:
    spec = spec_of(transform)
    if not spec.is_container:
        _check_numbers(call, transform, channels)
        return spec.channels(transform, channels)
    # Texts became calls when the list was resolved.
    inner = list(zip(cast(Sequence[Call], inner_calls(call)), transform.transforms, strict=True))
    assert spec.courses is not None
    # Each list that it may run starts from what comes in.
    ends = {
        reduce(lambda count, one: _channels_after(one[0], one[1], count), course, channels)
        for course in spec.courses(transform, inner)
    }
    known = {count for count in ends if count is not None}
    if len(known) > 1:
        afters = [(one, _channels_after(one, t, channels)) for one, t in inner]
        one, after = next((one, n) for one, n in afters if n is not None and n != channels)
        other = max(known - {after})
        raise one.error(
            f"{one.name} makes {counted(after, 'channel')}, and {call.name} would give some images"
            f" {other}: put it outside, or give num_output_channels={other}"
        )
    return None if None in ends else known.pop()


def _check_numbers(call: Call, transform: Any, channels: int | None) -> None:
    """Refuse a number for each channel where there are more channels or fewer."""
    # torchvision would broadcast them: three means make three channels of one.
    for name in spec_of(transform).arguments:
        given = getattr(transform, name, None) if name in _ONE_A_CHANNEL else None
        count = len(given) if isinstance(given, list | tuple) else 1
        if channels is not None and count not in (1, channels):
            has = counted(channels, "channel")
            raise call.error(
                f"{call.name} has {count} numbers as {name}, and images have {has} here", name
            )


# Arguments that may hold one number for each channel.
_ONE_A_CHANNEL = ("mean", "std", "fill", "value")


def sizes_of(steps: Sequence[Step], channels: Sequence[int | None]) -> list[Size | None]:
    """Return the size before each step, and at the end; None where it depends on the image.

    channels: as `channels_of` gives them.

    Raises:
        UsageError: a step that does not fit such images; the message shows both sizes.
    """
    # Files have any size.
    sizes: list[Size | None] = [None]
    for step, count in zip(steps, channels, strict=False):
        size = sizes[-1]
        if size is not None and count is not None:
            reason = step.spec.misfit(step.transform, size, count)
            if reason:
                raise step.call.error(reason)
        sizes.append(step.spec.size(step.transform, size))
    return sizes


def same_shape(shapes: Sequence[tuple[int, ...]], calls: Sequence[Call]) -> None:
    """Refuse a batch whose images, (C, H, W), differ in size or channels.

    Raises:
        DataError: they do; the message shows two of them.
    """
    sizes = sorted({f"{shape[1]}×{shape[2]}" for shape in shapes})
    if len(sizes) > 1:
        raise DataError(
            f"images come out of the transforms in different sizes ({sizes[0]} and {sizes[-1]}): "
            f"add Resize((height, width)) or a crop to {joined(calls) or 'the empty list'}"
        )
    channels = sorted({shape[0] for shape in shapes})
    if len(channels) > 1:
        raise DataError(
            f"images come out of the transforms with {channels[0]} and with {channels[-1]}"
            f" channels: your own transform in {joined(calls)} must always give the same number"
        )
