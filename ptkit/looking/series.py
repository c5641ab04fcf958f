"""The runs of a series in one table, with mean and standard deviation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.comparing.differences import Setting, best_of, pool
from ptkit.core.comparing.runs import FoundRun, read_run
from ptkit.core.files import write_atomically, write_csv
from ptkit.core.training.links import link_checkpoint


@dataclass(frozen=True)
class SeriesResult:
    """What a series led to. Passed as a path, it is the folder of its best run.

    run: the folder of the series. setting: its runs together. best: the best run by validation.
    notes: why a link could not be made.
    """

    run: Path
    setting: Setting
    best: FoundRun
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.best.folder)

    @property
    def checkpoint(self) -> Path:
        """That of the best run."""
        return self.best.folder / "ckpt.pkl"

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` and summary.json give."""
        return {
            "run": str(self.run),
            "checkpoint": str(self.checkpoint),
            "best": self.best.folder.name,
            "runs": [
                {
                    "run": run.name,
                    "seed": run.settings.train.seed,
                    "epochs": len(run.rows),
                    "best_epoch": int(run.best["epoch"]),
                    "metrics": run.metrics,
                }
                for run in self.setting.runs
            ],
            "metrics": self.setting.as_dict(),
        }


def summarise(folder: Path, runs: Sequence[Path], *, link: Path | None) -> SeriesResult:
    """Read the finished runs of a series, write summary.json and summary.csv, and link ckpt.pkl in
    its folder, and `link`, to the best checkpoint.

    Raises:
        DataError: a run that cannot be read. StorageError: the disk refused.
    """
    setting = pool([read_run(run) for run in runs])
    metric = setting.runs[0].main
    best = setting.runs[best_of(setting.values[metric], metric)]
    links = [folder / "ckpt.pkl", *([link] if link is not None else [])]
    notes = [link_checkpoint(best.folder / "ckpt.pkl", each) for each in links]
    result = SeriesResult(folder, setting, best, tuple(note for note in notes if note))
    write_atomically(
        folder / "summary.json", (json.dumps(result.as_dict(), indent=2) + "\n").encode()
    )
    names = list(setting.values)
    rows = [[run.folder.name, *(run.metrics[name] for name in names)] for run in setting.runs]
    rows.append(["mean", *(setting.mean(name) for name in names)])
    rows.append(["std", *(setting.deviation(name) for name in names)])
    write_csv(folder / "summary.csv", ["run", *names], rows)
    return result
