"""The three ways to split, end to end: into lists, into folds, and into existing lists."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.data.splits.given_parts import PART_NAMES, given_in, parts_to_make
from ptkit.core.data.splits.list_files import (
    Written,
    check_extension,
    check_targets,
    write_extension,
    write_folds,
    write_split,
)
from ptkit.core.data.splits.records import CLASSES
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.sources import Source, scan_source
from ptkit.core.data.splits.splitting import (
    Split,
    all_part_names,
    fold_parts,
    parse_ratio,
    split_images,
)
from ptkit.core.data.splits.stale_runs import hashes_of_lists, runs_trained_on
from ptkit.core.data.splits.trees import Tree
from ptkit.core.errors import UsageError
from ptkit.core.file_sets import alone_in

if TYPE_CHECKING:
    from ptkit.core.data.splits.extending import Extension

DEFAULT_RATIO = "8:1:1"


@dataclass(frozen=True)
class SplitJob:
    """What is to be split, and how.

    ratio: None is 8:1:1; for folds no test part; for existing lists, the ratio that they have.
    tree: copies or links to make. kfold: number of folds. The rest: see `split_images`.
    """

    source: Source
    out: Path = Path()
    ratio: str | None = None
    tree: Tree | None = None
    kfold: int | None = None
    extend: bool = False
    group_by: str | None = None
    near_duplicates: bool = False
    allow_missing: bool = False
    overwrite: bool = False
    seed: int = 0

    @property
    def command(self) -> str:
        """The command line that repeats the split, for its record."""
        is_plain = not self.extend and self.kfold is None
        values = {
            "--ratio": self.ratio or (DEFAULT_RATIO if is_plain else None),
            "--seed": self.seed,
            **({f"--{self.tree.kind}": self.tree.folder} if self.tree else {}),
            "--kfold": self.kfold,
            "--group-by": self.group_by,
            **self.source.columns.given(),
            "--label-from": self.source.label_from,
            "--root": self.source.root,
            "--out": None if self.out == Path() else self.out,
        }
        switches = {
            "--extend": self.extend,
            "--near-duplicates": self.near_duplicates,
            "--allow-missing": self.allow_missing,
        }
        words = ["ptkit", "split", str(self.source.place)]
        words += [text for k, v in values.items() if v is not None for text in (k, str(v))]
        return shlex.join([*words, *(flag for flag, is_on in switches.items() if is_on)])


@dataclass(frozen=True)
class Outcome:
    """What was found, how it was divided, and what was written.

    scan: all images or, where lists were extended, the new ones. ratio, group_by: those used; no
    ratio where all parts were given. stale_runs: those that were trained on lists which are
    replaced.
    """

    scan: Scan
    split: Split
    written: Written
    ratio: str | None
    group_by: str | None
    extension: "Extension | None" = None
    stale_runs: tuple[Path, ...] = ()

    @property
    def given(self) -> list[str]:
        """The parts that the source gives."""
        return given_in(self.scan)


def run_split(job: SplitJob) -> Outcome:
    """Split as the job says, and write the lists.

    Raises:
        UsageError: settings that cannot be combined, or files in the way.
        DataError: images that cannot be split. StorageError: the disk refused.
    """
    if job.extend and job.kfold is not None:
        raise UsageError(
            "--extend and --kfold cannot be combined: folds change together; run --kfold anew"
        )
    if job.extend and job.overwrite:
        raise UsageError(
            "--extend keeps every line of the lists, so that --overwrite has nothing to replace"
        )
    if job.kfold is not None and job.tree is not None:
        raise UsageError(
            f"--kfold and --{job.tree.kind} cannot be combined: every image is in the training part"
            " of all folds but one; the lists name the images where they are"
        )
    if job.group_by is not None and job.source.columns.group is not None:
        raise UsageError("--group-by and --group-column cannot be combined: leave one of them out")
    # From before the old lists are read until the new ones are there.
    with alone_in(job.out):
        if job.extend:
            return _extend(job)
        before = hashes_of_lists(job.out)
        outcome = _split(job)
        gone = before - hashes_of_lists(job.out)
        return replace(outcome, stale_runs=runs_trained_on(gone, job.out))


def _split(job: SplitJob) -> Outcome:
    """Split into lists or into folds."""
    if job.kfold is not None:
        ratio = job.ratio
        names, shares = fold_parts(job.kfold, None if ratio is None else parse_ratio(ratio))
    else:
        ratio = job.ratio or DEFAULT_RATIO
        shares = parse_ratio(ratio)
        names = PART_NAMES[: len(shares)]
    scan = scan_source(job.source)
    names, shares = parts_to_make(scan, names, shares, is_ratio_given=job.ratio is not None)
    all_names = all_part_names(names, scan.parts)
    check_targets(scan, all_names, out=job.out, tree=job.tree, overwrite=job.overwrite)
    split = split_images(
        scan,
        shares,
        part_names=names,
        seed=job.seed,
        group_by=job.group_by,
        near_duplicates=job.near_duplicates,
        allow_missing=job.allow_missing,
    )
    ratio = ratio if len(names) > 1 else None
    settings = _settings(job, ratio, job.group_by)
    if scan.parts:
        settings["given"] = given_in(scan)
    if job.kfold is None:
        written = write_split(scan, split, out=job.out, tree=job.tree, settings=settings)
    else:
        written = write_folds(scan, split, out=job.out, settings=settings)
    return Outcome(scan, split, written, ratio, job.group_by)


def _extend(job: SplitJob) -> Outcome:
    from ptkit.core.data.splits.existing_lists import read_existing
    from ptkit.core.data.splits.extending import extend_split

    # A wrong flag is reported before lists of millions are read.
    if job.ratio is not None:
        parse_ratio(job.ratio)
    existing = read_existing(job.out)
    ratio = job.ratio or existing.ratio
    group_by, column = job.group_by, existing.record.get("group_column")
    if group_by is None and job.source.columns.group is None:
        group_by = existing.record.get("group_by")
        if column is not None and group_by is None:
            raise UsageError(
                f"the lists in {job.out} were split by --group-column {column}; pass that too, or"
                " --group-by"
            )
    scan = scan_source(job.source, existing.class_names, classes_file=job.out / CLASSES)
    if scan.parts:
        raise UsageError(
            f"--extend places new images by itself, and {job.source.place} gives their parts: split"
            " it without --extend, or extend from one of its parts"
        )
    check_extension(scan, existing, tree=job.tree)
    shares = parse_ratio(ratio)
    near = job.near_duplicates or existing.record.get("near_duplicates", False)
    extension = extend_split(
        scan,
        existing,
        shares,
        seed=job.seed,
        group_by=group_by,
        near_duplicates=near,
        allow_missing=job.allow_missing,
    )
    settings = _settings(replace(job, near_duplicates=near), ratio, group_by)
    written = write_extension(extension, existing, tree=job.tree, settings=settings)
    return Outcome(extension.scan, extension.split, written, ratio, group_by, extension)


def _settings(job: SplitJob, ratio: str | None, group_by: str | None) -> dict[str, Any]:
    found = {"command": job.command, "seed": job.seed, "ratio": ratio, "group_by": group_by}
    if job.near_duplicates:
        found["near_duplicates"] = True
    column = job.source.columns.group
    return found if column is None else {**found, "group_column": column}
