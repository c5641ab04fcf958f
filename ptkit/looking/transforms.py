"""What a list of transforms makes of some images: each step alone, and all of them as the model
gets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptkit.core.config import DataSettings
from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.transforms.catalogue import build_transform, is_mix
from ptkit.core.data.transforms.completion import complete, default_transforms
from ptkit.core.data.transforms.foreign import global_generators_kept
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.data.transforms.pipeline import Pipeline, denormalise, same_size
from ptkit.core.data.transforms.spec import Draws
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.setup_data import choose_size

# What only changes how pixels are stored or scaled: nothing to see.
_CONVERSIONS = ("ToTensor", "ToPILImage", "Normalize")
# What stays in front of a later step that is shown alone.
_FIXED = ("Resize", "CenterCrop", "Pad", "Grayscale", *_CONVERSIONS)

# Of each epoch, of each image: float (num_crops, 3, h, w).
Epochs = list[list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One step alone, or all of them, on one image.

    call: of the step; "" for all. before: uint8 (h, w, 3), what the step gets; for all, the file.
    draws: uint8
    (h, w, 3) each, without randomness only one; num_crops of them belong together. clipped: share
    of values outside 0..255, which stand at the ends, for each draw. is_stretched: whitened values
    are shown, 3 standard deviations from mid-grey to black and to white. partner: the file of the
    image that it is mixed with, or "".
    """

    call: str
    before: Pixels
    draws: tuple[Pixels, ...]
    clipped: tuple[float, ...]
    num_crops: int = 1
    is_random: bool = False
    is_stretched: bool = False
    partner: str = ""

    @property
    def is_changed(self) -> tuple[bool, ...]:
        """Whether each of the draws differs from what stood before."""
        return tuple(not np.array_equal(draw, self.before) for draw in self.draws)

    @property
    def num_different(self) -> int:
        """How many of the draws differ from each other; several crops count as one."""
        count = self.num_crops
        groups = [self.draws[start : start + count] for start in range(0, len(self.draws), count)]
        return len({tuple((image.shape, image.tobytes()) for image in group) for group in groups})


@dataclass(frozen=True)
class Sheet:
    """One image: its steps alone, in their order, and all of them together."""

    path: str
    steps: tuple[Row, ...]
    whole: Row


@dataclass(frozen=True)
class _Source:
    """The given images, decoded, and what the draws are keyed by."""

    paths: tuple[str, ...]
    pixels: tuple[Pixels, ...]
    num_draws: int
    seed: int


def training_calls(data: DataSettings, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the transforms with which `ptkit train` would train on these images; without
    statistics no Normalize.

    Raises:
        UsageError: settings that exclude each other.
        DataError: images that cannot be read.
    """
    if data.transforms and data.augment not in ("auto", "none"):
        raise UsageError("--transform replaces the ready list: leave --augment out")
    if (
        bool(data.mean) != bool(data.std)
        or len(data.mean) not in (0, 3)
        or len(data.std) not in (0, 3)
    ):
        raise UsageError("--mean and --std go together, three numbers each")
    size = data.size or _own_size(paths)
    calls = data.transforms or default_transforms(data.augment, size)
    named = [parse(call) for call in calls]
    has_normalize = any(_is_any(call, ("Normalize",)) for call in named)
    # A run's config.toml holds both, and both are the same.
    if has_normalize and data.mean and not np.allclose(_mean_and_std(named), (data.mean, data.std)):
        raise UsageError("the transforms name Normalize: leave --mean and --std out")
    completed = map(
        parse, complete(calls, size=size, mean=data.mean or (0, 0, 0), std=data.std or (1, 1, 1))
    )
    is_shown = bool(data.mean) or has_normalize
    return tuple(str(call) for call in completed if is_shown or not _is_any(call, ("Normalize",)))


def transform_sheets(
    paths: Sequence[str], calls: Sequence[str], *, num_draws: int = 8, seed: int = 0
) -> list[Sheet]:
    """Return a sheet for each image; draw k is what training with this seed draws in its epoch k.

    paths: taken as a list's images, in this order. calls: a complete list. Of one image alone
    nothing is mixed.

    Raises:
        UsageError: transforms that do not fit each other or the images.
        DataError: an image that cannot be read, or images of different sizes to be mixed.
    """
    source = _Source(tuple(paths), tuple(decoder.read(path) for path in paths), num_draws, seed)
    # Refuses what does not fit before anything is drawn.
    parsed = list(map(parse, Pipeline.parse(calls).calls))
    if len(paths) == 1:
        parsed = [call for call in parsed if not is_mix(call)]
    steps = [
        _step_rows(source, parsed, k)
        for k, call in enumerate(parsed)
        if not _is_any(call, _CONVERSIONS)
    ]
    whole = _rows(source, parsed, call="", before=source.pixels, drawn=_drawn(source, parsed))
    return [Sheet(path, tuple(rows[k] for rows in steps), whole[k]) for k, path in enumerate(paths)]


def _own_size(paths: Sequence[str]) -> int:
    for path in paths:
        # Names the first that cannot be read; below, those are passed over.
        decoder.size_of(path)
    return choose_size(_listed(paths))


def _listed(paths: Sequence[str]) -> ImageList:
    """Return paths as a list, each of one class."""
    encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
    ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
    labels = np.zeros(len(paths), np.int64)
    return ImageList(Path("images"), Path(), ("image",), "", labels, b"".join(encoded), ends)


def _step_rows(source: _Source, calls: Sequence[Call], place: int) -> list[Row]:
    """Return one step alone for each image: after the fixed steps before it, at the size that it
    gets in the list.
    """
    fixed = _fixed_part(calls, place)
    mean, std = _mean_and_std(fixed)
    before = [denormalise(images, mean, std)[0] for images in _drawn(source, fixed)[0]]
    step = [*fixed, calls[place]]
    drawn = _drawn(source, step, offset=_planned(calls[:place]).num_draws)
    return _rows(source, step, call=str(calls[place]), before=before, drawn=drawn)


def _fixed_part(calls: Sequence[Call], place: int) -> list[Call]:
    """Return the steps before `place` that are not random, and a resize to the size that the others
    lead to.
    """
    fixed = [call for call in calls[:place] if _is_any(call, _FIXED)]
    # Of a user's own transform nobody knows what it does to the size.
    sizes = (_planned(calls[:k]).size for k in range(place, -1, -1))
    size = next((size for size in sizes if size is not None), None)
    if size is None or _planned(fixed).size == size:
        return fixed
    height, width = size
    resize = (
        [f"Resize({height})", f"CenterCrop({height})"]
        if height == width
        else [f"Resize(({height}, {width}))"]
    )
    first = next((k for k, call in enumerate(fixed) if _is_any(call, _CONVERSIONS)), len(fixed))
    return [*fixed[:first], *map(parse, resize), *fixed[first:]]


def _is_any(call: Call, names: Sequence[str]) -> bool:
    """Say whether a call names one of some transforms of ours, not of the user's."""
    return call.name in names and not call.prefix


def _planned(calls: Sequence[Call]) -> Pipeline:
    """Plan a part of a list, made to end in a float tensor."""
    mixes = [call for call in calls if is_mix(call)]
    others = [call for call in calls if not is_mix(call)]
    ending = [] if any(_is_any(call, ("ToTensor",)) for call in calls) else ["ToTensor()"]
    return Pipeline.parse([*map(str, others), *ending, *map(str, mixes)])


def _drawn(source: _Source, calls: Sequence[Call], *, offset: int = 0) -> Epochs:
    """Return every image of each epoch; a list without randomness has one epoch.

    offset: the column of the whole list's draws where those of `calls` begin.
    """
    pipeline = _planned(calls)
    indices = np.arange(len(source.pixels))
    num_epochs = source.num_draws if pipeline.is_random or pipeline.mix is not None else 1
    epochs = []
    for epoch in range(1, num_epochs + 1):
        draws = pipeline.draws(source.seed, epoch=epoch, keys=indices, offset=offset)
        with global_generators_kept():
            images = [_seen(pipeline, *pair) for pair in zip(source.pixels, draws, strict=True)]
        epochs.append(
            images
            if pipeline.mix is None
            else _mixed(pipeline, images, seed=source.seed, epoch=epoch)
        )
    return epochs


def _mixed(pipeline: Pipeline, images: Sequence[Tensor], *, seed: int, epoch: int) -> list[Tensor]:
    """Mix images, (1, 3, h, w) each, as the first batch of an epoch."""
    same_size([tuple(image.shape[-2:]) for image in images], pipeline.calls)
    labels = torch.zeros(len(images), dtype=torch.int64)
    mixed, _ = mix(pipeline.mix, torch.cat(list(images)), labels, seed=seed, epoch=epoch, batch=0)
    return list(mixed.split(1))


def _seen(pipeline: Pipeline, pixels: Pixels, draws: Draws) -> Tensor:
    """Return one image after a pipeline, float (num_crops, 3, h, w)."""
    batch = pipeline.stack([pipeline.apply_to_image(pipeline.apply_prefix(pixels), draws)])
    if not isinstance(batch, Tensor):
        batch = torch.from_numpy(pipeline.apply_to_batch(batch, draws[None]))
    return pipeline.finish_on_device(batch, draws[None])


def _rows(
    source: _Source, calls: Sequence[Call], *, call: str, before: Sequence[Pixels], drawn: Epochs
) -> list[Row]:
    """Return a row for each image; calls: what led to the draws."""
    pipeline = _planned(calls)
    is_random = pipeline.is_random or pipeline.mix is not None
    is_stretched = any(_is_any(call, ("LinearTransformation",)) for call in calls)
    rows = []
    for place, pixels in enumerate(before):
        images = [epoch[place] for epoch in drawn]
        mean, std = _stretch(images) if is_stretched else _mean_and_std(calls)
        draws = [draw for crops in images for draw in denormalise(crops, mean, std)]
        clipped = [share for crops in images for share in _clipped(crops, mean, std)]
        # Each image is mixed with the one before it.
        partner = source.paths[place - 1] if pipeline.mix is not None else ""
        rows.append(
            Row(
                call,
                pixels,
                tuple(draws),
                tuple(clipped),
                len(images[0]),
                is_random,
                is_stretched,
                partner,
            )
        )
    return rows


def _mean_and_std(calls: Sequence[Call]) -> tuple[list[float], list[float]]:
    """Return what Normalize, if it stands in a list, subtracts and divides by."""
    for call in calls:
        if _is_any(call, ("Normalize",)):
            normalize = build_transform(call)
            mean, std = (
                torch.as_tensor(x).flatten().expand(3).tolist()
                for x in (normalize.mean, normalize.std)
            )
            return mean, std
    return [0.0] * 3, [1.0] * 3


def _stretch(images: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Return the mean and std with which 3 standard deviations around the mean become 0..1."""
    values = torch.cat([image.flatten() for image in images])
    width = 6 * max(float(values.std()), 1e-6)
    return [0.5 - float(values.mean()) / width] * 3, [1 / width] * 3


def _clipped(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[float]:
    """Return the share of values beyond 0..255, for each image."""
    values = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    # Half a level is rounded back.
    is_beyond = (values < -0.5 / 255) | (values > 255.5 / 255)
    return is_beyond.flatten(1).float().mean(dim=1).tolist()
