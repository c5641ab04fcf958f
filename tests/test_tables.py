"""`ptkit split FILE.csv`, and tables that are found beside images."""

import json
from pathlib import Path

import pytest
from tiny_scans import listed, make_tree
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.lists import read_list

NAMES = [f"{name}{number}" for name in ("cat", "dog") for number in range(5)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with ten images in pictures/, all of them different."""
    make_tree(tmp_path / "pictures", [f"{name}.jpg" for name in NAMES])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file, header, rows):
    mark = "\t" if str(file).endswith(".tsv") else ","
    Path(file).write_text("\n".join(mark.join(row) for row in [header, *rows]) + "\n")


def rows_of(suffix=".jpg", folder=""):
    return [(f"{folder}{name}{suffix}", name[:3]) for name in NAMES]


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def labels_by_name(*files):
    found = {}
    for file in files:
        images = read_list(Path(file))
        found |= {
            Path(images.listed_path(k)).stem: images.class_names[images.labels[k]]
            for k in range(len(images))
        }
    return found


EXPECTED = {name: name[:3] for name in NAMES}


@pytest.mark.parametrize(
    ("file", "header", "rows"),
    [
        ("pictures/a.csv", ("path", "label"), rows_of()),
        ("pictures/a.tsv", ("filename", "class"), rows_of()),
        ("a.csv", ("image", "category"), rows_of(folder="pictures/")),
        ("a.csv", ("image_id", "label"), rows_of(suffix="")),
        ("a.csv", ("ID", "breed"), rows_of(suffix="")),
        ("a.csv", ("photo", "label"), rows_of()),
        ("a.csv", ("file_name", "what"), rows_of()),
    ],
)
def test_usual_names_of_columns_and_usual_places_are_found(here, file, header, rows):
    write(file, header, rows)
    result = run(file, "--ratio", "4:1")
    assert result.exit_code == 0, result.output
    assert f'{file}: images from "{header[0]}"' in result.output
    assert f'classes from "{header[1]}"' in result.output
    assert labels_by_name("train.txt", "valid.txt") == EXPECTED
    assert Path("classes.txt").read_text() == "cat\ndog\n"


def test_what_was_assumed_is_said_in_one_line(here):
    write("labels.csv", ("id", "breed"), rows_of(suffix=""))
    expected = 'labels.csv: images from "id" in pictures/ with .jpg added, classes from "breed".'
    assert expected in run("labels.csv").output.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath;label\r\n" + b"".join(f"{n}.jpg;{n[:3]}\r\n".encode() for n in NAMES),
        b"path,note,label\n" + b"".join(f'{n}.jpg,"a, b\nc",{n[:3]}\n'.encode() for n in NAMES),
        b"path , label\n" + b"".join(f" {n}.jpg , {n[:3]}\n".encode() for n in NAMES),
        b"path\tlabel\n\n" + b"".join(f"{n}.jpg\t{n[:3]}\n\n".encode() for n in NAMES),
    ],
)
def test_marks_quotes_and_blanks_of_usual_tables_are_read(here, content):
    Path("pictures/a.csv").write_bytes(content)
    found = ptkit.split("pictures/a.csv", ratio="4:1")
    assert 'images from "path", classes from "label".' in found.outcome.scan.notes[0]
    assert found.counts == {"train": 8, "valid": 2}
    assert labels_by_name("train.txt", "valid.txt") == EXPECTED


def test_json_lines_are_read(here):
    lines = [json.dumps({"file_name": f"{n}.jpg", "label": n[:3], "size": [1]}) for n in NAMES]
    Path("pictures/metadata.jsonl").write_text("\n".join(lines))
    result = run("pictures", "--ratio", "4:1")
    assert (
        'pictures/metadata.jsonl: images from "file_name", classes from "label".' in result.output
    )
    assert labels_by_name("train.txt", "valid.txt") == EXPECTED


def test_whole_numbers_keep_their_order_and_stay_what_they_are(here):
    make_tree(here / "pictures", [f"{k}.png" for k in range(24)])
    write("a.csv", ("file", "label"), [(f"{k}.png", str(k % 12)) for k in range(24)])
    found = ptkit.split("a.csv", ratio="1:1")
    assert found.class_names == tuple(map(str, range(12)))
    names = labels_by_name("train.txt", "valid.txt")
    assert names == {str(k): str(k % 12) for k in range(24)}


def test_groups_of_a_column_stay_on_one_side(here):
    owners = {name: f"p{int(name[3:]) // 2}" for name in NAMES}
    write("a.csv", ("id", "label", "owner"), [(n, n[:3], owners[n]) for n in NAMES])
    result = run("a.csv", "--group-column", "owner", "--ratio", "1:1")
    assert 'groups from "owner"' in result.output
    assert "Groups kept whole: 3; images in no group: 0." in result.output
    sides = [{owners[Path(path).stem] for path in listed(f"{p}.txt")} for p in ("train", "valid")]
    assert sides[0] & sides[1] == set()
    record = json.loads(Path("split.json").read_text())
    assert record["group_column"] == "owner"
    assert record["command"] == ("ptkit split a.csv --ratio 1:1 --seed 0 --group-column owner")


def test_new_rows_join_the_groups_of_listed_images(here):
    write("a.csv", ("id", "label", "owner"), [(n, n[:3], f"p{n[3:]}") for n in NAMES])
    run("a.csv", "--group-column", "owner", "--ratio", "1:1")
    make_tree(here / "pictures", ["cat9.jpg", "dog9.jpg"])
    side = "train" if any("cat0" in path for path in listed("train.txt")) else "valid"
    rows = [(n, n[:3], f"p{n[3:]}") for n in NAMES]
    write("a.csv", ("id", "label", "owner"), [*rows, ("cat9", "cat", "p0"), ("dog9", "dog", "p0")])
    assert "were split by --group-column owner; pass that too" in run("a.csv", "--extend").output
    result = run("a.csv", "--extend", "--group-column", "owner")
    assert result.exit_code == 0, result.output
    assert {f"{n}9" for n in ("cat", "dog")} <= labels_by_name(f"{side}.txt").keys()


def test_a_table_that_does_not_tell_the_groups_of_listed_images_is_refused(here):
    write("a.csv", ("id", "label", "owner"), [(n, n[:3], f"p{n[3:]}") for n in NAMES])
    run("a.csv", "--group-column", "owner", "--ratio", "1:1")
    make_tree(here / "pictures", ["cat9.jpg", "dog9.jpg"])
    write("new.csv", ("id", "label", "owner"), [("cat9", "cat", "p0"), ("dog9", "dog", "p1")])
    before = Path("train.txt").read_text(), Path("valid.txt").read_text()
    result = run("new.csv", "--extend", "--group-column", "owner")
    assert result.exit_code == 3
    assert result.output == (
        "ptkit: new.csv does not tell the groups of 10 listed images; name a table of old and new"
        " images\n"
    )
    assert (Path("train.txt").read_text(), Path("valid.txt").read_text()) == before


def test_a_column_of_parts_is_kept(here):
    parts = {"0": "test", "1": "val"}
    rows = [(n, n[:3], parts.get(n[3:], "train")) for n in NAMES]
    write("a.csv", ("id", "label", "split"), rows)
    found = ptkit.split("a.csv")
    assert found.counts == {"train": 6, "valid": 2, "test": 2}
    assert labels_by_name("test.txt") == {"cat0": "cat", "dog0": "dog"}


@pytest.mark.parametrize(
    ("labels", "classes"), [(("0.0", "1.0"), ("0", "1")), (("B", "a"), ("B", "a"))]
)
def test_labels_are_whole_numbers_or_names_by_code_point(here, labels, classes):
    of = dict(zip(("cat", "dog"), labels, strict=True))
    write("a.csv", ("id", "label"), [(n, of[n[:3]]) for n in NAMES])
    assert ptkit.split("a.csv", ratio="1:1").class_names == classes


def test_metadata_in_each_part_is_found(here):
    for part, numbers in (("train", range(4)), ("test", range(4, 5))):
        names = [n for n in NAMES if int(n[3:]) in numbers]
        make_tree(here / "hub" / part, [f"{n}.png" for n in names])
        write(
            f"hub/{part}/metadata.csv", ("file_name", "label"), [(f"{n}.png", n[:3]) for n in names]
        )
    for path in Path("hub").rglob("*.png"):
        path.write_text(str(path))
    found = ptkit.split("hub", ratio="3:1")
    assert found.counts == {"train": 6, "valid": 2, "test": 2}
    assert [note.partition(":")[0] for note in found.outcome.scan.notes] == [
        "hub/train/metadata.csv", "hub/test/metadata.csv"
    ]  # fmt: skip
    again = ptkit.split("hub", ratio="3:1", label_column="label", out="again")
    assert again.counts == found.counts


def test_a_competitions_layout_is_found_from_its_folder(here):
    make_tree(here / "kaggle", [f"train/{n}.jpg" for n in NAMES])
    make_tree(here / "kaggle", ["test/1.jpg", "test/2.jpg"])
    write("kaggle/labels.csv", ("id", "breed"), rows_of(suffix=""))
    write("kaggle/sample_submission.csv", ("id", "breed"), [("1", "cat"), ("2", "dog")])
    result = run("kaggle", "--ratio", "4:1")
    assert result.exit_code == 0, result.output
    assert 'kaggle/labels.csv: images from "id" in kaggle/train/ with .jpg' in result.output
    assert "\nNot used: kaggle/sample_submission.csv has no images outside test/;" in result.output
    assert labels_by_name("train.txt", "valid.txt") == EXPECTED


def test_a_table_without_classes_beside_class_folders_is_ignored(cats_and_dogs):
    write("images/sizes.csv", ("path", "width"), [("cat/00.png", "3")])
    result = run("images")
    assert "\nFolders tell the classes; not used: images/sizes.csv.\n" in result.output
    assert Path("classes.txt").read_text() == "cat\ndog\n"


def test_a_wrong_row_of_metadata_does_not_make_folders_the_classes(here):
    make_tree(here / "data", [f"shard{n[3:]}/{n}.jpg" for n in NAMES])
    rows = [(f"shard{n[3:]}/{n}.jpg", n[:3]) for n in NAMES]
    write("data/metadata.csv", ("path", "label"), [*rows, ("shard1/cat1.jpg", "")])
    result = run("data")
    assert (result.exit_code, result.output) == (
        3,
        "ptkit: data/metadata.csv, line 12: the label is empty (column label); if folders tell the"
        " classes, move metadata.csv away\n",
    )
    write("data/metadata.csv", ("path", "label"), rows)
    assert ptkit.split("data", ratio="1:1").class_names == ("cat", "dog")


@pytest.mark.parametrize("prefix", ["", "old/pictures/", "/gone/pictures/"])
def test_root_says_where_the_images_are_now(here, prefix):
    Path("tables").mkdir()
    write("tables/a.csv", ("path", "label"), rows_of(folder=prefix))
    result = run("tables/a.csv", "--ratio", "4:1")
    assert result.exit_code == 3
    assert (
        f"tables/a.csv, line 2: no image {'' if prefix[:1] == '/' else 'tables/'}{prefix}cat0.jpg"
    )
    result = run("tables/a.csv", "--ratio", "4:1", "--root", "pictures")
    assert result.exit_code == 0, result.output
    assert labels_by_name("train.txt", "valid.txt") == EXPECTED
    assert Path("train.txt").read_text().startswith("pictures/cat")


def test_a_missing_first_row_does_not_hide_where_the_others_were_moved_to(here):
    write("a.csv", ("path", "label"), [("/gone/none.jpg", "cat"), *rows_of(folder="/gone/")])
    result = run("a.csv", "--root", "pictures")
    assert (result.exit_code, result.output) == (
        3,
        "ptkit: a.csv, line 2: no image pictures/none.jpg; if the images are elsewhere, pass --root"
        " DIR\n",
    )


def test_rows_that_repeat_another_count_once_and_are_told(here):
    write("a.csv", ("path", "label"), [*rows_of(), *rows_of()[:2]])
    result = run("a.csv", "--ratio", "4:1")
    assert "rows that repeat another: 2." in result.output
    assert sorted(Path(path).stem for path in listed("train.txt", "valid.txt")) == sorted(NAMES)


@pytest.mark.parametrize("path", ["./cat0.jpg", "cat0", "../pictures/cat0.jpg"])
def test_one_image_is_one_however_it_is_spelled(here, path):
    write("pictures/a.csv", ("path", "label"), [*rows_of(), (path, "cat")])
    assert "rows that repeat another: 1." in run("pictures/a.csv").output
    write("pictures/b.csv", ("path", "label"), [*rows_of(), (path, "dog")])
    result = run("pictures/b.csv", "--out", "b")
    assert result.exit_code == 3
    assert f"gives {path} two labels, cat in line 2 and dog in line 12" in result.output


@pytest.mark.parametrize(("first", "second"), [("val", "valid"), ("a", "b")])
def test_rows_that_differ_in_no_part_repeat_each_other(here, first, second):
    rows = [(name, name[:3], first if name[3:] == "0" else "train") for name in NAMES]
    write("a.csv", ("id", "label", "split"), [*rows, ("cat0", "cat", second)])
    assert "rows that repeat another: 1." in run("a.csv").output


TWO = [("cat0.jpg", "cat"), ("dog0.jpg", "dog")]


@pytest.mark.parametrize(
    ("header", "rows", "args", "code", "message"),
    [
        (("path", "size"), [("cat0.jpg", "3", "x")], (), 3,
         "a.csv, line 2: the number of cells is 3"),
        (("a", "b", "c"), [("1", "2", "3")], (), 3,
         "a.csv has no column with a usual name for the path: name it with --path-column; it begins"
         ": a,b,c | 1,2,3"),
        (("path", "a", "b"), [("cat0.jpg", "2", "3")], (), 3,
         "--label-column; it begins: path,a,b"),
        (("path", "file", "label", "class"), [("1", "2", "3", "4")], (), 3,
         "several columns that may be the path, path, file: choose one with --path-column"),
        (("id", "split"), [("cat0", "train"), ("dog0", "test")], (), 3,
         "a.csv has no column with a usual name for the label"),
        (("path", "label", "class"), [("cat0.jpg", "0", "cat")], (), 3,
         "several columns that may be the label, label, class: choose one with --label-column; it"
         " begins: path,label,class | cat0.jpg,0,cat"),
        (("path", "label"), [*TWO, ("dog9.jpg", "dog")], (), 3,
         "a.csv, line 4: no image pictures/dog9.jpg; if the images are elsewhere, pass --root DIR"),
        (("path", "label"), [*TWO, ("dog1.jpg", "")], (), 3, "line 4: the label is empty"),
        (("path", "label"), [*TWO, ("", "dog")], (), 3, "line 4: the path is empty"),
        (("path", "label"), [*TWO, ("dog1.jpg", "3")], (), 3,
         "mixes numbers and names as labels, such as 3 in line 4 and cat in line 2"),
        (("path", "label"), [*TWO, ("dog1.jpg", "3.5")], (), 3,
         "line 4: the label 3.5 has decimals"),
        (("path", "label"), [*TWO, ("dog0.jpg", "cat")], (), 3,
         "gives dog0.jpg two labels, dog in line 3 and cat in line 4"),
        (("path", "label", "split"), [(*TWO[0], "train"), (*TWO[1], "train"), (*TWO[0], "test")],
         (), 3, "a.csv gives cat0.jpg two parts, train in line 2 and test in line 4; keep one"),
        (("path", "label", "who"), [(*TWO[0], "ann"), (*TWO[1], "ann"), (*TWO[0], "")],
         ("--group-column", "who"), 3, "two groups, ann in line 2 and none in line 4"),
        (("path", "label"), TWO[:1], (), 3, "images of one class only, cat"),
        (("path", "label"), [], (), 3, "a.csv has no rows"),
        (("path", "label", "split"), [(*TWO[0], "val"), (*TWO[1], "val")], (), 3,
         "a.csv has the part valid but no train"),
        (("path", "label", "split"), [(*TWO[0], "train"), (*TWO[1], "val")], (), 3,
         "a.csv: train and valid differ in classes, only in train: cat; only in valid: dog"),
        (("path", "label"), TWO, ("--label-column", "lable"), 2,
         "--label-column: a.csv has no column lable; did you mean label?"),
        (("path", "label"), TWO, ("--path-column", "label", "--label-column", "label"), 2,
         "both name label"),
        (("path", "label"), TWO, ("--root", "nowhere"), 2, "--root nowhere is not a folder"),
        (("path", "label"), TWO, ("--label-from", "x"), 2,
         "--label-from is for the images in a folder and cannot be combined with a.csv"),
        (("path", "label"), TWO, ("--group-column", "label", "--group-by", "x"), 2,
         "cannot be combined"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_line_and_writes_nothing(here, header, rows, args, code, message):
    write("a.csv", header, rows)
    before = sorted(here.rglob("*"))
    result = run("a.csv", *args)
    assert message in result.output
    assert (result.exit_code, result.output.count("\n")) == (code, 1)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,label\ncat0.jpg,cät\n".encode("latin-1"), "not UTF-8"),
        ("a.csv", b'path,label\n"cat0.jpg,cat\n', "unexpected end of data"),
        ("a.jsonl", b'{"path": "a.jpg", "label": "cat"}\n{"path"\n', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("a.jsonl", b'{"path": "a.jpg", "label": [1, 2]}\n', "[1, 2] is several values"),
        ("none.csv", None, "none.csv does not exist"),
    ],
)
def test_a_file_that_is_no_table_is_a_data_error(here, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    result = run(name)
    assert (result.exit_code, result.output.count("\n")) == (3, 1)
    assert message in result.output


def test_several_tables_or_folders_that_fit_are_an_error_that_names_them(here):
    for name in ("a", "b"):
        write(f"pictures/{name}.csv", ("path", "label"), rows_of())
    assert "several tables with images and classes, a.csv and b.csv" in run("pictures").output
    make_tree(here / "small", [f"{name}.jpg" for name in NAMES])
    write("c.csv", ("path", "label"), rows_of())
    assert (
        "the images of c.csv may be in pictures/, small/: choose with --root" in run("c.csv").output
    )
    make_tree(here / "pictures", ["cat0.png"])
    write("c.csv", ("id", "label"), rows_of(suffix=""))
    result = run("c.csv", "--root", "pictures")
    assert (result.exit_code, "cat0 may be cat0.jpg or cat0.png" in result.output) == (3, True)
