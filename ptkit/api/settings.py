"""What a run is asked to be: settings out of keywords, and the folder that it goes into."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ptkit.api.keywords import SourceFlags
from ptkit.api.paths import StrPath, path_or_none, text_or_none
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.core.config.settings import Settings
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.run_place import Place


class Layers(TypedDict, total=False):
    """What `gather` gets beside keywords."""

    recipe: str | None
    resume: Path | None
    config: Path | None
    trust: bool


@contextmanager
def asked_training(
    source: StrPath | None,
    settings: Mapping[str, Any],
    *,
    out: StrPath | None,
    name: str | None,
    watch: "Watcher",
    layers: Layers,
) -> "Iterator[tuple[Settings, Place]]":
    """Yield the settings of a run, all recipes included, and its place; see `split_first`."""
    from ptkit.core.parts.trust import gather_trusted
    from ptkit.core.training.usual import usual_layer, with_identity_blocks

    begun = split_first(source, settings, out=out, name=name, watch=watch, layers=layers)
    with begun as (given, place):
        found = gather_trusted(given, **layers)
        if not any(layers.get(key) for key in ("recipe", "config", "resume")):
            usual, why = usual_layer(found)
            if why:
                watch.say(why)
                found = with_identity_blocks(gather_trusted(given, base=usual))
        yield found, place


@contextmanager
def asked_finetuning(
    weights: StrPath | None,
    source: StrPath | None,
    settings: Mapping[str, Any],
    *,
    out: StrPath | None,
    name: str | None,
    watch: "Watcher",
    layers: Layers,
) -> "Iterator[tuple[Settings, Place]]":
    """Yield the settings of a run that starts from old weights, and its place."""
    from ptkit.core.config.layers import read_recipe, resolve
    from ptkit.core.models.locate import model_of
    from ptkit.core.parts.trust import gather_trusted
    from ptkit.core.training.usual import finetuning_rate

    recipe = layers.get("recipe")
    begun = split_first(source, settings, out=out, name=name, watch=watch, layers=layers)
    with begun as (given, place):
        if weights is not None:
            given["weights"] = os.fspath(weights)
        over_recipe: dict[str, dict[str, Any]] = {}
        if weights is not None and recipe is not None:
            over_recipe["model"] = {"call": model_of(given["weights"])}
        rate = None
        if recipe is not None:
            asked = resolve(read_recipe(recipe))
            rate = finetuning_rate(asked)
        if rate is not None:
            over_recipe["optimizer"] = {"lr": rate, "lr_per": asked.optimizer.lr_per}
        found = gather_trusted(
            given, base={"optimizer": {"head_lr": 10.0}}, over_recipe=over_recipe, **layers
        )
        if rate is not None and found.optimizer.lr == rate != given.get("lr"):
            watch.say(
                f"lr {rate:g}: a tenth of that of {recipe}, a recipe for training from scratch"
            )
        # Of a model that is named beside a recipe, its own and not those of the recipe.
        is_own = weights is None and recipe is not None and given.get("model") is not None
        if is_own or found.model.weights is None:
            found = _from_own_weights(found)
        yield found, place


@contextmanager
def split_first(
    source: StrPath | None,
    settings: Mapping[str, Any],
    *,
    out: StrPath | None,
    name: str | None,
    watch: "Watcher",
    layers: Layers,
) -> "Iterator[tuple[dict[str, Any], Place]]":
    """Split a source, if there is one, into the folder of the run; yield the settings with its
    lists, and the place of the folder.

    layers: what else `gather` gets; the seed may be in them.
    """
    from ptkit.core.training.run_place import Place

    place = Place(Path(out or "runs"), text_or_none(name))
    flags = {k: settings[k] for k in SourceFlags.__annotations__ if settings.get(k) is not None}
    given = {key: value for key, value in settings.items() if key not in flags}
    if source is None:
        if flags:
            flag = "--" + next(iter(flags)).replace("_", "-")
            raise UsageError(f"{flag} is for a folder or a table that is split first: name one")
        yield given, place
        return
    from ptkit.core.ranks import here

    if not here().is_alone:
        raise UsageError(
            f"{source} is split by one process, and there are {here().num_ranks}: split it first,"
            f" with `ptkit split {source}`, and leave it out"
        )
    from ptkit.core.data.splits.sources import Source
    from ptkit.core.data.splits.tables import Columns
    from ptkit.core.parts.trust import gather_trusted
    from ptkit.core.training.own_lists import own_lists

    if lists := [f"--{key}" for key in ("train", "valid") if given.get(key)]:
        raise UsageError(
            f"{lists[0]} names a list, and {source} is split into lists: leave one out"
        )
    columns = Columns(*(flags.get(f"{name}_column") for name in ("path", "label", "group")))
    images = Source(Path(source), columns, flags.get("label_from"), path_or_none(given.get("root")))
    seed = gather_trusted(given, **layers).train.seed
    with own_lists(images, place, seed=seed) as (claimed, notes):
        for note in notes:
            watch.say(note)
        folder = claimed.folder()
        # The lists name the images where they are now, and lie beside their classes.
        own = {"train": folder / "train.txt", "valid": folder / "valid.txt"}
        yield {**given, **own, "root": None, "classes": None}, claimed


def _from_own_weights(settings: "Settings") -> "Settings":
    """Return the settings of a run that starts from the pretrained weights of its model."""
    if settings.model.call is None:
        raise UsageError(
            "finetune needs weights to start from: ptkit finetune WEIGHTS, or --model NAME of a"
            " model with pretrained ones, such as efficientnet_lite0"
        )
    # Its call comes with the weights; a hash is of others.
    own = settings.model.call
    model = replace(settings.model, call=None, weights=own, weights_sha256=None)
    return replace(settings, model=model)
