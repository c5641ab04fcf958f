"""What transforms make of images: each step alone, and the whole list as the model sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptkit.core.config.settings import AUTO, DataSettings
from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import list_of
from ptkit.core.data.loading.first_look import choose_size
from ptkit.core.data.transforms.catalogue import is_mix, spec_named
from ptkit.core.data.transforms.completion import (
    MeanAndStd,
    check_fit,
    complete,
    mean_and_std_of,
    own_statistics,
    training_calls,
)
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.data.transforms.spec import NORMALISED, WHITENED
from ptkit.core.data.transparency import alpha_for
from ptkit.core.parts.calls import Call

# Of each epoch, of each image: float (num_crops, C, h, w).
Epochs = list[list[Tensor]]


@dataclass(frozen=True)
class Row:
    """One step alone, or all of them, on one image.

    call: of the step; "" for all. before: uint8 (h, w, 3), what the step gets; for all, the file.
    draws: uint8 (h, w, 3) each, without randomness only one; num_crops of them belong together.
    clipped: share of values outside 0..255, which become 0 or 255, for each draw. is_stretched:
    whitened values are shown, 3 standard deviations from mid-grey to black and to white. partner:
    the file of the image that it is mixed with, or "".
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
        """Whether each of the draws differs from `before`."""
        return tuple(not np.array_equal(draw, self.before) for draw in self.draws)

    @property
    def num_draws(self) -> int:
        """How many draws there are; several crops count as one."""
        return len(self.draws) // self.num_crops

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
class Shown:
    """A sheet for each image, the list of transforms, the seed of the draws, and what to say."""

    sheets: tuple[Sheet, ...]
    calls: tuple[Call, ...]
    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """The given images, decoded, and what the draws are keyed by."""

    paths: tuple[str, ...]
    pixels: tuple[Pixels, ...]
    num_draws: int
    seed: int


def show_transforms(
    paths: Sequence[str], data: DataSettings, *, num_draws: int = 8, seed: int = 0
) -> Shown:
    """Return what training with these settings would make of the images.

    Raises:
        UsageError: settings that contradict each other, transforms that do not fit.
        DataError: an image that cannot be read, or images of different sizes to be mixed.
    """
    calls = calls_for(paths, data)
    alpha = alpha_for(list_of(paths, ())) if data.alpha == AUTO else data.alpha
    sheets = transform_sheets(paths, calls, num_draws=num_draws, seed=seed, alpha=alpha)
    notes = (
        f"{call} is left out: it mixes images with each other, name a second one"
        for call in calls
        if len(paths) == 1 and is_mix(call)
    )
    return Shown(tuple(sheets), calls, seed, tuple(notes))


def calls_for(paths: Sequence[str], data: DataSettings) -> tuple[Call, ...]:
    """Return the transforms with which `ptkit train` would train on these images; without
    statistics no Normalize.

    Raises:
        UsageError: settings that contradict each other.
        DataError: images that cannot be read.
    """
    size = data.size
    if not size:
        for path in paths:
            # Names the first that cannot be read; below, those are passed over.
            decoder.size_of(path)
        size = choose_size(list_of(paths, ("image",)))
    check_fit(data.fit, transforms=data.transforms)
    calls = training_calls(data.transforms, data.augment, size, data.fit)
    own = own_statistics(calls, data.mean, data.std)
    mean, std = own[:2] if own else (data.mean, data.std)
    mean_and_std = {"mean": mean or (0, 0, 0), "std": std or (1, 1, 1)}
    completed = complete(calls, size=size, fit=data.fit, **mean_and_std)
    return tuple(call for call in completed if mean or spec_named(call).gives != NORMALISED)


def transform_sheets(
    paths: Sequence[str],
    calls: Sequence[Call],
    *,
    num_draws: int = 8,
    seed: int = 0,
    alpha: str = "drop",
) -> list[Sheet]:
    """Return a sheet for each image; draw k is what training with this seed draws in its epoch k.

    paths: taken as a list's images, in this order. calls: a complete list. Of one image alone
    nothing is mixed. alpha: see `images.read`.

    Raises:
        UsageError: transforms that do not fit each other or the images.
        DataError: an image that cannot be read, or images of different sizes to be mixed.
    """
    read = tuple(decoder.read(path, alpha=alpha) for path in paths)
    source = _Source(tuple(paths), read, num_draws, seed)
    # Refuses what does not fit before anything is drawn.
    Pipeline.of(calls)
    if len(paths) == 1:
        calls = [call for call in calls if not is_mix(call)]
    steps = [
        _step_rows(source, calls, k)
        for k, call in enumerate(calls)
        if not spec_named(call).is_conversion
    ]
    whole = _rows(source, calls, call="", before=source.pixels, drawn=_drawn(source, calls))
    return [Sheet(path, tuple(rows[k] for rows in steps), whole[k]) for k, path in enumerate(paths)]


def _step_rows(source: _Source, calls: Sequence[Call], place: int) -> list[Row]:
    """Return one step alone for each image: after the fixed steps before it, at the size that it
    gets in the list.
    """
    fixed = _fixed_part(source, calls[:place])
    mean, std = _mean_and_std(fixed)
    before = [denormalise(images, mean, std)[0] for images in _drawn(source, fixed)[0]]
    step = [*fixed, calls[place]]
    drawn = _drawn(source, step, offset=_planned(calls[:place]).num_draws)
    return _rows(source, step, call=str(calls[place]), before=before, drawn=drawn)


def _fixed_part(source: _Source, calls: Sequence[Call]) -> tuple[Call, ...]:
    """Return what evaluation makes of these steps, and a resize to the size that they lead to where
    that alone leads to another.
    """
    fixed = evaluation_of(calls, source.pixels)
    # Of a user's own transform nobody knows what it does to the size.
    sizes = (_planned(calls[:k]).size for k in range(len(calls), -1, -1))
    size = next((size for size in sizes if size is not None), None)
    if size is None or _planned(fixed).size in (None, size):
        return fixed
    height, width = size
    resize = [Call("Resize", (size,))]
    if height == width:
        resize = [Call("Resize", (height,)), Call("CenterCrop", (height,))]
    first = next((k for k, call in enumerate(fixed) if spec_named(call).is_conversion), len(fixed))
    return (*fixed[:first], *resize, *fixed[first:])


def _planned(calls: Sequence[Call]) -> Pipeline:
    """Plan a part of a list, made to end in a float tensor."""
    mixes = [call for call in calls if is_mix(call)]
    others = [call for call in calls if not is_mix(call)]
    has_tensor = any(spec_named(call).name == "ToTensor" for call in calls)
    return Pipeline.of([*others, *([] if has_tensor else [Call("ToTensor")]), *mixes])


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
        images = [pipeline.apply(*pair) for pair in zip(source.pixels, draws, strict=True)]
        if pipeline.mix is not None:
            # As the first batch of the epoch.
            same_shape([tuple(image.shape[-3:]) for image in images], pipeline.calls)
            joined, labels = torch.cat(images), torch.zeros(len(images), dtype=torch.int64)
            mixed, _ = mix(pipeline.mix, joined, labels, seed=source.seed, epoch=epoch, batch=0)
            images = list(mixed.split(1))
        epochs.append(images)
    return epochs


def _rows(
    source: _Source, calls: Sequence[Call], *, call: str, before: Sequence[Pixels], drawn: Epochs
) -> list[Row]:
    """Return a row for each image; calls: what led to the draws."""
    pipeline = _planned(calls)
    is_random = pipeline.is_random or pipeline.mix is not None
    is_stretched = any(spec_named(call).gives == WHITENED for call in calls)
    rows = []
    for place, pixels in enumerate(before):
        images = [epoch[place] for epoch in drawn]
        mean, std = _stretch(images) if is_stretched else _mean_and_std(calls)
        draws = [draw for crops in images for draw in denormalise(crops, mean, std)]
        clipped = [share for crops in images for share in _clipped(crops, mean, std)]
        # Each image is mixed with the one before it.
        partner = source.paths[place - 1] if pipeline.mix is not None else ""
        num_crops, shown = len(images[0]), (tuple(draws), tuple(clipped))
        rows.append(Row(call, pixels, *shown, num_crops, is_random, is_stretched, partner))
    return rows


def _mean_and_std(calls: Sequence[Call]) -> MeanAndStd:
    """Return what Normalize, if a list has it, subtracts and divides by."""
    normalize = next((call for call in calls if spec_named(call).gives == NORMALISED), None)
    return mean_and_std_of(normalize) if normalize else ((0.0,), (1.0,))


def _stretch(images: Sequence[Tensor]) -> MeanAndStd:
    """Return the mean and std with which 3 standard deviations around the mean become 0..1."""
    values = torch.cat([image.flatten() for image in images])
    width = 6 * max(float(values.std()), 1e-6)
    return (0.5 - float(values.mean()) / width,), (1 / width,)


def _clipped(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[float]:
    """Return the share of values beyond 0..255, for each image."""
    values = images * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    # Half a level is rounded back.
    is_beyond = (values < -0.5 / 255) | (values > 255.5 / 255)
    return is_beyond.flatten(1).float().mean(dim=1).tolist()
