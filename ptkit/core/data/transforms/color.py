"""Colour: brightness, contrast, saturation, hue and grey, for one image and for whole batches.

Parameters come from keyed draws. One image, (C, H, W), goes through torchvision's functional
kernels. Batches, uint8 (n, H, W, C), get the same pixels with a parameter for each image: the
operations of those kernels in their order, on planes of one colour each, uint8 (C, n, P) for P
pixels an image. C is 3, or 1 for images that are grey already. On the device, where starting an
operation costs more than its work, all images of a batch take part in each.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Not `import cv2`: images.py sets what OpenCV reads when it is imported.
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.geometry import at_random, between, in_cache
from ptkit.core.data.transforms.spec import (
    NEEDS_0_TO_1,
    Draws,
    Spec,
    has_p_0,
    has_p_1,
    is_one_value,
)
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import (
    AT_LEAST_0,
    SHARE,
    either,
    list_of,
    number,
    one_of,
)

# The steps of ColorJitter, by their places in `_spans` and `_STEPS`.
_CONTRAST, _SATURATION, _HUE = 1, 2, 3

_LEVELS = torch.arange(256, dtype=torch.uint8)

Floats = npt.NDArray[np.float64]


def color_jitter(t: v2.ColorJitter, image: Tensor, draws: Draws) -> Tensor:
    """Change brightness, contrast, saturation and hue, in the order of the first four draws."""
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    spans = _spans(t)
    for k in np.argsort(draws[:4], kind="stable").tolist():
        if k in spans:
            image = steps[k](image, between(draws[4 + k], *spans[k]))
    return image


def color_jitter_batch(t: v2.ColorJitter, images: Pixels, draws: Draws) -> Pixels:
    """Change the colours of a batch in place, each image in its own order."""
    spans = _spans(t, images.shape[-1])
    for part in in_cache(images) if spans else ():
        planes = _split(images[part])
        order = np.argsort(draws[part][:, list(spans)], axis=1, kind="stable")
        for place in range(len(spans)):
            for rank, (k, (low, high)) in enumerate(spans.items()):
                factors = low + draws[part, 4 + k] * (high - low)
                _adjust_some(planes, order[:, place] == rank, k, factors)
        _merge(planes, images[part])
    return images


def color_jitter_device(t: v2.ColorJitter, images: Tensor, draws: Tensor) -> Tensor:
    """Change the colours of a batch, each image in its own order.

    Brightness, contrast and saturation are one operation, a blend with black, with the mean grey or
    with grey: so each place of the order takes one blend for the whole batch, and one change of
    hue.
    """
    spans = _spans(t, images.shape[-1])
    # Floats, (C, n, P).
    planes = images.movedim(-1, 0).flatten(2).float()
    # Not `draws[:, list(spans)]`: an index made of numbers is a copy that waits.
    columns = [draws[:, k] for k in spans]
    order = torch.stack(columns, dim=1).argsort(dim=1, stable=True) if columns else draws
    factors = {k: low + draws[:, 4 + k, None] * (high - low) for k, (low, high) in spans.items()}
    for place in range(len(spans)):
        is_at = {k: (order[:, place] == number)[:, None] for number, k in enumerate(spans)}
        if spans.keys() - {_HUE}:
            planes = _blended(planes, is_at, factors)
        if _HUE in spans:
            shifted = _hue_shifted(planes / 255.0, factors[_HUE].float()).floor_()
            planes = torch.where(is_at[_HUE], shifted, planes)
    return planes.to(torch.uint8).movedim(0, -1).reshape(images.shape)


def _blended(planes: Tensor, is_at: Mapping[int, Tensor], factors: Mapping[int, Tensor]) -> Tensor:
    """Blend each image with what its step at this place of the order takes; others stay."""
    share = torch.ones_like(factors[next(iter(is_at))])
    for k in is_at.keys() - {_HUE}:
        share = torch.where(is_at[k], factors[k], share)
    other = torch.zeros_like(planes[0])
    if _CONTRAST in is_at or _SATURATION in is_at:
        gray = _gray(planes).floor_()
        if _CONTRAST in is_at:
            other = torch.where(is_at[_CONTRAST], gray.mean(dim=1, keepdim=True), other)
        if _SATURATION in is_at:
            other = torch.where(is_at[_SATURATION], gray, other)
    return planes.mul(share.float()).addcmul_(other, (1.0 - share).float()).clamp_(0, 255).floor_()


def grey_pixels(images: Pixels, channels: int) -> Pixels:
    """Turn a batch grey, (n, H, W, channels), 1 or 3.

    Three channels that stay three are changed in place; one that stays one is returned as it is.
    """
    if images.shape[-1] == channels == 1:
        return images
    shape = (*images.shape[:-1], channels)
    grey = images if images.shape == shape else np.empty(shape, np.uint8)
    for part in in_cache(images):
        plane = _bytes(_gray(torch.from_numpy(_split(images[part])).float()))
        _merge([plane] * channels, grey[part])
    return grey


def grayscale_batch(t: v2.Grayscale, images: Pixels, _draws: Draws) -> Pixels:
    """Turn a batch grey, in place where it keeps its channels."""
    return grey_pixels(images, t.num_output_channels)


def grayscale_device(t: v2.Grayscale, images: Tensor, _draws: Tensor) -> Tensor:
    """Turn a batch grey."""
    return _grey_on_device(images, t.num_output_channels)


def grayscale_floats(t: v2.Grayscale, images: Tensor, _draws: Draws) -> Tensor:
    """Turn a float batch (n, C, H, W) grey."""
    images = F.rgb_to_grayscale(images, num_output_channels=t.num_output_channels)
    return images.contiguous()


def _grey_on_device(images: Tensor, channels: int) -> Tensor:
    gray = _gray(images.movedim(-1, 0).float()).to(torch.uint8)
    return gray[..., None].expand(*images.shape[:-1], channels).contiguous()


def _grey_image(image: Any) -> Any:
    """Turn one image grey, a tensor or a PIL image, with the channels that it has."""
    return F.rgb_to_grayscale(image, num_output_channels=F.get_num_channels(image))


def random_grayscale_batch(t: v2.RandomGrayscale, images: Pixels, draws: Draws) -> Pixels:
    """Turn some images of a batch grey, in place."""
    chosen = np.flatnonzero(draws[:, 0] < t.p)
    images[chosen] = grey_pixels(images[chosen], images.shape[-1])
    return images


def random_grayscale_device(t: v2.RandomGrayscale, images: Tensor, draws: Tensor) -> Tensor:
    """Turn some images of a batch grey."""
    is_chosen = (draws[:, 0] < t.p)[:, None, None, None]
    return torch.where(is_chosen, _grey_on_device(images, images.shape[-1]), images)


def random_grayscale_floats(t: v2.RandomGrayscale, images: Tensor, draws: Draws) -> Tensor:
    """Turn some images of a float batch grey."""
    mask = sent(draws[:, 0] < t.p, images.device).view(-1, 1, 1, 1)
    return torch.where(mask, _grey_image(images), images)


def _spans(t: v2.ColorJitter, channels: int = 3) -> dict[int, Any]:
    """Return the lowest and highest parameter of each step that the transform has, by its place."""
    spans = (t.brightness, t.contrast, t.saturation, t.hue)
    # As in torchvision, saturation and hue leave a single channel as it is.
    wanted = spans if channels > 1 else spans[:_SATURATION]
    return {k: span for k, span in enumerate(wanted) if span is not None}


def _split(images: Pixels) -> Pixels:
    """Return the planes of contiguous images (n, H, W, C)."""
    n, height, width, channels = images.shape
    planes = np.empty((channels, n * height, width), np.uint8)
    cv2.split(images.reshape(n * height, width, channels), list(planes))
    return planes.reshape(channels, n, height * width)


def _merge(planes: Iterable[Pixels], images: Pixels) -> None:
    """Put planes back into contiguous images."""
    n, height, width, channels = images.shape
    rows = images.reshape(n * height, width, channels)
    cv2.merge([plane.reshape(n * height, width) for plane in planes], rows)


def _adjust_some(planes: Pixels, is_chosen: npt.NDArray[np.bool_], k: int, factors: Floats) -> None:
    """Run step k on the chosen images of the planes, in place."""
    chosen = np.flatnonzero(is_chosen)
    if len(chosen) == len(is_chosen):
        changed = _STEPS[k](planes, factors)
        if changed is not planes:
            planes[:] = changed
    elif len(chosen):
        planes[:, chosen] = _STEPS[k](planes[:, chosen], factors[chosen])


def _gray(floats: Tensor) -> Tensor:
    """Return luma, float32 (n, P). `add_` with alpha rounds once, a product and a sum would round
    twice.
    """
    if len(floats) == 1:
        # A copy: what follows may work in place.
        return floats[0].clone()
    red, green, blue = floats.unbind()
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _brightness(planes: Pixels, factors: Floats) -> Pixels:
    return _looked_up(planes, _LEVELS.mul(_column(factors)))


def _contrast(planes: Pixels, factors: Floats) -> Pixels:
    # Whole numbers: the sum of up to 65,793 pixels is exact in float32 whatever the order.
    mean = _gray(torch.from_numpy(planes).float()).floor_().mean(dim=1, keepdim=True)
    return _looked_up(planes, _LEVELS.mul(_column(factors)).addcmul_(mean, _column(1.0 - factors)))


def _saturation(planes: Pixels, factors: Floats) -> Pixels:
    floats = torch.from_numpy(planes).float()
    gray = _gray(floats).floor_()
    # addcmul rounds once, as torchvision's `add_` with alpha does.
    floats.mul_(_column(factors)).addcmul_(gray, _column(1.0 - factors))
    return _bytes(floats.clamp_(0, 255))


def _hue(planes: Pixels, factors: Floats) -> Pixels:
    colors = F.to_dtype(torch.from_numpy(planes), torch.float32, scale=True)
    return _bytes(_hue_shifted(colors, _column(factors)))


def _hue_shifted(colors: Tensor, amounts: Tensor) -> Tensor:
    """Shift the hue of planes 0..1 by `amounts` (n, 1), in place; the result is 0..256, to be cut
    to whole numbers.

    To HSV and back as torchvision does, but with masks of 0.0 and 1.0: `where` is 40 times slower
    on a CPU.
    """
    hue, saturation, value = _hsv(*colors)
    hue.add_(amounts)
    sixths = hue.sub_(hue.floor()).mul_(6)
    sector = sixths.floor()
    fraction = sixths.sub_(sector)
    # A hue just below 1 can round up to sector 6, which is 0 again.
    sector.sub_(_step(sector, 6), alpha=6)
    product, rest = saturation * fraction, 1.0 - saturation
    falling = (1.0 - product).mul_(value).clamp_(0.0, 1.0)
    rising = product.add_(rest).mul_(value).clamp_(0.0, 1.0)
    lowest = rest.mul_(value).clamp_(0.0, 1.0)
    one, two, three, four, five = (_step(sector, k) for k in range(1, 6))
    # What each colour is in sectors 0 to 5, one letter each: (v)alue, (f)alling, (r)ising,
    # (l)owest.
    masks = (
        (1.0 - one + five, one - two, four - five, two - four),  # vfllrv
        (one - three, three - four, 1.0 - one, four),  # rvvfll
        (three - five, five, two - three, 1.0 - two),  # llrvvf
    )
    for color, (is_value, is_falling, is_rising, is_lowest) in zip(colors, masks, strict=True):
        torch.mul(value, is_value, out=color).addcmul_(falling, is_falling)
        color.addcmul_(rising, is_rising).addcmul_(lowest, is_lowest)
    # As `F.to_dtype` does.
    return colors.mul_(255 + 1.0 - 1e-3)


def _hsv(red: Tensor, green: Tensor, blue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue, saturation and value, each 0..1, for planes of floats 0..1."""
    highest = torch.maximum(torch.maximum(red, green), blue)
    span = highest - torch.minimum(torch.minimum(red, green), blue)
    # Where the span is 0 the result does not depend on what it is divided by.
    saturation = span / highest.clamp(min=1e-3)
    span.add_(1.0 - span.ceil())
    to_red, to_green, to_blue = ((highest - color) / span for color in (red, green, blue))
    is_not_red, is_not_green = to_red.ceil(), to_green.ceil()
    hue = to_red.add(2.0).sub_(to_blue).mul_(1.0 - is_not_green)
    hue.addcmul_(to_green.add(4.0).sub_(to_red), is_not_green).mul_(is_not_red)
    hue.addcmul_(to_blue.sub_(to_green), 1.0 - is_not_red)
    return hue.mul_(1.0 / 6.0).add_(1.0).frac_(), saturation, highest


def _step(sector: Tensor, first: int) -> Tensor:
    """Return 1.0 from the given sector on, 0.0 before."""
    return sector.sub(first - 1).clamp_(0.0, 1.0)


def _column(factors: Floats) -> Tensor:
    """Return one float32 an image, (n, 1); torch rounds a Python number so too."""
    return torch.from_numpy(factors.astype(np.float32))[:, None]


def _bytes(values: Tensor) -> Pixels:
    # numpy's conversion takes a third of torch's time.
    return values.numpy().astype(np.uint8)


def _looked_up(planes: Pixels, values: Tensor) -> Pixels:
    """Replace each level of each image by what `values` (n, 256) has for it, cut to 0..255; in
    place.
    """
    for place, table in enumerate(_bytes(values.clamp_(0, 255))):
        cv2.LUT(planes[:, place], table, planes[:, place])
    return planes


_STEPS: tuple[Callable[[Pixels, Floats], Pixels], ...] = (_brightness, _contrast, _saturation, _hue)

_STRENGTH = either(AT_LEAST_0, list_of(AT_LEAST_0, 2, is_rising=True))


def _is_one_change(t: v2.ColorJitter) -> bool:
    ranges = [t.brightness, t.contrast, t.saturation, t.hue]
    # The order of two changes is drawn.
    return is_one_value(*ranges) and ranges.count(None) > 2


SPECS = (
    Spec(
        v2.ColorJitter,
        "change brightness, contrast, saturation and hue at random",
        arguments={
            "brightness": _STRENGTH,
            "contrast": _STRENGTH,
            "saturation": _STRENGTH,
            "hue": either(number(0, 0.5), list_of(number(-0.5, 0.5), 2, is_rising=True)),
        },
        example="0.4, 0.4",
        # The order of the steps and their four parameters.
        draws=8,
        is_certain=_is_one_change,
        apply=color_jitter,
        batch=color_jitter_batch,
        device=color_jitter_device,
        refuses=NEEDS_0_TO_1,
    ),
    Spec(
        v2.Grayscale,
        "to grey, one channel; num_output_channels=3 keeps three",
        arguments={"num_output_channels": one_of(1, 3)},
        batch=grayscale_batch,
        device=grayscale_device,
        floats=grayscale_floats,
        channels=lambda t, _channels: int(t.num_output_channels),
        can_keep=True,
    ),
    Spec(
        v2.RandomGrayscale,
        "to grey with probability p",
        arguments={"p": SHARE},
        draws=1,
        is_certain=has_p_1,
        changes_nothing=has_p_0,
        apply=partial(at_random, change=_grey_image),
        batch=random_grayscale_batch,
        device=random_grayscale_device,
        floats=random_grayscale_floats,
    ),
)
