"""The rows of sets/known.py: torchvision's sets in their own formats become class folders."""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_known_sets as tiny
from tiny_known_sets import BLACK_AND_WHITE, LARGE
from tiny_sets import COLOURS, GREY, found_in, photo, pixels_of, write_files
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.core.data.sets.known import KNOWN_SETS

Make = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_every_known_set_is_one_of_torchvision_with_its_parts(here: Path) -> None:
    from torchvision import datasets

    for known in KNOWN_SETS.values():
        for which in known.parts.values():
            # A wrong argument would be a ValueError or a TypeError.
            with pytest.raises((RuntimeError, OSError)):
                getattr(datasets, known.target)(str(here), **known.options, **which, download=False)
    parts = {part for known in KNOWN_SETS.values() for part in known.parts}
    assert parts == {"", "train", "val", "valid", "test"}


def test_flowers_have_the_names_that_newer_versions_give_them() -> None:
    from torchvision.datasets import Flowers102

    names = KNOWN_SETS["flowers102"].class_names
    assert len(set(names)) == 102
    theirs = getattr(Flowers102, "classes", names)
    # One of theirs is in doubt.
    assert tuple(name.rstrip("?") for name in theirs) == names


# The files that each set must become, with the number of the photo; the third is a PNG.
PHOTOS: list[tuple[str, Make, dict[str, int]]] = [
    (
        "flowers102",
        tiny.make_flowers,
        {
            "test/blackberry lily/image_00006.jpg": 6,
            "test/rose/image_00005.jpg": 5,
            "train/pink primrose/image_00004.jpg": 4,
            "train/rose/image_00001.jpg": 1,
            "val/blackberry lily/image_00003.png": 3,
            "val/pink primrose/image_00002.jpg": 2,
        },
    ),
    (
        # A part counts only the classes that it has.
        "dtd",
        tiny.make_textures,
        {
            "test/banded/banded_0005.jpg": 5,
            "test/zigzagged/zigzagged_0006.jpg": 6,
            "train/banded/banded_0002.jpg": 2,
            "train/zigzagged/zigzagged_0001.jpg": 1,
            "val/zigzagged/zigzagged_0003.png": 3,
            "val/zigzagged/zigzagged_0004.jpg": 4,
        },
    ),
    (
        # A slash would be two folders.
        "aircraft",
        tiny.make_aircraft,
        {
            "test/707-320/0000006.jpg": 6,
            "test/Cessna 172/0000005.jpg": 5,
            "train/707-320/0000001.jpg": 1,
            "train/F-16A_B/0000002.jpg": 2,
            "val/Cessna 172/0000004.jpg": 4,
            "val/F-16A_B/0000003.png": 3,
        },
    ),
    (
        # The first of a class's several names.
        "imagenette",
        tiny.make_imagenette,
        {
            "train/English springer/n02102040_2.jpg": 2,
            "train/tench/n01440764_1.jpg": 1,
            "val/English springer/ILSVRC2012_val_3.png": 3,
            "val/English springer/ILSVRC2012_val_4.jpg": 4,
        },
    ),
    (
        "country211",
        tiny.make_countries,
        {
            "test/ZW/1.jpg": 5,
            "test/ZW/2.jpg": 6,
            "train/AD/1.jpg": 1,
            "train/ZW/1.jpg": 2,
            "valid/AD/1.png": 3,
            "valid/ZW/2.jpg": 4,
        },
    ),
    (
        # It has no parts, and folders in the folders of classes.
        "sun397",
        tiny.make_places,
        {
            "abbey/sun_b.jpg": 2,
            "track_indoor/sun_a.jpg": 4,
            "track_outdoor/sun_a.png": 3,
            "track_outdoor/sun_d.jpg": 1,
        },
    ),
]


@pytest.mark.parametrize(("name", "make", "photos"), PHOTOS)
def test_photos_keep_their_names_and_bytes(
    name: str, make: Make, photos: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path("mine"), monkeypatch)
    result = ptkit("data", name, "--from", "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert found_in(name) == list(photos)
    assert [Path(name, file).read_bytes() for file in photos] == list(map(photo, photos.values()))


@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_order_of_the_disk_changes_no_name(
    is_reversed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two classes that want one folder.
    names = ["t/track/outdoor", "t/track_outdoor"]
    photos = tiny.numbered((f"{name}/sun_a" for name in names), "jpg")
    classes = {"ClassName.txt": "".join(f"/{name}\n" for name in names)}
    write_files(Path("mine/SUN397"), photos | classes)
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *its: sorted(rglob(*its), reverse=is_reversed))
    assert ptkit("data", "sun397", "--from", "mine").exit_code == 0
    assert found_in("sun397") == ["track_outdoor/sun_a.jpg", "track_outdoor_2/sun_a.jpg"]
    assert Path("sun397/track_outdoor/sun_a.jpg").read_bytes() == photo(1)


# The files that each set must become, with their pixels.
PIXELS: list[tuple[str, Make, dict[str, Any]]] = [
    (
        "svhn",
        tiny.make_svhn,
        {
            "test/0/1.png": COLOURS[4],
            "test/9/0.png": COLOURS[3],
            "train/0/0.png": COLOURS[0],
            "train/1/1.png": COLOURS[1],
            "train/9/2.png": COLOURS[2],
        },
    ),
    (
        # torchvision does without class_names.txt, but has no names then.
        "stl10",
        tiny.make_stl10,
        {
            "test/bird/0.png": LARGE[2],
            "test/truck/1.png": LARGE[3],
            "train/airplane/1.png": LARGE[1],
            "train/truck/0.png": LARGE[0],
        },
    ),
    (
        "usps",
        tiny.make_usps,
        {
            "test/1/1.png": BLACK_AND_WHITE[3],
            "test/6/0.png": BLACK_AND_WHITE[2],
            "train/0/1.png": BLACK_AND_WHITE[1],
            "train/9/0.png": BLACK_AND_WHITE[0],
        },
    ),
    (
        "kmnist",
        tiny.make_kmnist,
        {
            "test/ma/0.png": GREY[6],
            "test/re/2.png": GREY[8],
            "test/ya/1.png": GREY[7],
            "train/ha/5.png": GREY[5],
            "train/ki/1.png": GREY[1],
            "train/na/4.png": GREY[4],
            "train/o/0.png": GREY[0],
            "train/su/2.png": GREY[2],
            "train/tsu/3.png": GREY[3],
        },
    ),
]


@pytest.mark.parametrize(("name", "make", "images"), PIXELS)
def test_arrays_become_images_with_their_pixels(
    name: str, make: Make, images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path("mine"), monkeypatch)
    result = ptkit("data", name, "--from", "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert found_in(name) == list(images)
    for file, pixels in images.items():
        np.testing.assert_array_equal(pixels_of(f"{name}/{file}"), pixels)


def test_a_photo_that_is_not_there_is_a_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.make_aircraft(Path("mine"), monkeypatch)
    next(Path("mine").rglob("0000003.jpg")).unlink()
    result = ptkit("data", "aircraft", "--from", "mine")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "0000003.jpg" in result.stderr
    assert os.listdir() == ["mine"]


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        # Others count the digits from 0: the first would be the last.
        ("usps", partial(tiny.make_usps, first=0), "image 0 is of class -1, but USPS has 0 to 9"),
        ("kmnist", partial(tiny.make_kmnist, first=10), "is of class 10, but KMNIST has 0 to 9"),
    ],
)
def test_a_class_that_the_set_does_not_have_is_refused(
    name: str, make: Make, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path("mine"), monkeypatch)
    result = ptkit("data", name, "--from", "mine")
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert message in result.stderr
    assert os.listdir() == ["mine"]


def test_a_photo_that_is_none_is_a_line_without_our_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.make_countries(Path("mine"), monkeypatch)
    Path("mine/country211/valid/ZW/2.jpg").write_bytes(b"<html>")
    result = ptkit("data", "country211", "--from", "mine")
    assert (result.exit_code, os.listdir()) == (3, ["mine"])
    assert (
        result.stderr == "ptkit: the set's image 2 of ZW cannot be read: not a known image format\n"
    )


@pytest.mark.parametrize(
    ("name", "make"), [("svhn", tiny.make_svhn), ("flowers102", tiny.make_flowers)]
)
def test_a_set_that_needs_scipy_says_so(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Path("mine"), monkeypatch)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda library, *more: None if library == "scipy" else find_spec(library, *more),
    )
    result = ptkit("data", name, "--from", "mine")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{name} needs scipy: pip install 'ptkit[datasets]'" in result.stderr
    assert os.listdir() == ["mine"]
