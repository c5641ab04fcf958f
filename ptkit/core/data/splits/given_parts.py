"""Parts that the source gives: they are kept, and only those that are missing are made."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ptkit.core.data.splits.grouping import Grouping
from ptkit.core.data.splits.scanning import LayoutError, Scan, contents_of, images_below
from ptkit.core.errors import DataError, UsageError
from ptkit.core.wording import first_of

# The names that people give them, in lower case.
_PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
PART_NAMES: tuple[str, ...] = ("train", "valid", "test")

# Where a part is, and its classes.
_Classes = tuple[str | Path, Sequence[str]]


def find_part_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the parts by part, in order; none where the folders are classes.

    They are parts if all that hold images have the name of one.

    Raises:
        DataError: two names for one part, no training part, or images outside the parts.
    """
    below, loose = contents_of(str(folder), "", Counter())
    names = [name.rstrip("/") for name in sorted(below)]
    known = [name for name in names if part_of(name)]
    found = {part_of(name): folder / name for name in reversed(known)}
    # A class may have such a name, but hardly two of them.
    is_split = len(known) > 1
    if not is_split and (loose or "train" not in found):
        return {}
    # Looked through only where there are parts: these folders may hold all the images.
    other = next((name for name in names if name not in known and _has_images(folder / name)), "")
    if other and not is_split:
        return {}
    parts = f"{folder} has the parts {_listed(known)}"
    if twice := [name for name in known if found[part_of(name)].name != name]:
        raise DataError(f"{parts}: {twice[0]} and {found[part_of(twice[0])].name} mean the same")
    if "train" not in found:
        raise DataError(f"{parts} but no train; expected {folder}/train/<class>/<image>.png")
    if other or loose:
        extra = other or min(loose)[0]
        raise DataError(
            f"{parts} and other images, such as {extra}; move them away, or split one part:"
            f" `ptkit split {found['train']}`"
        )
    return {name: found[name] for name in PART_NAMES if name in found}


def _has_images(folder: Path) -> bool:
    return bool(images_below(folder, seen=set(), ignored=Counter()))


def part_of(name: str) -> str:
    """Return train, valid or test for the name of a part as people write it, else nothing."""
    return _PART_OF.get(name.lower(), "")


def join_parts(
    folder: Path,
    parts: Mapping[str, Path],
    scan_one: Callable[..., Scan],
    *,
    is_lenient: bool,
) -> Scan:
    """Scan each part, and return all of them as one scan.

    scan_one: takes a folder, and as `known` the classes of which it may have a single one.
    is_lenient: the other parts may lack classes of train.

    Raises:
        DataError: classes that differ, or what `scan_one` raises.
    """
    scans = {"train": scan_one(parts["train"], known=())}
    classes = scans["train"].class_names
    try:
        scans |= {
            part: scan_one(place, known=classes) for part, place in parts.items() if part != "train"
        }
    except LayoutError as error:
        # The test images of a competition have no classes.
        advice = f"to split the training images alone: `ptkit split {parts['train']}`"
        raise LayoutError(f"{error}; {advice}") from None
    for part, scan in scans.items():
        found = (parts["train"], classes), (parts[part], scan.class_names)
        _check_classes(*found, is_lenient=is_lenient)
    label_of = {name: label for label, name in enumerate(classes)}
    # By class, then by part: labels ascend, and every part keeps its order.
    rows = sorted(
        (label_of[scan.class_names[label]], place, row, part)
        for place, (part, scan) in enumerate(scans.items())
        for row, label in enumerate(scan.labels)
    )
    ignored: Counter[str] = Counter()
    for scan in scans.values():
        ignored.update(scan.ignored)
    return Scan(
        folder,
        classes,
        names=[scans[part].names[row] for _, _, row, part in rows],
        paths=[scans[part].paths[row] for _, _, row, part in rows],
        labels=[label for label, *_ in rows],
        sizes=[scans[part].sizes[row] for _, _, row, part in rows],
        ignored=dict(ignored),
        has_class_folders=all(scan.has_class_folders for scan in scans.values()),
        parts=[part for *_, part in rows],
        groups=[scans[part].groups[row] for _, _, row, part in rows if scans[part].groups],
        notes=tuple(note for scan in scans.values() for note in scan.notes),
    )


def _check_classes(train: _Classes, other: _Classes, *, is_lenient: bool, where: str = "") -> None:
    sides = [(train, other), (other, train)]
    lacking = [[name for name in one[1] if name not in two[1]] for one, two in sides]
    if not lacking[1] and (is_lenient or not lacking[0]):
        return
    places = (train[0], other[0])
    only = [f"only in {p}: {first_of(n, 5)}" for p, n in zip(places, lacking, strict=True) if n]
    advice = "" if lacking[1] else "; --allow-missing accepts that"
    raise DataError(
        f"{where}{train[0]} and {other[0]} differ in classes, {'; '.join(only)}{advice}"
    )


def with_parts_of_names(scan: Scan, *, is_lenient: bool) -> Scan:
    """Return the scan with the parts that the first folders of all its names say, if they do.

    One part only is all that there is, whatever its name.

    Raises:
        DataError: see `with_parts`.
    """
    parts = _parts_of_names(scan)
    if not all(parts) or len(set(parts)) == 1:
        return scan
    return with_parts(scan, parts, is_lenient=is_lenient)


def is_only_held_out(scan: Scan) -> bool:
    """Say whether all names begin with the folder of one part, and that is not train."""
    parts = set(_parts_of_names(scan))
    return len(parts) == 1 and parts <= {"valid", "test"}


def _parts_of_names(scan: Scan) -> list[str]:
    return [part_of(name.partition("/")[0]) if "/" in name else "" for name in scan.names]


def with_parts(scan: Scan, parts: Sequence[str], *, is_lenient: bool) -> Scan:
    """Return the scan with these parts of its images.

    Raises:
        DataError: no training part, or classes that differ.
    """
    if "train" not in parts:
        raise DataError(f"{scan.source} has the part {_listed(sorted(set(parts)))} but no train")
    present = set(zip(parts, scan.labels, strict=True))
    found = {
        part: [name for label, name in enumerate(scan.class_names) if (part, label) in present]
        for part in dict.fromkeys(parts)
    }
    for part, names in found.items():
        both = ("train", found["train"]), (part, names)
        _check_classes(*both, is_lenient=is_lenient, where=f"{scan.source}: ")
    return replace(scan, parts=parts)


def given_in(scan: Scan) -> list[str]:
    """Return the parts that a source gives, in their order."""
    return [name for name in PART_NAMES if name in scan.parts]


def parts_to_make(
    scan: Scan, names: Sequence[str], shares: Sequence[int], *, is_ratio_given: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and shares of the parts that the images of train are divided into.

    names, shares: those of a source without parts.

    Raises:
        UsageError: folds of a source that gives the validation part, or a ratio without an effect.
    """
    given = given_in(scan)
    if not given:
        return tuple(names), tuple(shares)
    if "valid" in given and "train" not in names:
        raise UsageError(
            f"--kfold makes the validation parts, and {scan.source} has one; name the folder or"
            " table of the training images alone"
        )
    made = {
        name: share
        for name, share in zip(names, shares, strict=True)
        if name == "train" or name not in given
    }
    if is_ratio_given and (len(given) == 3 or ("test" in given and "train" not in made)):
        raise UsageError(f"--ratio has no effect: {scan.source} has {_listed(given)}; leave it out")
    return tuple(made), tuple(made.values())


def check_apart(scan: Scan, grouping: Grouping) -> None:
    """Refuse given parts that share images, by content, or groups.

    Raises:
        DataError: they do; the message has their number and the first pair.
    """
    straddling = [
        unit for unit in grouping.certain if scan.parts and len({scan.parts[k] for k in unit}) > 1
    ]
    if not straddling:
        return
    first, *rest = sorted(straddling[0], key=lambda row: PART_NAMES.index(scan.parts[row]))
    other = next(row for row in rest if scan.parts[row] != scan.parts[first])
    what = "images or groups" if grouping.num_groups else "images"
    raise DataError(
        f"{scan.parts[first]} and {scan.parts[other]} share {what}, {len(straddling):,} in all: the"
        f" first are {scan.paths[first]} and {scan.paths[other]}; accuracy would be inflated;"
        " remove them from one of the parts"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
