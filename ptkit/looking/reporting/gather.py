"""What a run folder tells of a run, gathered for its report; also of a run that was killed."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ptkit.core.comparing.runs import FoundRun, Predictions, read_run
from ptkit.core.config.settings import DataSettings, Settings
from ptkit.core.counting import Counting
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import ImageList, read_list
from ptkit.core.device import choose_device
from ptkit.core.diagnosis.findings import Finding
from ptkit.core.errors import CheckpointError, PtkitError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.run_files import Outputs
from ptkit.core.training.changed_lists import (
    TRAINING,
    VALIDATION,
    changed_lists,
    told_as_changed,
)
from ptkit.core.training.setup_lists import lists_of_run
from ptkit.core.wording import reason_of
from ptkit.looking.checking import CheckUp, check_up
from ptkit.looking.diagnosis import continuation, diagnose
from ptkit.looking.reporting.examples import in_order_of

# Of more images the check-up may take a minute or more.
MAX_CHECKED = 5_000


@dataclass(frozen=True)
class Missing:
    """What a report leaves out, and why."""

    reason: str


@dataclass(frozen=True)
class Reported:
    """A run with all that its report shows. Missing says why a part is not there.

    predictions: classes are numbered as in the run's list of classes. places: of the validation
    images, from the listed path to one that opens. with_images: whether the page may show pictures
    and paths of the data. continuation: the command that continues the run, None of one that is
    done. changed_lists: which lists (TRAINING, VALIDATION) were changed after the run; None where
    they cannot be compared.
    """

    run: FoundRun
    predictions: Predictions | Missing
    findings: Sequence[Finding] | Missing
    check: CheckUp | Missing
    places: Mapping[str, str] | Missing
    with_images: bool = True
    continuation: str | None = None
    changed_lists: tuple[str, ...] | None = None

    @property
    def settings(self) -> Settings:
        return self.run.settings

    @property
    def told_changes(self) -> str:
        """What the results are of where lists were changed, else ""."""
        if not self.changed_lists:
            return ""
        told = told_as_changed(self.changed_lists, relabel=self.settings.data.relabel)
        return f"{told}: its results are of the lists as they were"


def gather_run(
    folder: Path,
    *,
    with_images: bool = True,
    check: bool | None = None,
    root: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    counting: Counting,
) -> Reported:
    """Read a run folder, apply the rules of `diagnose` to it and those of `check` to its lists.

    check: whether to check the lists; None for those of at most MAX_CHECKED images. root: a folder
    that the images are in now. counting: for a progress bar.

    Raises:
        UsageError: settings that cannot be read, or a device that is not there.
        DataError, StorageError: a table that cannot be read.
    """
    run = read_run(folder)
    # What is missing is said on the page; a device that is not there is not.
    choose_device(device)
    # The settings on the page are the run's own.
    data = run.settings.data if root is None else replace(run.settings.data, root=str(root))
    outputs: Outputs | None = None
    command: str | None = None
    findings: Sequence[Finding] | Missing
    try:
        recorded, findings = diagnose(folder, root=root, device=device, workers=workers)
        outputs, command = recorded.outputs, continuation(recorded)
    except PtkitError as error:
        findings = Missing(reason_of(error))
    lists = _lists(data)
    changed = _changed(folder, lists, relabel=data.relabel)
    listed = lists if isinstance(lists, Missing) else lists[VALIDATION]
    predictions = _predictions(run, listed, outputs, is_changed=VALIDATION in (changed or ()))
    checked = _checked(run.name, data, check, workers=workers, counting=counting)
    if isinstance(checked, Missing) and not with_images:
        # A reason may name an image.
        checked = Missing("its lists were not checked")
    places = _places(listed)
    if not with_images:
        places = Missing("left out, as --no-images asks")
    return Reported(run, predictions, findings, checked, places, with_images, command, changed)


def _predictions(
    run: FoundRun, listed: ImageList | Missing, outputs: Outputs | None, *, is_changed: bool
) -> Predictions | Missing:
    """Return a run's answers; of one that was killed, those of its best epoch so far."""
    if run.predictions is not None:
        names = () if isinstance(listed, Missing) else listed.class_names
        return in_order_of(run.predictions, names)
    if isinstance(listed, Missing) or outputs is None or listed.label_kind != SINGLE:
        return Missing("the run has not reached its end")
    rows = np.arange(len(listed)) if outputs.rows is None else outputs.rows
    is_inside = rows.max(initial=-1) < len(listed)
    if is_changed or not is_inside or not np.array_equal(listed.labels[rows], outputs.labels):
        told = told_as_changed([VALIDATION], relabel=run.settings.data.relabel)
        return Missing(f"the run has not reached its end, and {told}")
    answers, every = outputs.answers, np.arange(len(rows))
    probabilities = np.stack(
        [outputs.probabilities[every, k] for k in (answers, outputs.labels)], axis=1
    )
    paths = tuple(listed.listed_path(int(row)) for row in rows)
    return Predictions(SINGLE, paths, listed.class_names, outputs.labels, answers, probabilities)


def _checked(
    name: str, data: DataSettings, is_asked: bool | None, *, workers: int, counting: Counting
) -> CheckUp | Missing:
    if is_asked is False:
        return Missing("left out, as --no-check asks")
    root, classes = _root(data), _classes(data)
    files = [Path(data.train), Path(data.valid)]
    try:
        count = sum(len(read_list(file, classes=classes, root=root)) for file in files)
        if is_asked is None and count > MAX_CHECKED:
            command = f"ptkit report {shlex.quote(name)} --check"
            return Missing(f"{count:,} images take their time: `{command}` looks at them")
        return check_up(
            files,
            root=root,
            classes=classes,
            alpha=data.alpha,
            workers=workers,
            counting=counting,
        )
    except PtkitError as error:
        return Missing(reason_of(error))


def _lists(data: DataSettings) -> Mapping[str, ImageList] | Missing:
    """Return the lists as they are now; without a training list the other one alone, to which no
    corrections of labels are made.
    """
    try:
        if Path(data.train).is_file():
            return dict(zip((TRAINING, VALIDATION), lists_of_run(data), strict=True))
        valid = read_list(Path(data.valid), classes=_classes(data), root=_root(data))
        return {VALIDATION: valid}
    except PtkitError as error:
        return Missing(reason_of(error))


def _changed(
    folder: Path, lists: Mapping[str, ImageList] | Missing, *, relabel: str | None
) -> tuple[str, ...] | None:
    """Return which lists are not those of the run, None where nothing tells: they cannot be read,
    or no checkpoint, or the hash is that of a list with corrections.
    """
    if isinstance(lists, Missing) or (relabel and TRAINING not in lists):
        return None
    try:
        return changed_lists(read_checkpoint(folder), lists)
    except CheckpointError:
        return None


def _places(listed: ImageList | Missing) -> Mapping[str, str] | Missing:
    if isinstance(listed, Missing):
        return listed
    return {listed.listed_path(row): listed.image_path(row) for row in range(len(listed))}


def _classes(data: DataSettings) -> Path | None:
    return Path(data.classes) if data.classes else None


def _root(data: DataSettings) -> Path | None:
    return Path(data.root) if data.root else None
