"""ptkit in Python: several runs of one setting in one folder, by seed or by fold."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ptkit.api.keywords import FinetuneKeywords, TrainKeywords
from ptkit.api.paths import StrPath, path_or_none, text_or_none
from ptkit.api.runs import run_settings
from ptkit.api.settings import Layers, asked_finetuning, asked_training
from ptkit.core.errors import UsageError
from ptkit.core.ranks import rank_of_environment

if TYPE_CHECKING:
    from ptkit.core.config.settings import Settings
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.run_place import Place
    from ptkit.core.training.series import Series
    from ptkit.looking.series import SeriesResult


class _OfSeries(TypedDict, total=False):
    config: StrPath | None
    recipe: StrPath | None
    name: str | None
    out: StrPath | None
    trust: bool
    preflight: bool
    link: StrPath | None


class TrainSeriesKeywords(TrainKeywords, _OfSeries, total=False):
    """What `train_series` takes beside the seeds or folds."""


class FinetuneSeriesKeywords(FinetuneKeywords, _OfSeries, total=False):
    """What `finetune_series` takes beside the seeds or folds."""


def is_asked_for(keywords: dict[str, Any]) -> bool:
    """Say whether the keywords of a command mean several runs: they say so, or resume them."""
    from ptkit.core.training.series import is_series

    resume = keywords.get("resume")
    is_resumed = resume is not None and is_series(Path(resume))
    return is_resumed or not keywords.keys().isdisjoint(("seeds", "folds"))


def train_series(
    source: StrPath | None = None,
    *,
    seeds: int | None = None,
    folds: StrPath | None = None,
    resume: StrPath | None = None,
    watch: "Watcher | None" = None,
    **keywords: Unpack[TrainSeriesKeywords],
) -> "SeriesResult":
    """Train once for each of so many seeds, or for each fold that `ptkit split --kfold` wrote.

    folds: their folder. resume: a series, or its folder, of which what is missing is trained.
    keywords: see `ptkit.train`; `link` is put to the best run's checkpoint.

    >>> found = ptkit.train_series(seeds=2, epochs=1, name="small")
    >>> [run.name for run in found.setting.runs]
    ['runs/small/seed-0', 'runs/small/seed-1']
    >>> list(found.setting.as_dict()["accuracy"])
    ['mean', 'std', 'interval', 'values']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.looking.series import SeriesResult

    watch, given_keywords = _watched(watch), dict(keywords)
    if resume is not None:
        if source is not None:
            raise UsageError(f"--resume continues with the runs' own lists: leave {source} out")
        # As a path a result is that of its best run.
        folder = resume.run if isinstance(resume, SeriesResult) else Path(resume)
        return _resumed(folder, watch, {"seeds": seeds, "folds": folds, **given_keywords})
    given_keywords |= _lists_of(seeds, folds, source, given_keywords)
    link, given, where, layers = _apart(given_keywords)
    gathered = asked_training(source, given, **where, watch=watch, layers=layers)
    planned = _planning(seeds, path_or_none(folds))
    return _trained(gathered, planned, link=link, watch=watch)


def finetune_series(
    weights: StrPath | None = None,
    source: StrPath | None = None,
    *,
    seeds: int | None = None,
    folds: StrPath | None = None,
    watch: "Watcher | None" = None,
    **keywords: Unpack[FinetuneSeriesKeywords],
) -> "SeriesResult":
    """Train on from old weights once for each seed or fold; see `train_series`.

    weights: see `ptkit.finetune`. It is resumed by `train_series(resume=...)`.

    >>> found = ptkit.finetune_series("runs/small", seeds=2, epochs=1, name="again")
    >>> str(found.run)
    'runs/again'

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    watch, given_keywords = _watched(watch), dict(keywords)
    given_keywords |= _lists_of(seeds, folds, source, given_keywords)
    link, given, where, layers = _apart(given_keywords)
    gathered = asked_finetuning(weights, source, given, **where, watch=watch, layers=layers)
    planned = _planning(seeds, path_or_none(folds))
    return _trained(gathered, planned, link=link, watch=watch)


def _watched(watch: "Watcher | None") -> "Watcher":
    from ptkit.core.training.observers import Unwatched

    return watch or Unwatched()


def _planning(seeds: int | None, folds: Path | None) -> "Callable[[Settings], dict[str, Settings]]":
    """Return what makes the settings of all runs out of one."""
    from ptkit.core.training.series import by_fold, by_seed

    if folds is None:
        return lambda settings: by_seed(settings, seeds or 1)
    return lambda settings: by_fold(settings, folds)


def _lists_of(
    seeds: int | None, folds: StrPath | None, source: StrPath | None, keywords: dict[str, Any]
) -> dict[str, Any]:
    """Return the lists by which the settings are chosen: those of the first fold."""
    from ptkit.core.training.series import check_alone, folds_in

    if folds is None and (seeds is None or seeds < 2):
        raise UsageError(f"a series needs folds, or seeds=2 and more; found seeds={seeds}")
    check_alone(seeds, path_or_none(folds))
    _refuse_several_processes()
    if folds is None:
        return {}
    taken = [f"--{name}" for name in ("train", "valid") if keywords.get(name) is not None]
    if source is not None or taken:
        raise UsageError(f"--folds has its own lists: leave {source or taken[0]} out")
    first = next(iter(folds_in(Path(folds)).values()))
    return {"train": first / "train.txt", "valid": first / "valid.txt"}


def _apart(
    keywords: dict[str, Any],
) -> tuple[Path | None, dict[str, Any], dict[str, Any], Layers]:
    """Return the link; the settings among the keywords; the place; recipe, config and trust.

    Raises:
        UsageError: a keyword that is for single runs.
    """
    given = dict(keywords)
    if given.pop("preflight", False):
        raise UsageError("--preflight is for one run: leave --seeds and --folds out")
    link = path_or_none(given.pop("link", "ckpt.pkl"))
    where = {name: given.pop(name, None) for name in ("out", "name")}
    layers: Layers = {
        "recipe": text_or_none(given.pop("recipe", None)),
        "config": path_or_none(given.pop("config", None)),
        "trust": bool(given.pop("trust", False)),
    }
    return link, given, where, layers


def _trained(
    gathered: "AbstractContextManager[tuple[Settings, Place]]",
    planned: "Callable[[Settings], dict[str, Settings]]",
    *,
    link: Path | None,
    watch: "Watcher",
) -> "SeriesResult":
    from ptkit.core.training.series import begun_series

    with gathered as (settings, place), begun_series(planned(settings), place) as series:
        return _completed(series, watch, link=link)


def _resumed(folder: Path, watch: "Watcher", given: dict[str, Any]) -> "SeriesResult":
    from ptkit.core.parts.trust import gather_trusted
    from ptkit.core.training.series import read_series

    trust, link = bool(given.pop("trust", False)), path_or_none(given.pop("link", "ckpt.pkl"))
    if refused := [name for name, value in given.items() if value is not None]:
        flag = "--" + refused[0].replace("_", "-")
        raise UsageError(
            f"--resume {folder} continues with the runs' own settings: leave out {flag}"
        )
    _refuse_several_processes()
    series = read_series(folder)
    for name in series.names:
        gather_trusted({}, config=folder / f"{name}.toml", trust=trust)
    return _completed(series, watch, link=link)


def _completed(series: "Series", watch: "Watcher", *, link: Path | None) -> "SeriesResult":
    """Train what is missing, and sum up."""
    from ptkit.core.training.series import train_missing
    from ptkit.looking.series import summarise

    def run_one(settings: "Settings", place: "Place", resume: Path | None) -> None:
        result = run_settings(settings, place, resume=resume, link=None, watch=watch)
        for verdict in result.verdicts:
            watch.say(f"note: {verdict.text}")

    train_missing(series, run_one, say=watch.say)
    return summarise(series.folder, series.runs, link=link)


def _refuse_several_processes() -> None:
    if not rank_of_environment().is_alone:
        raise UsageError("a series of runs is trained by one process: start it without torchrun")
