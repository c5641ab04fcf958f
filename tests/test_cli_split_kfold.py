import json
import shutil
from pathlib import Path

import pytest
from tiny_scans import CATS_AND_DOGS, listed, make_tree, name_in
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.lists import read_list
from ptkit.core.files import sha256


@pytest.fixture
def here(cats_and_dogs):
    return cats_and_dogs


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def all_bytes(folder="."):
    return {
        str(path): path.read_bytes()
        for path in Path(folder).rglob("*.*")
        if path.suffix in (".txt", ".json")
    }


def test_every_image_is_in_the_validation_list_of_one_fold_and_in_the_training_lists_of_all_others(
    here,
):
    result = run("images", "--kfold", "5")
    assert result.exit_code == 0, result.output
    images = sorted(str(here / "images" / name) for name in CATS_AND_DOGS)
    assert sorted(listed(*(f"fold{k}/valid.txt" for k in range(1, 6)))) == images
    for k in range(1, 6):
        assert sorted(listed(f"fold{k}/train.txt", f"fold{k}/valid.txt")) == images
        assert read_list(Path(f"fold{k}/valid.txt")).labels.tolist() == [0, 0, 1, 1]
    assert sorted(path.name for path in here.iterdir()) == [
        "fold1",
        "fold2",
        "fold3",
        "fold4",
        "fold5",
        "images",
    ]
    assert (
        result.output
        == "class  fold1  fold2  fold3  fold4  fold5  total\ncat        2      2      2      2     "
        " 2     10\ndog        2      2      2      2      2     10\ntotal      4      4      4 "
        "     4      4     20\n\nWrote fold1 to fold5 in this folder, each with train.txt,"
        " valid.txt, classes.txt and split.json.\n"
    )


def test_the_third_part_of_a_ratio_is_held_out_of_all_folds(here):
    result = run("images", "--kfold", "2", "--ratio", "4:4:2", "--out", "cv")
    assert result.exit_code == 0, result.output
    assert read_list(Path("cv/test.txt")).labels.tolist() == [0, 0, 1, 1]
    for k in (1, 2):
        assert [len(read_list(Path(f"cv/fold{k}/{name}.txt"))) for name in ("train", "valid")] == [
            8,
            8,
        ]
        assert not Path(f"cv/fold{k}/test.txt").exists()
        assert set(listed(f"cv/fold{k}/train.txt", f"cv/fold{k}/valid.txt")).isdisjoint(
            listed("cv/test.txt")
        )
    assert sorted(listed("cv/test.txt", "cv/fold1/train.txt", "cv/fold1/valid.txt")) == sorted(
        str(here / "images" / name) for name in CATS_AND_DOGS
    )
    assert result.output.splitlines()[-2:] == [
        "Wrote fold1 and fold2 in cv, each with train.txt, valid.txt, classes.txt and split.json.",
        "Wrote test.txt, classes.txt and split.json in cv.",
    ]


def test_folds_are_printed_as_json_and_recorded_in_each_folder(here):
    result = run("images", "--kfold", "3", "--ratio", "8:1:1", "--seed", "4", "--json")
    printed = json.loads(result.output)
    assert (printed["train"], printed["valid"], printed["test"], printed["num_new"]) == (
        None,
        None,
        2,
        20,
    )
    assert printed["folds"] == [{"folder": f"fold{k}", "train": 12, "valid": 6} for k in (1, 2, 3)]
    assert printed["files"][:2] == ["fold1/train.txt", "fold1/valid.txt"]
    assert printed["files"][-3:] == ["test.txt", "classes.txt", "split.json"]
    record = json.loads(Path("fold2/split.json").read_text())
    assert record["command"] == "ptkit split images --ratio 8:1:1 --seed 4 --kfold 3"
    assert (record["fold"], record["num_folds"], record["counts"]) == (
        2,
        3,
        {"train": 12, "valid": 6},
    )
    assert record["class_counts"] == {"cat": [6, 3], "dog": [6, 3]}
    files = {
        name: Path("fold2", name).read_bytes() for name in ("train.txt", "valid.txt", "classes.txt")
    }
    assert record["sha256"] == {name: sha256(content) for name, content in files.items()}
    assert json.loads(Path("split.json").read_text())["counts"] == {"test": 2}


def test_duplicates_are_in_one_fold(here):
    for number in range(3):
        shutil.copy("images/cat/00.png", f"images/dog/copy{number}.png")
    run("images", "--kfold", "3")
    folds = {
        k
        for k in (1, 2, 3)
        for path in listed(f"fold{k}/valid.txt")
        if name_in(path) == "cat/00.png"
    }
    assert len(folds) == 1


def test_many_folds_are_shown_by_the_least_and_the_most(here):
    lines = run("images", "--kfold", "11", "--allow-missing").output.splitlines()
    assert lines[:2] == ["class  fold1-11  total", "cat         0-1     10"]


def test_the_same_seed_gives_the_same_folds_and_fewer_folds_remove_the_others(here):
    run("images", "--kfold", "4", "--ratio", "8:1:1")
    before = all_bytes()
    assert run("images", "--kfold", "4", "--ratio", "8:1:1").exit_code == 0
    assert all_bytes() == before
    make_tree(here, ["fold4/runs/1/config.toml"])
    result = run("images", "--kfold", "2")
    assert (
        "Removed test.txt, classes.txt, split.json, fold3/train.txt, fold3/valid.txt, ..., written"
        in result.output
    )
    assert [path.name for path in here.glob("*.*")] == []
    assert sorted(path.name for path in here.glob("fold*")) == ["fold1", "fold2", "fold4"]
    assert [path.name for path in Path("fold4").iterdir()] == ["runs"]


def test_a_held_out_test_list_takes_the_place_of_earlier_lists_that_may_share_images_with_it(here):
    run("images")
    result = run("images", "--kfold", "2", "--ratio", "8:1:1")
    assert (
        "Removed train.txt, valid.txt, written by an earlier split and not by this one."
        in result.output
    )
    assert sorted(path.name for path in here.glob("*.txt")) == ["classes.txt", "test.txt"]


def test_folds_leave_other_lists_alone_and_do_not_replace_files_of_the_user(here):
    run("images")
    make_tree(here, ["fold2/train.txt"])
    before = all_bytes()
    result = run("images", "--kfold", "2")
    assert result.exit_code == 2
    assert "fold2/train.txt exists and no earlier split wrote it" in result.output
    assert all_bytes() == before
    assert run("images", "--kfold", "2", "--overwrite").exit_code == 0
    assert before.items() - {("fold2/train.txt", b"GIF8fold2/train.txt")} <= all_bytes().items()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--kfold", "1"], 2, "--kfold must be 2 to 100, found 1"),
        (["--kfold", "3", "--ratio", "8:2"], 2, "--kfold divides train and valid by itself"),
        (["--kfold", "3", "--ratio", "8"], 2, "--ratio must be two or three positive numbers"),
        (
            ["--kfold", "11"],
            3,
            "class cat has fewer images, 10, than the 11 parts (so have 1 more class)",
        ),
        (["--kfold", "3", "--group-by", "/"], 3, "fold2 would get no image"),
        (["--kfold", "3", "--extend"], 2, "--extend and --kfold cannot be combined"),
    ],
)
def test_errors_the_user_can_fix_are_one_line_and_write_nothing(here, args, code, message):
    before = sorted(here.rglob("*"))
    result = run("images", *args)
    assert result.exit_code == code
    assert result.output.startswith("ptkit: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert sorted(here.rglob("*")) == before
