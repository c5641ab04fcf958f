import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_scans import CATS_AND_DOGS, listed, make_tree, name_in
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.lists import read_list
from ptkit.core.files import sha256

LISTS = ("train.txt", "valid.txt", "test.txt")


@pytest.fixture
def here(cats_and_dogs):
    return cats_and_dogs


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.txt")}


def test_split_writes_lists_that_hold_every_image_once(here):
    result = run("images", "--ratio", "8:1:1")
    assert result.exit_code == 0, result.output
    assert sorted(listed(*LISTS)) == sorted(str(here / "images" / name) for name in CATS_AND_DOGS)
    assert [len(read_list(Path(name))) for name in LISTS] == [16, 2, 2]
    assert Path("train.txt").read_text().startswith("images/cat/0")
    assert Path("classes.txt").read_text() == "cat\ndog\n"
    assert (
        result.output == "class  train  valid  test  total\n"
        "cat        8      1     1     10\n"
        "dog        8      1     1     10\n"
        "total     16      2     2     20\n"
        "\n"
        "Classes with one image in valid: 2 (cat, dog); their recall there is 0 or 100 %.\n"
        "Wrote train.txt, valid.txt, test.txt, classes.txt and split.json in this folder.\n"
    )


def test_split_gives_the_same_bytes_whatever_order_the_file_system_returns(here, monkeypatch):
    make_tree(here, ["elsewhere/1.png"])
    for name in ("b", "a", "c"):
        (here / "images/cat" / name).symlink_to(here / "elsewhere")
    scandir = os.scandir

    def ordered(*, reverse):
        @contextmanager
        def scan(folder):
            with scandir(folder) as entries:
                yield iter(sorted(entries, key=lambda entry: entry.name, reverse=reverse))

        return scan

    monkeypatch.setattr(os, "scandir", ordered(reverse=False))
    run("images", "--out", "one")
    monkeypatch.setattr(os, "scandir", ordered(reverse=True))
    run("images", "--out", "two")
    assert all_bytes(here / "one") == all_bytes(here / "two")


def test_another_seed_gives_another_split(here):
    run("images", "--out", "one")
    run("images", "--out", "two", "--seed", "1")
    assert all_bytes("one") != all_bytes("two")


def test_split_records_what_it_did(here):
    run("images", "--ratio", "0.7:0.3", "--seed", "5")
    record = json.loads(Path("split.json").read_text())
    assert record["command"] == "ptkit split images --ratio 0.7:0.3 --seed 5"
    assert (record["seed"], record["ratio"]) == (5, "0.7:0.3")
    assert record["counts"] == {"train": 14, "valid": 6}
    assert record["class_counts"] == {"cat": [7, 3], "dog": [7, 3]}
    assert record["sha256"] == {name: sha256(content) for name, content in all_bytes(".").items()}


def test_split_prints_its_result_as_json(here):
    shutil.copy("images/cat/00.png", "images/dog/copy.png")
    Path("images/notes.txt").touch()
    result = run("images", "--json")
    assert json.loads(result.output) == {
        "train": 17,
        "valid": 2,
        "test": 2,
        "folds": None,
        "notes": [],
        "given": [],
        "num_new": 21,
        "num_kept": 0,
        "num_missing": 0,
        "num_classes": 2,
        "num_duplicates": 1,
        "num_conflicts": 1,
        "num_not_images": 0,
        "stale_runs": [],
        "num_near_duplicates": 0,
        "num_ignored": 1,
        "copies": None,
        "links": None,
        "files": ["train.txt", "valid.txt", "test.txt", "classes.txt", "split.json"],
    }


def test_split_can_be_quiet(here):
    assert run("images", "--quiet").output == ""


def test_split_says_what_is_odd_in_a_line_each(here):
    shutil.copy("images/cat/00.png", "images/dog/copy.png")
    Path("images/notes.txt").touch()
    make_tree(here / "images", ["owl/1.png"])
    lines = run("images", "--allow-missing", "--group-by", "cat/0[0-4]").output.splitlines()
    assert "Exact duplicates: 1; copies of one picture are in one part." in lines
    assert (
        "Same picture under several classes: 1, such as cat/00.png and dog/copy.png; check the"
        " labels." in lines
    )
    assert "Groups kept whole: 5; images in no group: 17." in lines
    assert "Classes without an image in test: 1 (owl)." in lines
    assert "Other files, ignored: 1 (1 .txt)." in lines


def test_a_long_table_is_cut(here):
    make_tree(
        here / "many", [f"{label:03d}/{number}.png" for label in range(30) for number in range(2)]
    )
    lines = run("many", "--ratio", "1:1").output.splitlines()
    assert lines[20].split() == ["019", "1", "1", "2"]
    assert lines[21:23] == ["... 10 more classes", "total     30     30     60"]


def test_lists_of_an_earlier_split_are_replaced(here):
    run("images")
    before = all_bytes(".")
    assert run("images").exit_code == 0
    assert all_bytes(".") == before
    assert run("images", "--seed", "1").exit_code == 0
    assert all_bytes(".") != before


@pytest.mark.parametrize("name", ["train.txt", "test.txt", "classes.txt", "split.json"])
def test_a_file_that_no_split_wrote_needs_overwrite_and_stops_all_writing(here, name):
    run("images")
    Path(name).write_text("mine\n")
    before = all_bytes(".")
    result = run("images", "--seed", "1")
    assert result.exit_code == 2
    assert (
        f"{name if name != 'split.json' else 'train.txt'} exists and no earlier split wrote it"
        in result.output
    )
    assert all_bytes(".") == before
    assert run("images", "--seed", "1", "--overwrite").exit_code == 0
    assert Path(name).read_text() != "mine\n"


def test_two_parts_remove_the_test_list_of_an_earlier_split(here):
    run("images")
    result = run("images", "--ratio", "8:2")
    assert not Path("test.txt").exists()
    assert "Removed test.txt, written by an earlier split and not by this one." in result.output


def test_two_parts_leave_a_test_list_of_the_users(here):
    Path("test.txt").write_text("mine\n")
    assert run("images", "--ratio", "8:2").exit_code == 0
    assert Path("test.txt").read_text() == "mine\n"


@pytest.mark.parametrize("out", ["lists", "link/lists", "images", "deep/down"])
@pytest.mark.parametrize("folder", ["images", "link/../photos", "shortcut"])
def test_lists_lead_to_the_images_from_wherever_they_lie(here, folder, out):
    (here / "deep/down/real").mkdir(parents=True)
    (here / "link").symlink_to(here / "deep/down/real")
    (here / "deep/down/photos").symlink_to(here / "images")
    (here / "shortcut").symlink_to(here / "images")
    assert run(folder, "--out", out).exit_code == 0
    assert sorted(listed(*(f"{out}/{name}" for name in LISTS))) == sorted(
        str(here / "images" / name) for name in CATS_AND_DOGS
    )


def test_lists_keep_the_name_of_a_symlinked_folder(here):
    (here / "shortcut").symlink_to(here / "images")
    run("shortcut")
    assert Path("train.txt").read_text().startswith("shortcut/cat/")


def test_names_of_any_bytes_work_end_to_end(here):
    strange = [
        b"-x.png",
        b"a b.png",
        b" lead.png",
        b"two\nlines.png",
        b'"q".png',
        b"\xff\xfe.png",
        b"\x1b[31m.png",
    ]
    folders = [b"-dash", b"new\nline", b"\xe9t\xe9", "猫".encode()]
    for folder in folders:
        os.makedirs(os.path.join(b"strange", folder))
        for name in strange:
            Path(os.fsdecode(os.path.join(b"strange", folder, name))).write_bytes(folder + name)
    result = run("strange", "--ratio", "1:1")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    images = [os.fsencode(path) for path in listed("train.txt", "valid.txt")]
    base = os.fsencode(here / "strange")
    assert sorted(images) == sorted(
        os.path.join(base, folder, name) for folder in folders for name in strange
    )
    assert sorted(map(os.fsencode, read_list(Path("train.txt")).class_names)) == sorted(folders)


def write_run_on(folder, *lists):
    """Write what a checkpoint of a run says of its lists."""
    hashes = [sha256(Path(name).read_bytes()) for name in lists]
    folder.mkdir(parents=True)
    torch.save({"data": dict(enumerate(hashes))}, folder / "ckpt.pkl")


def test_runs_on_lists_that_are_replaced_are_named(here):
    run("images")
    write_run_on(Path("runs/2"), "train.txt", "valid.txt")
    write_run_on(Path("runs/10/seed0"), "valid.txt")
    # Of a series its best run's checkpoint.
    Path("runs/10/ckpt.pkl").symlink_to("seed0/ckpt.pkl")
    write_run_on(Path("runs/3"))
    Path("runs/4").mkdir()
    Path("runs/4/ckpt.pkl").write_bytes(b"not a checkpoint")
    # The same lists once more.
    assert "Trained on" not in run("images").stdout
    assert "Trained on" not in run("images", "--seed", "1", "--out", "elsewhere").stdout
    note = (
        "Trained on the lists that are replaced: runs/2, runs/10/seed0; the new ones may"
        " validate on images that these were trained on.\n"
    )
    assert note in run("images", "--seed", "1").stdout
    assert json.loads(run("images", "--seed", "2", "--json").stdout)["stale_runs"] == []


def test_files_that_are_no_images_are_listed_and_named(here):
    Path("images/dog/03.png").write_bytes(b"")
    # The length of the others: it is read.
    Path("images/cat/05.png").write_bytes(b"<html>no image")
    result = run("images")
    note = (
        "Files that are no images, listed all the same: 2 (cat/05.png, dog/03.png); `ptkit check`"
        " says why, and finds others.\n"
    )
    assert (result.exit_code, note in result.stdout) == (0, True)
    assert len(listed("train.txt", "valid.txt", "test.txt")) == 20
    assert json.loads(run("images", "--json").stdout)["num_not_images"] == 2


def test_duplicates_stay_on_one_side(here):
    for number in range(5):
        shutil.copy("images/cat/00.png", f"images/cat/copy{number}.png")
    run("images", "--ratio", "1:1")
    sides = {
        name
        for name in ("train.txt", "valid.txt")
        for path in listed(name)
        if name_in(path) == "cat/00.png"
    }
    assert len(sides) == 1


def test_groups_stay_on_one_side_also_across_classes(here):
    make_tree(
        here / "films",
        [
            f"{label}/film{film}_{number}.png"
            for label in "ab"
            for film in range(8)
            for number in range(3)
        ],
    )
    run("films", "--ratio", "3:1", "--group-by", r"film\d+")
    films = [{Path(path).name[:5] for path in listed(name)} for name in ("train.txt", "valid.txt")]
    assert films[0].isdisjoint(films[1])
    assert [len(read_list(Path(name))) for name in ("train.txt", "valid.txt")] == [36, 12]


def test_copies_are_a_tree_of_parts_and_classes_and_the_lists_name_them(here):
    make_tree(here / "images", ["cat/nested/a.png"])
    result = run("images", "--copy", "tree", "--out", "tree")
    assert result.exit_code == 0
    copied = [
        path for part in ("train", "valid", "test") for path in Path("tree", part).rglob("*.png")
    ]
    assert sorted("/".join(path.parts[2:]) for path in copied) == sorted(
        [*CATS_AND_DOGS, "cat/nested/a.png"]
    )
    assert all(name_in(path) == "/".join(path.parts[2:]) for path in copied)
    assert sorted(listed(*(f"tree/{name}" for name in LISTS))) == sorted(
        map(os.path.realpath, copied)
    )
    assert sorted(path.name for path in Path("tree").iterdir()) == sorted(
        [
            "train",
            "valid",
            "test",
            "train.txt",
            "valid.txt",
            "test.txt",
            "classes.txt",
            "split.json",
        ]
    )


def test_copies_never_go_into_a_folder_that_holds_something_or_into_the_images(here):
    before = sorted(here.rglob("*"))
    full = run("images", "--copy", "images/cat", "--overwrite")
    inside = run("images", "--copy", "images/new")
    assert (full.exit_code, inside.exit_code) == (2, 2)
    assert "is not an empty folder" in full.output
    assert "lies inside images" in inside.output
    assert sorted(here.rglob("*")) == before


def test_a_list_is_split_by_its_lines(here):
    run("images", "--ratio", "1:1", "--out", "first")
    result = run("first/train.txt", "--ratio", "3:2", "--out", "second")
    assert result.exit_code == 0
    assert [len(read_list(Path("second", name))) for name in ("train.txt", "valid.txt")] == [6, 4]
    assert sorted(listed("second/train.txt", "second/valid.txt")) == sorted(
        listed("first/train.txt")
    )
    assert Path("second/classes.txt").read_text() == "cat\ndog\n"


def test_a_list_can_be_copied_although_file_names_repeat(here):
    make_tree(here / "other", ["1/00.png", "2/00.png"])
    Path("all.txt").write_text(
        "".join(f"images/{name} {int(name[:3] == 'dog')}\n" for name in CATS_AND_DOGS)
        + "other/1/00.png 0\n"
    )
    assert run("all.txt", "--copy", "tree", "--out", "lists").exit_code == 0
    assert len(list(Path("tree").rglob("*.png"))) == 21


def test_a_list_is_never_overwritten_by_its_own_parts(here):
    run("images")
    before = all_bytes(".")
    result = run("train.txt", "--overwrite")
    assert result.exit_code == 2
    assert (
        "train.txt would be overwritten while it is being split; choose another folder with --out"
        in result.output
    )
    assert all_bytes(".") == before


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nothing"], 3, "no folder nothing here"),
        (["images/cat"], 3, "images/cat holds 10 images outside class folders"),
        (["images", "--ratio", "8"], 2, "--ratio must be two or three positive numbers"),
        (["images", "--group-by", "("], 2, "--group-by is not a regular expression"),
        (["images", "--group-by", "/"], 3, "valid would get no image"),
        (["images", "--out", "images/cat/00.png"], 2, "is not a folder"),
    ],
)
def test_errors_the_user_can_fix_are_one_line_and_write_nothing(here, args, code, message):
    before = sorted(here.rglob("*"))
    result = run(*args)
    assert result.exit_code == code
    assert result.output.startswith("ptkit: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_a_small_class_is_named_unless_allowed(here):
    make_tree(here / "images", ["owl/1.png", "owl/2.png"])
    result = run("images")
    assert result.exit_code == 3
    assert "class owl has fewer images, 2, than the 3 parts" in result.output
    assert run("images", "--allow-missing").exit_code == 0
