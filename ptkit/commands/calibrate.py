"""`ptkit calibrate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptkit.api import calibrating
from ptkit.commands import options
from ptkit.commands.output import Printer, end_without, naming_on_bad
from ptkit.commands.pictures import report_pictures, say_missing_font
from ptkit.core.errors import UsageError
from ptkit.core.wording import counted, first_of

if TYPE_CHECKING:
    from ptkit.api.calibrating import CalibrateResult
    from ptkit.core.calibration.thresholds import Threshold
    from ptkit.looking.calibrating import Calibration

# Of so many classes all are named, of more only those that do not reach the precision.
_MAX_CLASSES = 20

_List = Annotated[
    Path | None,
    typer.Argument(metavar="LIST", help="Labelled images that the model was not trained on."),
]
_Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="temperature|thresholds|unknown",
        help="Fit only this part; without it all. May be repeated.",
    ),
]

_Known = Annotated[
    float | None,
    typer.Option(help="Share of the list's images that must not be taken for strangers. [0.95]"),
]


@options.reads_images
@options.writes_names
@naming_on_bad()
def calibrate(
    printer: Printer,
    ckpt: options.OwnCheckpoint,
    list_file: _List = None,
    only: _Only = None,
    target_precision: Annotated[
        float | None,
        typer.Option(help="Share of the answers that should be right, of each class. [0.95]"),
    ] = None,
    known: _Known = None,
    train: Annotated[
        Path | None,
        typer.Option(help="List that the model was trained with; by default that of its run."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Undo it: give the checkpoint's answers back.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    on_bad: options.OnBad = "stop",
    root: options.Root = None,
    out: options.Out = None,
) -> None:
    """Make probabilities honest, and let a model say unknown.

    Three things are fitted to a list and saved in the checkpoint: a temperature, which makes
    probabilities as high as answers are right; for each class the probability from which on it is
    answered with --target-precision; and a limit for how unlike the training images an image may
    be. `ptkit predict` then answers "unknown" where one of them says so.

    Example: ptkit calibrate ckpt.pkl valid.txt --target-precision 0.98
    """
    if remove:
        given = {
            "LIST": list_file, "--only": only, "--target-precision": target_precision,
            "--known": known, "--train": train, "--root": root, "--out": out,
            "--seed": seed or None, "--device": None if device == "auto" else device,
            "--workers": workers or None, "--on-bad": None if on_bad == "stop" else on_bad,
        }  # fmt: skip
        _remove(printer, ckpt, given)
        return
    if list_file is None:
        raise UsageError("name a list of images to calibrate with, such as valid.txt, or --remove")
    result = calibrating.calibrate(
        ckpt,
        list_file,
        only=only or None,
        target_precision=target_precision,
        known=known,
        train=train,
        seed=seed,
        device=device,
        workers=workers,
        on_bad=on_bad,
        root=root,
    )
    printer.say("\n".join(_lines(result)))
    _draw(printer, result, out)
    end_without(result.found.skipped)


def _remove(printer: Printer, ckpt: Path, given: Mapping[str, Any]) -> None:
    """Undo a calibration. given: what is for making one."""
    if needless := [name for name, value in given.items() if value not in (None, [])]:
        raise UsageError(f"--remove only undoes a calibration: leave out {needless[0]}")
    file = calibrating.uncalibrate(ckpt)
    printer.say(f"{file} answers again as before it was calibrated")
    printer.result({"checkpoint": str(file), "removed": True})


def _draw(printer: Printer, result: "CalibrateResult", out: Path | None) -> None:
    from ptkit.looking.calibration_pictures import as_dict, draw_calibration
    from ptkit.looking.pictures import picture_folder

    with picture_folder("calibrate", run=result.run, out=out) as pictures:
        draw_calibration(result.found, pictures, source=result.source)
    say_missing_font(printer, result.found.images.class_names)
    kept = None if result.kept is None else str(result.kept)
    facts = {"checkpoint": str(result.checkpoint), "kept": kept, **as_dict(result.found)}
    report_pictures(printer, pictures, **facts)


def _lines(result: "CalibrateResult") -> list[str]:
    found = result.found
    lines = [f"{counted(len(found.images), 'image')} of {found.images.file}"]
    if count := found.num_trained_on:
        lines[0] += f"; {count:,} more that the model was trained on are left out"
    lines += [*_of_temperature(found), *_of_thresholds(found, result.precision)]
    if found.strange is not None:
        from ptkit.core.shares import share_text

        share = share_text(found.strange, len(found.images))
        lines.append(
            f"strangers: the limit lets {result.known:g} of these images pass; {share} of those"
            " that it was not fitted to are called unknown"
        )
    kept = f"; as it was: {result.kept}" if result.kept is not None else ""
    again = f"`ptkit calibrate {result.named} --remove` undoes it"
    lines.append(f"saved in {result.checkpoint}{kept}; {again}")
    return lines


def _of_temperature(found: "Calibration") -> list[str]:
    fitted = found.temperature
    if fitted is None:
        return []
    (before, after), halves = fitted.ece, " and ".join(f"{each:.2f}" for each in fitted.halves)
    effect = f"ECE {before:.3f} to {after:.3f} on the halves not fitted to ({halves})"
    if fitted.is_used:
        return [f"temperature {fitted.value:.3f}: {effect}"]
    if not fitted.is_found:
        return [
            f"temperature 1: too few answers are wrong, or right, to fit one (halves: {halves});"
            " a longer list may have more"
        ]
    losses = f"{fitted.loss[0]:.3f} to {fitted.loss[1]:.3f}"
    return [f"temperature 1: no other lowers the cross-entropy ({losses}); {effect}"]


def _of_thresholds(found: "Calibration", precision: float) -> list[str]:
    from ptkit.core.shares import share_text

    if found.thresholds is None or found.answering is None:
        return []
    classes = list(zip(found.images.class_names, found.thresholds, strict=True))
    failing = [(name, each) for name, each in classes if each.is_measured and not each.reaches]
    shown = classes if len(classes) <= _MAX_CLASSES else failing[:_MAX_CLASSES]
    lines = [f"thresholds for a precision of {precision:g}:"]
    lines += [f"  {name}: {_words(each)}" for name, each in shown if each.is_measured]
    if len(classes) > _MAX_CLASSES:
        lines.append(f"  {len(classes) - len(shown):,} other classes: see thresholds.csv")
    unmeasured = [(name, each.value) for name, each in classes if not each.is_measured]
    for words, has_one in (("thresholds as they were", True), ("always answered", False)):
        if names := [name for name, value in unmeasured if bool(value) is has_one]:
            lines.append(f"  too few answers to tell, {words}: {first_of(names, 20)}")
    total, answered, right = (
        found.answering.total, found.answering.answered, found.answering.right
    )  # fmt: skip
    share = share_text(right, answered) if answered else "none"
    if found.answers.ndim == 2:
        return [*lines, f"  on the halves not fitted to: {answered:,} labels named, {share} right"]
    coverage = share_text(answered, total)
    return [*lines, f"  on the halves not fitted to: {coverage} answered, of these {share} right"]


def _words(found: "Threshold") -> str:
    from ptkit.core.shares import share_text

    share = share_text(found.num_right, found.num_answered)
    of = f"{share} of {counted(found.num_answered, 'answer')} right"
    if not found.reaches:
        return f"cannot reach it, never answered; at best {of}"
    return f"from {found.value:.1%} on, {of}" if found.value else f"always answered, {of}"
