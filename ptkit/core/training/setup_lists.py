"""The lists of a run, read and checked against each other."""

import os
from dataclasses import replace
from pathlib import Path

from ptkit.core.config.settings import DataSettings
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.lists import (
    ImageList,
    check_image,
    classes_file,
    read_classes,
    read_list,
)
from ptkit.core.data.relabelling import corrected
from ptkit.core.data.shared_images import first_shared
from ptkit.core.data.splits.shared_contents import find_copies
from ptkit.core.errors import DataError
from ptkit.core.file_sets import unchanging


def read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the training and the validation list, checked against each other.

    Raises:
        DataError: missing or empty lists, labels of other kinds or all alike, images that were
            moved, or an image that is in both, under any name.
        UsageError: data.root is not a folder.
    """
    files = Path(data.train), Path(data.valid)
    # A split that ends meanwhile would leave one list of it and one of the split before.
    with unchanging(*(file.parent for file in files if file.parent.is_dir())):
        return _read_lists(data)


def lists_of_run(data: DataSettings) -> tuple[ImageList, ImageList]:
    """Return the lists of a run as it read them, of whatever would keep it from training now.

    Raises:
        DataError: a list that is not there or cannot be read. UsageError: see `read_lists`.
    """
    return read_lists(replace(data, allow_leak=True, on_bad="skip"))


def _read_lists(data: DataSettings) -> tuple[ImageList, ImageList]:
    for file, flag in ((data.train, "--train"), (data.valid, "--valid")):
        if not os.path.exists(file):
            raise DataError(
                f"no list {file}: run `ptkit split FOLDER` first, name FOLDER here, or another list"
                f" with {flag}"
            )
    if os.path.samefile(data.train, data.valid) and not data.allow_leak:
        raise DataError(
            f"--train and --valid name the same file, {data.train}: give --valid a list of other"
            " images, as `ptkit split` writes"
        )
    classes = Path(data.classes) if data.classes else None
    root = Path(data.root) if data.root else None
    train = read_list(Path(data.train), classes=classes, root=root)
    # Both lists have the class names of the training list.
    names = classes_file(Path(data.train), classes)
    # Alone it may look like another kind: all numbers whole, or one class in every line.
    valid = read_list(
        Path(data.valid),
        classes=names,
        kind=train.label_kind,
        known=train.class_names if train.has_named_labels else None,
        root=root,
    )
    _check_classes(train, valid, classes=classes)
    if data.relabel:
        train, valid = corrected(Path(data.relabel), train, valid, classes=classes)
    _check_variety(train)
    if data.on_bad == "stop":
        check_image(train, 0)
        check_image(valid, 0)
    # Last, as it compares all paths of both lists.
    if not data.allow_leak:
        _check_leak(train, valid)
    return train, valid.with_classes(train.class_names)


def _check_classes(train: ImageList, valid: ImageList, *, classes: Path | None) -> None:
    """Refuse a validation list whose labels do not mean what those of the training list mean.

    classes: the file of class names, where the settings name one.
    """
    if (
        classes_file(train.file, classes) is None
        and train.has_named_labels != valid.has_named_labels
    ):
        raise DataError(
            f"{train.file} and {valid.file} must both name the classes or both have their indices;"
            " or write classes.txt, one name a line"
        )
    if train.label_kind == REGRESSION and valid.num_classes != train.num_classes:
        raise DataError(
            f"{valid.file} has {valid.num_classes} numbers per image, {train.file}"
            f" {train.num_classes}"
        )
    if valid.num_classes > train.num_classes:
        raise DataError(
            f"{valid.file} has labels up to {valid.num_classes - 1}, the training list"
            f" {train.num_classes} classes"
        )
    # The same index would mean another class, and nothing else would show it.
    beside = classes_file(valid.file)
    if classes is None and beside and (others := read_classes(beside)) != train.class_names:
        raise DataError(
            f"{beside} names other classes ({', '.join(others[:3])}, ...) than the training list's"
        )


def _check_leak(train: ImageList, valid: ImageList) -> None:
    """Refuse a validation image that is in the training list, by its path or by its bytes."""
    fault = first_shared(train, valid)
    if fault is not None:
        fault = f"{fault} is in both {train.file} and {valid.file}"
    elif copies := find_copies(train, valid):
        theirs, ours = copies[0]
        fault = f"{theirs} in {valid.file} has the bytes of {ours} in {train.file}"
        if len(copies) > 1:
            fault += f", and {len(copies) - 1:,} more are such copies"
    if fault is not None:
        raise DataError(
            f"{fault}: accuracy would be inflated; split again, or pass --set data.allow_leak=true"
        )


def _check_variety(train: ImageList) -> None:
    """Refuse labels that are all alike."""
    if (train.labels != train.labels[0]).any():
        return
    if train.label_kind == SINGLE:
        raise DataError(f"{train.file} has images of one class only; a classifier needs two")
    raise DataError(f"{train.file} gives every image the same label: there is nothing to learn")
