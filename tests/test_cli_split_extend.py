import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tiny_scans import CATS_AND_DOGS, listed, make_tree
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.lists import read_list
from ptkit.core.files import sha256

LISTS = ("train.txt", "valid.txt", "test.txt")
NEW = [f"{label}/new{number}.png" for label in ("cat", "dog") for number in range(10)]


@pytest.fixture
def here(cats_and_dogs):
    """Ten cats and ten dogs, split 6:2:2."""
    assert run("images", "--ratio", "6:2:2").exit_code == 0
    return cats_and_dogs


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def all_bytes():
    return {
        path.name: path.read_bytes()
        for path in Path().iterdir()
        if path.suffix in (".txt", ".json")
    }


def part_of(*names):
    """Return the lists that name a file of one of these names."""
    return {name for name in LISTS for path in listed(name) if Path(path).name in names}


def test_new_images_are_appended_and_old_and_new_together_have_the_ratio_of_the_earlier_split(here):
    before = all_bytes()
    make_tree(here / "images", NEW)
    result = run("images", "--extend")
    assert result.exit_code == 0, result.output
    after = all_bytes()
    assert [after[name].startswith(before[name]) for name in LISTS] == [True] * 3
    assert sorted(listed(*LISTS)) == sorted(
        str(here / "images" / name) for name in (*CATS_AND_DOGS, *NEW)
    )
    assert after["classes.txt"] == before["classes.txt"]
    assert (
        result.output == "class  train  valid  test  total\n"
        "cat       12      4     4     20\n"
        "dog       12      4     4     20\n"
        "total     24      8     8     40\n"
        "\n"
        "New images: 20 (train 12, valid 4, test 4); kept: 20.\n"
        "Ratio 6:2:2 of old and new images together.\n"
        "Wrote train.txt, valid.txt, test.txt and split.json in this folder.\n"
    )


def test_without_new_images_no_byte_changes(here):
    before = all_bytes()
    times = {name: os.stat(name).st_mtime_ns for name in before}
    result = run("images", "--extend", "--seed", "9", "--ratio", "1:1:1")
    assert result.exit_code == 0
    assert result.output.splitlines()[-2:] == ["New images: 0; kept: 20.", "Nothing to write."]
    assert all_bytes() == before
    assert {name: os.stat(name).st_mtime_ns for name in before} == times


@pytest.mark.parametrize(
    "folder", ["shortcut", "link/../images", "{here}/images", "here/images", "all.txt"]
)
def test_images_are_known_by_whatever_way_they_are_named(here, folder):
    (here / "shortcut").symlink_to("images")
    (here / "here").symlink_to(here)
    (here / "link").symlink_to(here / "images")
    (here / "images/images").symlink_to(here / "images")
    Path("all.txt").write_text(
        "".join(f"{here}/images/{name} {int(name[:3] == 'dog')}\n" for name in CATS_AND_DOGS)
    )
    before = all_bytes()
    result = run(folder.format(here=here), "--extend", "--json")
    assert (result.exit_code, json.loads(result.output)["num_new"]) == (0, 0)
    assert all_bytes() == before


def test_extending_twice_changes_nothing_the_second_time_although_one_file_has_two_names(here):
    make_tree(here / "images", ["cat/a/1.png"])
    (here / "images/cat/b").symlink_to("a")
    (here / "images/dog/c.png").symlink_to("../cat/a/1.png")
    (here / "images/cat/00-too.png").hardlink_to("images/cat/00.png")
    assert run("images", "--extend").exit_code == 0
    before = all_bytes()
    assert json.loads(run("images", "--extend", "--json").output)["num_new"] == 0
    assert all_bytes() == before


def test_links_that_the_user_made_are_the_images_that_they_lead_to(here):
    for name in CATS_AND_DOGS:
        Path("mine", name).parent.mkdir(parents=True, exist_ok=True)
        Path("mine", name).symlink_to(here / "images" / name)
    for name in LISTS:
        Path(name).write_text(Path(name).read_text().replace("images/", "mine/"))
    printed = json.loads(run("images", "--extend", "--json").output)
    assert (printed["num_new"], printed["num_kept"], printed["num_duplicates"]) == (0, 20, 0)


def test_extending_is_printed_as_json_and_recorded_with_its_history(here):
    make_tree(here / "images", NEW[:5])
    Path("images/cat/03.png").unlink()
    printed = json.loads(run("images", "--extend", "--json", "--seed", "3").output)
    assert (printed["num_new"], printed["num_kept"], printed["num_missing"]) == (5, 20, 1)
    assert (printed["train"], printed["valid"], printed["test"], printed["folds"]) == (
        15,
        5,
        5,
        None,
    )
    record = json.loads(Path("split.json").read_text())
    assert record["command"] == "ptkit split images --ratio 6:2:2 --seed 0"
    assert record["counts"] == {"train": 15, "valid": 5, "test": 5}
    assert record["class_counts"] == {"cat": [9, 3, 3], "dog": [6, 2, 2]}
    assert record["history"] == [
        {
            "command": "ptkit split images --seed 3 --extend",
            "seed": 3,
            "ratio": "6:2:2",
            "group_by": None,
            "num_new": 5,
        }
    ]
    assert record["sha256"] == {
        name: sha256(text) for name, text in all_bytes().items() if name != "split.json"
    }


def test_a_split_takes_extended_lists_for_its_own(here):
    make_tree(here / "images", NEW)
    run("images", "--extend")
    assert run("images", "--ratio", "6:2:2").exit_code == 0


def test_a_copy_of_an_old_image_goes_where_that_is_and_copies_of_a_new_one_stay_together(here):
    for number, name in enumerate(CATS_AND_DOGS):
        shutil.copy(f"images/{name}", f"images/{name[:3]}/twin{number}.png")
    make_tree(here / "images", ["dog/new.png"])
    shutil.copy("images/dog/new.png", "images/cat/new-too.png")
    result = run("images", "--extend")
    assert (
        "Exact duplicates: 21; copies of one picture are in one part." in result.output.splitlines()
    )
    for number, name in enumerate(CATS_AND_DOGS):
        of_class = {
            list_name for list_name in LISTS if str(here / "images" / name) in listed(list_name)
        }
        assert part_of(f"twin{number}.png") == of_class
    assert len(part_of("new.png", "new-too.png")) == 1


def test_groups_of_the_earlier_split_still_stay_together(here):
    films = [
        f"{label}/film{film}-{n}.png"
        for label in ("cat", "dog")
        for film in range(8)
        for n in range(2)
    ]
    make_tree(here / "films", films)
    run("films", "--ratio", "1:1", "--group-by", r"film\d+", "--out", "lists")
    make_tree(
        here / "films", [name.replace(".png", "-new.png") for name in films] + ["dog/film9.png"]
    )
    result = run("films", "--extend", "--out", "lists")
    assert r"Ratio 1:1 of old and new images together, groups by film\d+." in result.output
    sides = [{Path(path).name[:5] for path in listed(f"lists/{name}")} for name in LISTS[:2]]
    assert sides[0].isdisjoint(sides[1])
    assert len(listed("lists/train.txt", "lists/valid.txt")) == 65


@pytest.fixture
def patients(here):
    """Two scans each of ten patients in old/, split by patients, and two more each in new/."""
    for folder in ("old", "new"):
        names = [f"p{k}_{label}{folder}.png" for k in range(10) for label in "ab"]
        make_tree(here / folder, names)
    return here


BY_LETTER = ("--label-from", "_([ab])", "--out", "lists")


@pytest.mark.parametrize("pattern", [r"^p(\d+)", r"p(\d+)_", r"^p\d+"])
def test_groups_outside_class_folders_stay_together_in_another_source(patients, pattern):
    run("old", *BY_LETTER, "--group-by", pattern, "--ratio", "6:2:2")
    result = run("new", *BY_LETTER, "--extend")
    assert result.exit_code == 0, result.output
    sides = [{Path(path).name[:2] for path in listed(f"lists/{name}")} for name in LISTS]
    assert [len(side) for side in sides] == [6, 2, 2]
    assert len(set.union(*sides)) == 10


def test_names_of_one_class_are_accepted_if_the_class_is_known(patients):
    run("old", *BY_LETTER)
    make_tree(patients, ["more/x_a1.png", "more/x_a2.png", "other/x_c1.png", "other/x_c2.png"])
    assert json.loads(run("more", *BY_LETTER, "--extend", "--json").output)["num_new"] == 2
    unknown = run("other", "--label-from", "_([abc])", "--out", "lists", "--extend")
    assert (unknown.exit_code, unknown.output) == (
        3,
        "ptkit: --label-from '_([abc])' gives all of other one class, c\n",
    )


def test_groups_that_cannot_be_told_in_another_source_are_an_error(patients):
    run("old", *BY_LETTER, "--group-by", "^([^_]+)_", "--ratio", "6:2:2")
    result = run("new", *BY_LETTER, "--extend")
    assert result.exit_code == 2
    assert re.fullmatch(
        r"ptkit: --group-by '\^\(.*\)_' may find old/p\d, p\d in old/p\d_[ab]old\.png, which is not"
        r" in new; name a source of old and new images\n",
        result.output,
    )
    shutil.copytree("new", "old", dirs_exist_ok=True)
    assert run("old", *BY_LETTER, "--extend").exit_code == 0


def test_new_classes_get_indices_after_the_old_ones(here):
    make_tree(
        here / "images", [f"{label}/{n}.png" for label in ("ant", "cow", "owl") for n in range(5)]
    )
    result = run("images", "--extend")
    assert "New classes, with their indices: ant (2), cow (3), owl (4)." in result.output
    assert Path("classes.txt").read_text() == "cat\ndog\nant\ncow\nowl\n"
    images = read_list(Path("train.txt"))
    folders = [images.listed_path(row).split("/")[1] for row in range(len(images))]
    labels = dict(zip(folders, images.labels.tolist(), strict=True))
    assert labels == {"cat": 0, "dog": 1, "ant": 2, "cow": 3, "owl": 4}


def test_lines_whose_images_vanished_or_lie_elsewhere_are_kept_and_counted(here):
    before = all_bytes()
    Path("images/cat/03.png").unlink()
    Path("images/dog/04.png").unlink()
    make_tree(here / "more", ["cat/new.png"])
    result = run("more", "--extend")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "Listed images that are no longer there: 2; their lines are kept." in lines
    assert "Listed images that are not from more: 18; their lines are kept." in lines
    assert all(
        text.startswith(before[name]) for name, text in all_bytes().items() if name != "split.json"
    )
    assert len(part_of("new.png")) == 1


def test_lists_that_were_edited_are_kept_and_never_become_a_splits_own(here):
    Path("valid.txt").write_bytes(Path("valid.txt").read_bytes().replace(b"\n", b"\r\n").rstrip())
    edited = Path("valid.txt").read_bytes()
    make_tree(here / "images", NEW)
    result = run("images", "--extend")
    assert (
        "Not as a split wrote it: valid.txt; every line of it is kept."
        in result.output.splitlines()
    )
    assert Path("valid.txt").read_bytes().startswith(edited + b"\n")
    assert len(listed(*LISTS)) == len(set(listed(*LISTS))) == 40
    assert set(json.loads(Path("split.json").read_text())["sha256"]) == {
        "train.txt",
        "test.txt",
        "classes.txt",
    }
    refused = run("images")
    assert refused.exit_code == 2
    assert "valid.txt exists and no earlier split wrote it" in refused.output


def test_lists_of_the_users_own_can_be_extended_in_their_own_ratio(here):
    Path("split.json").unlink()
    Path("test.txt").unlink()
    Path("train.txt").write_text(
        "".join(f"images/{name} {int(name[:3] == 'dog')}\n" for name in CATS_AND_DOGS[::2])
    )
    Path("valid.txt").write_text(
        "".join(f"images/{name} {int(name[:3] == 'dog')}\n" for name in CATS_AND_DOGS[1::2])
    )
    make_tree(here / "images", NEW)
    result = run("images", "--extend")
    assert result.output.splitlines()[-4:-1] == [
        "New images: 20 (train 10, valid 10); kept: 20.",
        "Ratio 10:10 of old and new images together.",
        "Not as a split wrote it: train.txt, valid.txt; every line of it is kept.",
    ]
    record = json.loads(Path("split.json").read_text())
    assert (record["sha256"], record["counts"]) == ({}, {"train": 20, "valid": 20})


def test_an_image_in_several_lists_is_reported(here):
    first = Path("valid.txt").read_text().partition("\n")[0]
    Path("train.txt").write_text(f"{Path('train.txt').read_text()}{first}\n")
    name = first.removeprefix("images/").partition(" ")[0]
    assert (
        "Images, duplicates or groups already in several parts: 1, such as that of"
        f" {name} in train and valid; new members go to the first of these."
        in run("images", "--extend").output.splitlines()
    )


@pytest.mark.parametrize("flag", ["--copy", "--link"])
def test_a_tree_of_copies_or_links_grows_with_its_lists(here, flag):
    run("images", "--ratio", "6:2:2", flag, "tree", "--out", "lists")
    make_tree(here / "images", NEW)
    refused = run("images", "--extend", "--out", "lists")
    assert (refused.exit_code, refused.output) == (
        2,
        f"ptkit: the lists in lists name what {flag} tree made; pass that too\n",
    )
    result = run("images", "--extend", "--out", "lists", flag, "tree", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert (
        printed["num_new"],
        printed["num_kept"],
        printed["num_missing"],
        printed["num_duplicates"],
    ) == (
        20,
        20,
        0,
        0,
    )
    below = {str(path.relative_to("tree")) for path in Path("tree").rglob("*.png")}
    assert {name.partition("/")[2] for name in below} == {*CATS_AND_DOGS, *NEW}
    texts = [
        (part, Path("lists", f"{part}.txt").read_text().splitlines())
        for part in ("train", "valid", "test")
    ]
    assert {line.split()[0] for _, lines in texts for line in lines} == {
        f"../tree/{name}" for name in below
    }
    assert all(line.startswith(f"../tree/{part}/") for part, lines in texts for line in lines)
    assert (
        json.loads(run("images", "--extend", "--out", "lists", flag, "tree", "--json").output)[
            "num_new"
        ]
        == 0
    )


@pytest.mark.parametrize("flag", ["--copy", "--link"])
def test_an_image_with_the_name_of_one_in_another_given_part_is_new(here, flag):
    for part, numbers in (("train", range(10)), ("val", range(20, 24))):
        make_tree(
            here, [f"parts/{part}/{label}/{k}.png" for label in ("cat", "dog") for k in numbers]
        )
    assert run("parts", "--out", "lists", flag, "tree", "--ratio", "1:1").exit_code == 0
    make_tree(here, [f"parts/train/cat/{k}.png" for k in range(20, 24)])
    args = ("parts/train", "--extend", "--out", "lists", flag, "tree", "--ratio", "9:1", "--json")
    assert json.loads(run(*args).output)["num_new"] == 4
    assert json.loads(run(*args).output)["num_new"] == 0
    contents = [Path(path).read_text() for path in listed("lists/train.txt", "lists/valid.txt")]
    assert (len(contents), len(set(contents))) == (32, 32)


def test_links_that_lead_nowhere_count_as_missing(here):
    run("images", "--link", "tree", "--out", "lists")
    shutil.move("images", "photos")
    printed = json.loads(
        run("photos", "--extend", "--link", "tree", "--out", "lists", "--json").output
    )
    assert (printed["num_new"], printed["num_missing"]) == (0, 20)


def test_a_growing_tree_never_overwrites_and_leaves_nothing_when_it_fails(here):
    run("images", "--link", "tree", "--out", "lists")
    make_tree(
        here,
        [
            "images/cat/new.png",
            *(f"tree/{part}/cat/new.png" for part in ("train", "valid", "test")),
        ],
    )
    before = sorted(here.rglob("*"))
    result = run("images", "--extend", "--link", "tree", "--out", "lists")
    assert result.exit_code == 2
    assert (
        "/cat/new.png exists; rename the new image, or move that away if no list here names it"
        in result.output
    )
    assert sorted(here.rglob("*")) == before


def test_a_tree_that_cannot_grow_is_left_as_it_was(here, monkeypatch):
    run("images", "--link", "tree", "--out", "lists")
    make_tree(here / "images", [f"owl/deep/down/{number}.png" for number in range(5)])
    before = sorted(here.rglob("*"))
    answers = [os.symlink, os.symlink]

    def link_twice(target, link):
        if not answers:
            raise OSError(errno.ENOSPC, "No space left on device", target, None, link)
        answers.pop()(target, link)

    monkeypatch.setattr("ptkit.core.data.splits.trees.os.symlink", link_twice)
    result = run("images", "--extend", "--link", "tree", "--out", "lists")
    assert result.exit_code == 74
    assert (
        "cannot make symbolic links in tree: No space left on device; no links are left behind"
        in result.output
    )
    assert sorted(here.rglob("*")) == before


def test_a_source_of_one_class_is_accepted_if_the_class_is_known(here):
    make_tree(here, ["more/dog/new.png", "birds/owl/1.png", "birds/owl/2.png"])
    Path("some.txt").write_text("more/dog/new.png 1\n")
    assert run("more", "--extend").exit_code == 0
    before = all_bytes()
    assert json.loads(run("some.txt", "--extend", "--json").output)["num_new"] == 0
    unknown = run("birds", "--extend")
    assert unknown.exit_code == 3
    assert "birds has images of one class only, owl" in unknown.output
    assert all_bytes() == before


@pytest.mark.parametrize(
    ("prepare", "args", "code", "message"),
    [
        (
            "true",
            ["images", "--out", "empty"],
            3,
            "no train.txt, valid.txt or test.txt in empty to extend",
        ),
        (
            "rm classes.txt",
            ["images"],
            3,
            "no classes.txt: --extend keeps the indices of the classes",
        ),
        (
            "echo {} > split.json",
            ["images"],
            2,
            "split.json exists and no split wrote it; move it away",
        ),
        (
            "echo images/cat/00.png 1 > all.txt",
            ["all.txt"],
            3,
            "gives images/cat/00.png the class cat, but all.txt",
        ),
        (
            "echo images/cat/00.png 7 > all.txt",
            ["all.txt"],
            3,
            "label 7 is beyond the last class, 1",
        ),
        ("true", ["train.txt"], 2, "train.txt would be overwritten while it is being split"),
        ("true", ["images", "--overwrite"], 2, "--overwrite has nothing to replace"),
        (
            "true",
            ["images", "--link", "tree"],
            2,
            "--link tree cannot be extended: the lists in . are of no --copy",
        ),
        ("true", ["images", "--ratio", "1"], 2, "--ratio must be two or three positive numbers"),
        (
            "rm split.json valid.txt",
            ["images"],
            2,
            ". has only a list for train, test; pass --ratio",
        ),
        (
            "echo images/cat/00.png 0,1 >> train.txt",
            ["images"],
            3,
            "train.txt has several classes an image",
        ),
        (
            "mkdir images/owl; echo 1 > images/owl/1.png",
            ["images"],
            3,
            "class owl has fewer images, 1, than the 3",
        ),
    ],
)
def test_what_cannot_be_extended_is_one_line_and_nothing_is_written(
    here, prepare, args, code, message
):
    os.system(prepare)
    before = all_bytes()
    result = run(*args, "--extend")
    assert result.exit_code == code
    assert message in result.output
    assert result.output.count("\n") == 1
    assert all_bytes() == before


def test_one_fold_alone_is_not_extended(here):
    run("images", "--kfold", "2", "--out", "cv")
    result = run("images", "--extend", "--out", "cv/fold1")
    assert result.exit_code == 2
    assert (
        "the lists in cv/fold1 are of 2 folds, which must change together; run --kfold anew"
        in result.output
    )
