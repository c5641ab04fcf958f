"""Runs that were trained on lists which a split replaces. Free of torch and numpy."""

import zipfile
from collections.abc import Collection
from pathlib import Path

from ptkit.core.data.splits.given_parts import PART_NAMES
from ptkit.core.files import sha256

# A run, and one of a series.
_DEPTHS = ("*", "*/*")


def hashes_of_lists(out: Path) -> set[str]:
    """Return the SHA-256 of the training and validation lists in a folder, and in its folds; none
    where no runs are that could have been trained on them.
    """
    if not any(place.is_dir() for place in _places(out)):
        return set()
    names = [f"{part}.txt" for part in PART_NAMES[:2]]
    files = (file for name in names for file in (out / name, *out.glob(f"fold*/{name}")))
    return {sha256(file.read_bytes()) for file in files if file.is_file()}


def runs_trained_on(hashes: Collection[str], out: Path) -> tuple[Path, ...]:
    """Return the runs in runs/, here or beside the lists, whose checkpoint has one of the hashes;
    those that cannot be read are passed over.
    """
    if not hashes:
        return ()
    sought = [text.encode() for text in hashes]
    checkpoints = dict.fromkeys(
        file
        for place in _places(out)
        for depth in _DEPTHS
        for file in place.glob(f"{depth}/ckpt.pkl")
    )
    found = {file.parent for file in checkpoints if _holds(file, sought)}
    # A series links to the checkpoint of its best run.
    found -= {run for run in found if any(other.parent == run for other in found)}
    return tuple(sorted(found, key=lambda run: (len(run.parts), len(run.name), str(run))))


def _places(out: Path) -> list[Path]:
    return list(dict.fromkeys((Path("runs"), out / "runs")))


def _holds(checkpoint: Path, sought: Collection[bytes]) -> bool:
    """Say whether one of the texts is in a checkpoint; it is searched, and nothing is unpickled."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = archive.read(record)
    except (OSError, StopIteration, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
    return any(text in content for text in sought)
