import os
from pathlib import Path

import pytest
from tiny_scans import make_tree, name_in

from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import Split
from ptkit.core.data.splits.trees import Tree, check_tree
from ptkit.core.data.splits.trees import make_tree as fill_tree
from ptkit.core.errors import DataError
from ptkit.core.new_folders import new_folder
from ptkit.core.training.links import link_checkpoint


@pytest.fixture
def listed_images(tmp_path, monkeypatch):
    """A scan of a list whose images have the same names, and a split with one training part."""
    names = ["a/2-x.png", "b/x.png", "c/x.png", "d/x.png"]
    make_tree(tmp_path, names)
    Path(tmp_path, "all.txt").touch()
    monkeypatch.chdir(tmp_path)
    scan = Scan(Path("all.txt"), ("cat", "dog"), names, names, [0, 0, 0, 1], [1] * 4)
    return scan, Split(("train", "valid"), bytes(4), [[3, 0], [1, 0]])


@pytest.mark.parametrize("kind", ["copy", "link"])
def test_images_of_the_same_name_get_names_of_their_own(listed_images, kind):
    tree = fill_tree(*listed_images, Tree(Path("tree"), kind))
    assert tree.names == [
        "train/cat/2-x.png",
        "train/cat/x.png",
        "train/cat/2-2-x.png",
        "train/dog/x.png",
    ]
    assert [name_in(path) for path in tree.paths] == listed_images[0].names
    assert tree.paths == [f"{os.getcwd()}/tree/{name}" for name in tree.names]


@pytest.mark.parametrize("name", ["..", "a/b"])
def test_a_class_name_that_cannot_be_a_folder_name_is_a_data_error(listed_images, name):
    scan = listed_images[0]
    with pytest.raises(DataError, match="--link cannot make a folder of the class name"):
        check_tree(
            Scan(scan.source, ("cat", name), scan.names, scan.paths, scan.labels, scan.sizes),
            Tree(Path("tree"), "link"),
        )


def leave(*folders):
    """Make what a process of this number left when it was killed."""
    for folder in folders:
        Path(folder).mkdir(parents=True)
        Path(folder, "old.png").write_text("old")


@pytest.mark.parametrize("kind", ["copy", "link"])
def test_what_a_killed_process_left_gets_into_no_tree(listed_images, kind):
    leave(f".tree.{os.getpid()}/valid/cat", f".tree.{os.getpid()}/train/cat")
    tree = fill_tree(*listed_images, Tree(Path("tree"), kind))
    files = [path for path in Path("tree").rglob("*") if not path.is_dir()]
    assert sorted(map(str, files)) == sorted(f"tree/{name}" for name in tree.names)


def test_what_a_killed_process_left_gets_into_no_data_set(tmp_path):
    leave(tmp_path / f".set.{os.getpid()}/set/train")
    with new_folder(tmp_path / "set") as (folder, _):
        (folder / "new.png").touch()
    assert [path.name for path in (tmp_path / "set").rglob("*")] == ["new.png"]


def test_a_link_that_a_killed_process_left_does_not_keep_the_next_from_its_own(tmp_path):
    (tmp_path / "best.pkl").touch()
    (tmp_path / f".ckpt.pkl.{os.getpid()}").symlink_to("old.pkl")
    assert link_checkpoint(tmp_path / "best.pkl", tmp_path / "ckpt.pkl") is None
    assert os.readlink(tmp_path / "ckpt.pkl") == "best.pkl"
