"""`ptkit data` in Python."""

import os
from typing import TYPE_CHECKING

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.counting import Counting, uncounted

if TYPE_CHECKING:
    from ptkit.core.data.sets.exporting import ExportedSet


def data(
    name: StrPath,
    out: StrPath | None = None,
    *,
    source: StrPath | None = None,
    label_column: str | None = None,
    counting: Counting = uncounted,
) -> "ExportedSet":
    """Write a public data set as class folders, OUT/PART/CLASS/IMAGE.

    name: such as `cifar10` (`ptkit list data` prints all), or `hf:NAME` of the Hugging Face Hub.
    out: a new or empty folder, by default one with the name of the set. source: a file or folder
    with what would be downloaded. label_column: of a set of the Hub with several. counting: for a
    progress bar.

    Raises:
        UsageError: an unknown name, or a folder that holds something.
        DataError: files that are damaged, or not those of the set. StorageError: the network or
            the disk failed.
    """
    from ptkit.core.data.sets.exporting import export_set

    return export_set(
        os.fspath(name),
        path_or_none(out),
        source=path_or_none(source),
        label_column=label_column,
        counting=counting,
    )
