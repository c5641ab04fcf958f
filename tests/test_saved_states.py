"""Saved states that somebody edited, at every key: refused before anything is loaded."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from torch import nn
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.errors import CheckpointError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.training.optimization.saved_states import fault_of_optimizer, state_for

RUN = CliRunner()
TRAIN = ["train", "--model", "lenet", "--set", "log.pictures=false", "--set",
         "log.tensorboard=false", "--optimizer", "SGD(momentum=0.9)"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch of two, in the working directory."""
    folder = make_lists(tmp_path_factory.mktemp("run"), train=12, valid=6, test=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = RUN.invoke(app, [*TRAIN, "--epochs", "1", "--name", "x"])
        assert result.exit_code == 0, result.output
        yield Path("runs/x")


@pytest.fixture
def saved(run):
    return torch.load(run / "last.pkl", weights_only=True)


def places(value, place=()):
    """Yield the place of every value in nested containers."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*place, key)
        if isinstance(value[key], dict | list):
            yield from places(value[key], (*place, key))


def put(contents, place, value):
    for key in place[:-1]:
        contents = contents[key]
    contents[place[-1]] = value


ODD = [3, -1, float("nan"), "text", [], [[]], {}, {"a": {}}, None, True, 10**18, torch.ones(3)]


def test_a_wrong_value_at_any_key_is_an_error_of_ours_or_harmless(saved):
    """Nothing but CheckpointError comes out of reading it."""
    from ptkit.core.models.checkpoint_schema import (
        fault_of_keys,
        fault_of_values,
    )

    count = 0
    for place in places(saved):
        for odd in ODD:
            changed = copy.copy(saved)
            # Only the containers on the way are copied.
            here = changed
            for key in place[:-1]:
                here[key] = copy.copy(here[key])
                here = here[key]
            put(changed, place, odd)
            fault = fault_of_keys(changed) or fault_of_values(changed)
            assert fault is None or "\n" not in fault
            count += fault is not None
    assert count > 500


EDITS = {
    "momentum of another shape": (
        ("train", "optimizer", "state", 0, "momentum_buffer"), torch.ones(3), "has the shape"),
    "momentum that is complex": (
        ("train", "optimizer", "state", 0, "momentum_buffer"), torch.ones(3) * 1j, "is complex"),
    "state of no parameter": (
        ("train", "optimizer", "state", 99), {"momentum_buffer": torch.ones(3)}, "99"),
    "rate that is a text": (("train", "optimizer", "param_groups", 0, "lr"), "fast", "a group.lr"),
    "rate that is no number": (
        ("train", "optimizer", "param_groups", 0, "lr"), float("nan"), "a group.lr"),
    "flag that is a list": (("train", "optimizer", "param_groups", 0, "nesterov"), [], "nesterov"),
    "other parameters": (("train", "optimizer", "param_groups", 0, "params"), [0], "parameters"),
    "parameters that are texts": (
        ("train", "optimizer", "param_groups", 0, "params"), ["a"], "params"),
    "schedule of texts": (("train", "scheduler", "scheduler", "base_lrs"), ["a"], "base_lrs"),
    "steps below 0": (("train", "scheduler", "num_steps"), -1, "num_steps"),
    "epoch that is a text": (("train", "epoch"), "one", "epoch"),
    "no epoch": (("train",), {}, "no epoch"),
    "best epoch without its metric": (
        ("train", "best"), {"epoch": 1, "loss": 0.5}, "its best.accuracy is no number"),
    "best epoch whose loss is a text": (("train", "best", "loss"), "low", "its best.loss"),
    "weights of another shape": (
        ("state_dict", "conv1.weight"), torch.ones(3), "size mismatch"),
    "settings that are a list": (("config",), [], "config"),
}  # fmt: skip


@pytest.mark.parametrize("row", EDITS)
def test_an_edited_state_is_refused_in_one_line(row, run, saved):
    place, value, said = EDITS[row]
    before = (run / "last.pkl").read_bytes()
    put(saved, place, value)
    torch.save(saved, run / "last.pkl")
    try:
        result = RUN.invoke(app, [*TRAIN, "--epochs", "2", "--resume", "runs/x"])
    finally:
        (run / "last.pkl").write_bytes(before)
    assert result.exit_code == 4, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_state_without_data_or_settings_is_no_key_error(run, saved):
    before = (run / "last.pkl").read_bytes()
    for key in ("config", "data"):
        torch.save({k: v for k, v in saved.items() if k != key}, run / "last.pkl")
        result = RUN.invoke(app, [*TRAIN, "--epochs", "2", "--resume", "runs/x"])
        assert result.exit_code == 4, result.output
    (run / "last.pkl").write_bytes(before)


def test_the_calls_of_a_pipeline_are_bounded(run, saved, tmp_path):
    for calls in (["Resize((90000, 90000))"], ["Pad(4000)"] * 5, ["Pad([" + "9," * 9000 + "])"]):
        saved["pipeline"]["calls"] = calls
        torch.save(saved, tmp_path / "sent.pkl")
        with pytest.raises(CheckpointError, match="larger images than any model takes"):
            read_checkpoint(tmp_path / "sent.pkl")


OPTIMIZERS = [
    ("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {}), ("NAdam", {}),
    ("RAdam", {}), ("Adamax", {}), ("Adagrad", {}), ("Adadelta", {}), ("ASGD", {}), ("Rprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}), ("Adafactor", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[name for name, _ in OPTIMIZERS])
def test_every_optimizers_own_state_fits(name, options):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **options)
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    fresh = getattr(torch.optim, name)(model.parameters(), lr=0.01, **options)
    assert fault_of_optimizer(optimizer.state_dict(), fresh) is None


def test_a_run_goes_on_with_the_kernels_of_its_own_device():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    # As a GPU has it, and no CPU.
    saved["param_groups"][0]["capturable"] = True
    optimizer.load_state_dict(state_for(optimizer, saved))
    optimizer.step()
    assert optimizer.param_groups[0]["capturable"] is False
    assert optimizer.state[model.weight]["step"] == 2


def test_the_state_of_lbfgs_fits():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert fault_of_optimizer(optimizer.state_dict(), torch.optim.LBFGS(model.parameters())) is None


@pytest.mark.parametrize(
    "content",
    ["epoch,train_loss\n1,abc\n", "train_loss\n1\n", "epoch\n1,2,3\n", 'epoch\n"1\n',
     "epoch\ninf\n", "epoch\n\0\n"],
)  # fmt: skip
def test_damaged_metrics_are_one_line(content, run):
    before = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_text(content)
    result = RUN.invoke(app, [*TRAIN, "--epochs", "2", "--resume", "runs/x"])
    (run / "metrics.csv").write_bytes(before)
    assert result.exit_code == 3, result.output
    assert "metrics.csv is damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1
