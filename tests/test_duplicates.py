import cv2
import numpy as np
import pytest
from PIL import Image

from ptkit.core.data.checking.duplicates import (
    exact_duplicates,
    look_alikes,
    near_duplicates,
)
from ptkit.core.data.checking.properties import measure


def scene(seed, size=(96, 72)):
    """Return a picture like no other: smooth random colours, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def save(folder, pictures):
    paths = [str(folder / name) for name in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        Image.fromarray(np.ascontiguousarray(picture)).save(path, quality=75)
    return paths


def pairs(paths, labels=None):
    found = near_duplicates(measure(paths), np.zeros(len(paths), int) if labels is None else labels)
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


VARIANTS = {
    "encoded anew": lambda image: image,
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
    "twice the size": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned once": np.rot90,
    "turned twice": lambda image: np.rot90(image, 2),
    "turned three times": lambda image: np.rot90(image, 3),
    "mirrored and turned": lambda image: np.rot90(image[:, ::-1]),
    "brighter": lambda image: (image * 0.8 + 40).astype(np.uint8),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_changed_copy_is_found_among_others(tmp_path, variant):
    pictures = {f"{number}.png": scene(number) for number in range(30)}
    pictures["copy.jpg"] = VARIANTS[variant](scene(17))
    assert pairs(save(tmp_path, pictures)) == [(17, 30)]


def test_different_pictures_and_plain_ones_are_no_duplicates(tmp_path):
    pictures = {f"{number}.png": scene(number) for number in range(40)}
    for grey in (99, 100, 101):
        pictures[f"grey{grey}.png"] = np.full((40, 40, 3), grey, np.uint8)
    assert pairs(save(tmp_path, pictures)) == []


def test_images_that_are_alike_by_nature_need_more_than_a_usual_correlation(tmp_path):
    """Parts on a conveyor: one background, and a small difference in each."""
    pictures = {}
    for number in range(60):
        noise = np.random.default_rng(100 + number).normal(0, 12, (72, 96, 1))
        pictures[f"{number}.png"] = (scene(0) * 0.8 + 20 + noise).clip(0, 255).astype(np.uint8)
    pictures["copy.png"] = pictures["31.png"][:, ::-1]
    assert pairs(save(tmp_path, pictures)) == [(31, 60)]


def test_equal_files_are_exact_duplicates_and_their_first_stands_for_all(tmp_path):
    pictures = {f"{number}.png": scene(number) for number in range(4)}
    paths = save(tmp_path, {**pictures, "a.png": scene(2), "b.png": scene(2), "c.jpg": scene(2)})
    properties = measure(paths)
    exact = exact_duplicates(properties)
    near = near_duplicates(properties, np.zeros(7, int))
    assert exact == [[2, 4, 5]]
    assert (near.first.tolist(), near.second.tolist()) == ([2], [6])
    assert look_alikes(exact, near) == [[2, 4, 5, 6]]


def test_unreadable_files_are_no_duplicates_of_each_other(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path in paths:
        with open(path, "w") as file:
            file.write("no image")
    properties = measure(paths)
    assert list(properties.errors) == [0, 1]
    assert exact_duplicates(properties) == []
    assert pairs(paths) == []
