"""`ptkit convert` in Python."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptkit.api.paths import StrPath, path_or_none

if TYPE_CHECKING:
    from ptkit.looking.converting import Converted


def convert(
    file: StrPath,
    *,
    out: StrPath | None = None,
    to: str = "ckpt",
    model: str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    size: int | None = None,
    classes: StrPath | None = None,
    alpha: str | None = None,
) -> "Converted":
    """Write an old or foreign file of weights as a checkpoint, or as .safetensors.

    file: a state dict, however nested and prefixed; a whole module that was pickled, of which only
    the tensors are taken and nothing is run; a checkpoint or run folder; or a model with pretrained
    weights. to: `ckpt` or `safetensors`. out: the new file or a folder for it; without it the old
    name in the working directory. The rest: what bare weights do not say, see `evaluate`.

    >>> ptkit.convert("ckpt.pkl", to="safetensors").file
    PosixPath('ckpt.safetensors')

    Raises:
        CheckpointError: no such file, damaged, or weights that do not fit.
        UsageError: an answer is missing or has no effect, or the new file is there already.
    """
    from ptkit.looking.converting import convert_weights

    names = path_or_none(classes)
    answers = {"model": model, "mean": mean, "std": std, "size": size, "classes": names}
    return convert_weights(os.fspath(file), out=path_or_none(out), to=to, alpha=alpha, **answers)
