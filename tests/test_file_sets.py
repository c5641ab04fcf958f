"""Lists that change together: the old ones or the new ones, whatever happens in between."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core import file_sets
from ptkit.core.config.settings import DataSettings
from ptkit.core.data.lists import read_list
from ptkit.core.errors import DataError, StorageError
from ptkit.core.file_sets import PENDING, alone_in, finish_replacing, replacing, unchanging
from ptkit.core.training.setup_lists import read_lists

SPLIT = ["split", "images", "--ratio", "6:2:2", "--seed"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_lists(tmp_path)
    for file in (*tmp_path.glob("*.txt"), *tmp_path.glob("*.json")):
        file.unlink()
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    # make_lists has all images in one folder.
    for number, file in enumerate(sorted(folder.glob("*.*"))):
        place = tmp_path / "images" / "abc"[number % 3] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def split(*more):
    return CliRunner().invoke(app, [*SPLIT, *more])


def lists(folder=Path()):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.txt"))
    }


def killed_at(call, work):
    """Do some work in another process, which ends at that call of os.replace or Path.unlink;
    return whether it came so far.
    """
    child = os.fork()
    if child == 0:
        count = iter(range(1000))

        def counted(function):
            def with_end(*arguments, **more):
                if next(count) == call:
                    os._exit(9)
                return function(*arguments, **more)

            return with_end

        os.replace, Path.unlink = counted(os.replace), counted(Path.unlink)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("more", [[], pytest.param(["--kfold", "3"], marks=pytest.mark.slow)])
def test_a_split_killed_at_any_rename_leaves_the_old_lists_or_the_new_ones(here, more):
    assert split("1", *more).exit_code == 0
    old = lists()
    assert split("2", *more).exit_code == 0
    new = lists()
    assert old != new
    found = []
    for call in range(1000):
        assert split("1", *more).exit_code == 0
        assert lists() == old
        was_killed = killed_at(call, lambda: split("2", *more))
        # What any command does that reads a list.
        finish_replacing(here)
        found.append(lists())
        assert found[-1] in (old, new)
        assert not list(here.rglob(PENDING))
        if not was_killed:
            break
    assert old in found
    assert found[-1] == new
    assert split("1", *more).exit_code == 0
    assert not list(here.rglob(".*.txt.*"))


def test_reading_a_list_goes_on_with_what_a_kill_left(here):
    assert split("1").exit_code == 0
    assert killed_at(2, lambda: split("2"))
    train, valid = read_lists(DataSettings())
    record = json.loads(Path("split.json").read_text())
    assert record["seed"] == 2
    assert {train.sha256, valid.sha256} < set(record["sha256"].values())


def test_of_two_splits_into_one_folder_one_says_so_at_once(here, monkeypatch):
    monkeypatch.setattr(file_sets, "_PATIENCE_S", 0.05)
    assert split("1").exit_code == 0
    before = lists()
    with alone_in(Path()):
        result = split("2")
        assert (result.exit_code, result.stderr) == (
            2,
            "ptkit: another command is at work on the lists in .: try again when it has ended\n",
        )
        trained = CliRunner().invoke(app, ["train"])
        assert (trained.exit_code, trained.stderr) == (
            3,
            f"ptkit: the lists in {here} are changing just now: try again when that has ended\n",
        )
        assert split("2", "--out", "elsewhere").exit_code == 0
    assert {name: text for name, text in lists().items() if "/" not in name} == before
    assert split("2").exit_code == 0


def test_lists_that_are_being_read_are_not_replaced(here, monkeypatch):
    monkeypatch.setattr(file_sets, "_PATIENCE_S", 0.05)
    assert split("1").exit_code == 0
    with unchanging(here), unchanging(here):
        assert split("2").exit_code == 2


def test_a_split_that_fails_leaves_no_folder(here):
    assert CliRunner().invoke(app, ["split", "none", "--out", "new/lists"]).exit_code != 0
    assert not Path("new/lists").exists()


def test_a_disk_that_is_full_leaves_everything_as_it_was(here, monkeypatch):
    assert split("1").exit_code == 0
    before, count = sorted(here.rglob("*")), iter(range(10))
    write_synced = file_sets.write_synced

    def full(path, content):
        if next(count) == 2:
            path.write_bytes(content[:5])
            raise OSError(28, "No space left on device")
        write_synced(path, content)

    monkeypatch.setattr(file_sets, "write_synced", full)
    result = split("2")
    assert result.exit_code == 74
    assert "what was there before is untouched" in result.stderr
    assert sorted(here.rglob("*")) == before


REMOVES = "removes " + hashlib.sha256(b"mine").hexdigest()


def test_a_record_removes_only_the_list_that_it_knows(tmp_path):
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("mine" if name == "train.txt" else "another")
    (tmp_path / PENDING).write_text(json.dumps({"train.txt": REMOVES, "test.txt": REMOVES}))
    finish_replacing(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test.txt"]


def test_folds_are_not_read_while_they_change(here, monkeypatch):
    monkeypatch.setattr(file_sets, "_PATIENCE_S", 0.05)
    assert split("1", "--kfold", "3").exit_code == 0
    with alone_in(Path()), pytest.raises(DataError, match="are changing just now"):
        read_lists(DataSettings(train="fold1/train.txt", valid="fold1/valid.txt"))
    with unchanging(Path("fold1")):
        assert split("2", "--kfold", "3").exit_code == 2


@pytest.mark.parametrize(
    "record",
    [
        {"../victim.txt": ".victim.txt.00000000"},
        {"../victim.txt": REMOVES},
        {"/tmp/victim.txt": REMOVES},
        {"link/train.txt": REMOVES},
        {"fold1/b/train.txt": REMOVES},
        {"victim.txt": REMOVES},
        {"victim.txt": None},
        {"train.txt": None},
        {"train.txt": "../victim.txt"},
        {"train.txt": "victim.txt"},
        {"train.txt": 3},
        ["victim.txt"],
        "[" * 100_000,
    ],
)
def test_a_record_from_anybody_touches_no_other_file(tmp_path, record):
    folder, victim = tmp_path / "sent", tmp_path / "victim.txt"
    folder.mkdir()
    for path in (victim, folder / "victim.txt", tmp_path / ".victim.txt.00000000"):
        path.write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / PENDING).write_text(text)
    with pytest.raises(DataError, match="is no record of ptkit's: move it away"):
        finish_replacing(folder)
    assert victim.read_text() == (folder / "victim.txt").read_text() == "mine"
    assert (tmp_path / ".victim.txt.00000000").exists()


def test_what_cannot_be_renamed_waits_for_the_next_command(tmp_path, monkeypatch):
    (tmp_path / "train.txt").write_text("old")

    def refuse(*_names):
        raise OSError(13, "Permission denied")

    def change():
        with replacing(tmp_path) as files:
            files.put(tmp_path / "train.txt", b"new")
            files.remove(tmp_path / "test.txt")

    monkeypatch.setattr(file_sets.os, "replace", _all_but_first(os.replace, refuse))
    with pytest.raises(StorageError, match="the next command that reads them goes on"):
        change()
    monkeypatch.undo()
    assert (tmp_path / "train.txt").read_text() == "old"
    finish_replacing(tmp_path)
    assert (tmp_path / "train.txt").read_text() == "new"


def _all_but_first(first, others):
    calls = iter([first])
    return lambda *names: next(calls, others)(*names)


@pytest.mark.parametrize("more", [(), ("--extend",)])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_copies_that_no_list_will_name_are_removed(here, more, failure, monkeypatch):
    if more:
        assert split("1", "--copy", "tree", "--out", "lists").exit_code == 0
        (here / "images/owl").mkdir()
        for number in range(5):
            (here / f"images/owl/{number}.png").write_text(f"owl {number}")
    before = sorted(here.rglob("*"))

    def fails(*_arguments):
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(file_sets, "write_synced", fails)
        assert split("1", "--copy", "tree", "--out", "lists", *more).exit_code != 0
    assert sorted(here.rglob("*")) == before
    assert split("1", "--copy", "tree", "--out", "lists", *more).exit_code == 0


def test_an_interrupted_copy_leaves_nothing_in_a_tree_that_grows(here, monkeypatch):
    assert split("1", "--copy", "tree", "--out", "lists").exit_code == 0
    (here / "images/owl").mkdir()
    for number in range(5):
        (here / f"images/owl/{number}.png").write_text(f"owl {number}")
    before, real = sorted(here.rglob("*")), shutil.copyfile

    def interrupted(source, target):
        real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    assert split("1", "--copy", "tree", "--out", "lists", "--extend").exit_code != 0
    assert sorted(here.rglob("*")) == before


def test_copies_stay_where_their_lists_will_be_put_in_place(here, monkeypatch):
    def fails(*_arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(file_sets.os, "replace", fails)
        patched.setattr(
            file_sets, "write_atomically", lambda path, content: path.write_bytes(content)
        )
        assert split("1", "--copy", "tree", "--out", "lists").exit_code == 74
    images = read_list(here / "lists/train.txt")
    assert all(Path(images.image_path(index)).exists() for index in range(len(images)))
