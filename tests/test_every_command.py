"""What every command promises: --quiet, --json, exit codes; over the live table of commands."""

import json
import shutil

import pytest
from tiny_data import make_lists
from tiny_sets import make_idx
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import COMMANDS, app

SHORT = ["--epochs", "1", "--set", "log.tensorboard=false", "--set", "log.pictures=false"]
# An empty folder.
NEW = "{new}"
# What each is run with, in a folder with images/, raw/ (of MNIST), lists, runs/1 and ckpt.pkl. A
# new command needs a line here.
ARGUMENTS = {
    "data": ["mnist", "--from", "raw", "--out", NEW],
    "split": ["images", "--out", NEW],
    "check": ["train.txt", "valid.txt"],
    "normstats": ["train.txt", "--out", NEW],
    "train": ["--train", "train.txt", "--model", "lenet", *SHORT],
    "finetune": ["ckpt.pkl", *SHORT],
    "probe": ["--backbone", "ckpt.pkl", *SHORT[2:]],
    "viz-weights": ["ckpt.pkl", "--layers", "conv1"],
    "viz-featuremaps": ["ckpt.pkl", "images/bar/test0.png", "--layers", "conv1"],
    "viz-transforms": ["images/bar/test0.png"],
    "gradcam": ["ckpt.pkl", "images/bar/test0.png"],
    "confmat": ["ckpt.pkl", "test.txt"],
    "calibrate": ["runs/other", "valid.txt", "--only", "temperature"],
    "compare": ["runs/1", "runs/other"],
    "diagnose": ["runs/1"],
    "report": ["runs/1"],
    "summary": ["ckpt.pkl"],
    "predict": ["ckpt.pkl", "test.txt"],
    "export": ["ckpt.pkl", "--to", "safetensors", "--out", f"{NEW}/model.safetensors"],
    "convert": ["ckpt.pkl", "--to", "safetensors", "--out", NEW],
    "list": ["inits"],
    "cache": [],
}
FILES = {
    *("images", "images/bar/test0.png", "raw", "train.txt", "valid.txt", "test.txt", "ckpt.pkl"),
    *("runs/1", "runs/other"),
}
NAMES = list(COMMANDS)
# These train for a second or more.
LONG = ("finetune", "probe")
WORKING = [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in NAMES]
READERS = [name for name in NAMES if FILES.intersection(ARGUMENTS.get(name, []))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, lists, and a run of one epoch with its copy."""
    folder = make_lists(tmp_path_factory.mktemp("every"), train=24, valid=24, test=9)
    make_idx(folder / "raw" / "MNIST" / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(model="lenet", epochs=1, tensorboard=False, pictures=False)
        shutil.copytree("runs/1", "runs/other")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, blank_pictures):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PTKIT_CACHE", str(folder / "cache"))

    def invoke(*arguments):
        words = [word.replace(NEW, str(tmp_path)) for word in arguments]
        return CliRunner().invoke(app, words)

    return invoke


@pytest.mark.parametrize("name", WORKING)
def test_quiet_says_no_more_than_two_lines(run, name):
    done = run(name, *ARGUMENTS[name], "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) <= 2


@pytest.mark.parametrize("name", WORKING)
def test_json_is_all_that_is_on_standard_output(run, name):
    done = run(name, *ARGUMENTS[name], "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout) is not None
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_there_is_one_line_and_an_exit_code(run, name):
    gone = [f"no/{word}" if word in FILES else word for word in ARGUMENTS[name]]
    done = run(name, *gone)
    assert done.exit_code in (2, 3, 4)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert done.stderr.startswith("ptkit: ")
    assert "no/" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_that_is_not_there_is_wrong_usage(run, name):
    done = run(name, "--nosuch")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--nosuch" in done.stderr
