"""On a GPU no step waits for the device: Python runs ahead of it."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists

from ptkit.core.config.layers import resolve
from ptkit.core.training.loop import Progress, fit
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.optimization.optimizers import USUAL_RATES
from ptkit.core.training.setup import prepare

# LBFGS looks at its own progress; SparseAdam is for models with sparse gradients.
OPTIMIZERS = sorted(USUAL_RATES.keys() - {"LBFGS", "SparseAdam"})
# Under fp16 the other optimizers wait to hear whether a gradient overflowed.
FUSED = ["SGD", "Adam", "AdamW"]
CASES = [(name, "auto") for name in OPTIMIZERS] + [(name, "fp16") for name in FUSED]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def _fit(settings: dict[str, Any], nothing_waits: Any) -> None:
    training = prepare(resolve(settings), Unwatched(), is_resumed=False).training
    watched = ExitStack()

    def on_step(progress: Progress) -> None:
        # The first epoch's steps choose kernels and allocate; an epoch's last one reads the sums.
        if (progress.epoch, progress.step) == (2, 1):
            watched.enter_context(nothing_waits())
        if progress.step == progress.num_steps - 1:
            watched.close()

    with watched:
        assert len(list(fit(training, on_step=on_step))) == 2


def test_streamed_images_do_not_make_a_step_wait(here: Path, nothing_waits: Any) -> None:
    # RandomErasing draws its boxes on the CPU.
    steps = ["RandomResizedCrop(16)", "RandomHorizontalFlip()", "RandomErasing()"]
    train = {"epochs": 2, "batch_size": 2, "device": "cuda"}
    _fit({"data": {"cache": "off", "transforms": steps}, "train": train}, nothing_waits)


def test_a_weighted_mean_does_not_wait_for_the_gpu(here: Path, nothing_waits: Any) -> None:
    train = {"epochs": 2, "batch_size": 2, "device": "cuda", "accumulate": 2, "clip_value": 1.0}
    loss = {"call": "CrossEntropyLoss(weight=[1, 2, 0], ignore_index=1)"}
    _fit({"loss": loss, "train": train}, nothing_waits)


@pytest.mark.parametrize(("optimizer", "precision"), CASES)
def test_a_step_does_not_wait_for_the_gpu(
    here: Path, nothing_waits: Any, optimizer: str, precision: str
) -> None:
    settings = {
        "data": {"transforms": ["RandomCrop(16, padding=2)", "ColorJitter(0.2)", "MixUp()"]},
        "optimizer": {"call": f"{optimizer}()", "groups": ["conv1: frozen"]},
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "device": "cuda",
            "precision": precision,
            "ema": 0.9,
            "clip_grad": 1.0,
            "profile": True,
        },
    }
    _fit(settings, nothing_waits)
