"""`ptkit export` in Python."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.errors import UsageError
from ptkit.core.wording import check_at_least

if TYPE_CHECKING:
    from ptkit.looking.exporting import ExportedModel
    from ptkit.looking.hub import HubFolder


def export(
    ckpt: StrPath,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    preprocessing: bool = True,
    images: StrPath | None = None,
    opset: int | None = None,
    model: str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    size: int | None = None,
    classes: StrPath | None = None,
    transforms: Sequence[str] = (),
    alpha: str | None = None,
    workers: int = 0,
    root: StrPath | None = None,
    out: StrPath | None = None,
) -> "ExportedModel | HubFolder":
    """Write a model as a file that other programs run, and replay real images through both.

    to: onnx, torch-export, torchscript or safetensors; or hf, a folder for the Hugging Face Hub,
    `out`, for which nothing is replayed. precision: fp32, fp16 or int8.
    preprocessing: whether the graph takes images as they are; else it takes what the pipeline makes
    of them. images: a list or a folder to replay, by default the run's validation list. out: the
    file, by default model.onnx or the like in RUN/export. The rest: see `evaluate`.

    >>> found = ptkit.export("ckpt.pkl", to="torchscript")
    >>> found.replayed.difference < 1e-4
    True

    Raises:
        CheckpointError: no such file, damaged, not exportable, or the file does not agree with it.
        DataError: a list or an image that cannot be read.
        UsageError: settings that do not go together, or a step that no graph can have.
        StorageError: the disk refused.
    """
    from ptkit.looking.exporting import Wanted, export_model
    from ptkit.looking.hub import HUB, write_for_hub
    from ptkit.looking.subject import load_subject

    check_at_least(0, workers=workers)
    if to == HUB:
        others = {"--precision": precision != "fp32", "--without-preprocessing": not preprocessing,
                  "--images": images, "--opset": opset, "--workers": workers,
                  "--root": root}  # fmt: skip
        _refuse(others)
    given = {"model": model, "mean": mean, "std": std, "size": size, "transforms": transforms}
    subject = load_subject(Path(ckpt), classes=path_or_none(classes), alpha=alpha, **given)
    if to == HUB:
        return write_for_hub(subject, path_or_none(out))
    return export_model(
        subject,
        Wanted(to=to, precision=precision, preprocessing=preprocessing, opset=opset),
        images=None if images is None else os.fspath(images),
        root=path_or_none(root),
        workers=workers,
        out=path_or_none(out),
    )


def _refuse(others: Mapping[str, Any]) -> None:
    """Refuse flags that have no effect on a folder for the Hub."""
    if needless := ", ".join(flag for flag, value in others.items() if value):
        raise UsageError(f"--to hf writes a folder in which nothing is run: leave out {needless}")
