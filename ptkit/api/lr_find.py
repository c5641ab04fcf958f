"""`ptkit train --lr-find` in Python."""

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Unpack

from ptkit.api.keywords import TrainKeywords
from ptkit.api.paths import StrPath, path_or_none, text_or_none
from ptkit.api.settings import Layers, asked_training

if TYPE_CHECKING:
    from ptkit.core.training.observers import Watcher
    from ptkit.looking.lr_find import FoundRate


def find_lr(
    source: StrPath | None = None,
    *,
    config: StrPath | None = None,
    recipe: StrPath | None = None,
    out: StrPath | None = None,
    trust: bool = False,
    watch: "Watcher | None" = None,
    **settings: Unpack[TrainKeywords],
) -> "FoundRate":
    """Try rising learning rates on the run that `train` would make, without making it.

    out: folder of the picture and the table. The rest: see `train`.

    >>> [file.name for file in ptkit.find_lr(out="rates").files]
    ['lr_find.png', 'lr_find.csv']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.training.observers import Unwatched
    from ptkit.looking import lr_find

    watch = watch or Unwatched()
    layers: Layers = {
        "recipe": text_or_none(recipe),
        "config": path_or_none(config),
        "trust": trust,
    }
    # The lists of a source go with the folder.
    with TemporaryDirectory() as lists:
        asked = asked_training(source, settings, out=lists, name=None, watch=watch, layers=layers)
        with asked as (found, _):
            return lr_find.find_lr(found, watch, out=path_or_none(out))
