"""`ptkit normstats`."""

import functools
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

import typer

from ptkit.api import channel_statistics
from ptkit.commands import options
from ptkit.commands.output import Printer, complain, end_without, naming_on_bad
from ptkit.commands.progress import bar

if TYPE_CHECKING:
    from ptkit.core.data.transforms.covariance import Whitening


_NEEDS_WHITE = (
    "note: without transparency each image is of one colour; `ptkit train` puts them on white: pass"
    " --alpha white"
)


class Choices(TypedDict, total=False):
    """What is measured."""

    num: Annotated[
        int | None, typer.Option(help="Measure a random sample of this many images.", min=1)
    ]
    size: Annotated[
        int | None,
        typer.Option(help="Resize to this many pixels first (default: own sizes).", min=1),
    ]
    whiten: Annotated[
        str | None,
        typer.Option(help="Also compute the matrix for LinearTransformation: zca or pca."),
    ]


@options.reads_images
@options.with_flags(Choices.__annotations__, before="seed")
@naming_on_bad()
def normstats(
    printer: Printer,
    list_file: options.ListFile,
    seed: options.Seed = 0,
    workers: options.Workers = 0,
    on_bad: options.OnBad = "stop",
    root: options.Root = None,
    alpha: options.Alpha = "drop",
    out: options.Out = None,
    **choices: Unpack[Choices],
) -> None:
    """Measure mean and standard deviation per channel, for Normalize.

    Exact over all pixels of all images unless --num asks for a sample. Values are in 0..1, RGB
    order. They go to normstats.json beside the list, where `ptkit train` finds them (or into
    --out). --whiten also computes the covariance of whole images, which must all have one size, and
    writes whitening.npz beside it.

    Example: ptkit normstats train.txt --size 32
    """
    from ptkit.core.data.oddities import odd_note

    counting = functools.partial(bar, quiet=printer.silent)
    measured = channel_statistics.normstats(
        list_file,
        seed=seed,
        workers=workers,
        on_bad=on_bad,
        root=root,
        alpha=alpha,
        out=out,
        counting=counting,
        **choices,
    )
    found = measured.statistics
    mean, std = (f"[{', '.join(f'{v:.6f}' for v in values)}]" for values in (found.mean, found.std))
    printer.say(f"normMean = {mean}\nnormStd  = {std}\nNormalize(mean={mean}, std={std})")
    sizes = f"{found.size}×{found.size}" if found.size else "own sizes"
    printer.say(f"{found.num_images:,} images, {sizes}; saved in {measured.file}")
    if found.odd:
        printer.say(odd_note(found.odd))
    if measured.needs_white:
        complain(_NEEDS_WHITE)
    facts = {name: getattr(found, name) for name in ("mean", "std", "num_images", "size")}
    result = {**facts, "odd": dict(found.odd), "file": str(measured.file)}
    if measured.skipped:
        result["skipped"] = list(measured.skipped)
    if measured.whitening is not None and measured.whitening_file is not None:
        flags = _as_measured(list_file, root=root, on_bad=on_bad)
        _say_whitening(printer, measured.whitening, measured.whitening_file, flags=flags)
        result |= {
            "whitening": str(measured.whitening_file),
            "kind": measured.whitening.kind,
            "num_dimensions": len(measured.whitening.mean),
        }
    printer.result(result)
    end_without(measured.skipped)


def _as_measured(list_file: Path, *, root: Path | None, on_bad: str) -> str:
    """Return the flags with which `ptkit train` has the images that were measured."""
    from ptkit.core.config.settings import DataSettings

    own = None if list_file == Path(DataSettings().train) else list_file
    skips = "data.on_bad=skip" if on_bad == "skip" else None
    named = {"--train": own, "--root": root, "--set": skips}
    return "".join(f" {flag} {shlex.quote(str(v))}" for flag, v in named.items() if v is not None)


def _say_whitening(printer: Printer, whitening: "Whitening", file: Path, *, flags: str) -> None:
    """Print the call, what it was computed from, and how to train with it.

    flags: of the command, for these images.
    """
    from ptkit.core.data.transforms.covariance import EPSILON

    call = f"LinearTransformation({json.dumps(str(file), ensure_ascii=False)})"
    height, width = whitening.size
    count, rank = len(whitening.mean), whitening.rank
    printer.say(call)
    printer.say(
        f"{whitening.kind} of {count:,} values an image ({height}×{width}),"
        f" {whitening.num_images:,} images, epsilon {whitening.epsilon:.3g} ({EPSILON:g} of the"
        f" largest eigenvalue); saved in {file}"
    )
    if rank < count:
        few = f"fewer images than values: {whitening.num_images:,}; "
        why = few if whitening.num_images <= count else ""
        printer.say(
            f"note: the covariance does not have full rank ({why}rank {rank:,} of {count:,}); "
            "what these images never show is scaled by 1/sqrt(epsilon)"
        )
    if height == width:
        printer.say(f"ptkit train{flags} --size {height} --transform {shlex.quote(call)}")
