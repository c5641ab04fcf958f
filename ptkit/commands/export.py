"""`ptkit export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from ptkit.api import exporting
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.core.wording import amount, counted

if TYPE_CHECKING:
    from ptkit.looking.exporting import ExportedModel
    from ptkit.looking.hub import HubFolder
    from ptkit.looking.replaying import Replayed


@options.reads_images
@options.with_flags(options.BareWeights.__annotations__, before="workers")
def export(
    printer: Printer,
    ckpt: options.Checkpoint,
    to: Annotated[
        str, typer.Option(metavar="onnx|torch-export|torchscript|safetensors|hf", help="Format.")
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|int8",
            help="Of the model's weights; int8 is measured on the validation images (ONNX).",
        ),
    ] = "fp32",
    without_preprocessing: Annotated[
        bool,
        typer.Option(
            "--without-preprocessing",
            help="Leave the pipeline out: the graph takes normalised floats of the model's size.",
        ),
    ] = False,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="LIST_OR_DIR", help="Images to replay, not those of the validation list."
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX's version of the operators.")] = None,
    workers: options.Workers = 0,
    root: options.Root = None,
    out: Annotated[Path | None, typer.Option(help="File to write; of hf a folder.")] = None,
    **answers: Unpack[options.BareWeights],
) -> None:
    """Write a model as a file that other programs run, with all that stands before it: ONNX,
    torch.export, TorchScript; or its weights as safetensors, or a folder for the Hugging Face Hub.

    The graph takes uint8 RGB images of any size and gives probabilities. 64 validation images are
    run through the file and through the model; a file that does not agree is not kept.

    Example: ptkit export ckpt.pkl --to onnx
    """
    found = exporting.export(
        ckpt,
        to=to,
        precision=precision,
        preprocessing=not without_preprocessing,
        images=images,
        opset=opset,
        workers=workers,
        root=root,
        out=out,
        **answers,
    )
    for note in found.notes:
        printer.say(note)
    _say(found, printer)
    printer.result(found.as_dict())


def _say(found: "ExportedModel | HubFolder", printer: Printer) -> None:
    from ptkit.looking.hub import HubFolder

    if isinstance(found, HubFolder):
        library = "timm" if found.is_timm else "ptkit, since timm has no model of these weights"
        printer.say(f"wrote {len(found.files)} files to {found.folder}, for {library}")
        return
    printer.say(_compared(found.replayed))
    printer.say(f"wrote {found.file}, {amount(found.num_bytes)}")


def _compared(replayed: "Replayed") -> str:
    """Return how a file compares with its model, in words."""
    what = "number, in standard deviations" if replayed.has_numbers else "probability"
    text = (
        f"replayed {counted(replayed.num_images, 'image')}: largest difference in {what}"
        f" {replayed.difference:.1e}, {counted(replayed.num_changed, 'other answer')}"
    )
    if (others := replayed.num_unknown_changed) is not None:
        text += f", {counted(others, 'other')} unknown"
    if replayed.score is None or replayed.original_score is None:
        return text
    form = "{:.4g}" if replayed.has_numbers else "{:.2%}"
    scores = [form.format(value) for value in (replayed.score, replayed.original_score)]
    return f"{text}; {replayed.metric} {scores[0]}, the model's {scores[1]}"
