import os
from pathlib import Path

import pytest

from ptkit.core.data.formats import IMAGE_EXTENSIONS
from ptkit.core.data.splits import scanning
from ptkit.core.data.splits.scanning import scan_class_folders, scan_list
from ptkit.core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images each; the scan does not decode, so text will do."""
    root = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.JPG", "dog/1.png", "dog/2.jpeg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def test_images_come_in_the_order_of_class_and_path(folder):
    scan = scan_class_folders(folder)
    assert scan.class_names == ("cat", "dog")
    assert scan.names == ["cat/1.png", "cat/2.JPG", "dog/1.png", "dog/2.jpeg"]
    assert scan.paths == [f"{folder}/{name}" for name in scan.names]
    assert (scan.labels, scan.sizes) == ([0, 0, 1, 1], [9, 9, 9, 10])


def test_classes_are_sorted_by_code_point(folder):
    for name in ("10", "2", "Z", "ä"):
        (folder / name).mkdir()
        (folder / name / "1.png").touch()
    assert scan_class_folders(folder).class_names == ("10", "2", "Z", "cat", "dog", "ä")


def test_nested_folders_belong_to_the_class(folder):
    (folder / "cat/indoor/deep").mkdir(parents=True)
    (folder / "cat/indoor/deep/3.png").touch()
    assert "cat/indoor/deep/3.png" in scan_class_folders(folder).names


def test_files_that_are_not_images_are_ignored_and_counted(folder):
    (folder / "README.md").touch()
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    for name in (".DS_Store", "Thumbs.db", "._1.png", "LICENSE", "todo.txt"):
        (folder / "cat" / name).touch()
    scan = scan_class_folders(folder)
    assert len(scan) == 4
    names = ".md .git __MACOSX .txt .DS_Store Thumbs.db ._1.png LICENSE"
    assert scan.ignored == dict.fromkeys(names.split(), 1)
    assert scan.num_ignored == 8


def test_symlinks_are_followed_and_each_folder_is_visited_once(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "7.png").write_text("seven")
    (folder / "cat/link.png").symlink_to(elsewhere / "7.png")
    (folder / "cat/more").symlink_to(elsewhere)
    (folder / "cat/loop").symlink_to(folder / "cat")
    (folder / "cat/up").symlink_to(folder)
    (folder / "cat/further-up").symlink_to(tmp_path)
    (folder / "here").symlink_to(folder)
    names = scan_class_folders(folder).names
    assert [name for name in names if name.startswith("cat/")] == [
        "cat/1.png", "cat/2.JPG", "cat/link.png", "cat/more/7.png"
    ]  # fmt: skip
    assert len(names) == 6


def test_names_of_any_bytes_are_found(folder):
    strange = [
        b"-x.png",
        b"a b.png",
        b"two\nlines.png",
        b'"q".png',
        b"\xff\xfe.png",
        "猫.png".encode(),
    ]
    for name in strange:
        open(os.path.join(os.fsencode(folder), b"cat", name), "wb").close()
    names = {os.fsencode(name) for name in scan_class_folders(folder).names}
    assert names >= {b"cat/" + name for name in strange}


@pytest.mark.parametrize("name", ["cat/broken.png", "cat/broken", "broken"])
@pytest.mark.parametrize("target", ["missing", "broken", "broken.png"])
def test_a_broken_symlink_is_a_data_error(folder, name, target):
    (folder / name).symlink_to(target)
    with pytest.raises(DataError, match="broken"):
        scan_class_folders(folder)


def test_a_pipe_named_like_an_image_is_a_data_error(folder):
    os.mkfifo(folder / "cat/pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        scan_class_folders(folder)


def test_a_missing_folder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        scan_class_folders(tmp_path / "nothing")


def test_an_empty_class_folder_is_a_data_error(folder):
    (folder / "owl/nested").mkdir(parents=True)
    with pytest.raises(DataError, match=r"owl is empty"):
        scan_class_folders(folder)


@pytest.mark.parametrize("names", [["1.txt", "2.txt"], [".DS_Store"], ["deep/1.psd"]])
def test_a_class_folder_in_which_nothing_can_be_read_is_a_data_error(folder, names):
    for name in names:
        (folder / "owl" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "owl" / name).touch()
    found = f"{len(names)} {Path(names[0]).suffix or names[0]}"
    with pytest.raises(DataError, match=rf"owl can be read as an image, only {found} found; put"):
        scan_class_folders(folder)


def test_a_class_folder_of_tiffs_keeps_its_place(folder):
    (folder / "bat").mkdir()
    for name in ("1.tif", "2.TIFF"):
        (folder / "bat" / name).touch()
    assert scan_class_folders(folder).class_names == ("bat", "cat", "dog")


def test_a_class_folder_of_heics_says_what_to_install(folder, monkeypatch):
    # Whether pillow-heif is there was asked at import.
    monkeypatch.setattr(scanning, "IMAGE_EXTENSIONS", IMAGE_EXTENSIONS - {".heic"})
    (folder / "bat").mkdir()
    (folder / "bat/1.HEIC").touch()
    with pytest.raises(DataError, match=r"1 \.HEIC found; run `pip install 'ptkit\[heif\]'`, or"):
        scan_class_folders(folder)


def test_images_outside_class_folders_are_a_data_error(folder):
    (folder / "loose.png").touch()
    with pytest.raises(
        DataError,
        match=r"1 images outside class folders, such as loose\.png; expected .*<class>/loose\.png",
    ):
        scan_class_folders(folder)


def test_no_images_are_a_data_error_that_says_what_is_there(tmp_path):
    (tmp_path / "1.txt").touch()
    with pytest.raises(DataError, match=r"has no images, only 1 \.txt; expected"):
        scan_class_folders(tmp_path)


def test_one_class_is_a_data_error_that_names_the_folder_meant(folder):
    with pytest.raises(
        DataError, match=r"one class only, images; did you mean `ptkit split .*/images`"
    ):
        scan_class_folders(folder.parent)


def test_a_list_is_scanned_by_its_lines(folder, tmp_path):
    (tmp_path / "all.txt").write_text(
        "images/dog/1.png 1\nimages/cat/2.JPG 0\nimages/cat/1.png 0\n"
    )
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    scan = scan_list(tmp_path / "all.txt")
    assert scan.names == ["images/cat/1.png", "images/cat/2.JPG", "images/dog/1.png"]
    assert (scan.labels, scan.sizes, scan.class_names) == ([0, 0, 1], [9, 9, 9], ("cat", "dog"))


def test_a_list_of_missing_images_or_of_one_class_is_a_data_error(folder, tmp_path):
    (tmp_path / "missing.txt").write_text("images/cat/1.png 0\nimages/cat/9.png 1\n")
    (tmp_path / "one.txt").write_text("images/cat/1.png 0\nimages/cat/2.JPG 0\n")
    with pytest.raises(DataError, match=r"no image .*9\.png"):
        scan_list(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="one class only"):
        scan_list(tmp_path / "one.txt")


def test_a_list_of_other_labels_than_classes_is_a_data_error(folder, tmp_path):
    (tmp_path / "several.txt").write_text("images/cat/1.png 0,1\nimages/dog/1.png 1\n")
    (tmp_path / "numbers.txt").write_text("images/cat/1.png 0.5\nimages/dog/1.png 1.5\n")
    for name in ("several", "numbers"):
        with pytest.raises(DataError, match=rf"{name}\.txt has .*, expected one class an image"):
            scan_list(tmp_path / f"{name}.txt")


def test_one_class_is_accepted_where_it_is_known(folder, tmp_path):
    (tmp_path / "more/cat").mkdir(parents=True)
    (tmp_path / "more/cat/1.png").touch()
    assert scan_class_folders(tmp_path / "more", known_classes=("cat", "dog")).names == [
        "cat/1.png"
    ]
    with pytest.raises(DataError, match="one class only, cat"):
        scan_class_folders(tmp_path / "more", known_classes=("dog",))


def test_a_list_without_class_names_takes_the_known_ones(folder, tmp_path):
    (tmp_path / "one.txt").write_text("images/dog/1.png 1\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/classes.txt").write_text("cat\ndog\n")
    scan = scan_list(tmp_path / "one.txt", known_classes=tmp_path / "lists/classes.txt")
    assert (scan.class_names, scan.labels) == (("cat", "dog"), [1])
