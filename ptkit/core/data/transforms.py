"""The transforms a user can name, and the few that are ours."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.calls import Call, parse
from ptkit.core.catalogue import Catalogue, Part, load_function
from ptkit.core.data.mixing import is_mix


class ToTensor(nn.Module):
    """Turn uint8 (3, H, W) or a PIL image into float32 (3, H, W) with values 0..1; v2's own leaves tensors unscaled."""

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
    return Part(f"torchvision.transforms.v2:{name}", summary, mixed=frozenset({"value", "fill"}))


# The loop knows the labels and mixes losses, not targets.
_MIX_GIVEN = frozenset({"num_classes", "labels_getter"})

TRANSFORMS = Catalogue(
    "transform",
    {
        "CenterCrop": _torchvision("CenterCrop", "cut the centre"),
        "RandomCrop": _torchvision("RandomCrop", "cut at a random place, after padding"),
        "RandomResizedCrop": _torchvision("RandomResizedCrop", "cut a random area and aspect, resize it"),
        "RandomHorizontalFlip": _torchvision("RandomHorizontalFlip", "mirror left to right with probability p"),
        "RandomVerticalFlip": _torchvision("RandomVerticalFlip", "mirror top to bottom with probability p"),
        "RandomRotation": _torchvision("RandomRotation", "rotate by a random angle"),
        "Resize": _torchvision("Resize", "resize with antialiasing; one number is the shorter side"),
        "Normalize": _torchvision("Normalize", "subtract the mean, divide by the standard deviation, per channel"),
        "ToTensor": Part("ptkit.core.data.transforms:ToTensor", "to float, values 0..1"),
        "Pad": _torchvision("Pad", "add a border"),
        "ColorJitter": _torchvision("ColorJitter", "change brightness, contrast, saturation and hue at random"),
        "Grayscale": _torchvision("Grayscale", "to grey (use num_output_channels=3)"),
        "RandomAffine": _torchvision("RandomAffine", "rotate, shift, scale and shear at random"),
        "RandomGrayscale": _torchvision("RandomGrayscale", "to grey with probability p"),
        "ToPILImage": _torchvision("ToPILImage", "hand a PIL image to the transform that follows"),
        "RandomErasing": _torchvision("RandomErasing", "blot out a random box with probability p"),
        "Lambda": Part("ptkit.core.data.transforms:Lambda", 'a function of your own: Lambda("module:function")'),
        "RandomChoice": _torchvision("RandomChoice", "one of a list of transforms"),
        "RandomApply": _torchvision("RandomApply", "a list of transforms, with probability p"),
        "RandomOrder": _torchvision("RandomOrder", "a list of transforms in random order"),
        "AutoAugment": _torchvision("AutoAugment", "learned policies (Cubuk et al. 2019)"),
        "RandAugment": _torchvision("RandAugment", "n random operations of one strength (Cubuk et al. 2020)"),
        "TrivialAugmentWide": _torchvision("TrivialAugmentWide", "one random operation (Müller and Hutter 2021)"),
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

CROPS = ("RandomCrop", "CenterCrop")


def build_transform(call: Call) -> Any:
    """Return the transform that a call names.

    Raises:
        UsageError: unknown name or argument, or numbers that would fail on the first image.
    """
    transform = TRANSFORMS.build(call)
    _check_numbers(call, transform)
    return transform


def default_transforms(augment: str, size: int) -> tuple[str, ...]:
    """Return the ready list of calls `none`, `safe` or `natural` for images of `size` pixels.

    `auto` is `safe` up to 64 pixels, `natural` above.
    """
    name = ("safe" if size <= 64 else "natural") if augment == "auto" else augment
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
    """Return the calls that bring an image to size × size: whole up to 64 pixels, the central 7/8 above."""
    if size <= 64:
        return (f"Resize(({size}, {size}))",)
    return (f"Resize({round(size * 8 / 7)})", f"CenterCrop({size})")


def complete(calls: Sequence[str], *, size: int, mean: Sequence[float], std: Sequence[float]) -> tuple[str, ...]:
    """Return `calls` between an automatic Resize and an automatic ToTensor and Normalize.

    A list that names Normalize is returned as it is. A list that resizes by itself gets no Resize; one that crops
    gets the shorter side resized, with room for the crop above 64 pixels. What mixes batches goes to the end.
    """
    names = [parse(call).name for call in calls]
    if "Normalize" in names:
        return tuple(calls)
    mixes = tuple(call for call in calls if is_mix(parse(call)))
    calls = tuple(call for call in calls if call not in mixes)
    before = evaluation_geometry(size)
    if "Resize" in names or "RandomResizedCrop" in names:
        before = ()
    elif any(crop in names for crop in CROPS):
        before = before[:1]
    after = () if "ToTensor" in names else ("ToTensor()",)
    return (*before, *calls, *after, f"Normalize(mean={_numbers(mean)}, std={_numbers(std)})", *mixes)


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _check_numbers(call: Call, transform: Any) -> None:
    match transform:
        case v2.Grayscale() if transform.num_output_channels != 3:
            raise call.error("models take three channels: use Grayscale(num_output_channels=3)")
        case v2.Normalize() if {len(transform.mean), len(transform.std)} - {1, 3}:
            raise call.error("Normalize takes 1 or 3 numbers for mean and for std")
        case v2.Normalize() if 0 in transform.std:
            raise call.error("Normalize: std must not be 0")
        case v2.RandomApply() | v2.RandomChoice() | v2.RandomOrder():
            for inner in transform.transforms:
                _check_numbers(call, inner)
