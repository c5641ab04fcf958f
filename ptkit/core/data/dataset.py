"""A list file as a torch Dataset, for anyone's own DataLoader."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ptkit.core.data import images
from ptkit.core.data.lists import read_list


class ListDataset(Dataset[tuple[Any, Any]]):
    """The images and labels of a list file; an image is decoded when it is asked for.

    A label is the class index, an int; where the list has several labels an image or numbers, bool
    (K,) or float (D,).

    transform: takes a uint8 RGB tensor (3, H, W); or a PIL image, if ToTensor or PILToTensor of
    torchvision is the first conversion in it, alone or within Compose and its like: these refuse
    tensors or pass them on unconverted. target_transform: takes the label.
    root: the folder of the images, where they were moved.

    >>> image, label = ptkit.ListDataset("train.txt")[0]
    >>> image.dtype
    torch.uint8

    Raises:
        DataError: a bad list, or on access an image that cannot be read.
    """

    def __init__(
        self,
        list_file: str | Path,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        root: str | Path | None = None,
    ) -> None:
        self.images = read_list(Path(list_file), root=None if root is None else Path(root))
        self.class_names = self.images.class_names
        self.transform, self.target_transform = transform, target_transform
        self._takes_pil = transform is not None and _takes_pil(transform)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        pixels = images.read(self.images.image_path(index))
        image: Any = torch.from_numpy(pixels).permute(2, 0, 1)
        if self._takes_pil:
            from PIL import Image

            image = Image.fromarray(pixels)
        row = self.images.labels[index]
        label: Any = torch.from_numpy(row) if row.ndim else int(row)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label


def _takes_pil(transform: Any) -> bool:
    """Say whether a transform takes PIL images: what it converts first decides."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    of_pil = (v1.ToTensor, v1.PILToTensor, v2.ToTensor, v2.PILToTensor)
    # These take tensors, whatever follows them.
    of_tensors = (v1.ToPILImage, v2.ToPILImage, v2.ToImage)
    steps = (step for step in _steps(transform) if isinstance(step, of_pil + of_tensors))
    return isinstance(next(steps, None), of_pil)


def _steps(transform: Any) -> Iterator[Any]:
    """Yield a transform and all that it is made of, in order."""
    yield transform
    parts = getattr(transform, "transforms", None)
    if parts is None and isinstance(transform, nn.Module):
        parts = transform.children()
    for part in parts or ():
        yield from _steps(part)
