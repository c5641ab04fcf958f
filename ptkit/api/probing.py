"""`ptkit probe` in Python."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from ptkit.api.keywords import FinetuneKeywords
from ptkit.api.paths import StrPath
from ptkit.api.runs import as_one_run, run_settings
from ptkit.api.settings import split_first

if TYPE_CHECKING:
    from ptkit.core.config.settings import Settings
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.probe.linear_head import Chosen
    from ptkit.core.training.run_result import RunResult


@as_one_run
def probe(
    weights: StrPath | Sequence[StrPath] = "efficientnet_lite0",
    source: StrPath | None = None,
    *,
    name: str | None = None,
    out: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneKeywords],
) -> "RunResult":
    """Fit a linear head to features of a pretrained network, which stays as it is.

    weights: as for `finetune`; of several, those whose heads are best in cross-validation. The
    result is a run like that of `train`, of one epoch.

    >>> result = ptkit.probe("ckpt.pkl", name="probed")
    >>> sorted(result.best)
    ['accuracy', 'epoch', 'loss']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config.layers import Layer, gather
    from ptkit.core.training.observers import Unwatched

    base: Layer = {
        "train": {"method": "probe", "epochs": 1},
        "loss": {"call": "CrossEntropyLoss()"},
        # Tracing it takes longer than fitting the head, and the network is not new.
        "log": {"graph": False},
    }
    watch = watch or Unwatched()
    names = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    begun = split_first(source, settings, out=out, name=name, watch=watch, layers={})
    with begun as (given, place):
        found = {os.fspath(each): gather({**given, "weights": each}, base=base) for each in names}
        compared = _compared(found, watch) if len(found) > 1 else {}
        # Of as many right answers the smaller loss; it is chosen on the training images alone.
        best = min(found, key=lambda each: compared[each].order if compared else 0)
        if compared:
            watch.say(f"taken: {best}")
        result = run_settings(found[best], place, resume=None, link=link, watch=watch)
    return replace(result, backbones=compared)


def _compared(found: "Mapping[str, Settings]", watch: "Watcher") -> "dict[str, Chosen]":
    """Say how good heads on each of several backbones are."""
    from ptkit.core.models.locate import find_weights
    from ptkit.core.training.probing import cross_validated

    # A wrong name is reported before minutes go into the others.
    for name in found:
        find_weights(name)
    compared = {}
    for name, settings in found.items():
        compared[name] = cross_validated(settings, watch)
        watch.say(f"backbone {name}: {compared[name].line}")
    return compared
