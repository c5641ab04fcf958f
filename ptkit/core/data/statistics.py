"""Mean and standard deviation per channel, exact, at the speed of the decoder."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptkit.core.data import images as decoder
from ptkit.core.data.complaints import capturing_stderr
from ptkit.core.data.forked import can_fork, in_copies
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import permutation
from ptkit.core.data.lists import ImageList
from ptkit.core.data.oddities import oddities
from ptkit.core.errors import DataError, ImageError, StorageError
from ptkit.core.files import parse_json, write_atomically
from ptkit.core.machine import decoding_threads

T = TypeVar("T")

FILE_NAME = "normstats.json"
_CHUNK = 64
# From so many chunks on of files of so many bytes, copies of the process win back their start.
_MANY_CHUNKS, _SMALL, _NUM_JUDGED = 32, 1 << 14, 8
# Larger images are summed one by one: stacked, a chunk of photos would take gigabytes.
_MAX_STACKED_BYTES = 1 << 16
# Pixels that are summed at once: they and their planes stay in a core's cache.
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class ChannelStatistics:
    """mean, std: of each channel, R, G, B or grey alone, of pixels in 0..1, over all pixels
    (population). size: None for the images' own sizes. alpha: see `images.read`. odd: how many of
    the images are of each unusual kind; not kept with the rest.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int
    size: int | None
    list_sha256: str
    alpha: str = "drop"
    odd: Mapping[str, int] = field(default_factory=dict, compare=False)


# Sums per channel, (3, C): the number of pixels, of their values (in 0..255), and of the squares.
# Python's integers: they never overflow, and E[x²] - E[x]² loses no digit.
_Sums = npt.NDArray[np.object_]
_NOTHING: _Sums = np.zeros((3, 1), object)
# Bytes and path of a file to its pixels.
Decode = Callable[[bytes, str], Pixels]


def measure(
    images: ImageList,
    chosen: npt.NDArray[np.int64] | None = None,
    *,
    size: int | None = None,
    workers: int = 2,
    on_images: Callable[[int], object] = lambda _count: None,
    decode: Decode = decoder.decode,
    bad: list[str] | None = None,
) -> ChannelStatistics:
    """Return the statistics of a list's images, or of those at the indices `chosen`.

    size: images are first resized to size × size as training does; None takes the images' own
    sizes.
    on_images: called with how many more are done, for a progress bar.
    decode: gives the pixels (H, W, C) of a file and its path. bad: gets why images cannot be read,
    which are left out; without it they are an error.

    Raises:
        DataError: no images, or some cannot be read; the message names the first.
    """
    chosen = sample(images) if chosen is None else chosen

    def work(start: int) -> tuple[_Sums, list[str], Counter[str]]:
        paths = map(images.image_path, chosen[start : start + _CHUNK].tolist())
        with capturing_stderr:
            return _chunk_sums(paths, size, decode)

    sums, unreadable, odd = _NOTHING, list[str](), Counter[str]()
    starts = range(0, len(chosen), _CHUNK)
    with _side_by_side(work, starts, workers, paths=map(images.image_path, chosen)) as results:
        for start, (part, failed, unusual) in zip(starts, results, strict=True):
            sums = sums + part
            unreadable += failed
            odd += unusual
            on_images(min(_CHUNK, len(chosen) - start))
    leave_out(unreadable, total=len(chosen), bad=bad)
    count = len(chosen) - len(unreadable)
    return ChannelStatistics(*_mean_and_std(sums), count, size, images.sha256, odd=odd)


@contextmanager
def _side_by_side(
    work: Callable[[int], T], starts: Sequence[int], workers: int, *, paths: Iterator[str]
) -> Iterator[Iterator[T]]:
    """Give what `work` returns for each of `starts`, in order. paths: of the images."""
    # Threads for large images: the decoder releases the interpreter lock for a long time.
    if workers > 1 and len(starts) >= _MANY_CHUNKS and can_fork() and _are_small(paths):
        results = in_copies(
            lambda copy: map(work, starts[copy::workers]), copies=workers, count=len(starts)
        )
        with closing(results):
            yield results
    else:
        with decoding_threads(workers) as pool:
            yield pool.map(work, starts)


def _are_small(paths: Iterator[str]) -> bool:
    """Judge images by the files of the first few; a file that is missing is found by reading."""
    with suppress(OSError):
        return all(os.path.getsize(path) <= _SMALL for path in islice(paths, _NUM_JUDGED))
    return False


def leave_out(unreadable: Sequence[str], *, total: int, bad: list[str] | None) -> None:
    """Add to `bad` why some of `total` images cannot be read.

    Raises:
        DataError: there are some and no `bad`, or none of the images can be read.
    """
    if unreadable and (bad is None or len(unreadable) == total):
        some = f"{len(unreadable):,} of {total:,} images cannot be read"
        # With `bad` they are left out already.
        error = ImageError if bad is None else DataError
        raise error(f"{unreadable[0]} ({some})")
    if bad is not None:
        bad += unreadable


def sample(images: ImageList, *, num: int | None = None, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return the indices of all images of a list, or of `num` of them at random, in order.

    Raises:
        DataError: no images.
    """
    if not len(images):
        raise DataError(f"{images.file} has no images")
    if num is None or num >= len(images):
        return np.arange(len(images))
    return np.sort(permutation(seed, "sample", epoch=0, length=len(images))[:num])


def of_stacks(stacks: Iterable[Pixels], *, size: int | None, list_sha256: str) -> ChannelStatistics:
    """Return the statistics of decoded images, which come as stacks (n, H, W, C) of some that have
    one size.
    """
    sums, count = _NOTHING, 0
    for stack in stacks:
        sums = sums + _stack_sums(stack)
        count += len(stack)
    return ChannelStatistics(*_mean_and_std(sums), count, size, list_sha256)


def save(statistics: ChannelStatistics, list_file: Path) -> Path:
    """Write normstats.json beside the list and return its path."""
    file = list_file.parent / FILE_NAME
    kept = {name: value for name, value in asdict(statistics).items() if name != "odd"}
    write_atomically(file, (json.dumps(kept, indent=2) + "\n").encode())
    return file


def find(
    list_file: Path, *, list_sha256: str, size: int, channels: int = 3, alpha: str = "drop"
) -> ChannelStatistics | None:
    """Return the statistics beside a list if they belong to it: same hash, so many channels,
    measured at `size` or at native size, and with transparency taken in the same way.

    Raises:
        StorageError: the file cannot be read.
    """
    file = list_file.parent / FILE_NAME
    try:
        values = parse_json(file.read_bytes())
        mean, std = _floats(values["mean"]), _floats(values["std"])
        # Files from before say nothing of transparency: it was dropped.
        values.setdefault("alpha", "drop")
        others = (values[name] for name in ("num_images", "size", "list_sha256", "alpha"))
        found = ChannelStatistics(mean, std, *others)
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from None
    is_same = (found.list_sha256, found.alpha) == (list_sha256, alpha)
    if not is_same or found.size not in (None, size):
        return None
    # Of RGB no grey follows: its deviation depends on how the three vary together.
    fits = (
        len(mean) == len(std) == channels and min(std) > 0 and all(map(math.isfinite, mean + std))
    )
    return found if fits else None


def _chunk_sums(
    paths: Iterable[str], size: int | None, decode: Decode
) -> tuple[_Sums, list[str], Counter[str]]:
    """Decode some images and sum them: small ones of equal size are stacked first, so that one call
    serves many. Return why others cannot be read too, and the counts of unusual ones.
    """
    sums: list[_Sums] = []
    stacks: dict[tuple[int, ...], list[Pixels]] = {}
    bad, odd = list[str](), Counter[str]()
    for pixels in readable(paths, decode, bad=bad, odd=odd):
        if size is not None and pixels.shape[:2] != (size, size):
            from PIL import Image

            whole = Image.fromarray(pixels)
            # Pillow's antialiased bilinear is within one level of training's.
            pixels = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))
        if pixels.nbytes > _MAX_STACKED_BYTES:
            sums.append(_stack_sums(pixels[None]))
        else:
            stacks.setdefault(pixels.shape, []).append(pixels)
    sums += [_stack_sums(np.stack(stack)) for stack in stacks.values()]
    return sum(sums, _NOTHING), bad, odd


def readable(
    paths: Iterable[str], decode: Decode, *, bad: list[str], odd: Counter[str]
) -> Iterator[Pixels]:
    """Yield the pixels of each image; where it cannot be read, `bad` gets the reason instead.

    odd: counts what is unusual.
    """
    for path in paths:
        try:
            data = decoder.read_bytes(path)
            pixels = decode(data, path)
        except DataError as error:
            bad.append(str(error))
            continue
        if found := oddities(data, path, pixels.shape[:2]):
            odd.update(found)
        yield pixels


def _stack_sums(pixels: Pixels) -> _Sums:
    """Return the exact sums of uint8 (n, H, W, C).

    OpenCV's sums are float64: rounding makes them exact, since those of a block stay far below
    2^53. Its sums of one plane take a third of the time of its meanStdDev.
    """
    import cv2

    n, height, width, channels = pixels.shape
    rows = pixels.reshape(n * height, width, channels)
    step = max(_BLOCK_BYTES // (width * channels), 1)
    sums = _NOTHING
    for start in range(0, len(rows), step):
        planes = cv2.split(rows[start : start + step])
        values = [round(cv2.sumElems(plane)[0]) for plane in planes]
        squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
        sums = sums + np.array([[planes[0].size] * channels, values, squares], object)
    return sums


def _mean_and_std(sums: _Sums) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count, values, squares = sums
    count = np.maximum(count, 1)
    variance = np.maximum(count * squares - values**2, 0)
    return _floats(values / count / 255), _floats(variance**0.5 / count / 255)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(map(float, values))
