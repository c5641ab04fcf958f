"""Answers for images that lie in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from example_run import write_images, write_run
from PIL import Image

from ptkit.core.data.lists import read_list
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.training import prediction
from ptkit.core.training.prediction import predict_list
from ptkit.looking.answers import Answers
from ptkit.looking.predictions import predict_images, predict_sources
from ptkit.looking.subject import load_subject


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_images(tmp_path)


@pytest.fixture
def subject(paths):
    return load_subject(Path("ckpt.pkl"))


def without_paths(rows):
    return [{key: value for key, value in row.items() if key != "path"} for row in rows]


def test_paths_bytes_pictures_and_arrays_get_the_answers_of_their_files(paths, subject):
    expected = predict_sources(subject, paths, top=2).rows
    pictures = [Image.open(path) for path in paths]
    assert predict_images(subject, paths, top=2).rows == expected
    assert predict_images(subject, list(map(Path, paths)), top=2).rows == expected
    for given in (
        [Path(path).read_bytes() for path in paths],
        pictures,
        [np.asarray(picture) for picture in pictures],
    ):
        assert without_paths(predict_images(subject, given, top=2).rows) == without_paths(expected)


def test_answers_do_not_depend_on_how_many_are_computed_together(paths, subject, monkeypatch):
    Path("some.txt").write_text("".join(f"{path} 0\n" for path in paths))
    images = subject.batches(read_list(Path("some.txt")), device="cpu", workers=1)
    expected = predict_list(subject.model, images, task=subject.task)
    monkeypatch.setattr(prediction, "_ROWS_AT_ONCE", 2)
    found = predict_list(subject.model, images, task=subject.task)
    assert len(found.values) == len(paths) > 2
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.answers, expected.answers)
    assert found.unknown is None


def test_one_image_needs_no_list(paths, subject):
    (row,) = predict_images(subject, np.asarray(Image.open(paths[0]))).rows
    assert row == {**predict_sources(subject, paths[:1]).rows[0], "path": None}


def test_outputs_that_are_not_finite_are_refused(paths, subject):
    torch.nn.init.constant_(subject.model.fc.bias, float("nan"))
    with pytest.raises(CheckpointError, match=r"ckpt\.pkl.* gives NaN or infinite outputs"):
        predict_images(subject, paths)


def test_what_is_not_an_image_is_refused(subject):
    with pytest.raises(UsageError, match=r"found float64 of \(4, 4, 3\)"):
        predict_images(subject, np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match="no images"):
        predict_images(subject, [])
    with pytest.raises(DataError, match="not a JPEG"):
        predict_images(subject, b"no image")
    with pytest.raises(DataError, match=r"gone\.png"):
        predict_images(subject, "gone.png")


def test_an_unknown_image_has_no_class_but_a_most_probable_one():
    values = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    paths, unknown = ("a.png", "b.png"), np.array([False, True])
    found = Answers(
        paths,
        ("ant", "bee"),
        "single-label",
        values,
        np.array([0, 1]),
        unknown=unknown,
        thresholds=np.array([0.7, 0.6], np.float32),
    )
    assert found.rows == [
        {"path": "a.png", "class": "ant", "index": 0, "probability": 0.75},
        {
            "path": "b.png",
            "class": "unknown",
            "index": None,
            "probability": 0.5,
            "most_probable": "bee",
            "unknown_because": "threshold",
        },
    ]
    # As probable as it must be, but unlike the images of training.
    strange = replace(found, thresholds=np.array([0.7, 0.5], np.float32))
    assert strange.rows[1]["unknown_because"] == "stranger"
    assert found.table() == [
        ["path", "class", "probability", "most_probable", "unknown_because"],
        ["a.png", "ant", "0.75", "", ""],
        ["b.png", "unknown", "0.5", "bee", "threshold"],
    ]


def test_numbers_named_like_other_columns_get_columns_of_their_own():
    names = ("path", "error", "height")
    found = Answers(
        paths=("a.png",),
        class_names=names,
        kind="regression",
        values=np.array([[1, 2, 3]], np.float32),
        answers=np.array([[1, 2, 3]], np.float32),
        labels=np.array([[4, 5, 6]], np.float32),
        known=np.array([True]),
    )
    assert found.table() == [
        ["path", "predicted path", "predicted error", "height",
         "true path", "true error", "true height"],
        ["a.png", "1", "2", "3", "4", "5", "6"],
    ]  # fmt: skip
