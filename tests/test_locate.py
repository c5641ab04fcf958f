"""What a text names: a file of weights, a run folder, or a model."""

from pathlib import Path

import pytest
import torch
from example_run import write_run

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.locate import read_weights, weights_path, weights_to_start_from


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["ckpt.pkl", "runs/1", "runs/9", "none.pt", "none.ckpt", "none.safetensors", "./resnet18"],
)
def test_files_run_folders_and_what_looks_like_one_are_paths(run, text):
    assert weights_path(text) == Path(text)


@pytest.mark.parametrize("text", ["resnet18", "timm:resnet18", "nets/mine.py:Net", "lenet(a=1)"])
def test_calls_are_models_whatever_folders_are_called_like(run, text):
    Path("resnet18").mkdir()
    assert weights_path(text) is None


def test_a_folder_with_a_checkpoint_is_a_run_even_if_a_model_has_its_name(run):
    run.rename("resnet18")
    assert weights_path("resnet18") == Path("resnet18")


def test_a_broken_link_is_a_path(run):
    Path("last").symlink_to("gone.pkl")
    assert weights_path("last") == Path("last")


def test_weights_of_a_checkpoint_come_with_what_it_stores(run):
    weights = read_weights(Path("ckpt.pkl"))
    assert (weights.call, weights.size, weights.mean, weights.epoch) == (
        "resnet8()",
        16,
        (0.5, 0.5, 0.5),
        7,
    )
    assert weights.class_names == ("blue", "green", "red")
    assert not weights.is_whitened


def test_bare_weights_need_a_model_to_start_from(run):
    torch.save(read_checkpoint(run)["state_dict"], "bare.pt")
    with pytest.raises(UsageError, match="say which model they are for with --model NAME"):
        weights_to_start_from("bare.pt", model=None)
    assert weights_to_start_from("bare.pt", model="resnet8").call is None


def test_user_code_in_a_checkpoint_must_be_named_again_to_start_from_it(run):
    contents = read_checkpoint(run)
    contents["model"]["call"] = "mine.py:net()"
    save_checkpoint(Path("theirs.pkl"), contents)
    with pytest.raises(CheckpointError, match="names user code"):
        weights_to_start_from("theirs.pkl", model=None)
    assert weights_to_start_from("theirs.pkl", model="resnet8").call == "mine.py:net()"


def test_what_is_neither_here_nor_in_torchvision_is_an_error(run):
    with pytest.raises(CheckpointError, match="or a torchvision model; did you mean resnet18"):
        weights_to_start_from("resnet19", model=None)
    with pytest.raises(CheckpointError, match=r"no file runs/9: expected a checkpoint"):
        weights_to_start_from("runs/9", model=None)


def test_of_a_folder_of_runs_one_of_them_is_named(run):
    with pytest.raises(CheckpointError, match=r"no file runs/ckpt.pkl: .*; there is runs/1$"):
        weights_to_start_from("runs", model=None)
