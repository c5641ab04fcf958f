"""Several runs of one setting, by seed or by fold: each an ordinary run folder, all in one folder.

`series.json` names them, and beside it lie the settings of each, NAME.toml, so that what is missing
can be trained later.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ptkit.core.config.layers import read_toml, resolve, to_toml
from ptkit.core.config.settings import Settings
from ptkit.core.data.loading.sharing import sharing_decoded
from ptkit.core.errors import DataError, PtkitError, UsageError
from ptkit.core.files import parse_json, write_atomically
from ptkit.core.run_files import resume_command
from ptkit.core.training.holding import is_unfinished
from ptkit.core.training.run_place import Place

FILE = "series.json"
_FOLD = re.compile(r"fold-?(\d+)")

# Trains one run: its settings, where a new one goes, and the folder of one to resume.
RunOne = Callable[[Settings, Place, Path | None], object]


@dataclass(frozen=True)
class Series:
    """names: of the run folders in `folder`."""

    folder: Path
    names: tuple[str, ...]

    @property
    def runs(self) -> tuple[Path, ...]:
        """The run folders, whether they are there yet or not."""
        return tuple(self.folder / name for name in self.names)

    @property
    def is_of_seeds(self) -> bool:
        """Whether all runs have the same lists."""
        return self.names[0].startswith("seed-")

    def settings(self, name: str) -> Settings:
        """Return the settings of one run; of seeds, all take what was measured for the first one:
        statistics, batch size.
        """
        if (own := self.folder / name / "config.toml").exists():
            return resolve(read_toml(own))
        planned = resolve(read_toml(self.folder / f"{name}.toml"))
        first = self.folder / self.names[0] / "config.toml"
        if not self.is_of_seeds or not first.exists():
            return planned
        found = resolve(read_toml(first))
        return replace(found, train=replace(found.train, seed=planned.train.seed))


def by_seed(settings: Settings, count: int) -> dict[str, Settings]:
    """Return the settings of runs whose seeds follow each other, by their names."""
    first = settings.train.seed
    return {
        f"seed-{seed}": replace(settings, train=replace(settings.train, seed=seed))
        for seed in range(first, first + count)
    }


def by_fold(settings: Settings, folder: Path) -> dict[str, Settings]:
    """Return the settings of a run for each fold that `ptkit split --kfold` wrote, by their names.

    Raises:
        DataError: fewer than two folds there.
    """
    return {
        name: replace(
            settings,
            data=replace(
                settings.data, train=str(fold / "train.txt"), valid=str(fold / "valid.txt")
            ),
        )
        for name, fold in folds_in(folder).items()
    }


def folds_in(folder: Path) -> dict[str, Path]:
    """Return the folders of folds, by the names of their runs, in order.

    Raises:
        DataError: fewer than two.
    """
    numbers = {
        int(found[1]): file.parent
        for file in folder.glob("*/valid.txt")
        if (found := _FOLD.fullmatch(file.parent.name))
    }
    if len(numbers) < 2:
        raise DataError(
            f"{folder} holds {len(numbers)} folds; `ptkit split IMAGES --kfold 5 --out {folder}`"
            " writes them as fold1, fold2, ..."
        )
    return {f"fold-{number}": numbers[number] for number in sorted(numbers)}


def is_series(folder: Path) -> bool:
    """Say whether a folder is that of a series."""
    return (folder / FILE).is_file()


def read_series(folder: Path) -> Series:
    """Return a series that was begun.

    Raises:
        UsageError: not the folder of a series. DataError: its file is damaged.
    """
    try:
        names = tuple(map(str, parse_json((folder / FILE).read_bytes())["runs"]))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} is not the folder of a series: it has no {FILE}") from None
    except (OSError, ValueError, KeyError, TypeError):
        names = ()
    if not names or any(name != Path(name).name for name in names):
        raise DataError(f"{folder / FILE} is damaged: it does not name the runs of the series")
    return Series(folder, names)


@contextmanager
def begun_series(planned: Mapping[str, Settings], place: Place) -> Iterator[Series]:
    """Make the folder of a series and write down what it is to hold; if not even its first run can
    begin, the folder goes again.

    Raises:
        UsageError, StorageError: see Place.
    """
    place.check()
    folder = place.folder()
    series = Series(folder, tuple(planned))
    try:
        for name, settings in planned.items():
            text = to_toml(settings, folder=folder)
            write_atomically(folder / f"{name}.toml", text.encode())
        record = json.dumps({"runs": series.names}, indent=1) + "\n"
        write_atomically(folder / FILE, record.encode())
        yield series
    except BaseException:
        if not any((run / "config.toml").exists() for run in series.runs):
            for file in (FILE, *(f"{name}.toml" for name in planned)):
                (folder / file).unlink(missing_ok=True)
            # Lists of the run may be there, and go with them.
            with suppress(OSError):
                folder.rmdir()
        raise


def train_missing(series: Series, run_one: RunOne, *, say: Callable[[str], None]) -> None:
    """Train every run of a series that is not finished, those that were begun from where they are.

    Images that all runs keep in memory are decoded once.

    Raises:
        PtkitError: of the run that failed; what is done stays.
    """
    with sharing_decoded() if series.is_of_seeds else nullcontext():
        for number, run in enumerate(series.runs, 1):
            if is_finished(run):
                say(f"{run} is finished")
                continue
            say(f"{run}: {number} of {len(series.names)}")
            is_begun = (run / "config.toml").exists()
            # A kill may have left it without a file.
            place = Place(series.folder, run.name, made=run if run.exists() else None)
            try:
                run_one(series.settings(run.name), place, run if is_begun else None)
            except PtkitError as error:
                if (series.runs[0] / "config.toml").exists():
                    how = resume_command(series.folder)
                    error.args = (f"{error}; all {len(series.names)} runs: {how}",)
                raise


def is_finished(run: Path) -> bool:
    """Say whether a run has reached its end: its last file is there, and nobody is at it."""
    return (run / "valid_predictions.csv").exists() and not is_unfinished(run)


def check_alone(seeds: int | None, folds: Path | None) -> None:
    """Refuse seeds and folds together.

    Raises:
        UsageError: both are given.
    """
    if seeds is not None and folds is not None:
        raise UsageError("--seeds and --folds cannot be combined: leave one out")
