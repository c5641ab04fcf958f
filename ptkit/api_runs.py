"""ptkit in Python: what makes a run, see api.py.

Settings are keywords with the names that the settings have in docs/training.md: `lr`, `batch_size`,
and `model`, `loss`, `optimizer`, `scheduler` for the calls.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ptkit.api_types import FinetuneSettings, StrPath, TrainSettings, path_or_none
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.core.config import Settings
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.probe.linear_head import Chosen
    from ptkit.core.training.run_folder import Run
    from ptkit.core.training.session import RunResult


def train(
    *,
    config: StrPath | None = None,
    recipe: str | None = None,
    name: str | None = None,
    out: StrPath | None = None,
    resume: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[TrainSettings],
) -> "RunResult":
    """Train a classifier on train.txt and valid.txt, as `split` leaves them, into a run folder.

    Settings take precedence over the TOML file `config`, that over the `recipe`; photographs get a
    recipe where neither is given.
    out: the parent of the run folder, `runs` by default. resume: a run folder to continue.
    link: where a link to the best checkpoint is put, or None. watch: is called with what happens.

    >>> result = ptkit.train(epochs=2, lr=0.05, optimizer="SGD(momentum=0.9)")
    >>> str(result.checkpoint)
    'runs/1/ckpt.pkl'
    >>> sorted(result.best)
    ['accuracy', 'epoch', 'loss']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config_layers import gather
    from ptkit.core.training.observers import Unwatched
    from ptkit.core.training.usual import usual_layer

    refused = [k for k, v in {"name": name, "out": out, "recipe": recipe}.items() if v is not None]
    if resume is not None and refused:
        raise UsageError(
            f"--resume continues with the run's own settings and folder: leave out --{refused[0]}"
        )
    watch = watch or Unwatched()
    found = gather(
        settings, recipe=recipe, resume=path_or_none(resume), config=path_or_none(config)
    )
    if recipe is config is resume is None:
        usual, why = usual_layer(found)
        if why:
            watch.say(why)
            found = gather(settings, base=usual)
    return _run(found, name=name, out=out, resume=resume, link=link, watch=watch)


def finetune(
    weights: StrPath | None = None,
    *,
    config: StrPath | None = None,
    recipe: str | None = None,
    name: str | None = None,
    out: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneSettings],
) -> "RunResult":
    """Train from old weights, the head ten times as fast as the rest.

    weights: a checkpoint, a run folder, bare weights, or a model that has pretrained ones, such as
    "resnet18" or "timm:resnet18.a1_in1k"; by default those of `model`.
    The rest: see `train`; a finetuned run is resumed by `train(resume=...)`.

    >>> result = ptkit.finetune("ckpt.pkl", epochs=1, groups=["conv1: frozen"], name="tuned")
    >>> str(result.run)
    'runs/tuned'

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config_layers import gather
    from ptkit.core.models.locate import model_of

    given: dict[str, Any] = {} if weights is None else {"weights": os.fspath(weights)}
    # The model of the weights stands in for the recipe's.
    found = gather(
        {**settings, **given},
        base={"optimizer": {"head_lr": 10.0}},
        recipe=recipe,
        model=model_of(given["weights"]) if given and recipe is not None else None,
        config=path_or_none(config),
    )
    # Of a model that is named beside a recipe, its own and not those of the recipe.
    is_own = weights is None and settings.get("model") is not None
    if is_own or found.model.weights is None:
        found = _from_own_weights(found)
    return _run(found, name=name, out=out, resume=None, link=link, watch=watch)


def probe(
    weights: StrPath | Sequence[StrPath] = "efficientnet_lite0",
    *,
    name: str | None = None,
    out: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneSettings],
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
    from ptkit.core.config_layers import Layer, gather

    base: Layer = {
        "train": {"method": "probe", "epochs": 1},
        "loss": {"call": "CrossEntropyLoss()"},
        # Tracing it takes longer than fitting the head, and the network is not new.
        "log": {"graph": False},
    }
    names = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    found = {os.fspath(each): gather({**settings, "weights": each}, base=base) for each in names}
    compared = _compared(found, watch) if len(found) > 1 else {}
    # Of as many right answers the smaller loss; it is chosen on the training images alone.
    best = min(found, key=lambda each: compared[each].order if compared else 0)
    result = _run(found[best], name=name, out=out, resume=None, link=link, watch=watch)
    return replace(result, backbones=compared)


def _compared(found: "Mapping[str, Settings]", watch: "Watcher | None") -> "dict[str, Chosen]":
    """Say how good heads on each of several backbones are."""
    from ptkit.core.training.observers import Unwatched
    from ptkit.core.training.probing import cross_validated

    watch, compared = watch or Unwatched(), {}
    for name, settings in found.items():
        compared[name] = cross_validated(settings, watch)
        watch.say(f"backbone {name}: {compared[name].line}")
    return compared


def _from_own_weights(settings: "Settings") -> "Settings":
    """Return the settings of a run that starts from the pretrained weights of its model."""
    if settings.model.call is None:
        raise UsageError(
            "finetune needs weights to start from: ptkit finetune WEIGHTS, or --model NAME of a"
            " model with pretrained ones, such as efficientnet_lite0"
        )
    # Its call comes with the weights.
    model = replace(settings.model, call=None, weights=settings.model.call)
    return replace(settings, model=model)


def _run(
    settings: "Settings",
    *,
    name: str | None,
    out: StrPath | None,
    resume: StrPath | None,
    link: StrPath | None,
    watch: "Watcher | None",
) -> "RunResult":
    from ptkit.core.training import session
    from ptkit.core.training.observers import Unwatched
    from ptkit.core.training.run_place import Place

    return session.run(
        settings,
        watch=watch or Unwatched(),
        place=Place(Path(out or "runs"), name),
        link=path_or_none(link),
        resume=path_or_none(resume),
        at_end=_draw_summaries,
    )


def _draw_summaries(run: "Run") -> tuple[Path, ...]:
    """Draw the pictures of a finished run; matplotlib is loaded here, when it is needed."""
    from ptkit.looking.end_of_run import write_summaries

    return write_summaries(run)
