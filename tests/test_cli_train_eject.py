"""`ptkit train --eject`: the script trains the same model, without ptkit."""

import runpy
import sys

import pytest
import torch
from typer.testing import CliRunner

import ptkit
from ptkit.cli import app

from tiny_data import make_lists  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUIET = {"tensorboard": False, "pictures": False, "log_layers": False, "link": None}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def eject(*arguments, command="train"):
    return CliRunner().invoke(app, [command, "--eject", "script.py", *map(str, arguments)])


@pytest.fixture
def losses_of(monkeypatch):
    """Return a function that calls another and returns the losses that went backward."""
    backward = torch.Tensor.backward

    def losses_of(run):
        found = []

        def kept(loss, *arguments, **keywords):
            found.append(loss.item())
            return backward(loss, *arguments, **keywords)

        with monkeypatch.context() as patch, torch.random.fork_rng([]):
            patch.setattr(torch.Tensor, "backward", kept)
            run()
        return found

    return losses_of


def run_without_ptkit():
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "ptkit"]:
            # Whoever imports it gets an ImportError.
            patch.setitem(sys.modules, name, None)
        runpy.run_path("script.py", run_name="__main__")


def same_losses(losses_of, **settings):
    ptkit.eject("script.py", **settings)
    theirs = losses_of(run_without_ptkit)
    ours = losses_of(lambda: ptkit.train(**settings, **QUIET))
    assert len(ours) >= 20
    assert theirs[:20] == pytest.approx(ours[:20], rel=1e-5)
    return ours


def test_the_script_trains_as_the_run_does(here, losses_of, capsys):
    settings = {"epochs": 7, "batch_size": 16, "seed": 3}
    assert len(same_losses(losses_of, **settings)) == 21
    rows = (here / "runs/1/metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == [
        *("epoch", "7/7", "loss", f"{float(last['train_loss']):.4f}"),
        *("accuracy", f"{float(last['train_accuracy']):.2%}"),
        *("valid", "loss", f"{float(last['valid_loss']):.4f}"),
        *("accuracy", f"{float(last['valid_accuracy']):.2%}"),
    ]
    best = torch.load("model.pt", weights_only=True)
    kept = torch.load("runs/1/ckpt.pkl", weights_only=True)["state_dict"]
    assert best.keys() == kept.keys()
    assert all(torch.allclose(best[name], kept[name]) for name in kept)
