"""`ptkit train --eject`: a run as one plain script, held against the run before it is written."""

import copy
import os
import re
import textwrap
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptkit.core.config.settings import AUTO, Settings
from ptkit.core.data.loading.batches import Batch
from ptkit.core.device import leaving_torch_as_it_was
from ptkit.core.ejecting import pieces
from ptkit.core.ejecting.head import FittedHead, fit_head_function, head_fitted
from ptkit.core.ejecting.labels import LABELS
from ptkit.core.ejecting.loop import evaluate_function, loop_of, main_function
from ptkit.core.ejecting.network import network_of
from ptkit.core.ejecting.optimization import ScheduleCode, optimizer_parts, schedule_code
from ptkit.core.ejecting.refusals import check_settings, check_setup
from ptkit.core.ejecting.source import WIDTH, Lines, definitions, imports_for, indented, literal
from ptkit.core.ejecting.views import image_list, mean_and_std_text
from ptkit.core.errors import UsageError
from ptkit.core.files import write_atomically
from ptkit.core.training.observers import Watcher
from ptkit.core.training.setup import Setup, prepare

# The ready functions that a part of a script may call.
_PIECES = ("bits", "random_box", "erased_box", "mix_up", "cut_mix",
           "mean_precision")  # fmt: skip


@dataclass(frozen=True)
class Ejected:
    """file: the script. num_lines: of it. packages: what it needs, as pip names them."""

    file: Path
    num_lines: int
    packages: tuple[str, ...]


@leaving_torch_as_it_was()
def eject(settings: Settings, watch: Watcher, *, file: Path) -> Ejected:
    """Write the run that `settings` ask for as a script of plain PyTorch; nothing is trained.

    Raises:
        UsageError: the file exists, or a part of the run has no plain form.
        PtkitError: anything that a run would raise before its first step.
    """
    check_name(file)
    check_settings(settings)
    # What only follows a run would cost time, and kernels compiled or not are the same model.
    compiles = False if settings.train.compile == AUTO else settings.train.compile
    settings = replace(
        settings,
        train=replace(settings.train, compile=compiles),
        log=replace(settings.log, layers=False),
    )
    setup = prepare(settings, watch, is_resumed=False)
    with closing(setup.data):
        check_setup(setup)
        code, packages = script_of(setup, file.name, head=head_fitted(setup, watch))
        _check(code, setup)
    write_atomically(file, code.encode())
    return Ejected(file, len(code.splitlines()), packages)


def check_name(file: Path) -> None:
    """Refuse a file that exists or that is no Python file.

    Raises:
        UsageError: it is one of these.
    """
    if os.path.lexists(file):
        raise UsageError(f"{file} exists: name another file after --eject, or remove it")
    if file.suffix != ".py":
        raise UsageError(f"--eject writes a Python script: end its name in .py, found {file}")


def script_of(setup: Setup, name: str, *, head: FittedHead) -> tuple[str, tuple[str, ...]]:
    """Return the code of a run, and the packages that it needs; name: of the file.

    Raises:
        UsageError: a part that has no plain form.
    """
    training = setup.training
    network, schedule = network_of(setup), schedule_code(setup)
    groups, optimizer = optimizer_parts(setup)
    loop = loop_of(setup, schedule)
    build = [
        "def build_model() -> nn.Module:",
        '    """Return the model with its first weights."""',
        *indented(network.lines),
    ]
    parts: list[Lines] = [
        image_list(
            training.train.pipeline,
            training.valid.pipeline,
            label=LABELS[training.loss.task.kind],
            folder=any(Path(file).parent != Path() for file in _lists(setup)),
        ),
        *([text] for text in network.definitions),
        build,
        groups,
        *([text] for text in schedule.before),
        fit_head_function(
            head, forward=loop.forward, to_device=loop.to_device, workers=loop.workers
        ),
        evaluate_function(loop),
        main_function(loop, optimizer, head.call),
        ['if __name__ == "__main__":', "    main()"],
    ]
    code = "\n\n\n".join("\n".join(lines) for lines in parts if lines)
    used = [piece for piece in _PIECES if re.search(rf"\b{piece}\b", code)]
    ready = definitions(pieces, used) if used else []
    # SEED is among the settings.
    code = "\n\n\n".join([*(text for text in ready if not text.startswith("SEED")), code])
    # Constants follow the settings closer than functions do.
    gap = "\n\n" if code.startswith("#") else "\n\n\n"
    code = f"{_settings(setup, schedule, head, code)}{gap}{code}"
    packages = ("torch", "torchvision", "opencv-python", *network.packages)
    parts_of_file = [_docstring(setup, name, packages), "\n".join(imports_for(code)), code]
    return "\n\n".join(parts_of_file) + "\n", packages


def _docstring(setup: Setup, name: str, packages: tuple[str, ...]) -> str:
    *first, last = packages
    needs = (
        f"It needs {', '.join(first)} and {last}. Run it in the folder that it was written in:"
        f" python\xa0{name}"
    )
    return "\n".join(
        [
            # As in a string: a path may hold backslashes and quotes.
            f'"""Train {setup.model.call} on {literal(setup.settings.data.train)[1:-1]}, in plain'
            " PyTorch.",
            "",
            # The command stays on one line.
            *(
                line.replace("\xa0", " ")
                for line in textwrap.wrap(needs, 98, break_on_hyphens=False)
            ),
            '"""',
        ]
    )


def _settings(setup: Setup, schedule: ScheduleCode, head: FittedHead, code: str) -> str:
    """Return the settings at the top, of those that the code reads."""
    training, train, data = setup.training, setup.settings.train, setup.settings.data
    normalize = next((c for c in training.train.pipeline.calls if c.name == "Normalize"), None)
    task = training.loss.task
    rows = (
        {"TRAIN": literal(str(data.train)), "VALID": literal(str(data.valid))},
        {"NUM_CLASSES": str(training.loss.facts.num_classes)},
        dict(zip(("MEAN", "STD"), mean_and_std_text(normalize), strict=True)) if normalize else {},
        {
            "EPOCHS": str(train.epochs),
            "BATCH_SIZE": str(training.train.sampling.batch_size),
            "ACCUMULATE": str(train.accumulate),
        },
        {"LR": repr(training.optimizer_setup.lr), "WARMUP_STEPS": str(schedule.warmup_steps)},
        {"PENALTY": repr(head.penalty)},
        {"CLIP_VALUE": repr(train.clip_value), "CLIP_NORM": repr(train.clip_grad)},
        {"EMA_DECAY": repr(train.ema)},
        {
            "SEED": str(train.seed),
            "DEVICE": literal(training.train.device.type),
            "WORKERS": str(training.train.workers),
        },
        {"CENTRE": _tensor(task.shift), "SPREAD": _tensor(task.scale)},
    )
    lines = []
    for row in rows:
        used = {name: value for name, value in row.items() if re.search(rf"\b{name}\b", code)}
        if "PENALTY" in used:
            lines.append("# Of the head's weights, as five-fold cross-validation chose it.")
        if used:
            line = f"{', '.join(used)} = {', '.join(used.values())}"
            each = [f"{name} = {value}" for name, value in used.items()]
            lines += [line] if len(line) <= WIDTH else each
    return "\n".join(lines)


def _tensor(values: torch.Tensor | None) -> str:
    return "" if values is None else f"torch.tensor({values.tolist()}).to(DEVICE)"


def _lists(setup: Setup) -> tuple[str, str]:
    return str(setup.settings.data.train), str(setup.settings.data.valid)


def _check(code: str, setup: Setup) -> None:
    """Hold a script against the run: first weights bit by bit, first batches pixel by pixel."""
    names: dict[str, Any] = {"__name__": "ejected"}
    with torch.random.fork_rng(devices=[]):
        exec(compile(code, "ejected", "exec"), names)
        model = names["build_model"]()
    weights, own = model.state_dict(), setup.model.module.state_dict()
    assert weights.keys() == own.keys()
    same = [torch.equal(weights[name], tensor.cpu()) for name, tensor in own.items()]
    assert all(same), "the script's first weights are others than the run's"
    lists = ((setup.training.train, "TRAIN", 1), (setup.training.valid, "VALID", 0))
    for images, name, epoch in lists:
        listed = names["ImageList"](names[name], is_training=name == "TRAIN")
        listed.epoch = epoch
        # Mixing is a matter of the loop, not of a list.
        unmixed = copy.copy(images)
        unmixed.pipeline = replace(images.pipeline, mix=None)
        batch = next(unmixed.epoch(epoch))
        _check_batch(batch, listed)
    _check_outputs(model, setup, batch)


def _check_outputs(model: nn.Module, setup: Setup, batch: Batch) -> None:
    """Compare what both models make of a batch; a GPU's own rounding is let pass."""
    own = setup.model.module.eval()
    with torch.no_grad():
        images = batch.images[:8]
        expected = own(images).cpu()
        outputs = model.eval().to(images.device)(images).cpu()
    same = torch.allclose(outputs, expected, rtol=1e-2, atol=1e-3)
    assert same, "the script's model is another than the run's"


def _check_batch(batch: Batch, listed: Any) -> None:
    """Compare a batch with the same images of a script's list."""
    views = [listed[int(index)] for index in batch.indices]
    labels = torch.stack([torch.as_tensor(label) for _, label in views])
    assert torch.equal(labels, batch.labels.cpu().to(labels.dtype))
    images = torch.stack([image for image, _ in views])
    # On a GPU colours are computed there, and may differ by a level.
    if batch.images.device.type == "cpu":
        assert torch.equal(images, batch.images), "the script's images are others than the run's"
