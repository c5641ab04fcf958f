"""`ptkit predict` in Python: all answers at once, or as they come."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ptkit.api.keywords import PredictKeywords
from ptkit.api.models import subject_to_run
from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.looking.answers import Answers
    from ptkit.looking.predictions import Prediction


def predict(
    ckpt: StrPath,
    sources: StrPath | Sequence[StrPath],
    *,
    top: int = 1,
    threshold: float | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    model: str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    size: int | None = None,
    classes: StrPath | None = None,
    transforms: Sequence[str] = (),
    alpha: str | None = None,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "skip",
    root: StrPath | None = None,
) -> "Answers":
    """Say what a model sees in images; `rows` of the result is what `ptkit predict --json` prints,
    and `scores` how right that is where images have labels.

    sources: image files, folders, lists (.txt) or tables (.csv, .tsv, .jsonl). top: how many
    classes a row names. threshold: the probability below which an image is unknown; where images
    have several classes, from which on each is present. path_column, label_column: of tables.
    on_bad: `skip` gives images that cannot be read a row with an `error`.
    The rest: see `evaluate`.

    >>> found = ptkit.predict("ckpt.pkl", ["test.txt"])
    >>> sorted(found.rows[0])
    ['class', 'index', 'path', 'probability', 'true']
    >>> 0 <= found.scores.accuracy <= 1
    True

    Raises:
        CheckpointError: no such file, damaged, or weights that do not fit.
        DataError: no images, or, with `stop`, one that cannot be read.
        UsageError: bare weights with an answer missing, or settings that do not fit the model.
    """
    from ptkit.looking.answers import joined

    given: PredictKeywords = {"model": model, "mean": mean, "std": std, "size": size}
    given |= {"classes": classes, "transforms": transforms, "alpha": alpha, "top": top}
    given |= {"path_column": path_column, "label_column": label_column, "threshold": threshold}
    given |= {"device": device, "workers": workers, "on_bad": on_bad, "root": root}
    return joined(list(ask(ckpt, sources, **given).parts))


def predict_each(
    ckpt: StrPath, sources: StrPath | Sequence[StrPath], **settings: Unpack[PredictKeywords]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each image, as it comes, while the next ones are decoded and computed.

    It takes what `predict` takes, and never holds the answers of all images.

    >>> for row in ptkit.predict_each("ckpt.pkl", "test.txt"):
    ...     if "error" in row:
    ...         print("cannot be read:", row["path"])
    ...     elif row["class"] != row["true"] and row["probability"] > 0.99:
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
    subject = subject_to_run(ckpt, given | {"classes": path_or_none(given.get("classes"))}, **run)
    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    if not isinstance(several, Iterable):
        raise UsageError(
            f"images are given as files, folders or lists, found {type(sources).__name__}"
        )
    paths = [os.fspath(source) for source in several]
    return begin_prediction(subject, paths, columns=columns, root=root, **how, **run)
