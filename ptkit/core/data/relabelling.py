"""Labels that were corrected: a list of some images, each with the class that it should have."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import ImageList, classes_file, read_list
from ptkit.core.errors import DataError, UsageError


def corrected(file: Path, *lists: ImageList, classes: Path | None = None) -> tuple[ImageList, ...]:
    """Return lists with the labels that `file`, a list file, gives some of their images.

    All lists have the classes of the first. classes: their file, see `classes_file`. The sha256 of
    a list that changes is another one, since a model that was trained on it is.

    Raises:
        DataError: not such a list, a class that the lists do not have, or an image that is in none
            of them.
        UsageError: the lists have several labels an image, or numbers.
    """
    first = lists[0]
    if first.label_kind != SINGLE:
        raise UsageError(f"data.relabel gives an image one class, and those of {first.file} differ")
    corrections = read_list(
        file,
        classes=classes_file(first.file, classes),
        kind=SINGLE,
        known=first.class_names if first.has_named_labels else None,
    )
    if corrections.num_classes > first.num_classes:
        raise DataError(
            f"{file} has labels up to {corrections.num_classes - 1}, and {first.file}"
            f" {first.num_classes} classes"
        )
    labels = {
        os.path.abspath(corrections.image_path(row)): int(label)
        for row, label in enumerate(corrections.labels)
    }
    found: set[str] = set()
    results = tuple(_relabelled(images, labels, corrections.sha256, found) for images in lists)
    for path in labels:
        if path not in found:
            names = " nor in ".join(str(images.file) for images in lists)
            raise DataError(
                f"{file} has {path}, which is not in {names}; its paths are relative to its own"
                " folder"
            )
    return results


def _relabelled(
    images: ImageList, labels: dict[str, int], corrections_sha256: str, found: set[str]
) -> ImageList:
    """Return a list with other labels, by absolute path; add the paths that it has to `found`."""
    names = {os.path.basename(path).encode("utf-8", "surrogateescape") for path in labels}
    changed = images.labels.copy()
    for row, path in enumerate(images.raw_paths()):
        # Of millions of paths few have the name of one of these.
        if bytes(path.rpartition(b"/")[2]) in names:
            place = os.path.abspath(images.image_path(row))
            if place in labels:
                found.add(place)
                changed[row] = labels[place]
    num_relabelled = int((changed != images.labels).sum())
    if not num_relabelled:
        return images
    both = sha256(f"{images.sha256} {corrections_sha256}".encode()).hexdigest()
    return replace(
        images,
        labels=changed,
        sha256=both,
        file_sha256=images.sha256,
        num_relabelled=num_relabelled,
    )
