"""`ptkit data`: a public data set to class folders."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.counting import Counting
from ptkit.core.data.sets.class_folders import check_free, write_parts
from ptkit.core.data.sets.contents import About
from ptkit.core.data.sets.known import KNOWN_SETS
from ptkit.core.errors import DataError, UsageError
from ptkit.core.new_folders import new_folder
from ptkit.core.wording import nearest

HUB = "hf:"


@dataclass(frozen=True)
class ExportedSet:
    """A set in class folders. parts: how many images each has; "" where it has no parts."""

    name: str
    folder: Path
    parts: dict[str, int]
    class_names: tuple[str, ...]
    about: About


def export_set(
    name: str,
    folder: Path | None = None,
    *,
    source: Path | None = None,
    label_column: str | None = None,
    counting: Counting,
) -> ExportedSet:
    """Write a data set as FOLDER/PART/CLASS/IMAGE.

    name: a row of KNOWN_SETS, or `hf:NAME` of a set of the Hugging Face Hub. folder: by default one
    with the name of the set. source: a file or folder with what would be downloaded.
    label_column: of a set of the Hub that has several.

    Raises:
        UsageError: an unknown name, or a folder that holds something.
        DataError: files that are damaged, or not those of the set. StorageError: the network or
            the disk failed.
    """
    is_of_hub = name.startswith(HUB)
    own_name = name.removeprefix(HUB).split(":")[0].rstrip("/").rpartition("/")[2]
    if is_of_hub and not own_name.strip("."):
        raise UsageError("hf: needs the name of a data set, such as hf:OWNER/NAME")
    if not is_of_hub and name not in KNOWN_SETS:
        raise UsageError(
            f"no data set is called {name}{nearest(name, KNOWN_SETS)}; see `ptkit list data`, or"
            " name one of the Hugging Face Hub, hf:NAME"
        )
    if label_column is not None and not is_of_hub:
        raise UsageError("--label-column is for the sets of the Hugging Face Hub, hf:NAME")
    if source is not None and not source.exists():
        raise DataError(f"--from {source} is neither a file nor a folder")
    folder = folder or Path(own_name)
    check_free(folder)
    # Of this set: others have files of the same names.
    kept = folder.absolute().parent / f".{folder.name}.{own_name}.downloads"
    with new_folder(folder) as (finished, scratch):
        if is_of_hub:
            from ptkit.core.data.sets.hub import read_hub

            hub_name = name.removeprefix(HUB)
            parts, about = read_hub(hub_name, scratch, source, label_column=label_column)
        else:
            from ptkit.core.data.sets.fetching import Fetch
            from ptkit.core.data.sets.torchvision_sets import read_known

            known = KNOWN_SETS[name]
            parts = read_known(known, scratch, Fetch(name, source, kept, counting))
            about = About(known.source, known.licence, known.citation)
        counts, class_names = write_parts(parts, finished, counting)
    # No longer needed once the set is there.
    shutil.rmtree(kept, ignore_errors=True)
    return ExportedSet(name, folder, counts, class_names, about)
