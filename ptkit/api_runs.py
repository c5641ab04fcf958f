"""ptkit in Python: what makes a run, see api.py.

Settings are keywords with the names that the settings have in docs/training.md: `lr`, `batch_size`,
and `model`, `loss`, `optimizer`, `scheduler` for the calls.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ptkit.api_types import FinetuneSettings, StrPath, TrainSettings, path_or_none
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.core.config import Settings
    from ptkit.core.training.observers import Watcher
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

    Settings take precedence over the TOML file `config`, that over the `recipe`.
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

    refused = [k for k, v in {"name": name, "out": out, "recipe": recipe}.items() if v is not None]
    if resume is not None and refused:
        raise UsageError(
            f"--resume continues with the run's own settings and folder: leave out --{refused[0]}"
        )
    found = gather(
        settings, recipe=recipe, resume=path_or_none(resume), config=path_or_none(config)
    )
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
    found = found if found.model.weights else _from_own_weights(found)
    return _run(found, name=name, out=out, resume=None, link=link, watch=watch)


def probe(
    weights: StrPath = "efficientnet_lite0",
    *,
    name: str | None = None,
    out: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneSettings],
) -> "RunResult":
    """Fit a linear head to features of a pretrained network, which stays as it is.

    weights: as for `finetune`. The result is a run like that of `train`, of one epoch.

    >>> result = ptkit.probe("ckpt.pkl", name="probed")
    >>> sorted(result.best)
    ['accuracy', 'epoch', 'loss']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config_layers import gather

    found = gather(
        {**settings, "weights": weights},
        base={
            "train": {"method": "probe", "epochs": 1},
            "loss": {"call": "CrossEntropyLoss()"},
        },
    )
    return _run(found, name=name, out=out, resume=None, link=link, watch=watch)


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

    return session.run(
        settings,
        watch=watch or Unwatched(),
        runs=Path(out or "runs"),
        name=name,
        link=path_or_none(link),
        resume=path_or_none(resume),
        at_end=_draw_summaries,
    )


def _draw_summaries(run: "Run") -> tuple[Path, ...]:
    """Draw the pictures of a finished run; matplotlib is loaded here, when it is needed."""
    from ptkit.looking.end_of_run import write_summaries

    return write_summaries(run)
