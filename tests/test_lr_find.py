"""The range test: which rates it finds, and that it trains nothing."""

import csv
import itertools
import json
import shlex
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config.layers import resolve
from ptkit.core.errors import UsageError
from ptkit.core.training import lr_find as of_training
from ptkit.core.training.lr_find import RangeTest, range_test
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare
from ptkit.looking import lr_find

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", "--lr-find", "--device", "cpu", *arguments])


def test_the_rates_are_those_of_the_steepest_fall_and_of_the_lowest_loss():
    rates = np.geomspace(1e-6, 10, 100)
    # Falls from 2 to 1 around 0.01, and rises again from 0.5 on.
    losses = 2 - 1 / (1 + (0.01 / rates) ** 2) + np.maximum(0, np.log(rates / 0.5))
    found = RangeTest(rates, losses, losses)
    assert found.steepest == pytest.approx(0.01, rel=0.3)
    assert found.largest == pytest.approx(0.5, rel=0.3)
    assert not found.has_diverged


def test_a_range_test_is_too_short_to_compile_for(here, monkeypatch):
    asked = []

    def prepare(settings, *_, **__):
        asked.append(settings.train.compile)
        raise UsageError("enough")

    monkeypatch.setattr(lr_find, "prepare", prepare)
    assert invoke().exit_code == 2
    assert invoke("--set", "train.compile=true").exit_code == 2
    assert asked == [False, True]


def test_a_loss_that_only_rises_suggests_the_lowest_rate():
    rates = np.geomspace(1e-6, 1e-4, 20)
    found = RangeTest(rates, np.arange(1.0, 21), np.arange(1.0, 21))
    assert found.steepest == found.largest == 1e-6
    assert found.has_diverged


def range_of(losses, monkeypatch):
    """Return the range test of a run whose steps have these losses, and then the last one."""
    given = itertools.chain(losses, itertools.repeat(losses[-1]))

    def make_step(_training, _batches, totals):
        totals.add(torch.tensor(next(given)), over=1, count=1, num_images=1)

    monkeypatch.setattr(of_training, "make_step", make_step)
    setup = prepare(resolve({"model": {"call": "lenet()"}}), Unwatched(), is_resumed=False)
    with closing(setup.data):
        return range_test(setup.training)


@pytest.mark.parametrize(
    ("losses", "has_diverged"),
    [
        # A loss of counts may be negative, and one with a margin 0.
        (np.linspace(1, -0.4, 100), False),
        ([0.3, 0.1] + [0.0] * 20 + [0.003] * 5, False),
        ([0.0] * 20 + [0.01] * 5, False),
        ([2.3] * 50 + [0.5] * 10 + [2.1] * 5, True),
        ([1.0] * 10 + [-0.4] * 20 + [1.5] * 5, True),
        ([0.3, 0.1] + [0.0] * 20 + [5.0] * 5, True),
    ],
)
def test_a_loss_ran_away_where_it_rose_far_above_its_lowest(
    losses, has_diverged, here, monkeypatch
):
    found = range_of(list(map(float, losses)), monkeypatch)
    assert found.has_diverged is has_diverged


def test_a_rate_is_suggested_and_nothing_is_trained(here):
    done = invoke("--json", "--model", "lenet")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 1e-4 < found["lr"] <= found["largest"] <= 10
    with open("ptkit-lr-find/lr_find.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["lr", "loss", "smoothed"]
    assert len(rows) == found["num_steps"] + 1
    assert [Path(file).name for file in found["files"]] == ["lr_find.png", "lr_find.csv"]
    assert not Path("runs").exists()
    assert not Path("ckpt.pkl").exists()


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        (["--lr", "0.05"], "--lr {}"),
        (
            ["--scheduler", "OneCycleLR(max_lr=0.3, pct_start=0.2)"],
            "--scheduler 'OneCycleLR(max_lr={}, pct_start=0.2)'",
        ),
        (
            ["--optimizer", "SGD(momentum=0.8, lr=0.1)"],
            "--optimizer 'SGD(momentum=0.8, lr={})'",
        ),
    ],
)
def test_the_rate_is_suggested_where_the_run_takes_it_from(here, given, flag):
    given = ["--model", "lenet", *given]
    found = json.loads(invoke("--json", *given).stdout)
    assert found["flag"] == flag.format(f"{found['lr']:.2g}")
    assert f"suggested: {found['flag']}, where" in invoke(*given).stdout
    # Beside what was given it is not refused as a second rate.
    both = ["--preflight", *given, *shlex.split(found["flag"])]
    again = CliRunner().invoke(app, ["train", *both])
    assert again.exit_code == 0, again.output
    assert f"lr {found['lr']:.2g}" in again.stdout


def test_a_rate_for_another_batch_size_is_suggested_for_that(here):
    given = ["--model", "lenet", "--lr", "0.1", "--set", "optimizer.lr_per=256"]
    found = json.loads(invoke("--json", *given, "--batch-size", "8").stdout)
    flag, rate, *rest = shlex.split(found["flag"])
    assert [flag, *rest] == ["--lr", "--set", "optimizer.lr_per=256"]
    assert float(rate) == pytest.approx(found["lr"] * 256 / 8, rel=0.05)


def test_groups_keep_the_ratios_of_their_highest_rates(here):
    settings = resolve({
        "model": {"call": "lenet()"},
        "optimizer": {"groups": ["fc3: momentum=0.8"], "decay_all": True},
        "scheduler": {"call": "OneCycleLR(max_lr=[0.1, 0.2])"},
    })  # fmt: skip
    setup = prepare(settings, Unwatched(), is_resumed=False)
    with closing(setup.data):
        range_test(setup.training)
    one, other = (group["lr"] for group in setup.training.optimizer.param_groups)
    assert max(one, other) == pytest.approx(2 * min(one, other))


@pytest.mark.slow
def test_the_same_seed_finds_the_same_rate_in_a_folder_that_is_split_first(here):
    texts = []
    for out in ("a", "b"):
        assert invoke("images", "--out", out, "--quiet").exit_code == 0
        texts.append(Path(out, "lr_find.csv").read_text())
    assert texts[0] == texts[1]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preflight"], "leave --preflight out"),
        (["--name", "a"], "leave --name out"),
        (["--set", "train.method=probe"], "has none of"),
        (["--optimizer", "Rprop()"], "leave --lr-find out"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(arguments, words, here):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_a_range_test_has_no_state_to_save(here):
    result = invoke("--save-every", "5")
    assert (result.exit_code, result.stderr) == (
        2,
        "ptkit: --lr-find trains nothing: leave --save-every out\n",
    )
