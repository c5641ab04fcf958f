"""`ptkit split DIR` where train, val or test are there already."""

import json
import os
from pathlib import Path

import pytest
from tiny_scans import listed, make_tree
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app

CLASSES = ("cat", "dog")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(part, count, classes=CLASSES):
    """Write so many different files of each class into a part."""
    make_tree(
        Path(part), [f"{name}/{number:02d}.png" for name in classes for number in range(count)]
    )
    for path in Path(part).rglob("*.png"):
        path.write_text(str(path))


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def files_in(part):
    return sorted(str(path.resolve()) for path in Path(part).rglob("*.png"))


@pytest.mark.parametrize(
    ("train", "valid", "test"), [("train", "val", "test"), ("Training", "validation", "eval")]
)
def test_given_parts_are_kept_as_they_are(here, train, valid, test):
    for part, count in ((train, 4), (valid, 2), (test, 1)):
        fill(f"data/{part}", count)
    result = run("data")
    assert result.exit_code == 0, result.output
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        assert sorted(listed(f"{name}.txt")) == files_in(f"data/{part}")
    assert "Given parts, kept: train, valid, test.\n" in result.output
    record = json.loads(Path("split.json").read_text())
    assert (record["given"], record["ratio"]) == (["train", "valid", "test"], None)


@pytest.mark.parametrize(
    ("given", "ratio", "counts"),
    [
        ("test", None, {"train": 16, "valid": 2, "test": 4}),
        ("val", None, {"train": 16, "valid": 4, "test": 2}),
        ("val", "9:1", {"train": 18, "valid": 4}),
        ("test", "2:1", {"train": 12, "valid": 6, "test": 4}),
    ],
)
def test_a_missing_part_is_made_out_of_train(here, given, ratio, counts):
    fill("data/train", 9)
    fill(f"data/{given}", 2)
    found = ptkit.split("data", ratio=ratio)
    assert found.counts == counts
    name = {"val": "valid"}.get(given, given)
    assert sorted(listed(f"{name}.txt")) == files_in(f"data/{given}")
    rest = [f"{part}.txt" for part in counts if part != name]
    assert sorted(listed(*rest)) == files_in("data/train")


def test_train_alone_is_divided_as_a_folder_of_classes_is(here):
    fill("data/train", 10)
    run("data", "--out", "one")
    run("data/train", "--out", "two")
    assert Path("one/train.txt").read_bytes() == Path("two/train.txt").read_bytes()
    assert Path("one/test.txt").read_bytes() == Path("two/test.txt").read_bytes()


def test_folds_are_made_of_train_and_a_given_test_part_is_held_out(here):
    fill("data/train", 6)
    fill("data/test", 2)
    found = ptkit.split("data", kfold=3, out="folds")
    assert found.counts == {"fold1": 4, "fold2": 4, "fold3": 4, "test": 4}
    assert sorted(listed("folds/test.txt")) == files_in("data/test")
    assert sorted(listed("folds/fold1/train.txt", "folds/fold1/valid.txt")) == files_in(
        "data/train"
    )


def test_copies_go_to_part_and_class(here):
    fill("data/train", 4)
    fill("data/val", 1)
    ptkit.split("data", ratio="1:1", copy="copies")
    found = sorted(path.relative_to("copies").as_posix() for path in Path("copies").rglob("*.png"))
    names = [f"train/{name}/{k:02d}.png" for name in CLASSES for k in range(4)]
    assert found == [*names, "valid/cat/00.png", "valid/dog/00.png"]


def test_the_parts_of_a_folder_of_names_are_kept_too(here):
    make_tree(here / "data", [f"train/{name}.{k}.jpg" for name in CLASSES for k in range(4)])
    make_tree(here / "data", [f"val/{name}.{k}.jpg" for name in CLASSES for k in range(2)])
    found = ptkit.split("data", label_from=r"(\w+)\.\d+", ratio="1:1")
    assert (found.counts, found.outcome.given) == ({"train": 8, "valid": 4}, ["train", "valid"])


@pytest.mark.parametrize("part", ["test", "val"])
def test_paths_that_are_all_in_one_part_are_divided_as_any_others(here, part):
    names = [f"{part}/{name}.{k}.jpg" for name in CLASSES for k in range(4)]
    make_tree(here / "data", names)
    rows = "".join(f"{name},{name.split('/')[1][:3]}\n" for name in names)
    Path("data/a.csv").write_text(f"path,label\n{rows}")
    found = ptkit.split("data/a.csv", ratio="3:1")
    assert (found.counts, found.outcome.given) == ({"train": 6, "valid": 2}, [])
    result = run("data")
    assert (result.exit_code, result.output.count("\n")) == (3, 1)
    advice = (
        f"data/a.csv has no images outside {part}/; if they are to be split: `ptkit split data/a"
    )
    assert advice in result.output
    found = ptkit.split("data", label_from=r"(\w+)\.\d+", ratio="3:1", out="by_name")
    assert (found.counts, found.outcome.given) == ({"train": 6, "valid": 2}, [])


def test_class_folders_are_looked_through_once(here, monkeypatch):
    fill("data", 10)
    opened = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(str(path)) or scandir(path))
    ptkit.split("data")
    assert sorted(path for path in opened if path.startswith("data/")) == ["data/cat/", "data/dog/"]


def test_folders_of_other_names_are_classes(here):
    fill("data/train", 5, classes=("steam", "diesel"))
    fill("data/plane", 5, classes=("jet",))
    assert ptkit.split("data").class_names == ("plane", "train")


def test_folders_without_images_beside_parts_do_not_count(here):
    fill("data/train", 5)
    fill("data/val", 1)
    make_tree(here / "data", ["annotations/a.xml"])
    assert ptkit.split("data").counts == {"train": 8, "valid": 2, "test": 2}


def test_test_images_without_classes_are_told_with_how_to_leave_them_out(here):
    fill("data/train", 5)
    make_tree(here / "data", ["test/1.jpg", "test/2.jpg"])
    result = run("data")
    assert (result.exit_code, result.output) == (
        3,
        "ptkit: data/test holds 2 images outside class folders, such as 1.jpg; expected"
        " data/test/<class>/1.jpg; to split the training images alone: `ptkit split data/train`\n",
    )
    assert run("data/train").exit_code == 0


def test_a_class_that_a_part_lacks_may_be_allowed(here):
    fill("data/train", 4)
    fill("data/val", 1, classes=("cat",))
    assert run("data").exit_code == 3
    found = ptkit.split("data", ratio="1:1", allow_missing=True)
    assert found.counts == {"train": 8, "valid": 1}


@pytest.mark.parametrize(
    ("parts", "args", "code", "message"),
    [
        ({"train": CLASSES, "val": ("cat",)}, (), 3,
         "data/train and data/val differ in classes, only in data/train: dog; --allow-missing"),
        ({"train": CLASSES, "val": ("cat", "dogs")}, ("--allow-missing",), 3,
         "only in data/train: dog; only in data/val: dogs"),
        ({"val": CLASSES, "test": CLASSES}, (), 3, "data has the parts test and val but no train"),
        ({"train": CLASSES, "val": CLASSES, "valid": CLASSES}, (), 3,
         "valid and val mean the same"),
        ({"train": CLASSES, "val": CLASSES, "more": CLASSES}, (), 3, "other images, such as more"),
        ({"train": CLASSES, "val": CLASSES}, ("--kfold", 2), 2,
         "--kfold makes the validation parts"),
        ({"train": CLASSES, "val": CLASSES, "test": CLASSES}, ("--ratio", "8:1:1"), 2,
         "--ratio has no effect: data has train, valid and test"),
        ({"train": CLASSES, "test": CLASSES}, ("--kfold", 2, "--ratio", "8:1:1"), 2,
         "--ratio has no effect"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_one_line_and_write_nothing(
    here, parts, args, code, message
):
    for part, classes in parts.items():
        fill(f"data/{part}", 4, classes=classes)
    before = sorted(here.rglob("*"))
    result = run("data", *args)
    assert (result.exit_code, result.output.count("\n")) == (code, 1)
    assert message in result.output
    assert sorted(here.rglob("*")) == before


def test_parts_that_share_images_are_an_error_with_the_first_pair(here):
    fill("data/train", 4)
    fill("data/val", 2)
    for number in (0, 1):
        content = Path(f"data/train/dog/0{number}.png").read_text()
        Path(f"data/val/cat/0{number}.png").write_text(content)
    result = run("data")
    assert result.exit_code == 3
    assert (
        "train and valid share images, 2 in all: the first are data/train/dog/00.png and"
        " data/val/cat/00.png;" in result.output
    )


def test_groups_in_two_parts_are_an_error(here):
    make_tree(here / "data", [f"train/{name}/p{k}.png" for name in CLASSES for k in range(4)])
    make_tree(here / "data", ["val/cat/p1.png", "val/dog/p9.png"])
    result = run("data", "--group-by", r"p\d")
    assert result.exit_code == 3
    assert "train and valid share images or groups, 1 in all" in result.output


def test_lists_are_not_extended_from_given_parts(here):
    fill("data/train", 4)
    fill("data/val", 1)
    run("data", "--ratio", "1:1")
    result = run("data", "--extend")
    assert result.exit_code == 2
    assert "--extend places new images by itself" in result.output
