"""What makes steps shorter at a cost, and for which runs: kernels that are tried out, compiling."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists
from torch import nn

import ptkit
from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.device import passing_look
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import parse
from ptkit.core.training.first_steps import (
    Bargain,
    compiled_if_it_pays,
    compiling,
    step_seconds,
    trying,
    with_faster_steps,
)
from ptkit.core.training.loop import Training, train_epoch
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare

TINY: dict[str, Any] = {
    "model": {"call": "lenet()"},
    "train": {"epochs": 1, "batch_size": 16, "device": "cpu"},
    "log": {"tensorboard": False, "pictures": False},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # 40 images: two full batches and one of eight.
    monkeypatch.chdir(make_lists(tmp_path, train=40))
    return tmp_path


@pytest.fixture
def training(here: Path) -> Training:
    return prepare(resolve(TINY), Unwatched(), is_resumed=False).training


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)), torch.rand(8, 3, 2, 2)


def test_what_is_paid_at_once_must_be_won_back_twice() -> None:
    bargain = Bargain(seconds=10, gain=1.25)
    assert bargain.saved(1000, 0.05) == pytest.approx(10)
    assert [bargain.pays(n, 0.05) for n in (1000, 1999, 2001)] == [False, False, True]


def test_resnet18_is_compiled_and_tried_out_in_long_runs_only() -> None:
    model, _ = build_model(parse("resnet18()"), num_classes=10, size=64, channels=3, seed=0)
    assert compiling(model).seconds == pytest.approx(24, rel=0.1)
    assert trying(model).seconds == pytest.approx(3)
    # 50,000 images in batches of 512, a step of 10 ms: 98 steps an epoch.
    epochs = (10, 100, 400)
    assert [compiling(model).pays(98 * n, 0.010) for n in epochs] == [False, False, True]
    assert [trying(model).pays(98 * n, 0.010) for n in epochs] == [False, True, True]


def test_a_run_too_short_to_gain_is_not_compiled_and_says_why(small) -> None:
    model, images = small
    found, note = compiled_if_it_pays(model, images, dtype=None, num_steps=1000, step_s=0.002)
    assert found is None
    assert note == (
        "model not compiled: 1,000 steps of 2 ms could save 0.4 s, compiling takes about 1.4 s"
    )


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_is_trained_as_it_is(small, tmp_path: Path) -> None:
    import torch._inductor.config

    torch.compiler.reset()
    missing = {"cpp.cxx": (None, str(tmp_path / "no-compiler")), "fx_graph_cache": False}
    with torch._inductor.config.patch(missing):
        found, note = compiled_if_it_pays(*small, dtype=None, num_steps=10**6, step_s=1)
    assert found is None
    assert note.startswith("model not compiled: train.compile: No working C++ compiler found")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles")
def test_a_compiled_model_is_kept_only_if_its_steps_are_quicker(small) -> None:
    model, images = small
    found, note = compiled_if_it_pays(model, images, dtype=None, num_steps=10**9, step_s=1)
    compiled, plain = map(float, re.findall(r"takes (\S+) ms compiled, (\S+) ms as it is", note)[0])
    assert (found is not None, compiled < plain) in [(True, True), (False, False)]
    assert note.startswith("model compiled: " if found else "model not compiled: ")
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("is_full", [False, True])
def test_a_compiled_model_that_is_not_used_is_forgotten(small, monkeypatch, is_full) -> None:
    model, images = small
    forgotten: list[bool] = []

    def compile_model(model: nn.Module, images: torch.Tensor, **_: Any) -> Any:
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        model(images).sum().backward()
        return model, ""

    module = "ptkit.core.training.first_steps"
    monkeypatch.setattr(f"{module}.compile_model", compile_model)
    monkeypatch.setattr(f"{module}.step_seconds", lambda *_, **__: 1.0)
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(True))
    found, note = compiled_if_it_pays(model, images, dtype=None, num_steps=10**9, step_s=1)
    assert (found, forgotten) == (None, [True])
    expected = "more memory than there is" if is_full else "a step takes 1e+03 ms compiled"
    assert expected in note
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_steps_leaves_the_model_as_it_was(small) -> None:
    model, images = small
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0 < step_seconds(model, model, images, dtype=None) < 1
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_on_a_cpu_auto_changes_nothing_and_says_nothing(training: Training) -> None:
    lines: list[str] = []
    images = next(training.train.epoch(1)).images
    assert with_faster_steps(training, images, lines.append) is training
    assert lines == []


def test_a_run_writes_down_whether_its_model_was_compiled(here: Path) -> None:
    quiet = {"tensorboard": False, "pictures": False}
    run = ptkit.train(model="lenet", epochs=1, **quiet).run
    assert read_toml(run / "config.toml")["train"]["compile"] is False
    # What is resumed does not choose anew.
    ptkit.train(resume=run, epochs=2)
    assert read_toml(run / "config.toml")["train"]["compile"] is False


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "tries", "expected"),
    [
        (16, 1, True, [True, True, False]),
        (16, 1, False, [False, False, False]),
        # The gradients of all three are one step's.
        (16, 3, True, [False, False, False]),
        (20, 1, True, [True, True]),
    ],
)
def test_kernels_are_tried_out_for_full_batches_alone(
    training, batch_size, accumulate, tries, expected
) -> None:
    found = []
    training.model.register_forward_pre_hook(
        lambda *_: found.append(torch.backends.cudnn.benchmark)
    )
    settings = replace(training.settings, accumulate=accumulate)
    batches = training.train.resampled(replace(training.train.sampling, batch_size=batch_size))
    train_epoch(replace(training, train=batches, settings=settings, tries_kernels=tries), 1)
    assert found == expected
    # Those of validation are not.
    assert not torch.backends.cudnn.benchmark


def test_kernels_are_not_left_to_be_tried_out_where_an_epoch_fails(training) -> None:
    def fail(_progress):
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        train_epoch(replace(training, tries_kernels=True), 1, fail)
    assert not torch.backends.cudnn.benchmark


def test_a_look_before_the_first_epoch_chooses_no_kernels_for_it() -> None:
    # What cuDNN keeps for deterministic kernels is kept apart.
    with passing_look():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic
