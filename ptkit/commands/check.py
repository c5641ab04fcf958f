"""`ptkit check`."""

import functools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.api import checking
from ptkit.commands import options
from ptkit.commands.output import Printer, complain
from ptkit.commands.progress import bar
from ptkit.core.errors import DataError, UsageError
from ptkit.core.wording import counted, first_of, table

if TYPE_CHECKING:
    from ptkit.core.data.checking.cropping import CropLoss
    from ptkit.core.data.checking.findings import Finding
    from ptkit.looking.checking import CheckUp

# Groups of a finding that are printed, and images of a group; findings.csv has all.
MAX_GROUPS, MAX_IN_GROUP = 10, 5


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
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="A run: rank its training images by how suspect they are."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit code 3 if there is a FAIL.")
    ] = False,
    workers: options.Workers = 0,
    root: options.Root = None,
    alpha: options.AlphaOrAuto = "auto",
    out: options.Out = None,
) -> None:
    """Check the data before training does: unreadable files, duplicates, leaks between the parts,
    labels in conflict, shortcuts, drift.

    Each image is decoded once; nothing is changed. Findings are FAIL, WARN or INFO, grouped by what
    to do; those with images are drawn as PNG, and all are in findings.csv, in ptkit-check/ or
    --out. A file .ptkit-ignore beside the lists or in the folder names what is not an issue, a line
    each: a path, or a rule and a path.

    With --run, the training images of a run whose class lost to another one on average over the
    epochs, the worst first, and relabel.txt with the class that is suggested for each: delete the
    lines that you do not agree with, and pass it to `ptkit train --relabel`.

    Example: ptkit check train.txt valid.txt test.txt
    """
    if run is not None:
        from ptkit.core.run_folders import run_of

        _refuse_beside_run(sources, strict=strict, alpha=alpha)
        _review(printer, run_of(run), root=root, out=out, workers=workers)
        return
    from ptkit.looking.check_pictures import draw_check_up
    from ptkit.looking.pictures import picture_folder

    counting = functools.partial(bar, quiet=printer.silent)
    found = checking.check(
        *(sources or ()), workers=workers, root=root, alpha=alpha, counting=counting
    )
    # Before the pictures: a disk that refuses them does not cost the findings.
    printer.say("\n".join(_lines(found)))
    with picture_folder("check", out=out) as pictures:
        draw_check_up(found, pictures)
    printer.say(f"{counted(len(pictures.files), 'file')} in {pictures.folder}")
    printer.result({**found.as_dict(), "files": list(map(str, pictures.files))})
    if strict and (count := found.count("FAIL")):
        raise DataError(f"{counted(count, 'finding')} with the verdict FAIL; they are listed above")


def _refuse_beside_run(sources: list[Path] | None, *, strict: bool, alpha: str) -> None:
    if sources:
        raise UsageError("--run checks the training list of the run: leave the others out")
    if strict:
        raise UsageError("--strict is for findings, and --run ranks labels: leave it out")
    if alpha != "auto":
        raise UsageError("--run sees images as the run did: leave --alpha out")


def _review(
    printer: Printer, run: Path, *, root: Path | None, out: Path | None, workers: int
) -> None:
    """Print and write the suspect labels of a run."""
    from ptkit.looking.label_review import draw_review, review_labels, write_relabelling
    from ptkit.looking.pictures import picture_folder

    review = review_labels(run, root=root, workers=workers)
    rows = review.as_rows()
    count = counted(review.num_negative, "training image")
    printer.say(f"{count} of {len(review.images):,} lost their class to another one on average")
    lines = [(path, given, other, f"{margin:.2f}") for path, given, other, margin in rows]
    if lines:
        printer.say(table(["image", "given", "suggested", "margin"], lines[:MAX_GROUPS]))
    if len(lines) > MAX_GROUPS:
        printer.say(f"... {len(lines) - MAX_GROUPS:,} more in suspects.csv and relabel.txt")
    for doubt in review.doubts:
        complain(f"note: {doubt}")
    with picture_folder("check", run=run, out=out) as pictures:
        draw_review(review, pictures)
    file = pictures.folder / "relabel.txt"
    if not lines:
        printer.result({"suspects": [], "files": list(map(str, pictures.files))})
        return
    is_new = write_relabelling(review, file)
    printer.say(
        f"{file}: delete the lines that are wrong, then ptkit train --config"
        f" {shlex.quote(str(run / 'config.toml'))} --relabel {shlex.quote(str(file))}"
        if is_new
        else f"{file} is there already and stays as it is"
    )
    names = ("path", "given", "suggested", "margin")
    suspects = [dict(zip(names, row, strict=True)) for row in rows]
    printer.result({"suspects": suspects, "files": [*map(str, pictures.files), str(file)]})


def _lines(found: "CheckUp") -> Iterator[str]:
    """Yield what is printed: the images, the findings by what to do, and what is no finding."""
    from ptkit.looking.checking import HEADINGS

    listing = found.evidence.listing
    parts = dict.fromkeys(listing.part_names)
    on_white = ", transparent ones on white" if found.alpha == "white" else ""
    yield f"{counted(len(listing), 'image')} of {', '.join(parts)}, each decoded once{on_white}"
    for action, findings in found.by_action:
        yield f"\n{HEADINGS[action]}:"
        for finding in findings:
            yield f"{finding.verdict:4}  {finding.rule.name}: {finding.found.text}"
            yield from _paths(finding, found)
    yield ""
    if losses := found.crop_losses:
        yield _crop_line(losses)
    if found.findings.natural:
        texts = "; ".join(text for _, text in found.findings.natural)
        yield f"The nature of these data, not a finding: {texts}."
    if count := found.findings.num_used:
        yield f"Not an issue, by .ptkit-ignore: {counted(count, 'line')}."
    if unused := found.findings.unused:
        yield f"Lines of .ptkit-ignore that name no image here: {first_of(unused, 5)}."
    verdicts = [f"{found.count(verdict)} {verdict}" for verdict in ("FAIL", "WARN", "INFO")]
    yield f"Findings: {', '.join(verdicts)}."


def _crop_line(losses: "list[CropLoss]") -> str:
    """Say what the usual centre crop leaves out, of which class most."""
    most, least = losses[0], losses[-1]
    text = f"A centre crop, the usual fit above 64 pixels, leaves out {most.median:.0%}"
    if most is least:
        return f"{text} of the median image, {most.worst:.0%} of the worst."
    return (
        f"{text} of the median image of {most.class_name} (worst {most.worst:.0%}),"
        f" {least.median:.0%} of {least.class_name} (worst {least.worst:.0%})."
    )


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
