import csv
import errno
import json
import os
import re

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.lists import list_bytes

pytestmark = pytest.mark.usefixtures("blank_pictures")


def scene(seed):
    """Return a picture like no other: smooth random colours, uint8 (48, 64, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve scenes in train.txt and six in valid.txt, of two classes in turn, without a fault."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(18):
        Image.fromarray(scene(number)).save(f"images/{number}.png")
    write("train", range(12))
    write("valid", range(12, 18))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def write(part, numbers, more=()):
    rows = [(f"images/{number}.png", number % 2) for number in numbers]
    with open(f"{part}.txt", "wb") as file:
        file.write(list_bytes([*rows, *more]))


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


def findings(*sources):
    """Return what the rules found: name -> (verdict, groups of paths)."""
    found = json.loads(run(*sources, "--json").stdout)["findings"]
    return {f["rule"]: (f["verdict"], f["groups"]) for f in found}


def test_clean_lists_have_no_findings(folder):
    assert findings() == {}
    assert findings("train.txt", "valid.txt") == {}


def test_all_unreadable_files_are_in_one_list(folder):
    (folder / "images/cut.png").write_bytes((folder / "images/0.png").read_bytes()[:900])
    (folder / "images/page.jpg").write_text("<html>")
    write("train", range(12), [("images/gone.png", 0), ("images/cut.png", 0)])
    write("valid", range(12, 18), [("images/page.jpg", 1)])
    bad = [["images/gone.png"], ["images/cut.png"], ["images/page.jpg"]]
    assert findings() == {"unreadable": ("FAIL", bad)}
    assert "cannot read images/page.jpg: it is HTML or XML, not an image" in run().stdout


def test_equal_bytes_in_two_parts_under_two_labels_and_in_one_part_are_told_apart(folder):
    for new, old in (("leak", 12), ("conflict", 1), ("twice", 2)):
        (folder / f"images/{new}.png").write_bytes((folder / f"images/{old}.png").read_bytes())
    more = [("images/leak.png", 0), ("images/conflict.png", 0), ("images/twice.png", 0)]
    write("train", range(12), more)
    assert findings() == {
        "leak": ("FAIL", [["images/leak.png", "images/12.png"]]),
        "duplicate": ("INFO", [["images/2.png", "images/twice.png"]]),
        "label-conflict": ("FAIL", [["images/1.png", "images/conflict.png"]]),
    }


def test_a_folder_of_classes_and_given_parts_serve_as_lists_do(folder):
    for part, numbers in (("train", range(12)), ("val", range(12, 18))):
        for number in numbers:
            place = folder / "set" / part / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (folder / f"images/{number}.png").rename(place / f"{number}.png")
    (folder / "set/train/cat/copy.png").write_bytes((folder / "set/val/cat/12.png").read_bytes())
    assert findings("set") == {"leak": ("FAIL", [["train/cat/copy.png", "val/cat/12.png"]])}
    assert findings("set/train") == {}


def test_images_of_given_parts_that_have_one_name_are_told_apart(folder, monkeypatch):
    for part, numbers in (("train", range(12)), ("val", range(12, 18))):
        for number in numbers:
            place = folder / "set" / part / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (folder / f"images/{number}.png").rename(place / f"{number % 12}.png")
    for part in ("train", "val"):
        (folder / "set" / part / "cat/0.png").write_text(part)
    bad = [["train/cat/0.png"], ["val/cat/0.png"]]
    assert findings("set") == {"unreadable": ("FAIL", bad)}
    (folder / "set/.ptkit-ignore").write_text("val/cat/0.png\n")
    assert findings("set") == {"unreadable": ("FAIL", bad[:1])}
    monkeypatch.chdir("set")
    assert findings(".") == {"unreadable": ("FAIL", bad[:1])}


def test_ignored_lines_take_images_out_of_findings(folder):
    (folder / "images/a.png").write_text("")
    (folder / "images/b.png").write_text("")
    write("train", range(12), [("images/a.png", 0), ("images/b.png", 0), ("images/17.png", 1)])
    assert findings().keys() == {"unreadable", "leak"}
    (folder / ".ptkit-ignore").write_text("unreadable images/[ab].png\nimages/17.png\ngone.png\n")
    assert findings() == {}
    assert "Not an issue, by .ptkit-ignore: 2 lines." in run().stdout
    assert "Lines of .ptkit-ignore that name no image here: gone.png." in run().stdout


def test_findings_are_told_by_what_to_do_with_ten_paths_and_all_in_a_table(folder):
    for number in range(12):
        (folder / f"images/bad{number:02d}.png").write_text("")
    write("train", range(12), [(f"images/bad{number:02d}.png", 0) for number in range(12)])
    text = run().stdout
    assert "Delete, or take out of the lists:\nFAIL  unreadable: 12 files cannot be read" in text
    assert re.findall(r"bad(\d\d)", text) == [f"{number:02d}" for number in range(10)]
    assert "... 2 more, in findings.csv" in text
    table = (folder / "ptkit-check/findings.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["path"] for row in rows] == [f"images/bad{k:02d}.png" for k in range(12)]
    assert rows[0] == {
        "rule": "unreadable",
        "verdict": "FAIL",
        "action": "delete",
        "group": "1",
        "path": "images/bad00.png",
        "part": "train",
        "class": "cat",
        "reason": "cannot read images/bad00.png: the file is empty",
    }


def test_nothing_but_the_folder_of_findings_is_written(folder):
    write("train", range(13))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run("--out", "found")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    new = {path.relative_to(folder).as_posix() for path in after.keys() - before.keys()}
    assert before == {path: after[path] for path in before}
    assert new == {"found/findings.csv", "found/leak.png", "found/.ptkit-files.json"}


def test_strict_ends_with_code_3_where_something_fails(folder):
    run("--strict")
    write("train", range(13))
    run()
    assert "1 finding with the verdict FAIL" in run("--strict", exit_code=3).stderr


def test_sources_that_cannot_be_checked_are_errors(folder):
    assert "is not a list" in run("train.txt", "images", exit_code=2).stderr
    assert "no gone.txt here" in run("gone.txt", exit_code=3).stderr
    (folder / "train.txt").unlink()
    (folder / "valid.txt").unlink()
    assert "no train.txt, valid.txt or test.txt here" in run(exit_code=3).stderr


def test_python_gets_the_same_findings(folder):
    write("train", range(13))
    found = ptkit.check("train.txt", "valid.txt")
    assert [finding.rule.name for finding in found.findings.findings] == ["leak"]
    assert found.count("FAIL") == 1


def test_what_a_centre_crop_leaves_out_is_said_for_each_class(folder):
    for number in range(18):
        size = (200, 100) if number % 2 else (100, 100)
        Image.fromarray(cv2.resize(scene(number), size)).save(f"images/{number}.png")
    said = run().stdout
    assert "leaves out 62% of the median image of dog (worst 62%), 23% of cat (worst 23%)." in said
    assert "crop: 1 class loses much to the usual centre crop: 62% of dog" in said
    losses = json.loads(run("--json").stdout)["crop"]
    # 7/8 of the shorter side, squared.
    assert losses["cat"] == {"median": 1 - 49 / 64, "worst": 1 - 49 / 64}
    assert losses["dog"]["median"] == pytest.approx(1 - 49 / 128)


def test_a_disk_that_fails_says_nothing_about_an_image(folder, monkeypatch):
    real = os.open

    def failing(path, *arguments, **options):
        if os.fsencode(path).endswith(b"images/3.png"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    assert "images/3.png after three tries" in run("--workers", "1", exit_code=74).stderr


def test_classes_of_lists_that_name_them_are_told_apart_by_name(folder):
    (folder / "classes.txt").unlink()
    names = ("cat", "dog", "owl")
    for part, numbers, first in (("train", range(12), 0), ("valid", range(12, 18), 1)):
        lines = [f"images/{k}.png {names[first + k % 2]}\n" for k in numbers]
        (folder / f"{part}.txt").write_text("".join(lines))
    # Three of six are owls, which training has not, and none is a cat.
    owls = [[f"images/{k}.png"] for k in (13, 15, 17)]
    assert findings()["unseen-label"] == ("FAIL", owls)
    run("--out", "found")
    rows = list(csv.DictReader((folder / "found/findings.csv").read_text().splitlines()))
    assert {row["class"] for row in rows if row["rule"] == "unseen-label"} == {"owl"}
    # The same bytes under two names, of which each list has one as its first.
    (folder / "images/12.png").write_bytes((folder / "images/0.png").read_bytes())
    assert findings()["label-conflict"] == ("FAIL", [["images/0.png", "images/12.png"]])


def test_a_list_elsewhere_has_the_class_names_of_the_training_list(folder):
    (folder / "elsewhere").mkdir()
    lines = [f"{folder}/images/{k}.png {k % 2}\n" for k in range(12, 18)]
    (folder / "elsewhere/valid.txt").write_text("".join(lines))
    assert findings("train.txt", "elsewhere/valid.txt") == {}


def test_the_training_part_is_the_list_of_that_name_also_where_folders_tell_lists_apart(folder):
    for place, numbers in (("a/valid", (12, 14)), ("a/train", range(12)), ("b/valid", (13, 15))):
        (folder / place).parent.mkdir(exist_ok=True)
        lines = [f"{folder}/images/{k}.png {k % 2}\n" for k in numbers]
        (folder / f"{place}.txt").write_text("".join(lines))
    assert "unseen-label" not in findings("a/valid.txt", "a/train.txt", "b/valid.txt")


def test_flags_that_a_review_has_no_use_for_are_refused(folder):
    assert "--strict is for findings" in run("--run", "runs/1", "--strict", exit_code=2).stderr


def write_labels(part, labels):
    lines = [f"images/{number}.png {label}\n" for number, label in labels.items()]
    with open(f"{part}.txt", "w") as file:
        file.write("".join(lines))


def test_a_number_need_not_occur_in_training(folder):
    (folder / "classes.txt").unlink()
    write_labels("train", {k: k / 4 for k in range(12)})
    write_labels("valid", {k: k / 4 for k in range(12, 18)})
    assert findings() == {}


def test_a_set_of_labels_need_not_occur_in_training_and_one_list_may_have_single_ones(folder):
    write_labels("train", {k: "0,1" if k % 2 else "1" for k in range(12)})
    write_labels("valid", dict.fromkeys(range(12, 18), "0"))
    assert findings() == {}


def test_an_ignored_path_is_ignored_in_every_list(folder):
    Image.new("RGB", (64, 48)).save("images/0.png")
    write("valid", [0, *range(12, 18)])
    assert {"constant", "leak"} <= findings().keys()
    (folder / ".ptkit-ignore").write_text("images/0.png\n")
    assert findings() == {}
