"""The order of transforms: what an image is after each of them, and what the next one takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchvision.transforms import InterpolationMode, v2

from ptkit.core.data.transforms.catalogue import ToTensor, inner_calls
from ptkit.core.data.transforms.crops import SEVERAL_CROPS
from ptkit.core.data.transforms.geometry import Size
from ptkit.core.data.transforms.kernels import CONTAINERS, is_foreign, kernel_of
from ptkit.core.data.transforms.mixing import is_mix
from ptkit.core.data.transforms.whitening import LinearTransformation, misfit
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call

# What an image can be.
_UINT8, _PIL, _FLOAT, _WHITENED, _NORMALISED = (
    "uint8",
    "PIL image",
    "float",
    "whitened",
    "normalised",
)
_FLOATS = (_FLOAT, _WHITENED, _NORMALISED)

Kinds = frozenset[str]


@dataclass(frozen=True)
class _Rule:
    """What a transform refuses, with the reason ({} is its name), and what it makes of an image, if
    it changes that.
    """

    refuses: Mapping[str, str] = field(default_factory=dict)
    gives: str | None = None


def _refusing(kinds: Sequence[str], reason: str) -> dict[str, str]:
    return dict.fromkeys(kinds, reason)


_NEEDS_FLOATS = _refusing((_UINT8, _PIL), "{} needs a float tensor: put ToTensor() before it")
_AUGMENTS_COLOR = _Rule(
    {
        _WHITENED: "{} takes values 0..1: put it before LinearTransformation",
        _NORMALISED: "{} takes values 0..1: put it before Normalize",
    }
)
_RULES: Mapping[type, _Rule] = {
    ToTensor: _Rule(
        _refusing(_FLOATS, "{} stands twice; the image is a float tensor already"), _FLOAT
    ),
    v2.ToPILImage: _Rule(
        _refusing(_FLOATS, "{} must stand before ToTensor") | _refusing((_PIL,), "{} stands twice"),
        _PIL,
    ),
    v2.Normalize: _Rule(_NEEDS_FLOATS | _refusing((_NORMALISED,), "{} stands twice"), _NORMALISED),
    LinearTransformation: _Rule(
        _NEEDS_FLOATS
        | _refusing((_WHITENED,), "{} stands twice")
        | _refusing((_NORMALISED,), "{} takes values 0..1: put it before Normalize"),
        _WHITENED,
    ),
    v2.RandomErasing: _Rule(_NEEDS_FLOATS),
    v2.ColorJitter: _AUGMENTS_COLOR,
    v2.AutoAugment: _AUGMENTS_COLOR,
    v2.RandAugment: _AUGMENTS_COLOR,
    v2.TrivialAugmentWide: _AUGMENTS_COLOR,
    v2.AugMix: _AUGMENTS_COLOR,
    **dict.fromkeys(
        SEVERAL_CROPS, _Rule(_refusing((_PIL,), "{} needs a tensor: put it before ToPILImage"))
    ),
}


# What torchvision's kernels for tensors cannot do, of the modes that Pillow can.
_FEW_MODES = (InterpolationMode.NEAREST, InterpolationMode.BILINEAR)
_PILLOW_ONLY = (InterpolationMode.BOX, InterpolationMode.HAMMING)
_MODES_OF_TENSORS: Mapping[type, tuple[InterpolationMode, ...]] = {
    **dict.fromkeys(
        (
            v2.RandomRotation,
            v2.RandomAffine,
            v2.AutoAugment,
            v2.RandAugment,
            v2.TrivialAugmentWide,
            v2.AugMix,
        ),
        _FEW_MODES,
    ),
    **dict.fromkeys(
        (v2.Resize, v2.RandomResizedCrop),
        tuple(mode for mode in InterpolationMode if mode not in _PILLOW_ONLY),
    ),
}


def check_order(calls: Sequence[Call], transforms: Sequence[Any], *, mix: Call | None) -> None:
    """Refuse a list in which a transform cannot work where it stands.

    calls: what the transforms were built from. mix: the call at the end that mixes batches.

    Raises:
        UsageError: the message says what is wrong with which call.
    """
    kinds: Kinds = frozenset({_UINT8})
    for call, transform in zip(calls, transforms, strict=True):
        kinds = _after(call, transform, kinds)
    if _PIL in kinds:
        raise UsageError(
            "the transforms must end in a float tensor: add ToTensor() after ToPILImage()"
        )
    if _UINT8 in kinds:
        raise UsageError("the transforms must end in a float tensor: add ToTensor()")
    _check_crops(calls, transforms, mix)
    alternating = [
        call
        for call, transform in zip(calls, transforms, strict=True)
        if kernel_of(transform).alternates
    ]
    if len(alternating) > 1:
        raise alternating[1].error(
            f"{alternating[1].name} stands twice: the second undoes the first"
        )


def check_sizes(
    calls: Sequence[Call], transforms: Sequence[Any], sizes: Sequence[Size | None]
) -> None:
    """Refuse a matrix that does not fit the images, where their size is known.

    sizes: before each transform.

    Raises:
        UsageError: the message shows both sizes.
    """
    for call, transform, size in zip(calls, transforms, sizes, strict=False):
        if (
            isinstance(transform, LinearTransformation)
            and size is not None
            and (reason := misfit(transform, size))
        ):
            raise call.error(reason)


def _after(call: Call, transform: Any, kinds: Kinds) -> Kinds:
    """Return what an image may be after a transform that it enters as one of `kinds`."""
    if is_mix(call):
        raise call.error(
            "what mixes whole batches stands once, at the end: RandomChoice([MixUp(), CutMix()])"
            " takes turns"
        )
    if type(transform) in CONTAINERS:
        return _after_container(call, transform, kinds)
    rule = _RULES.get(type(transform), _Rule())
    for kind in sorted(kinds & rule.refuses.keys()):
        raise call.error(rule.refuses[kind].format(call.name))
    modes = _MODES_OF_TENSORS.get(type(transform))
    if (
        modes is not None
        and kinds - {_PIL}
        and InterpolationMode(transform.interpolation) not in modes
    ):
        names = ", ".join(mode.name for mode in modes)
        raise call.error(
            f"{call.name}: of a tensor the interpolation is {names}; others need ToPILImage()"
            " before it"
        )
    return frozenset({rule.gives}) if rule.gives else kinds


def _after_container(call: Call, transform: Any, kinds: Kinds) -> Kinds:
    results, here = [], kinds
    for inner, inner_transform in zip(inner_calls(call), transform.transforms, strict=True):
        if type(inner_transform) in SEVERAL_CROPS:
            raise inner.error(
                f"{inner.name} makes several images of each: it cannot stand in {call.name}"
            )
        if kernel_of(inner_transform).alternates:
            raise inner.error(
                f"{inner.name} takes turns from epoch to epoch: it cannot stand in {call.name}"
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
    places = [k for k, transform in enumerate(transforms) if type(transform) in SEVERAL_CROPS]
    if not places:
        return
    crop = calls[places[0]]
    if len(places) > 1:
        second = calls[places[1]]
        raise second.error(
            f"{second.name} cannot follow {crop.name}: the image is several images already"
        )
    if mix is not None:
        raise mix.error(f"{mix.name} mixes single images: it cannot go with {crop.name}")
    for call, transform in list(zip(calls, transforms, strict=True))[places[0] + 1 :]:
        if isinstance(transform, v2.ToPILImage) or is_foreign(transform):
            raise call.error(
                f"{call.name} takes one image, not the crops of one: put it before {crop.name}"
            )


def sizes_of(transforms: Sequence[Any]) -> list[Size | None]:
    """Return the size before each transform, and at the end; None where it depends on the image."""
    sizes: list[Size | None] = [None]
    for transform in transforms:
        sizes.append(kernel_of(transform).size(transform, sizes[-1]))
    return sizes
