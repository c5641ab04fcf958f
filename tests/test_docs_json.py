"""The table of `--json` in docs/files.md has every key that a command prints."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_data import make_lists
from tiny_sets import make_idx
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app

PAGE = (Path(__file__).parent.parent / "docs" / "files.md").read_text(encoding="utf-8")
QUICK = ["--epochs", "1", "--set", "log.tensorboard=false", "--set", "log.pictures=false"]
pytestmark = pytest.mark.usefixtures("blank_pictures")

EVERY_KIND = (
    "transforms",
    "losses",
    "optimizers",
    "schedulers",
    "inits",
    "models",
    "recipes",
    "settings",
    "data",
)
# The row of the table, and what to run.
COMMANDS = [
    ("data", ["data", "mnist", "--from", "raw", "--out", "digits"]),
    ("split", ["split", "images", "--out", "new"]),
    ("check", ["check", "bad.txt"]),
    ("normstats", ["normstats", "bad.txt", "--size", "4", "--whiten", "zca", "--on-bad", "skip"]),
    ("train", ["train", *QUICK, "--set", "train.profile=true"]),
    ("train --seeds", ["train", *QUICK, "--seeds", "2", "--name", "seeds"]),
    ("compare", ["compare", "runs/1", "runs/calibrated"]),
    ("viz-weights", ["viz-weights", "ckpt.pkl", "--layers", "conv1"]),
    ("viz-featuremaps", ["viz-featuremaps", "ckpt.pkl", "images/bar/test0.png"]),
    ("viz-featuremaps", ["viz-featuremaps", "ckpt.pkl", "--list"]),
    ("viz-transforms", ["viz-transforms", "images/bar/test0.png"]),
    ("gradcam", ["gradcam", "ckpt.pkl", "images/bar/test0.png"]),
    ("summary", ["summary", "ckpt.pkl"]),
    ("confmat", ["confmat", "ckpt.pkl", "bad.txt", "--on-bad", "skip"]),
    ("calibrate", ["calibrate", "runs/1", "valid.txt"]),
    ("confmat", ["confmat", "runs/1", "test.txt"]),
    ("predict", ["predict", "runs/1", "test.txt"]),
    ("calibrate", ["calibrate", "runs/calibrated", "--remove"]),
    ("predict", ["predict", "ckpt.pkl", "bad.txt", "--top", "2"]),
    ("predict", ["predict", "ckpt.pkl", "train.txt"]),
    ("export", ["export", "ckpt.pkl", "--to", "safetensors"]),
    ("export", ["export", "ckpt.pkl", "--to", "hf"]),
    ("convert", ["convert", "ckpt.pkl", "--to", "safetensors"]),
    *(("list", ["list", kind]) for kind in EVERY_KIND),
    ("list --json-schema", ["list", "settings", "--json-schema"]),
    ("list --plot", ["list", "schedulers", "--plot", "StepLR(3)"]),
    ("cache", ["cache"]),
]


@pytest.fixture(scope="module")
def documented():
    """The keys of each command, by its name in the table."""
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", PAGE.partition("## `--json`")[2], re.MULTILINE)
    in_backticks = [[re.findall(r"`(.+?)`", cell) for cell in row] for row in rows]
    return {name: set(keys) for names, keys in in_backticks for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lists, one of them with an image that cannot be read, and a checkpoint."""
    folder = make_lists(tmp_path_factory.mktemp("json"))
    make_idx(folder / "raw" / "MNIST" / "raw")
    (folder / "bad.png").touch()
    (folder / "bad.txt").write_text((folder / "test.txt").read_text() + "bad.png 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(epochs=1, tensorboard=False, pictures=False)
        # Each command finds what it needs here, whichever of them runs before it.
        shutil.copytree("runs/1", "runs/calibrated")
        ptkit.calibrate("runs/calibrated", "valid.txt")
    return folder


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=str)
def test_every_key_is_in_the_table(folder, documented, name, arguments, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PTKIT_CACHE", str(folder / "cache"))
    result = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(result.stdout)
    rows = found if isinstance(found, list) else [found]
    assert {key for row in rows for key in row} - documented[name] == set()
