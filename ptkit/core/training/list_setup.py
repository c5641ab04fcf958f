"""The two lists of a run, checked against each other, and the input size that follows from them."""

import os
from pathlib import Path

import numpy as np

from ptkit.core.config import DataSettings
from ptkit.core.data import images as decoder
from ptkit.core.data.feeding.reading import sizes_of
from ptkit.core.data.labels import CLASS, NUMBERS
from ptkit.core.data.lists import ImageList, read_classes, read_list
from ptkit.core.data.shared_images import first_shared
from ptkit.core.errors import DataError
from ptkit.core.sizes import is_small

_NUM_HEADERS = 64


def read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the training and the validation list, checked against each other.

    Raises:
        DataError: missing or empty lists, labels of other kinds or all alike, or an image that
            stands in both.
    """
    for file, flag in ((data.train, "--train"), (data.valid, "--valid")):
        if not os.path.exists(file):
            raise DataError(
                f"no list {file}: run `ptkit split FOLDER` first, or name another by {flag}"
            )
    classes = Path(data.classes) if data.classes else None
    train = read_list(Path(data.train), classes=classes)
    beside = Path(data.train).parent / "classes.txt"
    names = classes or (beside if beside.exists() else None)
    valid = read_list(Path(data.valid), classes=names, kind=train.label_kind)
    _check_variety(train)
    if train.label_kind == NUMBERS and valid.num_classes != train.num_classes:
        raise DataError(
            f"{valid.file} has {valid.num_classes} numbers an image, {train.file}"
            f" {train.num_classes}"
        )
    if valid.num_classes > train.num_classes:
        raise DataError(
            f"{valid.file} has labels up to {valid.num_classes - 1}, the training list"
            f" {train.num_classes} classes"
        )
    _check_names(train, data)
    _check_leak(train, valid, data)
    return train, valid.with_classes(train.class_names)


def has_jpegs(images: ImageList) -> bool:
    """Say whether there is a JPEG among some images of a list, by their first bytes."""
    for index in _some_of(images):
        try:
            if decoder.sniff(decoder.read_bytes(images.image_path(index), most=64)) == "JPEG":
                return True
        except DataError:
            continue
    return False


def choose_size(images: ImageList) -> int:
    """Return the input size for a list: its images' own up to 64 pixels, at least 16; else 224.

    The median shorter side of some images decides, read from their headers.
    """
    sides = [min(size) for size in sizes_of(images, _some_of(images)) if size is not None]
    if not sides:
        raise DataError(f"none of the images looked at in {images.file} can be read")
    side = int(np.median(sides))
    return max(side, 16) if is_small(side) else 224


def _some_of(images: ImageList) -> list[int]:
    return np.unique(
        np.linspace(0, len(images) - 1, min(_NUM_HEADERS, len(images))).astype(int)
    ).tolist()


def _check_variety(train: ImageList) -> None:
    """Refuse labels that are all alike: there is nothing to learn."""
    if (train.labels != train.labels[0]).any():
        return
    if train.label_kind == CLASS:
        raise DataError(f"{train.file} has images of one class only; a classifier needs two")
    raise DataError(f"{train.file} gives every image the same label; there is nothing to learn")


def _check_names(train: ImageList, data: DataSettings) -> None:
    """Refuse a validation list beside which other class names stand."""
    beside = Path(data.valid).parent / "classes.txt"
    if (
        data.classes is None
        and beside.is_file()
        and (names := read_classes(beside)) != train.class_names
    ):
        raise DataError(
            f"{beside} names other classes ({', '.join(names[:3])}, ...) than the training list's"
        )


def _check_leak(train: ImageList, valid: ImageList, data: DataSettings) -> None:
    if data.allow_leak:
        return
    path = first_shared(train, valid)
    if path is not None:
        raise DataError(
            f"{path} stands in both {train.file} and {valid.file}: the accuracy would be too good; "
            "split again, or pass --set data.allow_leak=true"
        )
