"""Image files as a model sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data.transforms.pipeline import denormalise, same_size
from ptkit.core.errors import UsageError
from ptkit.looking.subject import Subject


@dataclass(frozen=True)
class Views:
    """Some images, n of them.

    tensors: float (n, 3, H, W), what the model gets. pixels: the same de-normalised, uint8 (n, H,
    W, 3). names: files.
    """

    tensors: Tensor
    pixels: np.ndarray
    names: tuple[str, ...]

    @property
    def sheet(self) -> np.ndarray:
        """The pixels of all images side by side, uint8 (H, n * W, 3)."""
        return np.concatenate(list(self.pixels), axis=1)


def load_images(subject: Subject, paths: Sequence[str], *, is_optional: bool = False) -> Views:
    """Read images through the subject's evaluation pipeline.

    is_optional: without paths, one black image of the subject's size.

    Raises:
        DataError: an image that cannot be read, or sizes that do not agree.
        UsageError: no paths.
        CheckpointError: the saved pipeline names user code.
    """
    pipeline = subject.parse_pipeline()
    if paths:
        tensors = [_one_view(pipeline.read_image(path)) for path in paths]
    elif is_optional and (pipeline.size or subject.size):
        height, width = pipeline.size or (subject.size or 0, subject.size or 0)
        tensors = [torch.zeros(3, height, width)]
    else:
        raise UsageError("no images: name at least one image file")
    same_size([tuple(tensor.shape[1:]) for tensor in tensors], pipeline.calls)
    batch = torch.stack(tensors).contiguous(memory_format=torch.channels_last)
    return Views(
        batch,
        denormalise(batch, subject.mean, subject.std),
        tuple(Path(path).name for path in paths),
    )


def _one_view(image: Tensor) -> Tensor:
    """Return (3, H, W): of several crops that of the centre, of two views the first."""
    # The fifth of FiveCrop and TenCrop.
    return image if image.ndim == 3 else image[4 if len(image) > 4 else 0]
