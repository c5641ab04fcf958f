"""ptkit split: class folders in, lists of training, validation and test images out."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands.options import Json, Out, Quiet, Seed
from ptkit.commands.output import Printer, printable, table

if TYPE_CHECKING:
    from ptkit.core.data.scanning import Scan
    from ptkit.core.data.split_files import Written
    from ptkit.core.data.splitting import Split

_MAX_ROWS = 20


def split(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with one folder of images per class, or a list.")
    ],
    ratio: Annotated[str, typer.Option(help="train:valid or train:valid:test, any positive numbers.")] = "8:1:1",
    copy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also copy the images to DIR/train/CLASS/... and list the copies."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Keep images on one side whose paths have the same match (its first group)."
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Accept classes with fewer images than parts.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace lists that no earlier split wrote.")] = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split images into training, validation and test lists, class by class; exact duplicates stay together.

    Writes train.txt, valid.txt, test.txt, classes.txt and split.json here or into --out.

    Example: ptkit split data/ --ratio 8:1:1
    """
    from ptkit.core.data.scanning import scan_class_folders, scan_list
    from ptkit.core.data.split_files import check_targets, write_split
    from ptkit.core.data.splitting import PART_NAMES, parse_ratio, split_images
    from ptkit.core.machine import without_garbage_collection

    shares, target = parse_ratio(ratio), out or Path()
    with without_garbage_collection():
        scan = scan_list(folder) if folder.is_file() else scan_class_folders(folder)
        check_targets(scan, PART_NAMES[: len(shares)], out=target, copy=copy, overwrite=overwrite)
        result = split_images(scan, shares, seed=seed, group_by=group_by, allow_missing=allow_missing)
    flags = {"--ratio": ratio, "--seed": seed, "--copy": copy, "--group-by": group_by, "--out": out}
    command = ["ptkit", "split", str(folder)]
    command += [text for flag, value in flags.items() if value is not None for text in (flag, str(value))]
    command += ["--allow-missing"] * allow_missing
    settings = {"command": shlex.join(command), "seed": seed, "ratio": ratio, "group_by": group_by}
    written = write_split(scan, result, out=target, copy=copy, settings=settings)
    printer = Printer(as_json=as_json, quiet=quiet)
    printer.say("\n".join([*_table_lines(scan, result), "", *_notes(scan, result), *_places(written)]))
    printer.result(
        {
            **dict.fromkeys(PART_NAMES, 0),
            **dict(zip(result.part_names, result.totals, strict=True)),
            "num_classes": len(scan.class_names),
            "num_duplicates": result.num_duplicates,
            "num_conflicts": len(result.conflicts),
            "num_ignored": scan.num_ignored,
            "copies": None if written.copies is None else str(written.copies),
            "files": [str(path) for path in written.files],
        }
    )


def _table_lines(scan: "Scan", result: "Split") -> list[str]:
    """Return the counts per class and part; of many classes only the first."""
    rows = [
        [_one_line(name), *counts, sum(counts)] for name, counts in zip(scan.class_names, result.counts, strict=True)
    ]
    totals = ["total", *result.totals, len(scan)]
    lines = table(["class", *result.part_names, "total"], [*rows[:_MAX_ROWS], totals]).split("\n")
    if len(rows) > _MAX_ROWS:
        lines.insert(-1, f"... {len(rows) - _MAX_ROWS:,} more classes")
    return lines


def _notes(scan: "Scan", result: "Split") -> list[str]:
    from ptkit.core.data.scanning import describe_ignored

    lines = []
    if result.num_duplicates:
        lines.append(f"Exact duplicates: {result.num_duplicates:,}; copies of one picture are on one side.")
    if result.conflicts:
        first, second = map(_one_line, result.conflicts[0])
        count = f"{len(result.conflicts):,}"
        lines.append(f"Same picture under several classes: {count}, such as {first} and {second}; check the labels.")
    if result.num_groups:
        lines.append(f"Groups kept whole: {result.num_groups:,}; images in no group: {result.num_ungrouped:,}.")
    for part, name in enumerate(result.part_names):
        without = [_one_line(scan.class_names[k]) for k, counts in enumerate(result.counts) if not counts[part]]
        if without:
            more = ", ..." if len(without) > 5 else ""
            lines.append(f"Classes without an image in {name}: {len(without):,} ({', '.join(without[:5])}{more}).")
    if scan.num_ignored:
        lines.append(f"Other files, ignored: {scan.num_ignored:,} ({_one_line(describe_ignored(scan.ignored))}).")
    return lines


def _places(written: "Written") -> list[str]:
    lines = [f"Removed {_one_line(str(path))}: an earlier split's, this one has two parts." for path in written.removed]
    if written.copies is not None:
        lines.append(f"Copied the images to {_one_line(str(written.copies))}.")
    *names, last = (path.name for path in written.files)
    where = _one_line(str(written.files[0].parent))
    return [*lines, f"Wrote {', '.join(names)} and {last} in {'this folder' if where == '.' else where}."]


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")
