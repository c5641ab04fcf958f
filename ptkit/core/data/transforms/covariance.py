"""Whitening: mean and covariance of whole images, and the matrix that makes their values
uncorrelated.

An image is a vector of D = 3 * H * W floats in 0..1, in the order that torchvision's
LinearTransformation flattens.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.keyed import Indices
from ptkit.core.data.lists import ImageList
from ptkit.core.data.statistics import leave_out, readable
from ptkit.core.data.transforms.completion import evaluation_geometry
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.device import thread_pool
from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import write_atomically
from ptkit.core.machine import free_bytes
from ptkit.core.parts.calls import Call

FILE_NAME = "whitening.npz"
KINDS = ("zca", "pca")
# Of the largest eigenvalue. Below that, JPEG's rounding outweighs what images show, and whitening
# would enlarge it.
EPSILON = 1e-5

# Sums of 256 products of bytes stay below 2^24: a block's X^T X is exact in float32.
_BLOCK, _CHUNK = 256, 32
# The covariance, a copy that becomes the eigenvectors, LAPACK's work space of twice that (dsyevd),
# and a quarter more.
_BYTES_PER_ENTRY = 40
# The matrix has 600 MB there, and its eigenvectors take minutes; both grow with the fourth power of
# the side and more.
_MAX_SIDE = 64

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Whitening:
    """What `(x - mean) @ matrix` takes, x being rows of flattened images.

    matrix: float32 (D, D). mean: float32 (D,). kind: zca or pca. size: (H, W). rank: of the
    covariance.
    epsilon: what was added to every eigenvalue.
    """

    matrix: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    kind: str
    size: tuple[int, int]
    num_images: int
    rank: int
    epsilon: float
    list_sha256: str


def whitening_size(
    images: ImageList, chosen: Indices, *, size: int | None, memory: int | None = None
) -> tuple[int, int]:
    """Return (height, width) at which the chosen images are whitened: `size`, else their own;
    nothing is decoded.

    memory: bytes that may be used; None for what is free.

    Raises:
        UsageError: the images differ in size and `size` is not given, or the matrices would not fit
            in memory.
        DataError: none of the images can be read.
    """
    height, width = (size, size) if size is not None else _common_size(images, chosen)
    count = 3 * height * width
    memory = free_bytes() if memory is None else memory
    fitting = math.isqrt(math.isqrt(memory // _BYTES_PER_ENTRY) // 3)
    if count <= 3 * min(fitting, _MAX_SIDE) ** 2:
        return height, width
    found = f"whitening {height}×{width} images takes matrices of {count:,}×{count:,}"
    if fitting < _MAX_SIDE:
        raise UsageError(
            f"{found}, {_BYTES_PER_ENTRY * count**2 / 1e9:,.1f} GB in all, and {memory / 1e9:,.1f}"
            f" GB of memory are free: pass --size {max(fitting, 1)} or less"
        )
    raise UsageError(f"{found}, more than whitening is good for: pass --size {_MAX_SIDE} or less")


def measure_whitening(
    images: ImageList,
    chosen: Indices,
    *,
    kind: str,
    size: int | None = None,
    workers: int = 2,
    on_images: Callable[[int], object] = lambda _count: None,
    bad: list[str] | None = None,
) -> Whitening:
    """Decode the chosen images, resized to `size` (else their own) as training does it, and return
    their whitening.

    bad: see `statistics.measure`.

    Raises:
        UsageError: see `whitening_size`; nothing has been decoded then.
        DataError: some images cannot be read (the message names the first), or all are the same.
    """
    sides = whitening_size(images, chosen, size=size)
    unreadable: list[str] = []
    mean, covariance = mean_and_covariance(
        images, chosen, size=sides, workers=workers, on_images=on_images, bad=unreadable
    )
    leave_out(unreadable, total=len(chosen), bad=bad)
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(covariance)))
    values = np.maximum(values, 0)
    if values[-1] == 0:
        raise DataError(f"all images of {images.file} are the same: there is nothing to whiten")
    epsilon = EPSILON * float(values[-1])
    return Whitening(
        matrix=whitening_matrix(values, vectors, kind=kind, epsilon=epsilon),
        mean=mean.astype(np.float32),
        kind=kind,
        size=sides,
        num_images=len(chosen) - len(unreadable),
        rank=int((values > values[-1] * len(values) * np.finfo(np.float64).eps).sum()),
        epsilon=epsilon,
        list_sha256=images.sha256,
    )


def mean_and_covariance(
    images: ImageList,
    chosen: Indices,
    *,
    size: tuple[int, int],
    workers: int = 2,
    on_images: Callable[[int], object] = lambda _count: None,
    bad: list[str] | None = None,
) -> tuple[Doubles, Doubles]:
    """Return mean (D,) and covariance (D, D), divided by the number of images; the sums are exact.

    bad: see `statistics.measure`. Only one block of images is in memory at a time.
    """
    height, width = size
    # What training does before LinearTransformation; it makes images square by default.
    calls = evaluation_geometry(height) if height == width else (Call("Resize", (size,)),)
    pipeline = Pipeline.of([*calls, Call("ToTensor")])
    count = 3 * height * width
    total, products = np.zeros(count, np.int64), np.zeros((count, count))
    unreadable: list[str] = []
    with thread_pool(workers) as pool:
        for start in range(0, len(chosen), _BLOCK):
            here = chosen[start : start + _BLOCK]
            parts = [here[k : k + _CHUNK] for k in range(0, len(here), _CHUNK)]
            found = list(pool.map(lambda part: _flattened(images, part, pipeline), parts))
            unreadable += [reason for _, reasons in found for reason in reasons]
            rows = [row for some, _ in found for row in some]
            block = np.array(rows, np.float32).reshape(len(rows), count)
            total += block.sum(axis=0, dtype=np.float64).astype(np.int64)
            # numpy sees that both are one array, and computes half of it.
            products += block.T @ block
            on_images(len(here))
    leave_out(unreadable, total=len(chosen), bad=bad)
    num_images = len(chosen) - len(unreadable)
    mean = total / num_images
    products /= num_images
    products -= np.outer(mean, mean)
    products /= 255**2
    return mean / 255, products


def whitening_matrix(
    values: Doubles, vectors: Doubles, *, kind: str, epsilon: float
) -> npt.NDArray[np.float32]:
    """Return the (D, D) matrix for rows, `(x - mean) @ matrix`, from eigenvalues (D,), ascending,
    and eigenvectors.

    zca: U diag(1/sqrt(l + epsilon)) U^T, symmetric: of all whitenings the one that changes images
    least (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", appendix A;
    Kessy, Lewin and Strimmer 2018, "Optimal Whitening and Decorrelation", section 3).
    pca: U diag(1/sqrt(l + epsilon)), the eigenvectors as columns, the largest eigenvalue first: row
    vectors from the left need them so, where the papers' column vectors need the transpose. Signs
    are chosen so that the largest entry of each eigenvector is positive.
    """
    if kind == "zca":
        half = vectors * (values + epsilon) ** -0.25
        return (half @ half.T).astype(np.float32)
    columns = (vectors * (values + epsilon) ** -0.5)[:, ::-1]
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(len(values))]
    return np.ascontiguousarray(columns * np.sign(largest), np.float32)


def save(whitening: Whitening, list_file: Path) -> Path:
    """Write whitening.npz beside the list and return its path."""
    file = list_file.parent / FILE_NAME
    names = ("kind", "size", "num_images", "epsilon", "list_sha256")
    arrays: dict[str, Any] = {name: getattr(whitening, name) for name in names}
    arrays = {"transformation_matrix": whitening.matrix, "mean_vector": whitening.mean, **arrays}
    write_atomically(file, lambda opened: np.savez(opened, **arrays))
    return file


def _common_size(images: ImageList, chosen: Indices) -> tuple[int, int]:
    """Return the size of all images, read from their headers; those that cannot be read are left to
    the decoding.
    """
    found: dict[tuple[int, int], str] = {}
    reason = f"{images.file} has no images"
    for index in chosen.tolist():
        path = images.image_path(index)
        try:
            found.setdefault(decoder.size_of(path), path)
        except DataError as error:
            reason = str(error)
        if len(found) == 2:
            one, other = (f"{height}×{width}" for height, width in found)
            raise UsageError(
                f"the images of {images.file} differ in size ({one} and {other}): pass --size, the"
                " one of training"
            )
    if not found:
        raise DataError(reason)
    return next(iter(found))


def _flattened(
    images: ImageList, part: Indices, pipeline: Pipeline
) -> tuple[list[Pixels], list[str]]:
    """Return images as rows, uint8 (D,), and the reasons for those that cannot be read."""
    bad: list[str] = []
    paths = map(images.image_path, part.tolist())
    decoded = readable(paths, decoder.decode, bad=bad, odd=Counter())
    return [pipeline.apply_prefix(p).transpose(2, 0, 1).reshape(-1) for p in decoded], bad
