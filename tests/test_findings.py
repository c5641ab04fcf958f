from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ptkit.core.data.checking.evidence import Listing, gather
from ptkit.core.data.checking.findings import apply_rules

NUM_IMAGES, NUM_TRAINING = 120, 90


def scene(number):
    """Return a picture like no other: smooth random colours with grain, uint8 (48, 64, 3)."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
    return (smooth + rng.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes():
    return [scene(number) for number in range(NUM_IMAGES)]


def findings(folder, pictures, labels=None, ending="png", **options):
    """Return what the rules find in pictures of classes cat, dog and owl in turn, the last ones
    being for validation: rule -> (verdict, number of images), and the natural rules.
    """
    paths = [str(folder / f"{k}.{ending}") for k in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path, **options)
    return found_in(paths, labels)


def found_in(paths, labels=None):
    labels = np.arange(len(paths)) % 3 if labels is None else np.array(labels)
    parts = (np.arange(len(paths)) >= NUM_TRAINING).astype(int)
    names = [Path(path).name for path in paths]
    listing = Listing(names, paths, labels, ("cat", "dog", "owl"), parts, ("train", "valid"))
    found = apply_rules(gather(listing))
    rules = {f.rule.name: (f.verdict, len(f.found.images)) for f in found.findings}
    return rules, [rule.name for rule, _ in found.natural]


def test_clean_images_have_no_findings(tmp_path, scenes):
    assert findings(tmp_path, scenes) == ({}, [])


def blurred(picture):
    return cv2.GaussianBlur(picture, (0, 0), 8)


def almost_grey(picture):
    return (picture * 0.03 + 120).astype(np.uint8)


QUALITY = {
    "dark": lambda picture: (picture * 0.2).astype(np.uint8),
    "light": lambda picture: (picture * 0.02 + 249).astype(np.uint8),
    "low-information": almost_grey,
    "odd-aspect": lambda picture: picture[:15],
    "odd-size": lambda picture: cv2.resize(picture, None, fx=5, fy=5),
}


@pytest.mark.parametrize("rule", QUALITY)
def test_a_few_images_of_bad_quality_are_found_and_many_are_the_nature_of_the_data(
    tmp_path, scenes, rule
):
    change = QUALITY[rule]
    few, _ = findings(tmp_path, [change(p) if k < 4 else p for k, p in enumerate(scenes)])
    assert few[rule] == ("INFO", 4)
    # Sizes are judged by the median: most images cannot be odd.
    if rule != "odd-size":
        many, natural = findings(
            tmp_path, [change(p) if k < 70 else p for k, p in enumerate(scenes)]
        )
        assert rule not in many
        assert rule in natural


def test_images_of_one_colour_fail_and_are_not_told_again(tmp_path, scenes):
    plain = [np.full((48, 64, 3), value, np.uint8) for value in (0, 255)]
    assert findings(tmp_path, [*scenes[:-2], *plain])[0] == {"constant": ("FAIL", 2)}


def test_a_size_that_tells_one_class_from_the_others_is_a_shortcut(tmp_path, scenes):
    narrow = [p[:, :60] if k % 3 == 0 else p for k, p in enumerate(scenes)]
    assert findings(tmp_path, narrow)[0] == {"shortcut": ("WARN", 0)}


def test_a_colour_that_tells_every_class_is_a_shortcut(tmp_path, scenes):
    tints = np.array([[1, 0.4, 0.4], [0.4, 1, 0.4], [0.4, 0.4, 1]])
    tinted = [(p * tints[k % 3]).astype(np.uint8) for k, p in enumerate(scenes)]
    assert findings(tmp_path, tinted)[0] == {"shortcut": ("WARN", 0)}


def test_frames_of_few_objects_are_no_shortcut(tmp_path, scenes):
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 4, (48, 64, 3)) for _ in range(4)]
    frames = [(scenes[k // 4] + noise[k % 4]).clip(0, 255).astype(np.uint8) for k in range(240)]
    assert "shortcut" not in findings(tmp_path, frames, [k // 4 % 3 for k in range(240)])[0]


def test_darker_validation_images_are_drift(tmp_path, scenes):
    darker = [(p * 0.7).astype(np.uint8) if k >= NUM_TRAINING else p for k, p in enumerate(scenes)]
    assert findings(tmp_path, darker)[0] == {"brightness-drift": ("WARN", 0)}


def test_other_shares_of_the_classes_in_validation_are_drift(tmp_path, scenes):
    labels = [k % 3 if k < NUM_TRAINING else 0 for k in range(NUM_IMAGES)]
    assert findings(tmp_path, scenes, labels)[0] == {"label-drift": ("WARN", 0)}


def test_a_class_a_tenth_of_the_largest_is_told(tmp_path, scenes):
    labels = [2 if k % 24 == 0 else k % 2 for k in range(NUM_IMAGES)]
    assert findings(tmp_path, scenes, labels)[0] == {"imbalance": ("WARN", 0)}


def test_a_label_that_training_does_not_have_fails(tmp_path, scenes):
    labels = [2 if k == NUM_IMAGES - 1 else k % 2 for k in range(NUM_IMAGES)]
    assert findings(tmp_path, scenes, labels)[0] == {"unseen-label": ("FAIL", 1)}


def test_images_that_only_exif_turns_upright_are_told_where_others_need_none(tmp_path, scenes):
    paths = [str(tmp_path / f"{k}.jpg") for k in range(NUM_IMAGES)]
    exif = Image.Exif()
    exif[0x0112] = 6
    for k, (path, picture) in enumerate(zip(paths, scenes, strict=True)):
        Image.fromarray(picture).save(path, exif=exif if k < 5 else b"")
    assert found_in(paths)[0]["exif-rotation"] == ("WARN", 5)


@pytest.mark.parametrize(("count", "verdict"), [(1, "FAIL"), (0, None)])
def test_near_duplicates_of_training_images_above_one_percent_fail(
    tmp_path, scenes, count, verdict
):
    copies = [scenes[k][:, ::-1] for k in range(count)]
    pictures = [*scenes[: NUM_IMAGES - count], *copies]
    labels = [*(np.arange(NUM_IMAGES - count) % 3), *range(count)]
    rules, _ = findings(tmp_path, pictures, labels)
    assert rules.get("near-leak", (None, 0))[0] == verdict


def test_near_duplicates_under_two_labels_are_told(tmp_path, scenes):
    pictures = [scenes[1][:, ::-1], *scenes[1:]]
    assert findings(tmp_path, pictures)[0] == {"near-label-conflict": ("WARN", 2)}


def photos(folder, sizes):
    """Return what is found in photographs of these heights and widths, of three classes in turn."""
    pictures = [cv2.resize(scene(k), size[::-1]) for k, size in enumerate(sizes)]
    return findings(folder, pictures)[0]


def test_a_class_that_a_centre_crop_cuts_more_than_others_is_told(tmp_path):
    wide = [(100, 170 if k % 3 == 0 else 110) for k in range(45)]
    assert photos(tmp_path, wide)["crop"] == ("WARN", 1)


def test_classes_that_lose_most_of_their_pixels_are_told_though_all_do(tmp_path):
    assert photos(tmp_path, [(100, 200)] * 45)["crop"] == ("WARN", 3)


def test_photos_of_usual_shapes_lose_nothing_worth_a_word(tmp_path):
    sizes = [((100, 150), (150, 100), (100, 133))[k % 3] for k in range(45)]
    assert "crop" not in photos(tmp_path, sizes)


def test_small_images_are_not_cropped(tmp_path):
    assert "crop" not in photos(tmp_path, [(50, 130 if k % 3 == 0 else 65) for k in range(45)])
