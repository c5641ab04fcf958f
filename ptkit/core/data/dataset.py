"""A list file as a torch Dataset, for anyone's own DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ptkit.core.data import images
from ptkit.core.data.lists import read_list


class ListDataset(Dataset[tuple[Any, Any]]):
    """The images and labels of a list file; an image is decoded when it is asked for.

    A label is the class index, an int; where the list has several labels an image or numbers, bool
    (K,) or float (D,).

    transform: takes a uint8 RGB tensor (3, H, W). target_transform: takes the label.

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
    ) -> None:
        self.images = read_list(Path(list_file))
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = torch.from_numpy(images.read(self.images.image_path(index))).permute(2, 0, 1)
        row = self.images.labels[index]
        label: Any = torch.from_numpy(row) if row.ndim else int(row)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.images.class_names
