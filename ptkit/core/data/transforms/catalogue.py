"""The transforms a user can name, and the few that are ours."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.transforms.mixing import is_mix
from ptkit.core.data.transforms.whitening import held_whitening, read_whitening
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue, Part, load_function
from ptkit.core.sizes import is_small


class ToTensor(nn.Module):
    """Turn uint8 (3, H, W) or a PIL image into float32 (3, H, W) with values 0..1; v2's own leaves
    tensors unscaled.
    """

    def forward(self, image: Any) -> Tensor:
        tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        return F.to_dtype(tensor, torch.float32, scale=True)


class Lambda(nn.Module):
    """Apply a user's function, named as "module:function" or "file.py:function", to the image."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.name = function
        self.function = load_function(function)

    def forward(self, image: Any) -> Any:
        return self.function(image)


def _torchvision(name: str, summary: str) -> Part:
    return Part(f"torchvision.transforms.v2:{name}", summary)


# The loop knows the labels and mixes losses, not targets.
_MIX_GIVEN = frozenset({"num_classes", "labels_getter"})

TRANSFORMS = Catalogue(
    "transform",
    {
        "CenterCrop": _torchvision("CenterCrop", "cut the centre"),
        "FiveCrop": _torchvision(
            "FiveCrop", "the four corners and the centre: five images of each"
        ),
        "TenCrop": _torchvision(
            "TenCrop", "the five crops and their mirror images: ten images of each"
        ),
        "RandomCrop": _torchvision("RandomCrop", "cut at a random place, after padding"),
        "RandomResizedCrop": _torchvision(
            "RandomResizedCrop", "cut a random area and aspect, resize it"
        ),
        "RandomHorizontalFlip": _torchvision(
            "RandomHorizontalFlip", "mirror left to right with probability p"
        ),
        "RandomVerticalFlip": _torchvision(
            "RandomVerticalFlip", "mirror top to bottom with probability p"
        ),
        "AlternatingFlip": Part(
            "ptkit.core.data.transforms.flips:AlternatingFlip",
            "mirror a random half of the images in one epoch, the other half in the next",
        ),
        "WithHorizontalFlip": Part(
            "ptkit.core.data.transforms.flips:WithHorizontalFlip",
            "each image and its mirror image: the mean of both answers counts",
        ),
        "RandomRotation": _torchvision("RandomRotation", "rotate by a random angle"),
        "Resize": _torchvision(
            "Resize", "resize with antialiasing; one number is the shorter side"
        ),
        "Normalize": _torchvision(
            "Normalize", "subtract the mean, divide by the standard deviation, per channel"
        ),
        "ToTensor": Part("ptkit.core.data.transforms.catalogue:ToTensor", "to float, values 0..1"),
        "LinearTransformation": Part(
            "ptkit.core.data.transforms.whitening:LinearTransformation",
            'whiten: LinearTransformation("whitening.npz"), from `ptkit normstats --whiten`',
        ),
        "Pad": _torchvision("Pad", "add a border"),
        "ColorJitter": _torchvision(
            "ColorJitter", "change brightness, contrast, saturation and hue at random"
        ),
        "Grayscale": _torchvision("Grayscale", "to grey (use num_output_channels=3)"),
        "RandomAffine": _torchvision("RandomAffine", "rotate, shift, scale and shear at random"),
        "RandomGrayscale": _torchvision("RandomGrayscale", "to grey with probability p"),
        "ToPILImage": _torchvision("ToPILImage", "hand a PIL image to the transform that follows"),
        "RandomErasing": _torchvision("RandomErasing", "blot out a random box with probability p"),
        "Lambda": Part(
            "ptkit.core.data.transforms.catalogue:Lambda",
            'a function of your own: Lambda("module:function")',
        ),
        "RandomChoice": _torchvision("RandomChoice", "one of a list of transforms"),
        "RandomApply": _torchvision("RandomApply", "a list of transforms, with probability p"),
        "RandomOrder": _torchvision("RandomOrder", "a list of transforms in random order"),
        "AutoAugment": _torchvision("AutoAugment", "learned policies (Cubuk et al. 2019)"),
        "RandAugment": _torchvision(
            "RandAugment", "n random operations of one strength (Cubuk et al. 2020)"
        ),
        "TrivialAugmentWide": _torchvision(
            "TrivialAugmentWide", "one random operation (Müller and Hutter 2021)"
        ),
        "MixUp": Part(
            "torchvision.transforms.v2:MixUp",
            "blend each image with another of its batch (Zhang et al. 2018)",
            _MIX_GIVEN,
        ),
        "CutMix": Part(
            "torchvision.transforms.v2:CutMix",
            "paste a box of another image of the batch (Yun et al. 2019)",
            _MIX_GIVEN,
        ),
        "AugMix": _torchvision("AugMix", "mixed chains of operations (Hendrycks et al. 2020)"),
    },
    symbols={
        "InterpolationMode": "torchvision.transforms:InterpolationMode",
        "AutoAugmentPolicy": "torchvision.transforms:AutoAugmentPolicy",
    },
)

SEVERAL_CROPS = ("FiveCrop", "TenCrop")
_CROPS = ("RandomCrop", "CenterCrop", *SEVERAL_CROPS)
_CONTAINERS = ("RandomApply", "RandomChoice", "RandomOrder")
_FIXED_GEOMETRY = ("Resize", "CenterCrop", "Pad")
_MIRRORING = {"RandomHorizontalFlip", "AlternatingFlip", "TenCrop", "WithHorizontalFlip"}
# They take float tensors.
_AFTER_TENSOR = {"RandomErasing", "LinearTransformation"}


def build_transform(call: Call) -> Any:
    """Return the transform that a call names; files that it names are read.

    Raises:
        UsageError: unknown name or argument, or numbers that would fail on the first image.
        DataError: a file that cannot be read.
    """
    call = resolved(call, tensors={}, may_read=True)
    transform = TRANSFORMS.build(call)
    _check_numbers(call, transform)
    return transform


def resolved(call: Call, *, tensors: dict[str, Tensor], may_read: bool) -> Call:
    """Return a call with the texts in it replaced by what they stand for; nothing is imported.

    In the list of a container, text is a call: `RandomApply(["augment.py:Blur(3)"])`. In
    LinearTransformation it is the name of a file, looked up in `tensors`; if it may be read it is,
    and put there.

    Raises:
        UsageError: text that is no call.
        DataError: a file that cannot be read. CheckpointError: one that may not be read and is not
            in `tensors`.
    """
    if call.prefix:
        return call

    def value_of(key: str | int, value: Any) -> Any:
        is_first = key in (0, "transforms", "transformation_matrix")
        if is_first and call.name in _CONTAINERS and isinstance(value, list | tuple):
            inner = [parse(item) if isinstance(item, str) else item for item in value]
            calls = (
                resolved(c, tensors=tensors, may_read=may_read) if isinstance(c, Call) else c
                for c in inner
            )
            return type(value)(calls)
        if is_first and call.name == "LinearTransformation" and isinstance(value, str):
            if may_read and value not in tensors:
                tensors[value] = read_whitening(value)
            return held_whitening(tensors, value)
        return value

    args = tuple(value_of(position, value) for position, value in enumerate(call.args))
    return replace(
        call, args=args, kwargs={key: value_of(key, value) for key, value in call.kwargs.items()}
    )


def inner_calls(call: Call) -> Sequence[Any]:
    """Return the calls in the list of a container; nothing for other calls."""
    if call.prefix or call.name not in _CONTAINERS:
        return ()
    given = call.args[0] if call.args else call.kwargs.get("transforms")
    listed = given if isinstance(given, list | tuple) else ()
    return [inner for inner in listed if isinstance(inner, Call | str)]


def default_transforms(augment: str, size: int) -> tuple[str, ...]:
    """Return the ready list of calls `none`, `safe` or `natural` for images of `size` pixels.

    `auto` is `safe` up to 64 pixels, `natural` above.
    """
    name = ("safe" if is_small(size) else "natural") if augment == "auto" else augment
    return {
        "none": (),
        # Flips hurt digits and letters; a shift by an eighth never changes what an image shows.
        "safe": (f"RandomCrop({size}, padding={max(size // 8, 1)})",),
        "natural": (
            f"RandomResizedCrop({size})",
            "RandomHorizontalFlip()",
            "ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)",
        ),
    }[name]


def evaluation_geometry(size: int) -> tuple[str, ...]:
    """Return the calls that bring an image to size × size: whole up to 64 pixels, the central 7/8
    above.
    """
    if is_small(size):
        return (f"Resize(({size}, {size}))",)
    return (f"Resize({round(size * 8 / 7)})", f"CenterCrop({size})")


def complete(
    calls: Sequence[str], *, size: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[str, ...]:
    """Return `calls` between an automatic Resize and an automatic ToTensor and Normalize.

    A list that names Normalize is returned as it is. A list that resizes by itself gets no Resize;
    one that crops
    gets the shorter side resized, with room for the crop above 64 pixels. What takes float tensors
    gets ToTensor
    before it, one that whitens no Normalize. What mixes batches goes to the end.

    Raises:
        UsageError: ToPILImage at the end.
    """
    parsed = [parse(call) for call in calls]
    names = [call.name for call in parsed if not call.prefix]
    if names[-1:] == ["ToPILImage"] and not parsed[-1].prefix:
        raise parsed[-1].error("ToPILImage at the end: nothing that takes a PIL image follows it")
    if "Normalize" in names:
        return tuple(calls)
    mixes = tuple(text for text, call in zip(calls, parsed, strict=True) if is_mix(call))
    of_images = [
        (text, call) for text, call in zip(calls, parsed, strict=True) if text not in mixes
    ]
    start = next(
        (k for k, (_, call) in enumerate(of_images) if _AFTER_TENSOR & set(_names(call))),
        len(of_images),
    )
    to_tensor = () if "ToTensor" in names else ("ToTensor()",)
    listed = [text for text, _ in of_images]
    normalize = f"Normalize(mean={_numbers(mean)}, std={_numbers(std)})"
    after = () if "LinearTransformation" in names else (normalize,)
    return (
        *_automatic_geometry(names, size),
        *listed[:start],
        *to_tensor,
        *listed[start:],
        *after,
        *mixes,
    )


def evaluation_of(train_calls: Sequence[str], size: int) -> tuple[str, ...]:
    """Return the calls for evaluation that go with a training list.

    They are those of `evaluation_geometry`; where training takes several crops of an image, the
    same crops after the same fixed steps; where it whitens, LinearTransformation, and the Normalize
    that may follow it.
    """
    parsed = [(text, parse(text)) for text in train_calls]
    named = [(text, call.name) for text, call in parsed if not call.prefix]
    names = [name for _, name in named]
    geometry = evaluation_geometry(size)
    if any(name in SEVERAL_CROPS for name in names):
        # A resized crop is random: evaluation resizes as it does without one.
        before = _automatic_geometry([name for name in names if name != "RandomResizedCrop"], size)
        geometry = (
            *before,
            *(text for text, name in named if name in (*_FIXED_GEOMETRY, *SEVERAL_CROPS)),
        )
    linear = tuple(text for text, name in named if name == "LinearTransformation")
    normalize = tuple(text for text, name in named if name == "Normalize")
    # A list that names Normalize is not completed.
    return (
        (*geometry, "ToTensor()", *linear, *normalize)
        if linear and normalize
        else (*geometry, *linear)
    )


def mirrors(calls: Sequence[str]) -> bool:
    """Say whether a list may mirror images left to right; a user's own transforms may."""
    parsed = [parse(call) for call in calls]
    return any(call.prefix or _MIRRORING & set(_names(call)) for call in parsed)


def _automatic_geometry(names: Sequence[str], size: int) -> tuple[str, ...]:
    """Return what brings images to their size in front of a list of such names."""
    if "Resize" in names or "RandomResizedCrop" in names:
        return ()
    return evaluation_geometry(size)[: 1 if any(name in _CROPS for name in names) else None]


def _names(call: Call) -> Iterator[str]:
    """Yield the names of a call and of those inside it."""
    if not call.prefix:
        yield call.name
    for inner in inner_calls(call):
        yield from _names(parse(inner) if isinstance(inner, str) else inner)


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _check_numbers(call: Call, transform: Any) -> None:
    match transform:
        case v2.Grayscale() if transform.num_output_channels != 3:
            raise call.error("models take three channels: use Grayscale(num_output_channels=3)")
        case v2.AugMix():
            # torch draws from a tensor of this number, and cannot for whole ones.
            transform.alpha = float(transform.alpha)
        case v2.RandomApply() | v2.RandomChoice() | v2.RandomOrder():
            for inner in transform.transforms:
                _check_numbers(call, inner)
