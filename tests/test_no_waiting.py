"""On a GPU no step waits for the device: Python runs ahead of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists

from ptkit.core.config_layers import resolve
from ptkit.core.training.loop import Progress, fit
from ptkit.core.training.observers import Watcher
from ptkit.core.training.optimization.optimizers import USUAL_RATES
from ptkit.core.training.setup import prepare

# LBFGS looks at its own progress; SparseAdam is for models with sparse gradients.
OPTIMIZERS = sorted(USUAL_RATES.keys() - {"LBFGS", "SparseAdam"})

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(make_lists(tmp_path))
    yield tmp_path
    torch.cuda.set_sync_debug_mode("default")


def _on_step(progress: Progress) -> None:
    # The first epoch's steps choose kernels and allocate; an epoch's last one reads the sums.
    is_watched = progress.epoch == 2 and progress.step < progress.num_steps - 1
    torch.cuda.set_sync_debug_mode("error" if is_watched else "default")


def test_a_weighted_mean_does_not_wait_for_the_gpu(here: Path) -> None:
    settings = {
        "loss": {"call": "CrossEntropyLoss(weight=[1, 2, 0], ignore_index=1)"},
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "device": "cuda",
            "accumulate": 2,
            "clip_value": 1.0,
        },
    }
    training = prepare(resolve(settings), Watcher(), is_resumed=False).training
    assert len(list(fit(training, on_step=_on_step))) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_does_not_wait_for_the_gpu(here: Path, optimizer: str) -> None:
    settings = {
        "data": {"transforms": ["RandomCrop(16, padding=2)", "ColorJitter(0.2)", "MixUp()"]},
        "optimizer": {"call": f"{optimizer}()", "groups": ["conv1: frozen"]},
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "device": "cuda",
            "ema": 0.9,
            "clip_grad": 1.0,
            "profile": True,
        },
    }
    training = prepare(resolve(settings), Watcher(), is_resumed=False).training
    assert len(list(fit(training, on_step=_on_step))) == 2
