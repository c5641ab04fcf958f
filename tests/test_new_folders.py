"""Folders that get their name when they are complete, and what killed processes leave of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptkit.core.errors import StorageError
from ptkit.core.new_folders import new_folder

FILLS = """
import sys
from pathlib import Path
from ptkit.core.new_folders import new_folder
with new_folder(Path("set")) as (folder, _):
    (folder / "half.png").touch()
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def filling():
    """A process that is filling set/."""
    with subprocess.Popen(
        [sys.executable, "-c", FILLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        yield process
        process.kill()


def _fill_with_a_fault():
    with new_folder(Path("set")) as (folder, _):
        (folder / "a.png").touch()
        folder.unlink()


def names():
    return sorted(path.name for path in Path().iterdir())


def test_a_folder_is_there_when_it_is_complete(here):
    with new_folder(Path("set")) as (folder, scratch):
        (folder / "a.png").touch()
        (scratch / "b.png").touch()
        assert not Path("set").exists()
    assert [path.name for path in Path("set").iterdir()] == ["a.png"]
    assert names() == ["set"]


def test_nothing_is_left_where_it_fails(here):
    with pytest.raises(StorageError, match="cannot make the folder set: Is a directory"):
        _fill_with_a_fault()
    assert names() == []
    Path("set").mkdir()
    Path("set/mine.png").touch()
    with pytest.raises(StorageError, match="cannot make the folder set: "), new_folder(Path("set")):
        pass
    assert names() == ["set"]


def test_what_a_killed_process_left_is_removed_by_the_next_one(filling):
    os.kill(filling.pid, signal.SIGKILL)
    filling.wait()
    (left,) = names()
    # Of somebody else, with a name of that kind.
    Path(".set.0123abcd").mkdir()
    with new_folder(Path("set")):
        assert left not in names()
    assert names() == [".set.0123abcd", "set"]


def test_what_a_living_process_fills_stays(filling):
    (work,) = names()
    with new_folder(Path("set")):
        assert work in names()
    assert (Path(work) / "new/half.png").exists()
