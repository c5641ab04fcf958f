"""A pipeline of transforms as modules that can be part of a graph: from uint8 images of any size to
what the model takes.

All are written for TorchScript as well as for torch.export.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.padding import PadToSquare
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.plan import Step
from ptkit.core.data.transforms.whitening import LinearTransformation
from ptkit.core.errors import UsageError
from ptkit.core.exporting.resizing import ResizeAnySize, lesser

_PADDING_MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}


def preprocessing_of(pipeline: Pipeline) -> nn.Sequential:
    """Return what turns uint8 images (n, H, W, 3) into the model's float32 input (n, C, h, w).

    Raises:
        UsageError: a step that has no form for a graph.
    """
    plan = pipeline.plan
    single = plan.prefix + plan.image_steps + plan.batch_steps
    # Without a ToTensor among them they all take pixels.
    end = next((k for k, one in enumerate(single) if isinstance(one.transform, ToTensor)), None)
    pixels = [_form_of(step, _FORMS) for step in single[:end]]
    scaling = [] if plan.fused is None else [Scale(*plan.fused)]
    after = () if end is None else single[end:]
    floats = [_form_of(step, _FLOAT_FORMS) for step in after + plan.float_steps]
    return nn.Sequential(Planes(), *pixels, *scaling, *floats).eval()


def _form_of(step: Step, forms: "Forms") -> nn.Module:
    build = forms.get(type(step.transform))
    reason = "it has no form there"
    # A random step is one that leaves nothing to chance, such as a flip with p=1.
    if build is not None and (step.spec.draws == 0 or step.spec.is_certain(step.transform)):
        try:
            return build(step.transform)
        except UsageError as error:
            reason = str(error)
    raise UsageError(
        f"{step.call} cannot be put into a graph: {reason}; --without-preprocessing leaves the"
        " pipeline out"
    )


class Planes(nn.Module):
    """Turn uint8 (n, H, W, 3) into whole numbers, float32 (n, 3, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float()


class CropAnySize(nn.Module):
    """Cut the central window out of images (n, C, H, W), with black where they are smaller."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.height, self.width = int(size[0]), int(size[1])

    def forward(self, images: Tensor) -> Tensor:
        images = self._windowed(images.transpose(2, 3), self.width).transpose(2, 3)
        return self._windowed(images, self.height)

    def _windowed(self, images: Tensor, length: int) -> Tensor:
        before = torch.full([1], images.shape[2], dtype=torch.int64, device=images.device)
        spare = before - length
        half = torch.div(spare, 2, rounding_mode="floor")
        is_odd, is_half_odd = spare - 2 * half, half.abs() % 2
        # As torchvision rounds: of a window between two pixels, to the even one.
        inside = half + is_odd * is_half_odd
        start = torch.where(spare >= 0, inside, -torch.div(-spare, 2, rounding_mode="floor"))
        return _taken(images, torch.arange(length, device=images.device) + start)


class PadAnyToSquare(nn.Module):
    """Put images (n, C, H, W) into the centre of a square as wide as their longer side."""

    fill: Tensor

    def __init__(self, t: PadToSquare, *, is_whole: bool = True) -> None:
        super().__init__()
        self.register_buffer("fill", _colour(t.fill, is_whole=is_whole))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2], images.shape[3]
        side = height + width - lesser(height, width)
        # So that the border, which is black, becomes what is asked for.
        images = images - self.fill
        places = torch.arange(side, device=images.device)
        images = _taken(images, places - (side - height) // 2).transpose(2, 3)
        images = _taken(images, places - (side - width) // 2).transpose(2, 3)
        return images + self.fill


class AddBorder(nn.Module):
    """Add a border to images (n, C, H, W)."""

    fill: Tensor

    def __init__(self, t: v2.Pad, *, is_whole: bool = True) -> None:
        super().__init__()
        if t.padding_mode not in _PADDING_MODES:
            raise UsageError(f"only {', '.join(_PADDING_MODES)} have a form there")
        sides = [t.padding] if isinstance(t.padding, int) else list(t.padding)
        # One number is for all sides, two are for left and right, and for top and bottom.
        left, top, right, bottom = (sides * 4)[:4]
        self.sides = [int(side) for side in (left, right, top, bottom)]
        self.mode: str = _PADDING_MODES[t.padding_mode]
        fill = t.fill if self.mode == "constant" else 0
        self.register_buffer("fill", _colour(fill, is_whole=is_whole))

    def forward(self, images: Tensor) -> Tensor:
        if self.mode != "constant":
            return F.pad(images, self.sides, mode=self.mode)
        return F.pad(images - self.fill, self.sides) + self.fill


class Grey(nn.Module):
    """Turn images (n, 3, H, W) into one channel, or three that are alike."""

    def __init__(self, t: v2.Grayscale, *, is_whole: bool = True) -> None:
        super().__init__()
        self.is_whole = is_whole
        self.channels: int = t.num_output_channels
        # torchvision's shares of the colours in a grey, as kernels for float32 hold them.
        self.red: float = 0.2989
        self.green, self.blue = _single(0.587), _single(0.114)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 3:
            images = self._luma(images)
        return images.expand(-1, self.channels, -1, -1)

    def _luma(self, images: Tensor) -> Tensor:
        # torch rounds each product and its sum once; so do doubles, rounded to float32.
        red, green, blue = images[:, 0:1], images[:, 1:2].double(), images[:, 2:3].double()
        luma = (red * self.red).double()
        luma = (luma + green * self.green).float().double()
        luma = (luma + blue * self.blue).float()
        return luma.floor() if self.is_whole else luma


class Flip(nn.Module):
    """Mirror every image (n, C, H, W)."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(self.axis)


class Scale(nn.Module):
    """Scale whole pixels to the values that the model takes: ToTensor and Normalize in one."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.reshape(-1, 1, 1).clone())
        self.register_buffer("shift", shift.reshape(-1, 1, 1).clone())

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class Standardise(nn.Module):
    """Subtract and divide, as a Normalize that is not right after ToTensor."""

    mean: Tensor
    std: Tensor

    def __init__(self, t: v2.Normalize) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.as_tensor(getattr(t, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, 1, 1).clone())

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Whiten(nn.Module):
    """Multiply images (n, C, H, W), taken as vectors, with a matrix."""

    matrix: Tensor
    mean: Tensor

    def __init__(self, t: LinearTransformation) -> None:
        super().__init__()
        matrix, mean = t.on(torch.device("cpu"))
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("mean", mean.clone())

    def forward(self, images: Tensor) -> Tensor:
        return torch.matmul(images.flatten(1) - self.mean, self.matrix).reshape(images.shape)


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """Return rows of images (n, C, H, W), by their places; black where there are none."""
    count = torch.full([1], images.shape[2], dtype=torch.int64, device=images.device)
    is_own = (places >= 0) & (places < count)
    found = images.index_select(2, torch.minimum(places.clamp(min=0), count - 1))
    return found * is_own[:, None].to(images.dtype)


def _colour(fill: Any, *, is_whole: bool) -> Tensor:
    """Return the colour of a border, (1 or C, 1, 1), cut to whole numbers as torchvision's of uint8
    is.
    """
    colour = torch.as_tensor(fill or 0)
    return (colour.trunc() if is_whole else colour).float().reshape(-1, 1, 1)


def _single(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float32))


def _to_floats(_t: ToTensor) -> Scale:
    return Scale(torch.full((1,), 1 / 255), torch.zeros(1))


Forms = dict[type, Callable[[Any], nn.Module]]
# The form of a transform, by its exact class: a subclass may compute as it likes.
_FORMS: Forms = {
    v2.Resize: ResizeAnySize,
    v2.CenterCrop: lambda t: CropAnySize(t.size),
    v2.Pad: AddBorder,
    PadToSquare: PadAnyToSquare,
    v2.Grayscale: Grey,
    v2.RandomHorizontalFlip: lambda _t: Flip(3),
    v2.RandomVerticalFlip: lambda _t: Flip(2),
    ToTensor: _to_floats,
    v2.Normalize: Standardise,
    LinearTransformation: Whiten,
}
# After ToTensor torchvision rounds nothing.
_FLOAT_FORMS: Forms = _FORMS | {
    v2.Resize: partial(ResizeAnySize, is_whole=False),
    v2.Pad: partial(AddBorder, is_whole=False),
    PadToSquare: partial(PadAnyToSquare, is_whole=False),
    v2.Grayscale: partial(Grey, is_whole=False),
}
