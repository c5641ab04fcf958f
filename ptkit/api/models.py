"""A trained model in Python: for the caller, `load`, and for the functions that run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from torch import nn

    from ptkit.looking.predictions import Image
    from ptkit.looking.subject import Subject

    class TrainedModel(nn.Module):
        """What `load` returns, for type checkers: any module, with these attributes more."""

        class_names: tuple[str, ...]
        pipeline: Mapping[str, Any]

        def predict(self, images: "Image | list[Image]", *, top: int = 1) -> list[dict[str, Any]]:
            """Return a row for each image."""


def load(
    path: StrPath,
    *,
    model: str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    size: int | None = None,
    classes: StrPath | None = None,
    transforms: Sequence[str] = (),
    alpha: str | None = None,
) -> "TrainedModel":
    """Rebuild the model of a checkpoint, a run folder or bare weights, ready to predict.

    It is an ordinary module, in evaluation mode on the CPU, with three attributes more:
    `class_names`; `pipeline`, how an image becomes its input (`calls`, `tensors`, `size`, `alpha`,
    `channels`, `mean`, `std`); and `predict(images, top=1)`, which takes one image or a list of
    them: paths, bytes, Pillow images, uint8 arrays (H, W, 3). It returns rows as `ptkit predict
    --json` prints them, and threads may call it at the same time.
    model: the user's own call, needed where the checkpoint names code that is not part of ptkit.
    The rest: see `evaluate`.

    >>> model = ptkit.load("ckpt.pkl")
    >>> import numpy
    >>> row, = model.predict(numpy.zeros((16, 16, 3), numpy.uint8))
    >>> row["class"] in model.class_names
    True

    Raises:
        CheckpointError: no such file, damaged, or it needs `model`.
        UsageError: bare weights with an answer missing.
    """
    from ptkit.looking.predictions import with_predict
    from ptkit.looking.subject import load_subject

    given = {"model": model, "mean": mean, "std": std, "size": size, "transforms": transforms}
    subject = load_subject(Path(path), classes=path_or_none(classes), alpha=alpha, **given)
    return cast("TrainedModel", with_predict(subject))


def subject_to_run(
    ckpt: StrPath, given: Mapping[str, Any], *, device: str, workers: int, on_bad: str
) -> "Subject":
    """Load a model to run, once everything else that was given is checked."""
    from ptkit.core.config.settings import ON_BAD
    from ptkit.core.device import choose_device
    from ptkit.core.models.onnx_files import is_onnx
    from ptkit.looking.subject import load_subject

    check_at_least(0, workers=workers)
    check_choice("--on-bad", on_bad, ON_BAD)
    if is_onnx(Path(ckpt)):
        from ptkit.looking.onnx_subject import load_onnx

        return load_onnx(Path(ckpt), device=device, workers=workers, **given)
    choose_device(device)
    return load_subject(Path(ckpt), **given)
