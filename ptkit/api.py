"""ptkit in Python: what each command does, as a function that returns a record and prints nothing.

The commands call these functions too; those that make a run are in api_runs.py. Every error that
the user can fix is a `PtkitError`.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ptkit.api_predictions import ask, subject_of
from ptkit.api_types import (
    NormstatsResult,
    PredictKeywords,
    SplitResult,
    StrPath,
    path_or_none,
)
from ptkit.core.counting import Counting, uncounted
from ptkit.core.errors import UsageError
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from ptkit.api_types import TrainedModel
    from ptkit.core.data.keyed import Indices
    from ptkit.core.data.lists import ImageList
    from ptkit.core.data.transforms.covariance import Whitening
    from ptkit.looking.answers import Answers
    from ptkit.looking.checking import CheckUp
    from ptkit.looking.evaluation import Evaluation


def split(
    folder: StrPath,
    *,
    ratio: str | None = None,
    copy: StrPath | None = None,
    link: StrPath | None = None,
    kfold: int | None = None,
    extend: bool = False,
    group_by: str | None = None,
    near_duplicates: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    label_from: str | None = None,
    root: StrPath | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    out: StrPath | None = None,
) -> SplitResult:
    """Split class folders, a table or a list into training, validation and test lists, written to
    `out`.

    folder: a folder of classes, of parts or of images that a table there names; or a table (.csv,
    .tsv, .jsonl) or a list. out: a folder, the working directory by default. The rest is explained
    by `ptkit split --help`.

    >>> found = ptkit.split("data", ratio="8:1:1")
    >>> list(found.counts)
    ['train', 'valid', 'test']

    Raises:
        UsageError: settings that do not go together, or files in the way.
        DataError: images that cannot be split. StorageError: the disk refused.
    """
    from ptkit.core.data.splits.jobs import SplitJob, run_split
    from ptkit.core.data.splits.sources import Source
    from ptkit.core.data.splits.tables import Columns
    from ptkit.core.data.splits.trees import tree_of
    from ptkit.core.machine import without_garbage_collection

    columns = Columns(path_column, label_column, group_column)
    job = SplitJob(
        Source(Path(folder), columns, label_from, path_or_none(root), is_lenient=allow_missing),
        out=Path(out or ""),
        ratio=ratio,
        tree=tree_of(copy=path_or_none(copy), link=path_or_none(link)),
        kfold=kfold,
        extend=extend,
        group_by=group_by,
        near_duplicates=near_duplicates,
        allow_missing=allow_missing,
        overwrite=overwrite,
        seed=seed,
    )
    with without_garbage_collection():
        outcome = run_split(job)
    found = outcome.split
    counts = dict(zip(found.part_names, found.totals, strict=True))
    return SplitResult(counts, outcome.scan.class_names, outcome.written.files, outcome)


def normstats(
    list_file: StrPath,
    *,
    num: int | None = None,
    size: int | None = None,
    whiten: str | None = None,
    seed: int = 0,
    workers: int = 0,
    on_bad: str = "stop",
    root: StrPath | None = None,
    alpha: str = "drop",
    out: StrPath | None = None,
    counting: Counting = uncounted,
) -> NormstatsResult:
    """Measure mean and standard deviation per channel, and save them where `train` finds them.

    num: take a random sample of this many images. size: resize them to size × size first.
    whiten: zca or pca for a whitening matrix too. out: a folder, that of the list by default.
    on_bad: `skip` leaves out images that cannot be read, see `skipped`. root: the folder of the
    images, where they were moved. alpha: `white` puts images on it. counting: for a progress bar.

    >>> found = ptkit.normstats("train.txt")
    >>> all(0 < value < 1 for value in found.mean)
    True

    Raises:
        DataError: no images, or, with `stop`, some cannot be read.
        UsageError: whitening images that differ or are too large. StorageError: the disk refused.
    """
    from ptkit.core.config import ALPHA, ON_BAD
    from ptkit.core.data import images as decoder
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import check_image, read_list
    from ptkit.core.machine import num_cores

    check_at_least(1, num=num, size=size)
    check_at_least(0, workers=workers)
    check_choice("--on-bad", on_bad, ON_BAD)
    check_choice("--alpha", alpha, ALPHA)
    images = read_list(Path(list_file), root=path_or_none(root))
    decode = functools.partial(decoder.decode, alpha=alpha)
    target = (Path(list_file).parent if out is None else Path(out)) / Path(list_file).name
    chosen = statistics.sample(images, num=num, seed=seed)
    skipped: list[str] = []
    if (bad := skipped if on_bad == "skip" else None) is None:
        check_image(images, int(chosen[0]))
    how: dict[str, Any] = {"size": size, "workers": workers or num_cores(), "bad": bad}
    whitening = whitening_file = None
    # First, since it may refuse before anything is decoded.
    if whiten is not None:
        whitening = _whitening(images, chosen, whiten, alpha=alpha, counting=counting, **how)
        skipped.clear()  # they come again
    with counting("measuring", len(chosen)) as advance:
        found = statistics.measure(images, chosen, decode=decode, on_images=advance, **how)
    file = statistics.save(replace(found, alpha=alpha), target)
    if whitening is not None:
        from ptkit.core.data.transforms.covariance import save

        whitening_file = save(whitening, target)
    return NormstatsResult(found, file, whitening, whitening_file, tuple(skipped))


def _whitening(
    images: "ImageList",
    chosen: "Indices",
    kind: str,
    *,
    alpha: str,
    counting: Counting,
    **how: Any,
) -> "Whitening":
    from ptkit.core.data.transforms import covariance

    check_choice("--whiten", kind, covariance.KINDS)
    if alpha != "drop":
        raise UsageError("--whiten measures images without transparency: leave out --alpha")
    with counting("whitening", len(chosen)) as advance:
        return covariance.measure_whitening(images, chosen, kind=kind, on_images=advance, **how)


def check(
    *sources: StrPath,
    root: StrPath | None = None,
    workers: int = 0,
    counting: Counting = uncounted,
) -> "CheckUp":
    """Check data before training does: what `ptkit check` prints, without its pictures.

    sources: lists of the parts of one data set, or a folder of classes; none are the lists in the
    working directory. root: the folder of a list's images, where they were moved. workers: decoding
    threads, 0 for all cores. counting: for a progress bar.

    >>> found = ptkit.check("data")
    >>> found.count("FAIL")
    0

    Raises:
        DataError: a list or folder that cannot be used; images that cannot be read are a finding.
        UsageError: sources that do not go together.
    """
    from ptkit.looking.checking import check_up

    check_at_least(0, workers=workers)
    return check_up(
        list(map(Path, sources)), root=path_or_none(root), workers=workers, counting=counting
    )


def evaluate(
    ckpt: StrPath,
    list_file: StrPath,
    *,
    model: str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    size: int | None = None,
    classes: StrPath | None = None,
    transforms: Sequence[str] = (),
    alpha: str | None = None,
    device: str = "auto",
    workers: int = 0,
    on_bad: str = "stop",
    root: StrPath | None = None,
) -> "Evaluation":
    """Test a model on a list: what `ptkit confmat` shows, without its pictures.

    ckpt: a checkpoint, a run folder, an ONNX file of `ptkit export`, or bare weights, which need
    `model`, `mean`, `std` and `size`, as ONNX files of other programs do without `model`.
    transforms: your own transforms that the checkpoint names, again: it runs no code by itself.
    alpha: `white` puts transparent images on white; a checkpoint has it from its training.
    on_bad: `skip` leaves out images that cannot be read, and says so in `skipped`.
    root: the folder of the images, where they were moved.

    >>> found = ptkit.evaluate("ckpt.pkl", "test.txt")
    >>> found.metrics.keys()
    dict_keys(['accuracy', 'macro_f1', 'balanced_accuracy', 'auroc'])
    >>> found.per_class["recall"].shape == (len(found.class_names),)
    True

    Raises:
        CheckpointError: no such file, damaged, or weights that do not fit.
        DataError: a list that cannot be read, other classes than the model's, or, with `stop`, an
            image that cannot be read.
        UsageError: a model that gives numbers, or bare weights with an answer missing.
    """
    from ptkit.looking.evaluation import evaluate_list

    names = path_or_none(classes)
    given = {"model": model, "mean": mean, "std": std, "size": size, "classes": names}
    answers = given | {"transforms": transforms, "alpha": alpha}
    subject = subject_of(ckpt, answers, device=device, workers=workers, on_bad=on_bad)
    return evaluate_list(
        subject,
        Path(list_file),
        classes=names,
        device=device,
        workers=workers,
        on_bad=on_bad,
        root=path_or_none(root),
    )


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
    `class_names`; `pipeline`, how an image becomes its input (`calls`, `tensors`, `size`, `mean`,
    `std`); and `predict(images, top=1)`, which takes one image or a list of them: paths, bytes,
    Pillow images, uint8 arrays (H, W, 3). It returns rows as `ptkit predict --json` prints them,
    and threads may call it at the same time.
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
