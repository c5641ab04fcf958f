"""A checkpoint where its run is expected: what training links is what people have at hand."""

from pathlib import Path

import pytest
from tiny_records import make_run
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.run_folders import run_of, settings_file


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """runs/1 with checkpoints, a link to one, a copy of one, and one of another run."""
    monkeypatch.chdir(tmp_path)
    made = make_run(Path("runs/1"))
    for name in ("ckpt.pkl", "last.pkl"):
        (made / name).write_bytes(b"weights")
    Path("ckpt.pkl").symlink_to("runs/1/ckpt.pkl")
    Path("copy.pkl").write_bytes(b"weights")
    Path("other.pkl").write_bytes(b"Weights")
    return made


def ptkit(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("name", ["ckpt.pkl", "runs/1/ckpt.pkl", "runs/1/last.pkl"])
def test_a_checkpoint_in_a_run_folder_stands_for_the_run(run, name):
    assert run_of(Path(name)) == run
    assert run_of(Path(name).absolute()) == run
    assert settings_file(Path(name)) == run / "config.toml"


def test_a_copy_of_a_checkpoint_stands_for_its_run(run):
    assert run_of(Path("copy.pkl")) == run


@pytest.mark.parametrize("name", ["other.pkl", "runs/1", "runs", "nowhere", "runs/1/config.toml"])
def test_any_other_path_stands_for_itself(name):
    assert run_of(Path(name)) == Path(name)


def test_a_checkpoint_beside_a_config_of_the_users_own_is_of_no_run():
    Path("config.toml").touch()
    Path("last.pkl").write_bytes(b"others")
    assert run_of(Path("last.pkl")) == Path("last.pkl")


def test_diagnose_takes_the_run_of_a_link(run):
    assert ptkit("diagnose", "ckpt.pkl").stdout == ptkit("diagnose", "runs/1").stdout


def test_report_takes_the_run_of_a_link(run):
    result = ptkit("report", "ckpt.pkl")
    assert (result.exit_code, "Wrote runs/1/report.html (" in result.stdout) == (0, True)


def test_compare_takes_the_run_of_a_link(run):
    make_run(Path("runs/2"))
    result = ptkit("compare", "ckpt.pkl", "runs/2")
    assert (result.exit_code, "\nruns/1 " in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["diagnose"], 3), (["check", "--run"], 3), (["train", "--resume"], 2)],
)
def test_a_checkpoint_of_no_run_is_refused_as_a_file(arguments, code):
    result = ptkit(*arguments, "other.pkl")
    text = "other.pkl is a file: expected a run folder, such as runs/1"
    assert (result.exit_code, result.stderr) == (code, f"ptkit: {text}\n")


def test_a_file_in_a_run_and_a_link_to_one_that_is_gone_are_told(run):
    told = ptkit("diagnose", "runs/1/metrics.csv").stderr
    assert told == "ptkit: runs/1/metrics.csv is a file: expected runs/1\n"
    Path("runs").rename("moved")
    told = ptkit("diagnose", "ckpt.pkl").stderr
    assert told.startswith("ptkit: ckpt.pkl is a link to runs/1/ckpt.pkl, which is not there any")
