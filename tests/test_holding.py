"""A run's folder has one writer."""

import os
import signal
import subprocess
import sys

import pytest
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core import file_sets
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.training.holding import held

HOLDS = "import sys; from pathlib import Path; from ptkit.core.training.holding import held\n"


def test_the_second_writer_is_told_who_the_first_is(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sets, "_PATIENCE_S", 0.0)
    code = f"{HOLDS}with held(Path(sys.argv[1])): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline()
        with pytest.raises(UsageError, match=f"is being written by process {other.pid} on "):
            held(tmp_path).__enter__()
    # It ended, well or not.
    with held(tmp_path):
        pass


def test_the_folder_shows_what_is_unfinished_until_it_is_finished(tmp_path):
    for is_unfinished in (True, True, False):
        with held(tmp_path) as hold:
            hold.is_unfinished = is_unfinished
        assert bool(os.listdir(tmp_path)) == is_unfinished
    with held(tmp_path) as hold:
        assert not hold.is_unfinished
    assert os.listdir(tmp_path) == []


def test_a_link_in_the_place_of_the_lock_leads_nowhere(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / "run").mkdir()
    for target in (theirs, tmp_path / "new"):
        (tmp_path / "run" / ".running").symlink_to(target)
        with pytest.raises(StorageError, match=r"run/\.running is a link to .*: remove it"):
            held(tmp_path / "run").__enter__()
        (tmp_path / "run" / ".running").unlink()
    assert theirs.read_text() == "theirs"
    assert not (tmp_path / "new").exists()


def test_a_process_that_was_forked_holds_nothing(tmp_path):
    with held(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with held(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_was_moved_is_not_made_again(tmp_path):
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run") as hold:
        hold.check()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(StorageError, match="was moved or removed while the run went on"):
            hold.check()
    assert os.listdir(tmp_path) == ["moved"]


def test_a_run_that_another_process_writes_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    monkeypatch.setattr(file_sets, "_PATIENCE_S", 0.0)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    with held(run):
        result = CliRunner().invoke(app, ["train", "--resume", "runs/one"])
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            f"ptkit: runs/one is being written by process {os.getpid()} on {os.uname().nodename}:"
            " one at a time; wait until it has ended, or end it"
        ],
    )
