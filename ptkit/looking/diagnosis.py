"""The check-up of a run: what its files say, and what only its model and images can tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.data.fingerprints import hash_files
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.diagnosis.findings import Finding
from ptkit.core.diagnosis.recorded import Evidence, Recorded, read_run
from ptkit.core.diagnosis.rules import findings
from ptkit.core.errors import PtkitError
from ptkit.core.training.setup_lists import lists_of_run
from ptkit.looking.subject import Subject, load_subject

# Training images that are looked at again, and validation images that are read.
_NUM_CLEAN, _MOST_READ = 512, 20_000


def diagnose(
    run: Path, *, device: str = "auto", workers: int = 0
) -> tuple[Recorded, list[Finding]]:
    """Return a run's records and what every rule says of them.

    Raises:
        DataError: not a run folder, or a damaged file in it.
    """
    recorded = read_run(run)
    if recorded.outputs is not None:
        recorded = replace(recorded, evidence=_evidence(run, device=device, workers=workers))
    return recorded, findings(recorded)


def _evidence(run: Path, *, device: str, workers: int) -> Evidence:
    """Look at the images, if they and the model are still there."""
    data = resolve(read_toml(run / "config.toml")).data
    try:
        subject = load_subject(run)
        train, valid = lists_of_run(data)
        if train.label_kind != SINGLE:
            return Evidence()
        accuracy, count = _clean_accuracy(subject, train, device=device, workers=workers)
    # A run that was moved, or of a user's own model, has its files all the same.
    except PtkitError:
        return Evidence()
    known = subject.weights.image_hashes
    if known is None or len(valid) > _MOST_READ:
        return Evidence(accuracy, count)
    ours = known[: len(train)]
    theirs = hash_files(valid, np.arange(len(valid)))
    return Evidence(accuracy, count, int((np.isin(theirs, ours) & (theirs != 0)).sum()))


def _clean_accuracy(
    subject: Subject, train: ImageList, *, device: str, workers: int
) -> tuple[float, int]:
    """Return the accuracy on some training images without augmentation, and how many they are."""
    count = min(len(train), _NUM_CLEAN)
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:count])
    chosen = train.subset(rows)
    found, _ = subject.predict(chosen, device=device, workers=workers)
    return float((found.answers == chosen.labels).mean()), count
