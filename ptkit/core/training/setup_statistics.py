"""Mean and standard deviation for a run: found beside its list or in its weights, or measured."""

import shlex
from dataclasses import replace

from ptkit.core.config.settings import DataSettings
from ptkit.core.counting import Counting
from ptkit.core.data import images as decoder
from ptkit.core.data import statistics
from ptkit.core.data.images import Pixels
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.keeping import LoadedList
from ptkit.core.data.transforms.color import grey_pixels
from ptkit.core.data.transforms.completion import Statistics
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError
from ptkit.core.machine import num_cores
from ptkit.core.models.weights import Weights

# Statistics of a longer list are measured over so many of its images.
_SAMPLE_ABOVE, _SAMPLE = 50_000, 10_000
# Standard deviations, 0..1, up to here are those of rounding.
_CONSTANT = 1e-6


def known_statistics(
    images: ImageList, data: DataSettings, start: Weights | None, pipeline: Pipeline
) -> Statistics | None:
    """Return the statistics that are given, come with the weights, or lie beside the list."""
    channels = pipeline.channels or 3
    if data.mean:
        return data.mean, data.std, "the given statistics"
    if start is not None and start.mean and start.std:
        if len(start.mean) in (1, channels):
            return start.mean, start.std, "the statistics of the weights"
        # Grey for weights of RGB: each of the three would get the grey value.
        if channels == 1:
            mean, std = ((sum(v) / len(v),) for v in (start.mean, start.std))
            return mean, std, "the statistics of the weights, the mean of their three channels"
    assert data.size is not None
    # Recognised by the list's hash: after another split they are measured anew.
    found = statistics.find(
        images.file,
        # Corrected labels leave the pixels as they are.
        list_sha256=images.file_sha256 or images.sha256,
        size=data.size,
        channels=channels,
        alpha=pipeline.alpha,
    )
    if found is None:
        return None
    return found.mean, found.std, str(images.file.parent / statistics.FILE_NAME)


def with_statistics(
    data: DataSettings, mean: tuple[float, ...], std: tuple[float, ...], *, channels: int | None
) -> DataSettings:
    """Return the settings with a mean and a standard deviation for each channel."""
    # A single number would not show how many channels it is for.
    times = channels or 1 if len(mean) == 1 else 1
    return replace(data, mean=mean * times, std=std * times)


def measured(
    train: LoadedList, pipeline: Pipeline, data: DataSettings, counting: Counting, seed: int
) -> Statistics:
    """Measure images after the pipeline's prefix, kept or not, and as grey where they become so.

    seed: chooses them, where they are many.

    Raises:
        DataError: an image that cannot be read.
    """
    images = train.images

    def seen(pixels: Pixels) -> Pixels:
        return grey_pixels(pixels, 1) if pipeline.channels == 1 else pixels

    def decode(content: bytes, path: str) -> Pixels:
        pixels = decoder.decode(content, path, alpha=pipeline.alpha)
        found: Pixels = seen(pipeline.apply_prefix(pixels)[None])[0]
        return found

    # Kept or read anew, they are the same images.
    num = _SAMPLE if len(images) > _SAMPLE_ABOVE else None
    chosen = statistics.sample(images, num=num, seed=seed)
    if train.kept is not None:
        stacks = map(seen, train.kept.stacks(chosen))
        found = statistics.of_stacks(stacks, size=data.size, list_sha256=images.sha256)
    else:
        try:
            with counting("measuring", len(chosen)) as on_images:
                found = statistics.measure(
                    images,
                    chosen,
                    workers=data.workers or num_cores(),
                    on_images=on_images,
                    decode=decode,
                )
        except DataError as error:
            raise DataError(f"{error}; --set data.on_bad=skip leaves such images out") from None
    origin = f"statistics measured over {found.num_images:,} images"
    if max(found.std) <= _CONSTANT:
        file = shlex.quote(str(images.file))
        origin += f": all of them one and the same colour, `ptkit check {file}` looks closer"
    # Of a constant channel nothing may be divided by zero.
    std = tuple(value if value > _CONSTANT else 1.0 for value in found.std)
    return found.mean, std, origin
