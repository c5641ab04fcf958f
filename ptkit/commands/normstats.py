"""`ptkit normstats`."""

from pathlib import Path
from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer


def normstats(
    list_file: Annotated[Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")],
    num: Annotated[int | None, typer.Option(help="Measure a random sample of this many images.", min=1)] = None,
    size: Annotated[
        int | None, typer.Option(help="Resize to this many pixels first (default: own sizes).", min=1)
    ] = None,
    seed: options.Seed = 0,
    workers: options.Workers = 0,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure mean and standard deviation per channel, for Normalize.

    Exact over all pixels of all images unless --num asks for a sample. Values are in 0..1, RGB order. The numbers go
    to normstats.json beside the list, where `ptkit train` finds them (or into --out).

    Example: ptkit normstats train.txt --size 32
    """
    from ptkit.commands.progress import bar
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import read_list
    from ptkit.core.machine import num_cores

    printer = Printer(as_json=as_json, quiet=quiet)
    images = read_list(list_file)
    total = min(num or len(images), len(images))
    with bar("measuring", total, quiet=printer.silent) as advance:
        found = statistics.measure(
            images, num=num, size=size, seed=seed, workers=workers or num_cores(), on_images=advance
        )
    file = statistics.save(found, (out or list_file.parent) / list_file.name)
    mean, std = (f"[{', '.join(f'{v:.6f}' for v in values)}]" for values in (found.mean, found.std))
    printer.say(f"normMean = {mean}")
    printer.say(f"normStd  = {std}")
    printer.say(f"Normalize(mean={mean}, std={std})")
    printer.say(f"{found.num_images:,} images, {f'{size}×{size}' if size else 'own sizes'}; saved in {file}")
    printer.result(
        {"mean": found.mean, "std": found.std, "num_images": found.num_images, "size": size, "file": str(file)}
    )
