"""`ptkit confmat` in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.api.models import subject_to_run
from ptkit.api.paths import StrPath, path_or_none

if TYPE_CHECKING:
    from ptkit.looking.evaluation import Evaluation


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
    subject = subject_to_run(ckpt, answers, device=device, workers=workers, on_bad=on_bad)
    return evaluate_list(
        subject,
        Path(list_file),
        classes=names,
        device=device,
        workers=workers,
        on_bad=on_bad,
        root=path_or_none(root),
    )
