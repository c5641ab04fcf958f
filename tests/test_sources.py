"""Where classes come from: names, and what is said of folders that do not tell them."""

from pathlib import Path

import pytest
from tiny_scans import make_tree
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.lists import read_list


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def label_of(path):
    """Return the class that the lists here give a path."""
    for images in map(read_list, (Path("train.txt"), Path("valid.txt"))):
        paths = [images.listed_path(row) for row in range(len(images))]
        if path in paths:
            return images.class_names[images.labels[paths.index(path)]]


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (
            ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"],
            r"([a-z]+)\.\d+\.jpg",
            ("cat", "dog"),
        ),
        (["1/a-cat.jpg", "b-cat.jpg", "1/c-dog.jpg", "2/d-dog.jpg"], "cat|dog", ("cat", "dog")),
        (["10_1.jpg", "10_2.jpg", "9_1.jpg", "9_2.jpg"], r"^\d+", ("10", "9")),
    ],
)
def test_classes_are_read_off_the_paths(here, names, pattern, expected):
    make_tree(here / "data", names)
    found = ptkit.split("data", label_from=pattern, ratio="1:1")
    assert (set(found.class_names), found.counts) == (set(expected), {"train": 2, "valid": 2})
    assert [label_of(f"data/{name}") for name in names] == [*expected[:1] * 2, *expected[1:] * 2]


def test_numbers_in_names_are_sorted_as_numbers(here):
    make_tree(here / "data", [f"{label}_{k}.jpg" for label in (10, 9, 100) for k in range(2)])
    found = ptkit.split("data", label_from=r"^\d+", ratio="1:1")
    assert found.class_names == ("9", "10", "100")


@pytest.mark.parametrize(
    ("pattern", "code", "message"),
    [
        ("(", 2, "--label-from is not a regular expression"),
        ("owl", 2, "--label-from 'owl' matches no image; paths look like cat.0.jpg"),
        (r"([a-z]+)\.0", 3,
         r"--label-from '([a-z]+)\\.0' does not match 2 images of 4 in data: cat.1.jpg, dog.1.jpg"),
        ("jpg", 3, "gives all of data one class, jpg"),
        (r"cat|\d", 3,
         "mixes numbers and names as labels, such as 0 in dog.0.jpg and cat in cat.0.jpg"),
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_fit_is_one_line_and_writes_nothing(here, pattern, code, message):
    make_tree(here / "data", ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"])
    before = sorted(here.rglob("*"))
    result = run("data", "--label-from", pattern)
    assert message in result.output
    assert (result.exit_code, result.output.count("\n")) == (code, 1)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("{}.{}.jpg", r"([a-zA-Z][^/]*?)[._ -]*\d+\.\w+$"),
        ("golden {} ({}).jpg", r"([a-zA-Z][^/]*?)[._ -]*\(?\d+\)?\.\w+$"),
        ("00{1}_{0}.jpg", r"\d+[._ -]+([^/]+)\.\w+$"),
        ("{}_x{}b.jpg", r"([a-zA-Z]+)[._ -][^/]*$"),
    ],
)
def test_loose_images_whose_names_tell_the_class_get_a_pattern_that_works(here, name, pattern):
    make_tree(here / "data", [name.format(c, k) for c in ("cat", "dog") for k in range(4)])
    result = run("data")
    assert (result.exit_code, result.output.count("\n")) == (3, 1)
    assert result.output.endswith(f"if the names tell the classes: --label-from '{pattern}'\n")
    assert len(ptkit.split("data", label_from=pattern).class_names) == 2


def test_the_pattern_is_told_once_where_the_images_are_in_parts(here):
    names = [f"{part}/{c}.{k}.jpg" for part in ("train", "val") for c in "ab" for k in "12"]
    make_tree(here / "data", names)
    output = run("data").output
    assert output.startswith(
        "ptkit: data/train holds 4 images outside class folders, such as a.1.jpg"
    )
    assert output.count("--label-from") == 1


def test_loose_images_whose_names_tell_nothing_get_no_pattern(here):
    make_tree(here / "data", [f"IMG_{k}.jpg" for k in range(8)])
    assert "--label-from" not in run("data").output


def test_a_table_that_does_not_fit_loose_images_is_told(here):
    make_tree(here / "data", ["1.jpg", "2.jpg"])
    Path("data/facts.csv").write_text("x,y,z\n1,2,3\n")
    output = run("data").output
    assert "data holds 2 images outside class folders" in output
    assert "as for the table there: data/facts.csv has no column with a usual name" in output


@pytest.mark.parametrize("flag", ["--path-column", "--label-column", "--group-column"])
def test_flags_of_tables_are_wrong_usage_elsewhere(cats_and_dogs, flag):
    Path("all.txt").write_text("images/cat/00.png 0\nimages/dog/00.png 1\n")
    for source, message in (("all.txt", "all.txt is a list"), ("images", "images has none")):
        result = run(source, flag, "x")
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert f"{flag} is for tables" in result.output
        assert message in result.output


def test_the_root_of_a_list_is_where_its_images_are_now(cats_and_dogs):
    names = [f"{label}/{k:02d}.png" for label in ("cat", "dog") for k in range(10)]
    lines = [f"/gone/images/{name} {int(name[0] == 'd')}\n" for name in names]
    Path("all.txt").write_text("".join(lines))
    result = run("all.txt")
    assert (result.exit_code, result.output) == (
        3,
        "ptkit: all.txt, line 1: no image /gone/images/cat/00.png; if the images are elsewhere,"
        " pass --root DIR\n",
    )
    found = ptkit.split("all.txt", root="images", ratio="1:1", out="lists")
    assert found.counts == {"train": 10, "valid": 10}
    assert "/images/cat/0" in Path("lists/train.txt").read_text()


def test_a_list_that_names_its_classes_is_split_and_extended_by_name(cats_and_dogs):
    rows = [f"images/{name}/{k:02d}.png {name}\n" for name in ("dog", "cat") for k in range(10)]
    Path("all.txt").write_text("".join(rows))
    assert ptkit.split("all.txt", ratio="1:1", out="lists").class_names == ("cat", "dog")
    make_tree(cats_and_dogs / "images", ["ant/00.png", "ant/01.png"])
    Path("all.txt").write_text("".join([*rows, "images/ant/00.png ant\nimages/ant/01.png ant\n"]))
    found = ptkit.split("all.txt", extend=True, out="lists")
    assert (found.class_names, len(found.outcome.scan)) == (("cat", "dog", "ant"), 2)
