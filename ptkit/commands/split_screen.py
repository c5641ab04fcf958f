"""What `ptkit split` prints: a table of counts, a line for each note, and what was written."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.core.wording import first_of, one_line, table

if TYPE_CHECKING:
    from ptkit.core.data.splits.extending import Extension
    from ptkit.core.data.splits.jobs import Outcome
    from ptkit.core.data.splits.splitting import Split

_MAX_ROWS = 20
_MAX_FOLD_COLUMNS = 10


def split_lines(outcome: "Outcome") -> list[str]:
    """Return the lines to print."""
    extension = outcome.extension
    added = [] if extension is None else _extension_notes(outcome, extension)
    notes = *map(one_line, outcome.scan.notes), *added, *_notes(outcome)
    return [*_table_lines(outcome), "", *notes, *_places(outcome)]


def split_result(outcome: "Outcome") -> dict[str, Any]:
    """Return the object of --json."""
    split, tree, extension = outcome.split, outcome.written.tree, outcome.extension
    totals = dict(zip(split.part_names, split.totals, strict=True))
    folds = _folds(split)
    num_folded = sum(totals[name] for name in folds)
    in_folds = [
        {"folder": name, "train": num_folded - totals[name], "valid": totals[name]}
        for name in folds
    ]
    return {
        "train": None if folds else totals["train"],
        "valid": None if folds else totals["valid"],
        "test": totals.get("test", 0),
        "folds": in_folds or None,
        "notes": list(outcome.scan.notes),
        "given": outcome.given,
        "num_new": len(outcome.scan),
        "num_kept": extension.num_kept if extension else 0,
        "num_missing": extension.num_missing if extension else 0,
        "num_classes": len(outcome.scan.class_names),
        "num_duplicates": split.grouping.num_duplicates,
        "num_conflicts": len(split.grouping.conflicts),
        "num_not_images": len(split.grouping.not_images),
        "num_near_duplicates": split.grouping.num_near,
        "num_ignored": outcome.scan.num_ignored,
        "copies": str(tree.folder) if tree and tree.kind == "copy" else None,
        "links": str(tree.folder) if tree and tree.kind == "link" else None,
        "stale_runs": [str(run) for run in outcome.stale_runs],
        "files": [str(path) for path in outcome.written.files],
    }


def _folds(split: "Split") -> list[str]:
    return [name for name in split.part_names if name.startswith("fold")]


def _table_lines(outcome: "Outcome") -> list[str]:
    """Return counts per class and part: of many classes the first, of many folds the range."""
    split = outcome.split
    folds = _folds(split)
    header = ["class", *split.part_names, "total"]
    names = [*map(one_line, outcome.scan.class_names), "total"]
    named = zip(names, [*split.counts, split.totals], strict=True)
    rows: list[list[Any]] = [[name, *counts, sum(counts)] for name, counts in named]
    in_folds = slice(1, 1 + len(folds))
    if len(folds) > _MAX_FOLD_COLUMNS:
        header[in_folds] = [f"fold1-{len(folds)}"]
        for row in rows:
            least, most = min(row[in_folds]), max(row[in_folds])
            row[in_folds] = [f"{least:,}" if least == most else f"{least:,}-{most:,}"]
    num_more = len(rows) - 1 - _MAX_ROWS
    lines = table(header, [*rows[:-1][:_MAX_ROWS], rows[-1]]).split("\n")
    if num_more > 0:
        lines.insert(-1, f"... {num_more:,} more classes")
    return lines


def _extension_notes(outcome: "Outcome", extension: "Extension") -> Iterator[str]:
    parts = list(outcome.split.part_of)
    counts = {name: parts.count(part) for part, name in enumerate(outcome.split.part_names)}
    added = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    placed = f" ({added})" if added else ""
    yield f"New images: {len(extension.scan):,}{placed}; kept: {extension.num_kept:,}."
    if added:
        group_by = "" if outcome.group_by is None else f", groups by {one_line(outcome.group_by)}"
        yield f"Ratio {outcome.ratio} of old and new images together{group_by}."
    if extension.new_classes:
        first = len(extension.scan.class_names) - len(extension.new_classes)
        names = [f"{one_line(name)} ({first + k})" for k, name in enumerate(extension.new_classes)]
        yield f"New classes, with their indices: {first_of(names, 5)}."
    if extension.num_missing:
        count = f"{extension.num_missing:,}"
        yield f"Listed images that are no longer there: {count}; their lines are kept."
    if extension.num_elsewhere:
        source, count = one_line(str(extension.scan.source)), f"{extension.num_elsewhere:,}"
        yield f"Listed images that are not from {source}: {count}; their lines are kept."
    if extension.edited:
        yield f"Not as a split wrote it: {', '.join(extension.edited)}; every line of it is kept."
    if extension.straddling:
        name, where = extension.straddling[0]
        yield (
            f"Images, duplicates or groups already in several parts: {len(extension.straddling):,},"
            f" such as that of {one_line(name)} in {' and '.join(where)}; new members go to the"
            " first of these."
        )


def _notes(outcome: "Outcome") -> Iterator[str]:
    from ptkit.core.data.splits.scanning import describe_ignored

    scan, split = outcome.scan, outcome.split
    grouping = split.grouping
    if outcome.given:
        made = [name for name in split.part_names if name not in outcome.given]
        rest = f"; made out of train: {', '.join(made)}" if made else ""
        yield f"Given parts, kept: {', '.join(outcome.given)}{rest}."
    if grouping.num_duplicates:
        count = f"{grouping.num_duplicates:,}"
        yield f"Exact duplicates: {count}; copies of one picture are in one part."
    if grouping.num_near:
        count = f"{grouping.num_near:,}"
        but = ", but for given parts: `ptkit check` lists them" if outcome.given else ""
        yield f"Images with a near-duplicate: {count}; those that look alike are in one part{but}."
    if grouping.conflicts:
        first, second = map(one_line, grouping.conflicts[0])
        count = f"{len(grouping.conflicts):,}"
        yield (
            f"Same picture under several classes: {count}, such as {first} and {second}; check the"
            " labels."
        )
    if not_images := grouping.not_images:
        some = first_of(list(map(one_line, not_images)), 3)
        yield (
            f"Files that are no images, listed all the same: {len(not_images):,} ({some}); `ptkit"
            " check` says why, and finds others."
        )
    if grouping.num_groups:
        count, others = f"{grouping.num_groups:,}", f"{grouping.num_ungrouped:,}"
        yield f"Groups kept whole: {count}; images in no group: {others}."
    for part, name in enumerate(split.part_names):
        named = list(zip(scan.class_names, split.counts, strict=True))
        if without := [one_line(label) for label, counts in named if not counts[part]]:
            some = first_of(without, 5)
            yield f"Classes without an image in {name}: {len(without):,} ({some})."
        single = [one_line(label) for label, counts in named if counts[part] == 1]
        if single and (name == "valid" or name in _folds(split)):
            yield (
                f"Classes with one image in {name}: {len(single):,} ({first_of(single, 5)}); their"
                " recall there is 0 or 100 %."
            )
    if scan.num_ignored:
        kinds = one_line(describe_ignored(scan.ignored))
        yield f"Other files, ignored: {scan.num_ignored:,} ({kinds})."


def _places(outcome: "Outcome") -> Iterator[str]:
    written = outcome.written
    if written.removed:
        removed = first_of([one_line(str(path)) for path in written.removed], 5)
        yield f"Removed {removed}, written by an earlier split and not by this one."
    if runs := outcome.stale_runs:
        names = first_of([one_line(str(run)) for run in runs], 5)
        yield (
            f"Trained on the lists that are replaced: {names}; the new ones may validate on images"
            " that these were trained on."
        )
    if not written.files:
        yield "Nothing to write."
        return
    if written.tree is not None:
        done = {"copy": "Copied", "link": "Linked"}[written.tree.kind]
        yield f"{done} the images to {one_line(str(written.tree.folder))}."
    folds = _folds(outcome.split)
    if not folds:
        yield _place(written.files)
        return
    in_folds = [path for path in written.files if path.parent.name in folds]
    each = _enumerated([path.name for path in in_folds[:4]])
    all_folds = f"{folds[0]} {'and' if len(folds) == 2 else 'to'} {folds[-1]}"
    yield f"Wrote {all_folds} in {_where(in_folds[0].parent.parent)}, each with {each}."
    if rest := written.files[len(in_folds) :]:
        yield _place(rest)


def _place(files: "tuple[Path, ...]") -> str:
    return f"Wrote {_enumerated([path.name for path in files])} in {_where(files[0].parent)}."


def _where(folder: Path) -> str:
    return "this folder" if folder == Path() else one_line(str(folder))


def _enumerated(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
