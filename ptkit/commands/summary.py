"""`ptkit summary`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptkit.commands.output import Printer
from ptkit.core.wording import table

if TYPE_CHECKING:
    from ptkit.looking.summary import ModelSummary, Row
    from ptkit.looking.summary_subject import Summarized

WIDTH = 100
_MIN_NAME, _MAX_KIND = 24, 20
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def summary(
    printer: Printer,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CKPT",
            help="A model such as resnet18, or a checkpoint, a run folder or bare weights.",
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="Pixels of a side, or height and width such as 360x640.")
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            help="Classes of a model; 10 if not given. A checkpoint knows its own.", min=1
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model of bare weights, or your own in a checkpoint: net.py:Net."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Levels of modules in the table; all layers if not given.", min=1),
    ] = None,
) -> None:
    """Show a model layer by layer: output shape, parameters, multiply-adds, and the memory it
    takes.

    One image runs through the model and torch's flop counter watches. Sizes are for one image,
    without the number of images in front. --depth 1 sums over what is inside the direct parts.

    Example: ptkit summary resnet18 --size 224 --depth 2
    """
    from ptkit.core.sizes import read_size
    from ptkit.looking.summary_subject import summarize_subject

    sides = None if size is None else read_size(size)
    found = summarize_subject(
        subject, model=model, num_classes=num_classes, size=sides, depth=depth
    )
    for note in found.notes:
        printer.say(note)
    printer.say(f"{found.title}\n")
    printer.say(_layer_table(found.summary))
    printer.say("\n" + _totals(found.summary))
    printer.result(_result(found))


def _result(found: "Summarized") -> dict[str, Any]:
    summary = found.summary
    return {
        "model": found.call,
        "num_classes": found.num_classes,
        "size": found.size,
        "layers": [_as_json(row, summary) for row in summary.rows],
        "parameters": summary.parameters,
        "trainable": summary.trainable,
        "multiply_adds": summary.multiply_adds,
        "flops": 2 * summary.multiply_adds,
        "memory": {
            "weights": summary.weight_bytes,
            "activations": summary.activation_bytes,
            "training": summary.training_bytes,
        },
    }


def _layer_table(found: "ModelSummary") -> str:
    """Return a line per row, at most WIDTH columns wide: long names lose their beginning."""
    header = ["layer", "class", "output", "parameters", "trainable", "MACs", "share"]
    cells = [_cells(row, found) for row in found.rows]
    others = sum(max(len(line[k]) for line in (header, *cells)) + 2 for k in range(1, len(header)))
    room = max(_MIN_NAME, WIDTH - others)
    for line in cells:
        # The end: there names of layers differ.
        line[0] = line[0] if len(line[0]) <= room else f"…{line[0][1 - room :]}"
    return table(header, cells)


def _cells(row: "Row", found: "ModelSummary") -> list[str]:
    kind = row.kind if len(row.kind) <= _MAX_KIND else f"{row.kind[: _MAX_KIND - 1]}…"
    shape = "never runs" if row.num_calls == 0 else "-"
    if row.shape is not None:
        shape = "×".join(map(str, row.shape)) or "1"
    trainable = {0: "no", row.parameters: "yes"}.get(row.trainable, f"{row.trainable:,}")
    parameters = [f"{row.parameters:,}", trainable] if row.parameters else ["-", "-"]
    macs = row.multiply_adds
    work = [_scaled(macs), f"{macs / found.multiply_adds:.1%}"] if macs else ["-", "-"]
    return [row.name or "(model)", kind, shape, *parameters, *work]


def _totals(found: "ModelSummary") -> str:
    trainable = "all" if found.trainable == found.parameters else f"{found.trainable:,}"
    macs, flops = _scaled(found.multiply_adds), _scaled(2 * found.multiply_adds)
    lines = {
        "parameters": f"{found.parameters:,} ({trainable} trainable)",
        "multiply-adds": f"{macs}MACs an image, {flops}FLOPs",
        "weights": f"{_scaled(found.weight_bytes)}B",
        "activations": f"{_scaled(found.activation_bytes)}B an image, kept for the backward pass",
        "training": f"{_scaled(found.training_bytes)}B with Adam and one image: weights, gradients,"
        " two moments, activations",
    }
    return "\n".join(f"{name:<15}{text}" for name, text in lines.items())


def _as_json(row: "Row", found: "ModelSummary") -> dict[str, object]:
    share = row.multiply_adds / found.multiply_adds if found.multiply_adds else 0.0
    facts = dataclasses.asdict(row)
    return {"name": facts.pop("name"), "class": facts.pop("kind"), **facts, "share": share}


def _scaled(count: int) -> str:
    """Return a count with three digits or more and its unit: `1.81 G`, `416 k`."""
    for factor, unit in _UNITS:
        if count >= factor:
            number = count / factor
            return f"{number:.{max(0, 2 - (number >= 10) - (number >= 100))}f} {unit}"
    return f"{count} "
