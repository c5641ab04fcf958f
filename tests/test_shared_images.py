import os
from pathlib import Path

import pytest

from ptkit.core.data.lists import read_list
from ptkit.core.data.shared_images import first_shared


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shared(here, one, other):
    for name, paths in {"one.txt": one, "other.txt": other}.items():
        (here / name).write_text("".join(f"{path} 0\n" for path in paths))
    return first_shared(read_list(Path("one.txt")), read_list(Path("other.txt")))


def test_lists_without_a_common_image_share_none(here):
    assert shared(here, ["a/1.png", "a/2.png"], ["b/1.png", "a/3.png"]) is None


def test_the_first_common_image_in_the_order_of_the_second_list_is_found(here):
    assert (
        shared(here, ["a/1.png", "a/2.png", "a/3.png"], ["b/1.png", "a/3.png", "a/1.png"])
        == "a/3.png"
    )


@pytest.mark.parametrize(
    "path", ["./a/1.png", "a//1.png", "b/../a/1.png", "{here}/a/1.png", "{here}/./a/1.png"]
)
def test_an_image_is_found_however_its_path_is_written(here, path):
    assert shared(here, ["a/1.png", "a/2.png"], [path.format(here=here)]) == path.format(here=here)


def test_lists_elsewhere_with_the_same_relative_paths_share_nothing(here, tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.png").touch()
        (tmp_path / part / "list.txt").write_text("1.png 0\n")
    lists = [
        read_list((tmp_path / part / "list.txt").relative_to(tmp_path))
        for part in ("train", "test")
    ]
    assert first_shared(*lists) is None


def test_a_path_that_only_the_working_directory_has_is_found_in_a_list_elsewhere(here, tmp_path):
    (tmp_path / "1.png").touch()
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "list.txt").write_text("1.png 0\n")
    lists = [
        read_list((tmp_path / part / "list.txt").relative_to(tmp_path))
        for part in ("train", "test")
    ]
    assert first_shared(*lists) == "1.png"


def test_lists_that_share_nothing_are_compared_without_looking_at_the_disk(
    here, tmp_path, monkeypatch
):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("a/1.png 0\n")
    (tmp_path / "lists" / "valid.txt").write_text("a/2.png 0\n")
    train, valid = (
        read_list((tmp_path / "lists" / f"{part}.txt").relative_to(tmp_path))
        for part in ("train", "valid")
    )
    monkeypatch.setattr(os.path, "lexists", None)
    assert first_shared(train, valid) is None


def test_images_that_were_moved_are_compared_where_they_are_now(tmp_path):
    (tmp_path / "new").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "new" / name).touch()
    (tmp_path / "one.txt").write_text("/gone/a.png 0\n/gone/b.png 0\n")
    (tmp_path / "other.txt").write_text("../old/c.png 0\n../old/b.png 0\n")
    one, other = (read_list(tmp_path / f"{n}.txt", root=tmp_path / "new") for n in ("one", "other"))
    assert first_shared(one, other) == f"{tmp_path}/new/b.png"
