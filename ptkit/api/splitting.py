"""`ptkit split` in Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.api.paths import StrPath, path_or_none

if TYPE_CHECKING:
    from ptkit.core.data.splits.jobs import Outcome


@dataclass(frozen=True)
class SplitResult:
    """Where the images of a split went.

    counts: images of each part (train, valid, test, or fold1, fold2, ...) by its name.
    files: the lists and records that were written. outcome: all that is known, image by image.
    """

    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    outcome: "Outcome"


def split(
    folder: StrPath,
    *,
    ratio: str | None = None,
    copy: StrPath | None = None,
    link: StrPath | None = None,
    kfold: int | None = None,
    extend: bool = False,
    group_by: str | None = None,
    near_duplicates: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    label_from: str | None = None,
    root: StrPath | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    out: StrPath | None = None,
) -> SplitResult:
    """Split class folders, a table or a list into training, validation and test lists, written to
    `out`.

    folder: a folder of classes, of parts or of images that a table there names; or a table (.csv,
    .tsv, .jsonl) or a list. out: a folder, the working directory by default. The rest is explained
    by `ptkit split --help`.

    >>> found = ptkit.split("data", ratio="8:1:1")
    >>> list(found.counts)
    ['train', 'valid', 'test']

    Raises:
        UsageError: settings that do not go together, or files in the way.
        DataError: images that cannot be split. StorageError: the disk refused.
    """
    from ptkit.core.data.splits.jobs import SplitJob, run_split
    from ptkit.core.data.splits.sources import Source
    from ptkit.core.data.splits.tables import Columns
    from ptkit.core.data.splits.trees import tree_of
    from ptkit.core.machine import without_garbage_collection

    columns = Columns(path_column, label_column, group_column)
    job = SplitJob(
        Source(Path(folder), columns, label_from, path_or_none(root), is_lenient=allow_missing),
        out=Path(out or ""),
        ratio=ratio,
        tree=tree_of(copy=path_or_none(copy), link=path_or_none(link)),
        kfold=kfold,
        extend=extend,
        group_by=group_by,
        near_duplicates=near_duplicates,
        allow_missing=allow_missing,
        overwrite=overwrite,
        seed=seed,
    )
    with without_garbage_collection():
        outcome = run_split(job)
    found = outcome.split
    counts = dict(zip(found.part_names, found.totals, strict=True))
    return SplitResult(counts, outcome.scan.class_names, outcome.written.files, outcome)
