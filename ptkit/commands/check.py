"""`ptkit check`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit import api
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.progress import bar
from ptkit.core.errors import DataError
from ptkit.core.wording import counted, first_of

if TYPE_CHECKING:
    from ptkit.core.data.checking.findings import Finding
    from ptkit.looking.checking import CheckUp

# Groups of a finding that are printed, and images of a group; findings.csv has all.
MAX_GROUPS, MAX_IN_GROUP = 10, 5
HEADINGS = {
    "delete": "Delete, or take out of the lists",
    "fix": "Fix",
    "review": "Look at",
    "know": "Know",
}


@options.reads_images
def check(
    printer: Printer,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LIST_OR_DIR]...",
            help="Lists of one data set, or a folder of classes; by default the lists that are"
            " here.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit code 3 if there is a FAIL.")
    ] = False,
    workers: options.Workers = 0,
    root: options.Root = None,
    out: options.Out = None,
) -> None:
    """Check the data before training does: unreadable files, duplicates, leaks between the parts,
    labels in conflict, shortcuts, drift.

    Each image is decoded once; nothing is changed. Findings are FAIL, WARN or INFO, grouped by what
    to do; those with images are drawn as PNG, and all are in findings.csv, in ptkit-check/ or
    --out. A file .ptkit-ignore beside the lists or in the folder names what is not an issue, a line
    each: a path, or a rule and a path.

    Example: ptkit check train.txt valid.txt test.txt
    """
    from ptkit.looking.check_pictures import draw_check_up
    from ptkit.looking.pictures import picture_folder

    counting = functools.partial(bar, quiet=printer.silent)
    found = api.check(*(sources or ()), workers=workers, root=root, counting=counting)
    # Before the pictures: a disk that refuses them does not cost the findings.
    printer.say("\n".join(_lines(found)))
    with picture_folder("check", out=out) as pictures:
        draw_check_up(found, pictures)
    printer.say(f"{counted(len(pictures.files), 'file')} in {pictures.folder}")
    printer.result({**found.as_dict(), "files": list(map(str, pictures.files))})
    if strict and (count := found.count("FAIL")):
        raise DataError(f"{counted(count, 'finding')} with the verdict FAIL; they are listed above")


def _lines(found: "CheckUp") -> Iterator[str]:
    """Yield what is printed: the images, the findings by what to do, and what is no finding."""
    listing = found.evidence.listing
    parts = dict.fromkeys(listing.part_names)
    yield f"{counted(len(listing), 'image')} of {', '.join(parts)}, each decoded once"
    for action, findings in found.by_action:
        yield f"\n{HEADINGS[action]}:"
        for finding in findings:
            yield f"{finding.verdict:4}  {finding.rule.name}: {finding.found.text}"
            yield from _paths(finding, found)
    yield ""
    if found.findings.natural:
        texts = "; ".join(text for _, text in found.findings.natural)
        yield f"The nature of these data, not a finding: {texts}."
    if count := found.findings.num_used:
        yield f"Not an issue, by .ptkit-ignore: {counted(count, 'line')}."
    if unused := found.findings.unused:
        yield f"Lines of .ptkit-ignore that name no image here: {first_of(unused, 5)}."
    verdicts = [f"{found.count(verdict)} {verdict}" for verdict in ("FAIL", "WARN", "INFO")]
    yield f"Findings: {', '.join(verdicts)}."


def _paths(finding: "Finding", found: "CheckUp") -> Iterator[str]:
    """Yield the first groups of a finding, a line each."""
    names, groups = found.evidence.listing.names, finding.found.groups
    for group in groups[:MAX_GROUPS]:
        # A reason names the path.
        reason = finding.found.reasons.get(group[0])
        paths = first_of([names[row] for row in group], MAX_IN_GROUP)
        yield f"      {reason or paths}"
    if len(groups) > MAX_GROUPS:
        yield f"      ... {len(groups) - MAX_GROUPS:,} more, in findings.csv"
