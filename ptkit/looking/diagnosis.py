"""The check-up of a run: what its files say, and what only its model and images can tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptkit.core.config.settings import DataSettings
from ptkit.core.data.fingerprints import hash_files
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.device import choose_device, is_out_of_memory, release_memory
from ptkit.core.diagnosis.findings import Finding
from ptkit.core.diagnosis.recorded import Evidence, Recorded, read_records
from ptkit.core.diagnosis.rules import findings
from ptkit.core.errors import DataError, PtkitError
from ptkit.core.run_files import resume_command
from ptkit.core.training.changed_lists import (
    TRAINING,
    VALIDATION,
    changed_lists,
    told_as_changed,
)
from ptkit.core.training.holding import is_unfinished
from ptkit.core.training.setup_lists import lists_of_run
from ptkit.core.wording import reason_of
from ptkit.looking.subject import Subject, load_subject

# Training images that are looked at again, and validation images that are read.
_NUM_CLEAN, _MOST_READ = 512, 20_000


def diagnose(
    run: Path, *, root: Path | None = None, device: str = "auto", workers: int = 0
) -> tuple[Recorded, list[Finding]]:
    """Return a run's records and what every rule says of them.

    root: a folder that the images are in now.

    Raises:
        DataError: not a run folder, or a damaged file in it.
        StorageError: a file that cannot be read.
        UsageError: settings that cannot be read, or a device that is not there.
    """
    recorded = read_records(run)
    # What cannot be looked at is the reason of a rule; a device that is not there is not.
    choose_device(device)
    if recorded.outputs is None:
        return recorded, findings(recorded)
    data = recorded.settings.data
    if root is not None:
        data = replace(data, root=str(root))
    evidence = _evidence(run, data, device=device, workers=workers)
    recorded = replace(recorded, evidence=evidence)
    return recorded, findings(recorded)


def continuation(run: Recorded) -> str | None:
    """Return the command that continues a run; None of one that is done, or whose lists were
    changed, or that diverged: it would do so again.
    """
    is_left = is_unfinished(run.folder) and run.diverged is None
    return resume_command(run.folder) if is_left and not run.evidence.has_other_lists else None


def _evidence(run: Path, data: DataSettings, *, device: str, workers: int) -> Evidence:
    """Look at the model and the images, if they are still there."""
    found = Evidence()
    try:
        subject = load_subject(run)
        found = replace(found, temperature=subject.task.temperature)
        train, valid = lists_of_run(data)
        if train.label_kind != SINGLE:
            return replace(found, why_none="images have no single class")
        lists = {TRAINING: train, VALIDATION: valid}
        # Images that a later split validates on may be ones that this run was trained on.
        if changed := changed_lists(subject.weights.checkpoint, lists):
            told = told_as_changed(changed, relabel=data.relabel)
            return replace(found, why_none=told, has_other_lists=True)
        accuracy, count = _clean_accuracy(subject, train, device=device, workers=workers)
    # A run that was moved, or of a user's own model, has its files all the same.
    except PtkitError as error:
        return replace(found, why_none=reason_of(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or choose_device(device).type == "cpu":
            raise
        # A training that is under way may have the GPU's.
        release_memory(error)
        return replace(found, why_none="out of memory: use --device cpu")
    found = replace(found, clean_train_accuracy=accuracy, num_clean=count)
    trained_on = _trained_on(subject)
    if trained_on is None:
        return found
    hashes = hash_files(valid, _some_of(valid, _MOST_READ))
    num_leaked = int((np.isin(hashes, trained_on) & (hashes != 0)).sum())
    return replace(found, num_leaked=num_leaked, num_looked_at=len(hashes))


def _trained_on(subject: Subject) -> npt.NDArray[np.int64] | None:
    """Return the hashes of a run's own training images; None where it did not keep them."""
    if subject.weights.checkpoint is None or subject.weights.image_hashes is None:
        return None
    data = subject.weights.checkpoint["data"]
    # Those of the weights that it began from come after its own.
    own: npt.NDArray[np.int64] = data["image_hashes"][: data["num_images"]].numpy()
    return own


def _clean_accuracy(
    subject: Subject, train: ImageList, *, device: str, workers: int
) -> tuple[float, int]:
    """Return the accuracy on some training images without augmentation, and how many they are."""
    chosen, bad = train.subset(_some_of(train, _NUM_CLEAN)), dict[int, str]()
    found, _ = subject.predict(chosen, device=device, workers=workers, bad=bad)
    good = np.setdiff1d(np.arange(len(chosen)), list(bad))
    if not len(good):
        raise DataError(f"no training image can be read; the first: {bad[min(bad)]}")
    return float((found.answers[good] == chosen.labels[good]).mean()), len(good)


def _some_of(images: ImageList, most: int) -> npt.NDArray[np.int64]:
    """Return the places of at most so many images, the same ones every time."""
    rows = np.random.default_rng(0).permutation(len(images))[: min(len(images), most)]
    return np.sort(rows)
