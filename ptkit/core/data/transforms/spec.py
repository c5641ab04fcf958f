"""What is known of one transform: its row, written beside the functions that the row names."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Resampling
from torch.nn import functional
from torchvision.transforms import InterpolationMode

from ptkit.core.parts.argument_rules import (
    PIXELS,
    SIDE,
    Allowed,
    either,
    list_of,
    listing,
    number,
    one_of,
    whole,
)
from ptkit.core.parts.calls import Call
from ptkit.core.parts.part import Part

Draws = npt.NDArray[np.float64]
Size = tuple[int, int]
# (transform, images, draws (n, k)) -> the images afterwards.
Form = Callable[[Any, Any, Any], Any]

# What an image can be on its way through a list.
UINT8, PIL, FLOAT, WHITENED, NORMALISED = "uint8", "PIL image", "float", "whitened", "normalised"

# Rules that several transforms share.
SIZE = either(SIDE, list_of(SIDE, 1, 2))
PADDING = either(whole(0, PIXELS), list_of(whole(0, PIXELS), 1, 2, 4))
PADDING_MODE = one_of("constant", "edge", "reflect", "symmetric")
FILL = either(number(0, 255), list_of(number(0, 255), 1, 3))


def mode_of(value: InterpolationMode | str | int) -> InterpolationMode:
    """Return the mode that a text or one of Pillow's numbers means, as other code writes it.

    Raises:
        ValueError: none.
    """
    return InterpolationMode(Resampling(value).name.lower() if isinstance(value, int) else value)


def interpolation(*modes: InterpolationMode) -> Allowed:
    """Allow these modes, as members, as texts, or by Pillow's numbers."""

    def check(value: Any) -> bool:
        with suppress(ValueError):
            # True is a number to Python.
            return not isinstance(value, bool) and mode_of(value) in modes
        return False

    # Not every kernel of torchvision takes a number or a text.
    names = listing([mode.name for mode in modes])
    return Allowed(f"InterpolationMode.{names}", check, meaning=mode_of)


INTERPOLATION = interpolation(*InterpolationMode)
# What Pillow rotates by.
ROTATION_MODES = interpolation(
    InterpolationMode.NEAREST,
    InterpolationMode.NEAREST_EXACT,
    InterpolationMode.BILINEAR,
    InterpolationMode.BICUBIC,
)
# What torchvision's kernels for tensors can do, of the modes that Pillow can.
FEW_MODES = (InterpolationMode.NEAREST, InterpolationMode.BILINEAR)
# Which of them resizing has depends on the version, and is written nowhere else.
_MODES_OF_TORCH = (functional.interpolate.__doc__ or "").lower()
MOST_MODES = tuple(
    mode
    for mode in InterpolationMode
    if mode not in (InterpolationMode.BOX, InterpolationMode.HAMMING)
    and (mode != InterpolationMode.LANCZOS or "lanczos" in _MODES_OF_TORCH)
)


def refused(reason: str, *kinds: str) -> dict[str, str]:
    """Return a reason for each kind of image; {} in it is the transform's name."""
    return dict.fromkeys(kinds, reason)


NEEDS_FLOATS = refused("{} needs a float tensor: put ToTensor() before it", UINT8, PIL)
CROPS_NEED_TENSOR = refused("{} needs a tensor: put it before ToPILImage", PIL)
NEEDS_0_TO_1 = refused(
    "{} takes values 0..1: put it before LinearTransformation", WHITENED
) | refused("{} takes values 0..1: put it before Normalize", NORMALISED)


def kept_size(_transform: Any, size: Size | None) -> Size | None:
    """Return the size of an image that keeps it."""
    return size


def own_size(t: Any, _size: Size | None) -> Size | None:
    """Return the size that the transform itself names."""
    return t.size[0], t.size[1]


def kept_channels(_transform: Any, channels: int | None) -> int | None:
    """Return the number of channels of an image that keeps them."""
    return channels


def nothing(_transform: Any, _size: Size | None) -> tuple[Call, ...]:
    """Return what evaluation has in the place of most random transforms."""
    return ()


def has_p_1(t: Any) -> bool:
    """Say whether a transform changes every image."""
    return bool(t.p >= 1)


def has_p_0(t: Any, _size: Size | None) -> bool:
    """Say whether a transform that changes images with probability p changes none."""
    return bool(t.p <= 0)


def is_one_value(*ranges: Any) -> bool:
    """Say whether each range, (low, high) or None, leaves nothing to draw."""
    return all(limits is None or limits[0] == limits[1] for limits in ranges)


@dataclass(frozen=True, kw_only=True)
class Spec(Part):
    """A transform's row: the part that a call names, how it runs, and what lists must know of it.

    Every form has the same result, but for the last bits of colours, which a GPU computes in
    another order. A form for batches may change its input, the one for the device may not. C is 3,
    or 1 after Grayscale().

    example: arguments of a call that is complete, where it needs some.
    draws: how many uniform numbers one image takes, or a function of the transform.
    apply: (transform, image (C, H, W), draws (k,)) -> image; crops of an image, (num_crops, C, H,
        W), share their draws.
    batch: whole batches on a CPU, numpy uint8 (n, H, W, C).
    device: whole batches on the training device, uint8 tensors (n, H, W, C) with draws (n, k) that
        are there too; nothing in it waits for the device.
    floats: float batches (n, C, H, W), on the device where they are, draws in numpy.
    can_batch: (transform, size or None for any, form) -> whether a form there is may be used.
    size: (transform, (h, w) or None where unknown) -> the size afterwards.
    channels: (transform, how many an image has, None where unknown) -> how many afterwards.
    misfit: (transform, size, channels) -> why such images cannot be taken; "" if they can.

    refuses: the kinds of image that it does not take, with the reason ({} is its name).
    gives: the kind that it makes of an image, where it changes that.
    tensor_modes: the interpolations that it has for tensors; empty where it does not interpolate.

    is_certain: whether it does the same whatever is drawn, so that evaluation does it too.
    in_evaluation: (transform, size before it or None) -> the calls in its place in evaluation,
        where it is random.
    changes_nothing: (transform, size before it or None) -> whether it leaves all such images as
        they are, whatever is drawn.
    is_own: it is the user's code: only trying it shows whether it is random.

    times_smaller: for a transform that resizes: (transform, size, draws) -> how many times smaller
        (1, 2, 4 or 8) an image of a size may come.
    apply_reduced: `apply` to an image that comes smaller, with its `Reduction` as fourth argument;
        None where `apply` does.
    of_pixels: (transform, (H, W, C)) -> what `apply` makes of it, without a tensor, perhaps a view;
        None where only `apply` can.
    into: `apply` (`apply_reduced`, if `reduction` is not None) from (H, W, C) into `out`, one image
        (1, h, w, C) of a batch, without tensors. can_into: whether that gives the same here.
    is_crop: what remains is a window of the transform's own size.
    num_crops: how many images it makes of one.
    can_keep: it is the same in every epoch and takes uint8, so its result can be kept in memory.
    mirrors: it may mirror left to right.
    moves_pixels: its `batch` copies pixels and computes none.
    alternates: its draws are the same in every epoch, but for a half that is added in every other.
    is_foreign: it draws from global generators and must run in a worker process.
    courses: for a container of other transforms, its `transforms`: (container, something for each
        of them) -> the lists of these that it may run, or shorter lists that come to the same only
        if all those do.
    mixes: it mixes the images of a batch with each other; no form runs it, but `mixing.mix`.
    is_conversion: it changes how pixels are stored or scaled: in a picture there is nothing to see.
    """

    example: str = ""

    draws: int | Callable[[Any], int] = 0
    # Without randomness the transform applies itself.
    apply: Form = lambda t, image, _draws: t(image)
    batch: Form | None = None
    device: Form | None = None
    floats: Form | None = None
    can_batch: Callable[[Any, Size | None, str], bool] = lambda _t, _size, _form: True
    size: Callable[[Any, Size | None], Size | None] = kept_size
    channels: Callable[[Any, int | None], int | None] = kept_channels
    misfit: Callable[[Any, Size, int], str] = lambda _t, _size, _channels: ""

    refuses: Mapping[str, str] = field(default_factory=dict)
    gives: str | None = None
    tensor_modes: tuple[InterpolationMode, ...] = ()

    is_certain: Callable[[Any], bool] = lambda _t: False
    in_evaluation: Callable[[Any, Size | None], tuple[Call, ...]] = nothing
    changes_nothing: Callable[[Any, Size | None], bool] = lambda _t, _size: False
    is_own: bool = False

    times_smaller: Callable[[Any, Size, Draws], int] | None = None
    apply_reduced: Callable[[Any, Any, Draws, Any], Any] | None = None
    of_pixels: Callable[[Any, Any], Any] | None = None
    into: Callable[..., None] | None = None
    can_into: Callable[[Any], bool] = lambda _t: True
    is_crop: bool = False
    num_crops: int = 1
    can_keep: bool = False
    mirrors: bool = False
    moves_pixels: bool = False
    alternates: bool = False
    is_foreign: bool = False
    courses: Callable[[Any, Sequence[Any]], Sequence[Sequence[Any]]] | None = None
    mixes: bool = False
    is_conversion: bool = False

    @property
    def name(self) -> str:
        """The name of the class, by which users call it."""
        assert isinstance(self.target, type)
        return self.target.__name__

    @property
    def is_container(self) -> bool:
        return self.courses is not None

    @property
    def resizes(self) -> bool:
        return self.times_smaller is not None
