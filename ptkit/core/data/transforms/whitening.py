"""LinearTransformation: a whole image times a matrix, for whitening; the matrix comes from a file
or a checkpoint.
"""

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.data.transforms.spec import (
    NEEDS_FLOATS,
    NORMALISED,
    WHITENED,
    Draws,
    Size,
    Spec,
    refused,
)
from ptkit.core.device import exact_products
from ptkit.core.errors import CheckpointError, DataError
from ptkit.core.parts.argument_rules import ANY, Allowed, list_of

_ARRAYS = ("transformation_matrix", "mean_vector")


class LinearTransformation(nn.Module):
    """Subtract a mean and multiply by a matrix, for images (..., C, H, W) taken as vectors of D = C
    * H * W values.

    transformation_matrix: (D, D), as a tensor or lists of numbers, with mean_vector (D,); or (D +
    1, D) with the mean as its last row. In a list of transforms it may also be the name of a file,
    as `ptkit normstats --whiten` writes it.

    Raises:
        TypeError, ValueError: not numbers of these shapes.
    """

    def __init__(self, transformation_matrix: Any, mean_vector: Any = None) -> None:
        super().__init__()
        if isinstance(transformation_matrix, str):
            raise TypeError("a file's name works only in a list of transforms")
        matrix = torch.as_tensor(transformation_matrix, dtype=torch.float32)
        if mean_vector is None and matrix.ndim == 2 and len(matrix) == matrix.shape[1] + 1:
            matrix, mean_vector = matrix[:-1], matrix[-1]
        if mean_vector is None:
            raise ValueError("mean_vector is missing")
        mean = torch.as_tensor(mean_vector, dtype=torch.float32)
        if not _fit_together(matrix, mean):
            raise ValueError(
                "transformation_matrix must be D×D and mean_vector of length D,"
                f" found {_shapes(matrix, mean)}"
            )
        # The number of values of an image, D.
        self.num_values = len(mean)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {torch.device("cpu"): (matrix, mean)}

    def forward(self, images: Tensor) -> Tensor:
        channels, height, width = images.shape[-3:]
        if reason := misfit(self, (height, width), channels):
            raise ValueError(reason)
        matrix, mean = self.on(images.device)
        flat = images.reshape(-1, self.num_values) - mean
        # These are the pixels and no layer of the model.
        with exact_products(images.device):
            return (flat @ matrix).reshape(images.shape)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the matrix and the mean on a device, where they are copied once."""
        if device not in self._on:
            matrix, mean = self._on[torch.device("cpu")]
            self._on[device] = matrix.to(device), mean.to(device)
        return self._on[device]


def linear_floats(t: LinearTransformation, images: Tensor, _draws: Draws) -> Tensor:
    """Transform a float batch (n, C, H, W) by one matrix product, on its device; the last bits
    depend on n.
    """
    return t.forward(images)


def misfit(t: LinearTransformation, size: Size, channels: int) -> str:
    """Return why images (height, width) do not fit the matrix; nothing if they do."""
    height, width = size
    if channels * height * width == t.num_values:
        return ""
    # The matrix may be of square images, whose side can be named.
    side = round((t.num_values / 3) ** 0.5)
    fitting = f", for {side}×{side} pixels" if 3 * side * side == t.num_values else ""
    remedy = f"`ptkit normstats LIST --whiten zca --size {height}` measures one that fits"
    if channels != 3:
        remedy = "`ptkit normstats LIST --whiten zca` measures images of three channels"
    return (
        f"images of {height}×{width} have {channels * height * width} values, the matrix is"
        f" {t.num_values}×{t.num_values}{fitting}: {remedy}"
    )


def read_whitening(file: str) -> Tensor:
    """Read an .npz file with float arrays transformation_matrix (D, D) and mean_vector (D,).

    Returns them as one float32 tensor (D + 1, D), the mean as the last row.

    Raises:
        DataError: no such file, or not one of this form.
    """
    if not Path(file).is_file():
        raise DataError(f"no {file} here: `ptkit normstats train.txt --whiten zca` writes it")
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            matrix, mean = (arrays[name] for name in _ARRAYS)
    # What numpy raises for other kinds of files, for damaged ones and for pickled objects.
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        RuntimeError,
        MemoryError,
        zlib.error,
        BadZipFile,
    ) as error:
        wanted = "what `ptkit normstats --whiten` writes, an .npz file with"
        raise DataError(f"{file} is not {wanted} {' and '.join(_ARRAYS)}") from error
    are_floats = matrix.dtype.kind == mean.dtype.kind == "f"
    if not are_floats or not _fit_together(matrix, mean):
        raise DataError(
            f"{file}: expected a matrix D×D of floats and a mean of length D,"
            f" found {_shapes(matrix, mean)}"
        )
    return torch.from_numpy(np.concatenate([matrix, mean[None]]).astype(np.float32))


def held_whitening(tensors: dict[str, Any], name: str) -> Tensor:
    """Return what `read_whitening` gave when the tensors were saved.

    Raises:
        CheckpointError: it is not there, or of another form.
    """
    if (held := tensors.get(name)) is None:
        raise CheckpointError(f"the saved pipeline names {name}, but does not hold its matrix")
    if not isinstance(held, Tensor) or held.ndim != 2 or len(held) != held.shape[1] + 1:
        raise CheckpointError(
            f"the saved pipeline holds something other than a matrix and a mean as {name}"
        )
    return held.float()


def _shapes(matrix: Any, mean: Any) -> str:
    return " and ".join("×".join(map(str, a.shape)) or "a number" for a in (matrix, mean))


def _fit_together(matrix: Any, mean: Any) -> bool:
    return mean.ndim == 1 and bool(matrix.shape == (len(mean), len(mean)))


# A tensor is the argument once a file's name has been replaced by what is in it.
_MATRIX = Allowed(
    "the name of a file that `ptkit normstats --whiten` wrote, or a list of lists of numbers",
    lambda value: (
        isinstance(value, str) or hasattr(value, "ndim") or list_of(list_of(ANY)).check(value)
    ),
)
SPECS = (
    Spec(
        LinearTransformation,
        'whiten: LinearTransformation("whitening.npz"), from `ptkit normstats --whiten`',
        arguments={"transformation_matrix": _MATRIX, "mean_vector": list_of(ANY)},
        example='"whitening.npz"',
        floats=linear_floats,
        misfit=misfit,
        refuses=NEEDS_FLOATS
        | refused("{} appears twice", WHITENED)
        | refused("{} takes values 0..1: put it before Normalize", NORMALISED),
        gives=WHITENED,
    ),
)
