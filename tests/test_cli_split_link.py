import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_scans import CATS_AND_DOGS, listed, make_tree, name_in
from typer.testing import CliRunner

from ptkit.commands.app import app

LISTS = ("train.txt", "valid.txt", "test.txt")


@pytest.fixture
def here(cats_and_dogs):
    return cats_and_dogs


def run(*args):
    return CliRunner().invoke(app, ["split", *map(str, args)])


def links_below(folder):
    return [
        path for part in ("train", "valid", "test") for path in Path(folder, part).rglob("*.png")
    ]


@pytest.mark.parametrize("tree", ["tree", "deep/down/tree"])
@pytest.mark.parametrize("folder", ["images", "shortcut", "link/../images"])
def test_links_are_a_tree_of_parts_and_classes_and_the_lists_name_them(here, folder, tree):
    make_tree(here / "images", ["cat/nested/a.png"])
    (here / "shortcut").symlink_to("images")
    (here / "away/below").mkdir(parents=True)
    (here / "away/images").symlink_to(here / "images")
    (here / "link").symlink_to("away/below")
    result = run(folder, "--link", tree, "--json")
    assert result.exit_code == 0, result.output
    links = links_below(tree)
    assert sorted("/".join(link.relative_to(tree).parts[1:]) for link in links) == sorted(
        [*CATS_AND_DOGS, "cat/nested/a.png"]
    )
    assert all(link.is_symlink() and not os.path.isabs(os.readlink(link)) for link in links)
    assert all(name_in(link) == "/".join(link.relative_to(tree).parts[1:]) for link in links)
    assert sorted(listed(*LISTS)) == sorted(map(os.path.realpath, links))
    assert Path("train.txt").read_text().startswith(f"{tree}/train/cat/")
    printed = json.loads(result.output)
    assert (printed["links"], printed["copies"]) == (tree, None)


def test_links_go_on_to_lead_to_the_images_when_all_is_moved_together(here):
    run("images", "--link", "tree", "--out", "tree")
    (here / "moved").mkdir()
    for name in ("images", "tree"):
        shutil.move(name, f"moved/{name}")
    assert {name_in(link) for link in links_below("moved/tree")} == set(CATS_AND_DOGS)


def test_the_images_of_a_list_can_be_linked_although_file_names_repeat(here):
    make_tree(here / "other", ["1/00.png", "2/3-00.png", "3/00.png"])
    lines = [f"images/{name} {int(name[:3] == 'dog')}\n" for name in CATS_AND_DOGS]
    Path("all.txt").write_text(
        "".join([*lines, *(f"other/{name} 0\n" for name in ("1/00.png", "2/3-00.png"))])
    )
    assert run("all.txt", "--link", "tree", "--out", "lists").exit_code == 0
    assert len({os.path.realpath(link) for link in links_below("tree")}) == 22


def test_links_that_the_file_system_does_not_know_are_a_storage_error_and_nothing_is_left(
    here, monkeypatch
):
    def refuse(target, link):
        raise PermissionError(errno.EPERM, "Operation not permitted", target, None, link)

    monkeypatch.setattr(os, "symlink", refuse)
    before = sorted(here.rglob("*"))
    result = run("images", "--link", "tree")
    assert result.exit_code == 74
    assert (
        result.output == "ptkit: cannot make symbolic links in tree: Operation not permitted; "
        "no links are left behind; --copy works without them\n"
    )
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--link", "full"], "--link full exists and is not an empty folder"),
        (["--link", "full/file"], "--link full/file exists and is not an empty folder"),
        (["--link", "dangling"], "--link dangling exists and is not an empty folder"),
        (["--link", "full", "--overwrite"], "--link full exists and is not an empty folder"),
        (["--link", "images/new"], "--link images/new lies inside images"),
        (["--link", "a", "--copy", "b"], "--copy and --link cannot be combined"),
        (["--link", "a", "--kfold", "5"], "--kfold and --link cannot be combined"),
        (["--copy", "a", "--kfold", "5"], "--kfold and --copy cannot be combined"),
    ],
)
def test_links_never_go_where_something_is(here, args, message):
    make_tree(here, ["full/file"])
    (here / "dangling").symlink_to("nowhere")
    before = sorted(here.rglob("*"))
    result = run("images", *args)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
    assert sorted(here.rglob("*")) == before
