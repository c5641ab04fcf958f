"""The order of transforms: what an image is after each of them, and what the next one takes."""

from collections.abc import Sequence
from typing import Any

from torchvision.transforms import InterpolationMode, v2

from ptkit.core.data.transforms.catalogue import inner_calls, is_foreign, is_mix, spec_of
from ptkit.core.data.transforms.spec import PIL, UINT8, Size
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call

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
