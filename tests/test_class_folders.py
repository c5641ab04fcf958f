"""Class folders: names that every system allows, and what is written into them."""

import io

import numpy as np
import pytest
from PIL import Image

from ptkit.core.data.images import read
from ptkit.core.data.sets.class_folders import folder_name, write_parts
from ptkit.core.data.sets.contents import Part, SetImage
from ptkit.core.errors import DataError


def counting(_what, _total):
    class Counted:
        def __enter__(self):
            return lambda count: None

        def __exit__(self, *_):
            pass

    return Counted()


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("golden retriever", "golden retriever"),
        ("T-shirt/top", "T-shirt_top"),
        ('a<b>:"c|d?*\\', "a_b___c_d___"),
        ("..", "_"),
        (".hidden", "_hidden"),
        ("etc. ", "etc"),
        ("con", "con_"),
        ("", "_"),
        ("犬", "犬"),
    ],
)
def test_a_class_name_becomes_a_folder_name(label, name):
    assert folder_name(label, {}) == name


def test_two_classes_never_share_a_folder():
    known = {}
    names = [folder_name(label, known) for label in ("a/b", "a_b", "A_B", "a?b", "a/b")]
    assert names == ["a_b", "a_b_2", "A_B_3", "a_b_4", "a_b"]


def test_files_of_one_name_both_stay(tmp_path):
    images = [SetImage("x", "a", b"\xff\xd8\xff one"), SetImage("x", "A", b"\xff\xd8\xff two")]
    counts, names = write_parts([Part("train", 2, images)], tmp_path, counting)
    assert (counts, names) == ({"train": 2}, ("x",))
    found = {path.name: path.read_bytes() for path in (tmp_path / "train" / "x").iterdir()}
    assert found == {"a.jpg": b"\xff\xd8\xff one", "1-A.jpg": b"\xff\xd8\xff two"}


def test_a_new_name_is_not_that_of_another_file(tmp_path):
    images = [SetImage("x", stem, b"\xff\xd8\xff " + bytes([k])) for k, stem in enumerate(
        ("2-a", "a", "A", "a"))]  # fmt: skip
    counts, _ = write_parts([Part("", 4, images)], tmp_path, counting)
    found = [path.read_bytes()[-1] for path in (tmp_path / "x").iterdir()]
    assert (counts, sorted(found)) == ({"": 4}, [0, 1, 2, 3])


def test_a_format_that_nothing_here_reads_becomes_png(tmp_path):
    buffer = io.BytesIO()
    image = Image.new("RGB", (3, 2), (9, 99, 199))
    image.save(buffer, "PPM")
    write_parts([Part("", 1, [SetImage("x", "a", buffer.getvalue())])], tmp_path, counting)
    with Image.open(tmp_path / "x" / "a.png") as found:
        assert found.convert("RGB").tobytes() == image.tobytes()


def test_16_bits_of_a_format_that_nothing_here_reads_keep_their_upper_8(tmp_path):
    content = b"P5 2 1 65535\n" + bytes([0x12, 0x34, 0xFF, 0xFF])
    write_parts([Part("", 1, [SetImage("x", "a", content)])], tmp_path, counting)
    assert read(tmp_path / "x" / "a.png").tolist() == [[[0x12] * 3, [0xFF] * 3]]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image.fromarray(np.array([[0.5, 2.0]], np.float32)), "its pixels are numbers of 32 bits"),
        # Image by image it would be guessed which number is white.
        (Image.fromarray(np.array([[0, 256]], np.int32)), "its pixels are numbers of 0..256, not"),
        (Image.fromarray(np.array([[-1, 9]], np.int32)), "its pixels are numbers of -1..9, not"),
        (Image.new("I", (0, 3)), "it has no pixels"),
        (Image.new("L", (3, 0)), "it has no pixels"),
    ],
)
def test_numbers_that_are_no_pixels_are_not_written(tmp_path, image, why):
    with pytest.raises(DataError, match=f"image a of x cannot be written: {why}"):
        write_parts([Part("", 1, [SetImage("x", "a", image)])], tmp_path, counting)


def test_whole_numbers_of_8_bits_stay_what_they_are(tmp_path):
    image = Image.fromarray(np.array([[0, 200]], np.int32))
    write_parts([Part("", 1, [SetImage("x", "a", image)])], tmp_path, counting)
    assert read(tmp_path / "x" / "a.png").tolist() == [[[0] * 3, [200] * 3]]
