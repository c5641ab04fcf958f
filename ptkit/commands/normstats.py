"""`ptkit normstats`."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_choice

if TYPE_CHECKING:
    from ptkit.core.data.transforms.covariance import Whitening


def normstats(
    list_file: Annotated[
        Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")
    ],
    num: Annotated[
        int | None, typer.Option(help="Measure a random sample of this many images.", min=1)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Resize to this many pixels first (default: own sizes).", min=1),
    ] = None,
    whiten: Annotated[
        str | None,
        typer.Option(help="Also compute the matrix for LinearTransformation: zca or pca."),
    ] = None,
    seed: options.Seed = 0,
    workers: options.Workers = 0,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure mean and standard deviation per channel, for Normalize.

    Exact over all pixels of all images unless --num asks for a sample. Values are in 0..1, RGB
    order. The numbers go
    to normstats.json beside the list, where `ptkit train` finds them (or into --out). --whiten also
    computes the covariance of whole images, for which they must have one size, and writes
    whitening.npz beside it.

    Example: ptkit normstats train.txt --size 32
    """
    from ptkit.commands.progress import bar
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import read_list
    from ptkit.core.machine import num_cores

    printer = Printer(as_json=as_json, quiet=quiet)
    images = read_list(list_file)
    threads, target = workers or num_cores(), (out or list_file.parent) / list_file.name
    total = min(num or len(images), len(images))
    whitening = None
    # First, since it may refuse before anything is decoded.
    if whiten is not None:
        from ptkit.core.data.transforms import covariance

        check_choice("--whiten", whiten, covariance.KINDS)
        chosen = statistics.sample(images, num=num, seed=seed)
        with bar("whitening", total, quiet=printer.silent) as advance:
            whitening = covariance.measure_whitening(
                images, chosen, kind=whiten, size=size, workers=threads, on_images=advance
            )
    with bar("measuring", total, quiet=printer.silent) as advance:
        found = statistics.measure(
            images, num=num, size=size, seed=seed, workers=threads, on_images=advance
        )
    file = statistics.save(found, target)
    mean, std = (f"[{', '.join(f'{v:.6f}' for v in values)}]" for values in (found.mean, found.std))
    printer.say(f"normMean = {mean}")
    printer.say(f"normStd  = {std}")
    printer.say(f"Normalize(mean={mean}, std={std})")
    printer.say(
        f"{found.num_images:,} images, {f'{size}×{size}' if size else 'own sizes'}; saved in {file}"
    )
    result = {
        "mean": found.mean,
        "std": found.std,
        "num_images": found.num_images,
        "size": size,
        "file": str(file),
    }
    if whitening is not None:
        matrix_file = covariance.save(whitening, target)
        _say_whitening(printer, whitening, matrix_file)
        result |= {
            "whitening": str(matrix_file),
            "kind": whiten,
            "num_dimensions": len(whitening.mean),
        }
    printer.result(result)


def _say_whitening(printer: Printer, whitening: "Whitening", file: Path) -> None:
    """Tell the call, what it rests on, and how to train with it."""
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
        why = (
            f"fewer images than values: {whitening.num_images:,}; "
            if whitening.num_images <= count
            else ""
        )
        printer.say(
            f"note: the covariance has not full rank ({why}rank {rank:,} of {count:,}); "
            "what these images never show is scaled by 1/sqrt(epsilon)"
        )
    if height == width:
        printer.say(f"ptkit train --size {height} --transform {shlex.quote(call)}")
