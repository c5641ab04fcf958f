import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.lists import read_list


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten scenes in each of two classes, each as PNG and as a mirrored, smaller JPEG."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        place = tmp_path / "images" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        picture = Image.fromarray(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC))
        picture.save(place / f"{number}.png")
        mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((48, 36))
        mirrored.save(place / f"{number}.jpg", quality=80)
    return tmp_path


def split(*arguments):
    result = CliRunner().invoke(app, ["split", "images", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def scenes(part):
    images = read_list(Path(f"{part}.txt"))
    return [Path(images.listed_path(row)).stem for row in range(len(images))]


def test_near_duplicates_stay_in_one_part(folder):
    text = split("--near-duplicates")
    assert "Images with a near-duplicate: 40; those that look alike are in one part." in text
    parts = [scenes(part) for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert [len(set(part)) for part in parts] == [16, 2, 2]


def test_without_the_flag_they_count_as_different_images(folder):
    assert json.loads(split("--json"))["num_near_duplicates"] == 0
    assert set(scenes("train")) & set(scenes("valid"))


def test_extending_goes_on_with_near_duplicates(folder):
    late = [folder / f"images/cat/{number}.jpg" for number in (0, 2, 4)]
    contents = [file.read_bytes() for file in late]
    for file in late:
        file.unlink()
    split("--near-duplicates")
    for file, content in zip(late, contents, strict=True):
        file.write_bytes(content)
    split("--extend")
    parts = [set(scenes(part)) for part in ("train", "valid", "test")]
    assert sum(map(len, parts)) == 20
    assert json.loads((folder / "split.json").read_text())["near_duplicates"] is True


def test_given_parts_that_look_alike_stay_as_they_are(folder):
    (folder / "images").rename(folder / "train")
    for name in ("cat", "dog"):
        (folder / "images/val" / name).mkdir(parents=True)
        for number in (0, 2) if name == "cat" else (1, 3):
            (folder / f"train/{name}/{number}.jpg").rename(
                folder / f"images/val/{name}/{number}.jpg"
            )
    (folder / "train").rename(folder / "images/train")
    text = split("--near-duplicates")
    assert "are in one part, but for given parts: `ptkit check` lists them." in text
    assert len(scenes("valid")) == 4
    assert set(scenes("train")) & set(scenes("test")) == set()


def test_classes_with_one_validation_image_are_named(folder):
    for number in range(1, 20, 2):
        (folder / f"images/dog/{number}.jpg").unlink()
    text = split()
    assert "Classes with one image in valid: 1 (dog); their recall there is 0 or 100 %." in text
    assert "cat" not in text.partition("Classes with one image")[2]
