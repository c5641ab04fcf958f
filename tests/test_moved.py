"""Images that were moved: `--root`, in every command that reads a list."""

import shutil
from pathlib import Path

import pytest
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.moved import moved_prefix, replaced

pytestmark = pytest.mark.usefixtures("blank_pictures")
QUIET = {"batch_size": 4, "tensorboard": False, "pictures": False}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Lists whose images are elsewhere by now, and a checkpoint from before."""
    monkeypatch.chdir(make_lists(tmp_path, train=12, valid=6, test=6))
    ptkit.train(epochs=1, name="first", **QUIET)
    (tmp_path / "images").rename(tmp_path / "moved")
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b/1.png", ("a/", "new/")),
        ("b/1.png", ("", "new/")),
        ("../x/b/1.png", ("../x/", "new/")),
        ("/x/a/b/1.png", ("/x/a/", "new/")),
        ("/1.png", None),
    ],
)
def test_as_few_folders_as_possible_are_replaced(path, expected):
    prefix = moved_prefix(path, Path("new"), exists={"new/b/1.png"}.__contains__)
    assert prefix == expected
    if prefix:
        assert replaced(path, prefix) == "new/b/1.png"


@pytest.mark.parametrize(
    "command",
    [
        ("normstats", "train.txt"),
        ("train",),
        ("finetune", "ckpt.pkl"),
        ("probe", "--backbone", "ckpt.pkl"),
        ("confmat", "ckpt.pkl", "test.txt"),
    ],
)
def test_a_missing_first_image_is_told_with_its_line_and_the_flag(here, command):
    result = run(*command)
    name = next((word for word in command if word.endswith(".txt")), "train.txt")
    part = name.removesuffix(".txt")
    assert (result.exit_code, result.output.count("\n")) == (3, 1)
    assert result.output == (
        f"ptkit: {name}, line 1: no image images/bar/{part}0.png; if the images are elsewhere, pass"
        " --root DIR\n"
    )


def everything_about(run_name, **root):
    """Return what is measured, trained and said with the images that lists name."""
    answers = ptkit.predict("runs/first", "test.txt", **root).values.tolist()
    tested = ptkit.evaluate("runs/first", "test.txt", **root).as_dict()
    statistics = ptkit.normstats("train.txt", **root).statistics
    return answers, tested, statistics, ptkit.train(epochs=2, name=run_name, **root, **QUIET).best


def test_results_do_not_depend_on_the_root(here):
    shutil.copytree("moved", "images")
    before = everything_about("before")
    shutil.rmtree("images")
    assert everything_about("after", root="moved") == before
    assert 'root = "../../moved"' in Path("runs/after/config.toml").read_text()


def test_a_run_is_resumed_from_images_that_were_moved(here):
    result = run("train", "--resume", "runs/first", "--epochs", 2, "--root", "moved")
    assert result.exit_code == 0, result.output
    assert "root" in Path("runs/first/config.toml").read_text()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (("train", "--root", "nowhere"), 2, "--root nowhere is not a folder"),
        (("confmat", "ckpt.pkl", "test.txt", "--root", "runs"), 3, "no image of test.txt is below"),
        (
            ("predict", "ckpt.pkl", "moved", "--root", "moved"),
            2,
            "--root is for the images of a list",
        ),
    ],
)
def test_a_root_that_does_not_help_is_one_line(here, command, code, message):
    result = run(*command)
    assert (result.exit_code, result.output.count("\n")) == (code, 1)
    assert message in result.output
