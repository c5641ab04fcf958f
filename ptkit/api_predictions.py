"""ptkit in Python: what a model says about images, as it comes; `predict` is in api.py."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ptkit.api_types import PredictKeywords, StrPath, path_or_none
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from ptkit.looking.predictions import Prediction
    from ptkit.looking.subject import Subject


def predict_each(
    ckpt: StrPath, sources: StrPath | Sequence[StrPath], **settings: Unpack[PredictKeywords]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each image, as it comes, while the next ones are decoded and computed.

    It takes what `predict` takes, and never holds the answers of all images.

    >>> for row in ptkit.predict_each("ckpt.pkl", "test.txt"):
    ...     if row["class"] != row["true"] and row["probability"] > 0.99:
    ...         print("sure and wrong:", row["path"])

    Raises:
        PtkitError: see `predict`; what is wrong with the settings at once, the rest on the way.
    """
    parts = ask(ckpt, sources, **settings).parts
    return (row for part in parts for row in part.rows)


def ask(
    ckpt: StrPath, sources: StrPath | Sequence[StrPath], **settings: Unpack[PredictKeywords]
) -> "Prediction":
    """Return a prediction that has not begun: everything but the images themselves is checked.

    Raises:
        PtkitError: see `predict`.
    """
    from ptkit.core.data.splits.tables import Columns
    from ptkit.looking.predictions import begin_prediction

    given: dict[str, Any] = dict(settings)
    columns = Columns(given.pop("path_column", None), given.pop("label_column", None))
    root = path_or_none(given.pop("root", None))
    how = {name: given.pop(name) for name in ("top", "threshold") if name in given}
    run: dict[str, Any] = {"device": "auto", "workers": 0, "on_bad": "skip"}
    run |= {name: given.pop(name) for name in run if name in given}
    subject = subject_of(ckpt, given | {"classes": path_or_none(given.get("classes"))}, **run)
    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    paths = [os.fspath(source) for source in several]
    return begin_prediction(subject, paths, columns=columns, root=root, **how, **run)


def subject_of(
    ckpt: StrPath, given: Mapping[str, Any], *, device: str, workers: int, on_bad: str
) -> "Subject":
    """Load a model to run, once everything else that was given is checked."""
    from ptkit.core.config import ON_BAD
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
