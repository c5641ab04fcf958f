"""What is looked at before a run, and that the run does not notice it."""

import json
from pathlib import Path

import pytest
from test_layer_log import lines_of, trained, without_times
from test_resuming import OWN, same, tensors
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.api.runs import _continued
from ptkit.commands.app import app
from ptkit.core.errors import UsageError
from ptkit.core.ranks import Rank, being

pytestmark = pytest.mark.usefixtures("blank_pictures")

SLOW = pytest.mark.slow
FAULTS = """
import torch
from torch import nn

class Softmax(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(768, num_classes), nn.Softmax(1))

class Loud(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, num_classes))
        with torch.no_grad():
            self[3].weight.mul_(300)

class Blind(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.answers = nn.Linear(1, num_classes)

    def forward(self, images):
        return self.answers(torch.ones(len(images), 1, device=images.device))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    Path("own.py").write_text(OWN)
    Path("faults.py").write_text(FAULTS)
    return tmp_path


def flown(*arguments):
    flags = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--set", "log.graph=false"]
    return CliRunner().invoke(app, ["train", "--preflight", *flags, *arguments])


def verdicts(run="runs/1"):
    found = json.loads(Path(run, "preflight.json").read_text())
    return {check["name"]: check["verdict"] for check in found}


def test_a_sound_run_passes_all_checks_and_trains(here):
    done = flown()
    assert done.exit_code == 0, done.output
    assert set(verdicts().values()) == {"ok"}
    assert len([line for line in done.output.splitlines() if line.startswith("preflight: ")]) == 6
    assert Path("runs/1/preflight.png").exists()
    assert Path("runs/1/ckpt.pkl").exists()


@pytest.mark.parametrize(
    ("arguments", "failed"),
    [
        (["--model", "faults.py:Softmax"], "outputs"),
        pytest.param(["--model", "faults.py:Loud"], "initial loss", marks=SLOW),
        pytest.param(["--model", "faults.py:Blind"], "one batch", marks=SLOW),
        pytest.param(
            ["--model", "faults.py:Blind", "--transform", "ColorJitter((0, 0))"],
            "input",
            marks=SLOW,
        ),
    ],
)
def test_a_fault_stops_the_run_before_it_trains(arguments, failed, here):
    done = flown(*arguments)
    assert done.exit_code == 5, done.output
    assert verdicts()[failed] == "FAIL"
    assert failed in done.output.splitlines()[-1]
    assert not Path("runs/1/ckpt.pkl").exists()


@pytest.mark.slow
def test_images_that_are_not_normalised_are_warned_of(here):
    done = flown(
        "--model",
        "own.py:Dropping",
        "--set",
        "data.mean=[0,0,0]",
        "--set",
        "data.std=[0.01,0.01,0.01]",
    )
    assert verdicts()["input"] == "WARN"
    assert "run `ptkit normstats`" in done.output


@pytest.mark.slow
def test_what_has_no_usual_value_is_not_judged(here):
    assert flown("--model", "own.py:Dropping", "--loss", "TripletMarginLoss()").exit_code == 0
    found = {name: verdict for name, verdict in verdicts().items() if verdict == "n/a"}
    assert list(found) == ["initial loss", "outputs", "one batch"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ema": 0.9, "optimizer": "AdamW()"}, marks=SLOW),
        {"model": "own.py:Dropping", "workers": 1},
    ],
    ids=["averaged", "dropout"],
)
def test_a_run_after_a_preflight_is_the_one_without(settings, here):
    looked = trained("looked", preflight=True, **settings)
    plain = trained("plain", **settings)
    for file in ("ckpt.pkl", "last.pkl"):
        (state, train), (others, other) = tensors(looked / file), tensors(plain / file)
        assert same(state, others)
        keys = ("optimizer", "scheduler", "sums", "generator")
        assert file == "ckpt.pkl" or all(same(train[k], other[k]) for k in keys)
    assert without_times(lines_of(looked)) == without_times(lines_of(plain))


def test_a_resumed_run_has_no_preflight(here):
    run = trained("a", epochs=1)
    with pytest.raises(ptkit.core.errors.UsageError, match="leave out --preflight"):
        ptkit.train(resume=run, epochs=2, preflight=True)


def test_preflight_is_for_one_process(here):
    with being(Rank(0, 2)), pytest.raises(UsageError, match="leave torchrun out"):
        ptkit.train(preflight=True, device="cpu")
    assert not Path("runs").exists()


@SLOW
def test_a_job_that_is_started_again_goes_on_without_preflight(here):
    settings = {"device": "cpu", "batch_size": 16}
    begun = ptkit.train(epochs=1, **settings).run
    found = _continued(begun, {"preflight": True, "epochs": 2, **settings})
    assert (found.run, found.epochs) == (begun, 2)
