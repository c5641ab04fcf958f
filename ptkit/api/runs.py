"""`ptkit train` and `ptkit finetune` in Python.

Settings are keywords with the names that the settings have in docs/training.md: `lr`, `batch_size`,
and `model`, `loss`, `optimizer`, `scheduler` for the calls.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Unpack

from ptkit.api.keywords import FinetuneKeywords, SourceFlags, TrainKeywords
from ptkit.api.paths import StrPath, path_or_none, text_or_none
from ptkit.api.settings import Layers, asked_finetuning, asked_training
from ptkit.core.errors import UsageError

if TYPE_CHECKING:
    from ptkit.core.config.settings import Settings
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.run_folder import Run
    from ptkit.core.training.run_place import Place
    from ptkit.core.training.run_result import RunResult


P = ParamSpec("P")


def as_one_run(run: "Callable[P, RunResult]") -> "Callable[P, RunResult]":
    """Let the processes that torchrun has started make one run, of which the first one tells."""

    @functools.wraps(run)
    def together(*args: P.args, **keywords: P.kwargs) -> "RunResult":
        from ptkit.core.distributed import joined
        from ptkit.core.ranks import here

        with joined():
            if not here().is_main:
                keywords["watch"] = None
            begun = _begun_before(keywords) if here().restarts else None
            return run(*args, **keywords) if begun is None else _continued(begun, keywords)

    return together


def _begun_before(keywords: Mapping[str, Any]) -> Path | None:
    """Return the run that this job had begun when torchrun started it again, if any."""
    from ptkit.core.distributed import from_main
    from ptkit.core.training.holding import run_of_this_job

    if keywords.get("resume") is not None:
        return None
    return from_main(lambda: run_of_this_job(Path(keywords.get("out") or "runs")))


def _continued(begun: Path, keywords: Mapping[str, Any]) -> "RunResult":
    """Resume a run with the keywords that it was begun with; the rest is in its folder."""
    # Preflight was done before the run began.
    known = {"weights", "source", "name", "out", "recipe", "config", "preflight"}
    known |= SourceFlags.__annotations__.keys()
    return train(resume=begun, **{k: v for k, v in keywords.items() if k not in known})


def _refuse_series(settings: Mapping[str, Any], resume: StrPath | None = None) -> None:
    for name in ("seeds", "folds"):
        if name in settings:
            raise UsageError(
                f"{name} makes several runs: ptkit.train_series({name}=...) or, from old weights,"
                f" ptkit.finetune_series(weights, {name}=...)"
            )
    if resume is None:
        return
    from ptkit.core.training.series import is_series
    from ptkit.looking.series import SeriesResult

    if isinstance(resume, SeriesResult) or is_series(Path(resume)):
        folder = resume.run if isinstance(resume, SeriesResult) else resume
        raise UsageError(
            f"{folder} is a series of runs: resume it with ptkit.train_series(resume=...)"
        )


@as_one_run
def train(
    source: StrPath | None = None,
    *,
    config: StrPath | None = None,
    recipe: StrPath | None = None,
    name: str | None = None,
    out: StrPath | None = None,
    resume: StrPath | None = None,
    trust: bool = False,
    preflight: bool = False,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[TrainKeywords],
) -> "RunResult":
    """Train a classifier on train.txt and valid.txt, as `split` leaves them, into a run folder.

    source: a folder or a table of images, which is split first as `split` does it; the lists are
    then in the run folder.
    Settings take precedence over the TOML file `config`, that over the `recipe`; photographs get a
    recipe where neither is given.
    out: the parent of the run folder, `runs` by default. resume: a run folder to continue.
    trust: `config`, `recipe` and the run to resume may name code of their own, which is run.
    preflight: look first whether the model can learn these images.
    link: where a link to the best checkpoint is put, or None. watch: is called with what happens.

    >>> result = ptkit.train(epochs=2, lr=0.05, optimizer="SGD(momentum=0.9)")
    >>> str(result.checkpoint)
    'runs/1/ckpt.pkl'
    >>> sorted(result.best)
    ['accuracy', 'epoch', 'loss']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.ranks import here
    from ptkit.core.training.observers import Unwatched

    _refuse_series(settings, resume)
    if preflight and not here().is_alone:
        raise UsageError("--preflight is for one process: leave torchrun out")
    refused = [k for k, v in {"name": name, "out": out, "recipe": recipe}.items() if v is not None]
    refused += ["preflight"] * preflight
    watch = watch or Unwatched()
    layers: Layers = {
        "recipe": text_or_none(recipe),
        "config": path_or_none(config),
        "trust": trust,
    }
    if resume is not None:
        layers["resume"] = resume = _run_to_resume(resume, refused, source=source)
    asked = asked_training(source, settings, out=out, name=name, watch=watch, layers=layers)
    with asked as (found, place):
        return run_settings(
            found, place, resume=resume, link=link, watch=watch, preflight=preflight
        )


def _run_to_resume(
    resume: StrPath, refused: Sequence[str], *, source: StrPath | None = None
) -> Path:
    """Return the run folder that is to go on. refused: flags that have no place then."""
    from ptkit.core.run_files import why_no_run
    from ptkit.core.run_folders import run_of

    if refused:
        raise UsageError(
            f"--resume continues with the run's own settings and folder: leave out --{refused[0]}"
        )
    if source is not None:
        raise UsageError(f"--resume continues with the run's own lists: leave {source} out")
    folder = run_of(Path(resume))
    if (why := why_no_run(folder)) is not None:
        raise UsageError(why)
    return folder


@as_one_run
def finetune(
    weights: StrPath | None = None,
    source: StrPath | None = None,
    *,
    config: StrPath | None = None,
    recipe: StrPath | None = None,
    name: str | None = None,
    out: StrPath | None = None,
    trust: bool = False,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneKeywords],
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
    from ptkit.core.training.observers import Unwatched

    _refuse_series(settings)
    watch = watch or Unwatched()
    layers: Layers = {
        "recipe": text_or_none(recipe),
        "config": path_or_none(config),
        "trust": trust,
    }
    asked = asked_finetuning(
        weights, source, settings, out=out, name=name, watch=watch, layers=layers
    )
    with asked as (found, place):
        return run_settings(found, place, resume=None, link=link, watch=watch)


def run_settings(
    settings: "Settings",
    place: "Place",
    *,
    resume: StrPath | None,
    link: StrPath | None,
    watch: "Watcher",
    preflight: bool = False,
) -> "RunResult":
    """Make one run as its settings say, with its pictures; see `train`."""
    from ptkit.core.training import session

    return session.run(
        settings,
        watch=watch,
        place=place,
        link=path_or_none(link),
        resume=path_or_none(resume),
        before=functools.partial(_look_before, watch) if preflight else lambda _run: None,
        at_end=functools.partial(_draw_summaries, watch),
    )


def _look_before(watch: "Watcher", run: "Run") -> None:
    from ptkit.looking.preflight import look_before

    look_before(run, watch)


def _draw_summaries(watch: "Watcher", run: "Run") -> tuple[Path, ...]:
    """Draw the pictures of a finished run; matplotlib is loaded here, when it is needed."""
    from ptkit.looking.end_of_run import write_summaries

    return write_summaries(run, watch=watch)
