"""`ptkit train --preflight`: the checks of core/training/preflight.py, and what the model sees."""

import dataclasses
import json
from pathlib import Path

from matplotlib.figure import Figure

from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.errors import UntrainableError
from ptkit.core.files import write_atomically
from ptkit.core.training.observers import Watcher
from ptkit.core.training.preflight import Preflight, preflight
from ptkit.core.training.run_folder import Run
from ptkit.core.wording import counted
from ptkit.looking.showcase import label_text
from ptkit.plots.contact_sheet import contact_sheet
from ptkit.plots.saving import save_figure

_NUM_IMAGES = 30


def look_before(run: Run, watch: Watcher) -> None:
    """Say what each check found; write preflight.json and preflight.png into the run's folder.

    Raises:
        UntrainableError: one of them failed.
    """
    found = preflight(run.training, is_pretrained=run.settings.model.weights is not None)
    for check in found.checks:
        watch.say(f"preflight: {check}")
    picture = save_figure(_sheet(run, found), run.folder / "preflight.png")
    text = json.dumps([dataclasses.asdict(check) for check in found.checks], indent=2) + "\n"
    write_atomically(run.folder / "preflight.json", text.encode())
    watch.say(f"preflight: what the model sees is in {picture}")
    if found.failed:
        names = ", ".join(check.name for check in found.failed)
        raise UntrainableError(
            f"preflight failed: {names}; nothing was trained, {run.folder} has the details; without"
            " --preflight the run begins all the same"
        )


def _sheet(run: Run, found: Preflight) -> Figure:
    """Draw the first images of the batch, augmented, with their labels."""
    batch, listed = found.batch, run.training.train.images
    images = denormalise(
        batch.images[:: batch.num_crops][:_NUM_IMAGES],
        run.data.settings.mean,
        run.data.settings.std,
    )
    indices = batch.indices[: len(images)].tolist()
    return contact_sheet(
        list(images),
        # The last line would be red, as that of a mistake.
        [(Path(listed.listed_path(k)).name, label_text(listed, k), "") for k in indices],
        title=f"What the model sees: {found.checks[0].text}",
        notes=("Augmented, and brought back to pixels by the normalisation's mean and std.",),
        footer=f"{counted(len(images), 'image')} of {run.settings.data.train} · before epoch 1",
    )
