"""`ptkit train --eject` in Python."""

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ptkit.api.keywords import FinetuneKeywords
from ptkit.api.paths import StrPath, path_or_none, text_or_none
from ptkit.api.settings import Layers, asked_finetuning, asked_training

if TYPE_CHECKING:
    from ptkit.core.ejecting.script import Ejected
    from ptkit.core.training.observers import Watcher


def eject(
    file: StrPath,
    *,
    weights: StrPath | None = None,
    config: StrPath | None = None,
    recipe: StrPath | None = None,
    trust: bool = False,
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneKeywords],
) -> "Ejected":
    """Write the run that `train` would make, or from `weights` `finetune`, as one plain script of
    PyTorch; nothing is trained.

    file: the script; one that exists is an error. The rest: see `train`.

    >>> ptkit.eject("script.py", epochs=2).packages
    ('torch', 'torchvision', 'opencv-python')

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.ejecting import script
    from ptkit.core.training.observers import Unwatched

    watch, path = watch or Unwatched(), Path(file)
    # Before images are decoded.
    script.check_name(path)
    layers: Layers = {
        "recipe": text_or_none(recipe),
        "config": path_or_none(config),
        "trust": trust,
    }
    place = {"out": None, "name": None}
    if weights is None:
        asked = asked_training(None, settings, **place, watch=watch, layers=layers)
    else:
        asked = asked_finetuning(weights, None, settings, **place, watch=watch, layers=layers)
    with asked as (found, _):
        return script.eject(found, watch, file=path)
