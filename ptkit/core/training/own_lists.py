"""The lists of a run that splits images itself: they lie in its folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ptkit.core.data.splits.jobs import Outcome, SplitJob, run_split
from ptkit.core.data.splits.sources import Source
from ptkit.core.errors import DataError
from ptkit.core.machine import without_garbage_collection
from ptkit.core.training.run_place import Place
from ptkit.core.wording import counted


@contextmanager
def own_lists(source: Source, place: Place, *, seed: int) -> Iterator[tuple[Place, list[str]]]:
    """Make the folder of a run and split images into it; yield its place, and what was done, a line
    each.

    If the run cannot begin, which is before it has settings there, the folder goes again.

    Raises:
        DataError: images that cannot be split, or no validation images.
        UsageError: the folder exists already, or the name is a path.
        StorageError: the disk refused.
    """
    place.check()
    is_first = not place.parent.exists()
    claimed = place.claimed()
    folder = claimed.folder()
    try:
        with without_garbage_collection():
            outcome = _split(SplitJob(source, out=folder, seed=seed))
        if not (folder / "valid.txt").exists():
            raise DataError(
                f"{source.place} gives no validation images, by which the best epoch is chosen; add"
                " images, or a folder val/"
            )
        yield claimed, [*outcome.scan.notes, _counts(outcome)]
    except BaseException:
        # series.json: of several runs, which have folders of their own in it.
        if not any((folder / name).exists() for name in ("config.toml", "series.json")):
            for file in folder.iterdir():
                file.unlink()
            with suppress(OSError):
                folder.rmdir()
                if is_first:
                    place.parent.rmdir()
        raise


def _split(job: SplitJob) -> Outcome:
    try:
        return run_split(job)
    except DataError as error:
        if "--allow-missing" not in str(error):
            raise
        # What only `ptkit split` has.
        how = f"with `ptkit split {job.source.place}`, then train without naming the folder"
        raise DataError(f"{error} ({how})") from None


def _counts(outcome: Outcome) -> str:
    names = {"train": "training", "valid": "validation", "test": "test"}
    parts = zip(outcome.split.part_names, outcome.split.totals, strict=True)
    shown = ", ".join(f"{count:,} {names[part]}" for part, count in parts)
    classes = counted(len(outcome.scan.class_names), "class", "classes")
    return f"split: {shown} images of {classes}; the lists are in the run folder"
