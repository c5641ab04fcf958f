"""`ptkit convert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptkit.api import converting
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.core.wording import amount, counted

# What bare weights do not say. Code that a checkpoint names is none of a file's business.
_ANSWERS = {name: kind for name, kind in options.BareWeights.__annotations__.items()
            if name != "transforms"}  # fmt: skip


@options.with_flags(_ANSWERS, before="out")
def convert(
    printer: Printer,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Weights of any kind, a pickled module, a checkpoint, a run folder, or a model"
            " with pretrained weights.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(metavar="ckpt|safetensors", help="A checkpoint of ptkit, or weights alone."),
    ] = "ckpt",
    out: Annotated[
        Path | None,
        typer.Option(help="The new file, or a folder for it; by default the old name, here."),
    ] = None,
    **answers: Any,
) -> None:
    """Turn an old or foreign file of weights into a checkpoint, or into .safetensors.

    Prefixes come off the names, nested weights are found, and a pickled module is taken apart
    without running any of its code. A checkpoint needs what bare weights do not say: --model,
    --mean, --std, --size, and --classes for names.

    Example: ptkit convert old.pth --model resnet18 --mean 0.485,0.456,0.406 --std
    0.229,0.224,0.225 --size 224 --classes classes.txt
    """
    found = converting.convert(file, out=out, to=to, **answers)
    for note in found.notes:
        printer.say(note)
    if found.model is not None:
        classes_too = f", {counted(len(found.class_names), 'class', 'classes')}"
        printer.say(f"model: {found.model}{classes_too if found.class_names else ''}")
    if found.pipeline:
        printer.say(f"evaluated with: {', '.join(found.pipeline)}")
    what = f"{counted(found.num_tensors, 'tensor')}, {counted(found.num_parameters, 'number')}"
    printer.say(f"wrote {found.file}: {what}, {amount(found.num_bytes)}")
    printer.result(found.as_dict())
