"""What a run folder holds for its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptkit.core.comparing.runs import FoundRun, find_runs, read_run
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import read_list
from ptkit.core.diagnosis.findings import Finding
from ptkit.core.diagnosis.rules import open_findings
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.training.tasks.metrics import majority_of, share_text
from ptkit.looking.diagnosis import diagnose

# In this order; a title for each. Others of the folder are not shown.
PICTURES = {
    "curves.png": "Learning curves",
    "gradient_flow.png": "How far each layer moved",
    "distributions.png": "Weights and gradients",
    "output_bias.png": "Biases of the output layer",
    "numbers.png": "Predicted against true",
    "gradcam.png": "Where it looked",
    "embedding.png": "Embedding",
    "pr_curves.png": "Precision against recall",
}
FOLDERS = {"kernels": "Kernels", "feature_maps": "Feature maps"}


@dataclass(frozen=True)
class Report:
    """A run and what is said of it.

    summary: sentences. findings: of `ptkit diagnose`, those that are open; None where it cannot
    look, and why_not says so. pictures: title and file. image_files: of the validation images in
    the order of the predictions, None where they are not there.
    """

    run: FoundRun
    summary: Sequence[str]
    findings: Sequence[Finding] | None
    why_not: str
    pictures: Sequence[tuple[str, Path]]
    image_files: Sequence[str] | None

    @property
    def matrix(self) -> np.ndarray | None:
        """The confusion matrix, rows the true classes, of runs with one class an image."""
        found = self.run.predictions
        if found is None or found.kind != SINGLE:
            return None
        counts = np.zeros((len(found.names),) * 2, np.int64)
        np.add.at(counts, (found.truth, found.answers), 1)
        return counts


def gather(folder: Path) -> Report:
    """Read a run for its report.

    Raises:
        DataError: not a run folder, or a file in it is damaged.
    """
    if not (folder / "config.toml").is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.toml")
    run = read_run(folder)
    findings, why_not = _findings(folder)
    return Report(run, _summary(run), findings, why_not, _pictures(folder), _image_files(run))


def gather_all(folder: Path) -> list[FoundRun]:
    """Read all runs of a folder.

    Raises:
        UsageError: there are none. DataError: a file that cannot be read.
    """
    return find_runs([folder])


def _findings(folder: Path) -> tuple[list[Finding] | None, str]:
    try:
        recorded, found = diagnose(folder)
    except PtkitError as error:
        return None, str(error)
    if recorded.start is None:
        return None, "the run recorded nothing (log.layers=false, or an earlier version)"
    return open_findings(found), ""


def _summary(run: FoundRun) -> list[str]:
    lines = []
    if run.rows:
        best = run.best
        seconds = sum(row.get("seconds", 0.0) for row in run.rows)
        epochs = run.settings.train.epochs
        lines.append(
            f"{len(run.rows)} of {epochs} epochs, {seconds:,.0f} s; the best is epoch"
            f" {best['epoch']:.0f} with a validation loss of {best['valid_loss']:.4g}"
        )
    else:
        lines.append("No epoch was finished.")
    found = run.predictions
    if found is None:
        lines.append("The run did not reach its end, so its answers for single images are missing.")
        return lines
    if found.kind == SINGLE:
        right, total = int(found.right.sum()), len(found.paths)
        majority = majority_of(found.truth, found.names)
        lines.append(f"Validation accuracy {share_text(right, total)}, {majority}")
    else:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
        lines.append(f"Validation: {numbers}")
    return lines


def _pictures(folder: Path) -> list[tuple[str, Path]]:
    single = [(title, folder / name) for name, title in PICTURES.items()]
    several = [
        (f"{title}: {file.stem}", file)
        for name, title in FOLDERS.items()
        for file in sorted((folder / name).glob("*.png"))
    ]
    return [(title, file) for title, file in single + several if file.is_file()]


def _image_files(run: FoundRun) -> list[str] | None:
    if run.predictions is None:
        return None
    try:
        root = run.settings.data.root
        listed = read_list(Path(run.settings.data.valid), root=Path(root) if root else None)
    except PtkitError:
        return None
    places = {listed.listed_path(row): listed.image_path(row) for row in range(len(listed))}
    files = [places.get(path) for path in run.predictions.paths]
    return [file for file in files if file] if all(files) else None
