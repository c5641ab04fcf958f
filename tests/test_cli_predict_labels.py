"""`ptkit predict` of images with labels: how right the answers are."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from example_run import CLASSES, write_images, write_run
from sklearn import metrics
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint

RUN = CliRunner()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    write_images(tmp_path)
    return tmp_path


def make_task(**task):
    """Give the example's checkpoint another kind of task."""
    contents = read_checkpoint(Path("ckpt.pkl"))
    save_checkpoint(Path("runs/1/ckpt.pkl"), contents | {"task": task})


def done(*arguments, exit_code=0):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *arguments])
    assert result.exit_code == exit_code, result.stderr
    return result


def labels_of(*sources, **settings):
    return [row.get("true") for row in ptkit.predict("ckpt.pkl", sources, **settings).rows]


@pytest.mark.parametrize("threshold", [None, 0.425])
def test_scores_are_those_of_scikit_learn(here, threshold):
    rng = np.random.default_rng(3)
    lines = [line.split()[0] for line in Path("test.txt").read_text().splitlines()]
    # Of two classes, one of which is never answered.
    Path("some.txt").write_text("".join(f"{path} {rng.integers(2)}\n" for path in lines))
    found = ptkit.predict("ckpt.pkl", "some.txt", threshold=threshold)
    true, said = ([row[key] for row in found.rows] for key in ("true", "class"))
    scores = found.scores.as_dict()
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    labels = sorted({*true, *said} - {"unknown"})
    for average in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(
            true, said, labels=labels, average=average, zero_division=0
        )[:3]
        assert list(scores[average].values()) == pytest.approx(expected)
    expected = metrics.precision_recall_fscore_support(true, said, labels=labels, zero_division=0)
    by_name = {row.pop("class"): row for row in scores["classes"]}
    for k, name in enumerate(labels):
        values = [by_name[name][key] or 0 for key in ("precision", "recall", "f1", "images")]
        assert values == pytest.approx([column[k] for column in expected])
    assert scores["num_unknown"] == said.count("unknown")


def test_several_labels_are_scored_as_scikit_learn_does(here):
    make_task(kind="multi-label", activation="sigmoid", thresholds=torch.tensor([0.5] * 3))
    lines = [line.split()[0] for line in Path("test.txt").read_text().splitlines()]
    labels = ["0,1", "1,", ",", "0,2"] * 3
    Path("some.txt").write_text("".join(f"{p} {t}\n" for p, t in zip(lines, labels, strict=True)))
    found = ptkit.predict("ckpt.pkl", "some.txt", threshold=0.45)
    assert found.answers.tolist() == (found.values > 0.45).tolist()
    assert [row["true"] for row in found.rows[:3]] == [["blue", "green"], ["green"], []]
    scores = found.scores.as_dict()
    assert scores["accuracy"] == metrics.accuracy_score(found.labels, found.answers)
    for average in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(
            found.labels, found.answers, average=average, zero_division=0
        )[:3]
        assert list(scores[average].values()) == pytest.approx(expected)
    assert "every label right: " in done("some.txt").stdout


def test_what_classes_without_images_are_to_the_means_is_said(here):
    note = "2 of 3 classes have no images: macro"
    assert note in done("images/red").stdout
    assert "no images" not in done("images").stdout
    Path("red.txt").write_text("images/red/0.png 2\n")
    assert note in RUN.invoke(app, ["confmat", "ckpt.pkl", "red.txt"]).stdout
    assert "no images" not in RUN.invoke(app, ["confmat", "ckpt.pkl", "test.txt"]).stdout


def test_numbers_are_scored_by_their_errors(here):
    ones = torch.ones(3)
    make_task(kind="regression", activation="number", scale=0 * ones, shift=2 * ones)
    Path("some.txt").write_text("images/red/0.png 1.0,2.0,3.0\nimages/red/1.png 2.0,2.0,2.0\n")
    Path("classes.txt").unlink()
    shown = done("some.txt", "--out", "found").stdout
    assert "MAE 0.333333, RMSE 0.57735, R2" in shown
    assert "true blue" in Path("found/predictions.csv").read_text()
    result = done("some.txt", "--threshold", "0.5", exit_code=2)
    assert "--threshold is for probabilities" in result.stderr


def test_the_nearest_folder_with_the_name_of_a_class_is_the_label(here):
    (here / "images/red/blue/deep").mkdir(parents=True)
    os.rename("images/red/0.png", "images/red/blue/deep/0.png")
    os.rename("images/green", "images/odd")
    expected = ["blue"] * 4 + [None] * 4 + ["red"] * 3 + ["blue"]
    assert labels_of("images") == expected
    assert labels_of("images/red") == ["red"] * 3 + ["blue"]
    assert labels_of("images/red/1.png") == [None]
    shown = done("images").stdout
    assert "of 8 images with a label, of 12" in shown


def test_a_list_may_have_labels_for_some_of_its_images_or_none(here):
    Path("part.txt").write_text(
        'images/blue/0.png 0\nimages/red/1.png\n"images/green/2.png" green\n'
    )
    assert labels_of("part.txt") == [None] * 3  # indices and names
    Path("part.txt").write_text('images/blue/0.png 0\nimages/red/1.png\n"images/green/2.png" 1\n')
    assert labels_of("part.txt") == ["blue", None, "green"]
    os.rename("images/red/1.png", "images/red/1 a.png")
    Path("part.txt").write_text("images/blue/0.png\nimages/red/1 a.png\n")
    found = ptkit.predict("ckpt.pkl", "part.txt")
    assert (found.labels, len(found.errors), len(found.paths)) == (None, 0, 2)


def test_labels_that_mean_something_else_are_left_out_with_the_reason(here):
    Path("classes.txt").write_text("red\ngreen\nblue\n")
    result = done("test.txt", "--csv", "--quiet")
    assert (len(result.stdout.splitlines()), result.stderr) == (13, "")
    shown = done("test.txt").stdout
    assert "labels of test.txt are not used: class 0 is 'red' in classes.txt but 'blue'" in shown
    assert "accuracy" not in shown


def test_a_table_names_images_and_some_labels(here):
    Path("shots.csv").write_text(
        "picture,kind,note\nblue/0.png,blue,\nred/1.png,red,x\ngone.png,,\nred/2.png,rad,\n"
    )
    columns = {"path_column": "picture", "label_column": "kind", "root": "images"}
    found = ptkit.predict("ckpt.pkl", "shots.csv", **columns)
    assert [row.get("true") for row in found.rows] == ["blue", "red", None, None]
    assert list(found.errors) == [2]
    # No class of the model: a script that reads the answers alone must not take it for one.
    assert found.answers[2] == -1
    assert set(found.answers[[0, 1, 3]]) <= {0, 1}
    flags = ["--path-column", "picture", "--label-column", "kind", "--root", "images"]
    shown = done("shots.csv", *flags, exit_code=3).stdout
    assert "Left out: 1 label, such as rad in line 5, which the model does not know" in shown
    assert "did you mean red?" in shown
    Path("two.csv").write_text("path,label,class\nimages/red/0.png,red,1\n")
    shown = done("two.csv").stdout
    assert "The labels may be in label, class: choose with --label-column." in shown
    Path("paths.jsonl").write_text('{"image": "images/blue/0.png", "size": 3}\n')
    assert labels_of("paths.jsonl") == [None]
    result = done("images", "--label-column", "kind", exit_code=2)
    assert result.stderr.startswith("ptkit: --label-column is for tables")


def test_wrong_images_are_named_and_written(here):
    shown = done("images", "--out", "found").stdout
    with open("found/wrong.csv", newline="") as file:
        wrong = list(csv.DictReader(file))
    rows = sorted(ptkit.predict("ckpt.pkl", "images").rows, key=lambda row: -row["probability"])
    expected = [(r["path"], r["true"], r["class"]) for r in rows if r["true"] != r["class"]]
    assert [(row["path"], row["true"], row["class"]) for row in wrong] == expected
    assert f"{len(expected)} images wrong" in shown
    scores = json.loads(Path("found/scores.json").read_text())
    assert scores["accuracy"] == pytest.approx(1 - len(expected) / 12)
    assert [row["class"] for row in scores["classes"]] == list(CLASSES)


def test_files_of_an_earlier_prediction_do_not_pass_for_those_of_this_one(here):
    done("images", "--out", "found")
    assert sorted(os.listdir("found")) == ["predictions.csv", "scores.json", "wrong.csv"]
    done("images/red/0.png", "--out", "found")
    assert os.listdir("found") == ["predictions.csv"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("predictions.csv", "of someone"),
        ("predictions.csv", ""),
        ("predictions.csv", "path,label\nimages/red/0.png,red\n"),
        ("predictions.csv", "path,class\nimages/red/0.png,red\n"),
        ("predictions.csv", f"path,{','.join(CLASSES)}\nimages/red/0.png,0,0,1\n"),
        ("predictions.csv", "path,classes\nimages/red/0.png,red\n"),
        ("predictions.csv", "path,error,comment\n"),
        ("scores.json", "of someone"),
        ("wrong.csv", "path,true\n"),
    ],
)
def test_files_of_someone_else_are_not_replaced(here, name, text):
    Path("found").mkdir()
    Path("found", name).write_text(text)
    result = done("images", "--out", "found", exit_code=2)
    assert f"found/{name} is there already, and is no such file of this model" in result.stderr
    assert os.listdir("found") == [name]
    assert Path("found", name).read_text() == text


def test_a_table_of_ones_own_is_replaced_whatever_the_answers_are(here):
    Path("broken.png").write_bytes(b"")
    for task in (
        {},
        {"kind": "multi-label", "activation": "sigmoid", "thresholds": torch.ones(3)},
        {
            "kind": "regression",
            "activation": "number",
            "scale": torch.ones(3),
            "shift": torch.ones(3),
        },
    ):
        if task:
            make_task(**task)
        for images in ("images/red", "images/red/0.png", "broken.png", "images/blue/0.png"):
            exit_code = 3 if images == "broken.png" else 0
            done(images, "--out", str(task.get("kind", "class")), exit_code=exit_code)


def test_an_image_below_the_threshold_is_unknown_and_counts_as_wrong(here):
    probabilities = sorted(row["probability"] for row in ptkit.predict("ckpt.pkl", "images").rows)
    middle = (probabilities[5] + probabilities[6]) / 2
    found = ptkit.predict("ckpt.pkl", "images", threshold=middle)
    assert [row["class"] == "unknown" for row in found.rows] == [
        row["probability"] < middle for row in found.rows
    ]
    assert found.scores.num_unknown == 6
    shown = done("images", "--threshold", str(middle)).stdout
    assert "unknown: 6, counted as wrong" in shown


@pytest.mark.parametrize("threshold", ["0", "1", "70", "nan"])
def test_a_threshold_is_a_probability(here, threshold):
    result = done("images", "--threshold", threshold, exit_code=2)
    assert "--threshold is a probability between 0 and 1" in result.stderr


def test_the_answers_of_an_earlier_prediction_are_not_what_is_true(here):
    done("images", "images/red/0.png", "--out", "found")
    rows = list(csv.DictReader(Path("found/predictions.csv").read_text().splitlines()))
    assert labels_of("found/predictions.csv") == [row["true"] or None for row in rows]
    Path("found/predictions.csv").write_text("path,class,probability\nimages/red/0.png,red,0.9\n")
    assert labels_of("found/predictions.csv") == [None]


def test_images_that_are_named_again_are_told(here):
    shown = done("images/red", "images/red/0.png").stdout
    assert "images that are named more than once have 1 more row, counted too" in shown
    assert "named more than once" not in done("images/red").stdout


@pytest.mark.parametrize("form", ["--csv", "--jsonl"])
def test_scores_are_said_beside_rows_for_programs(here, form):
    result = done("images", form)
    assert "macro precision" in result.stderr
    assert "macro precision" not in result.stdout


def test_classes_that_no_image_has_or_gets_are_only_counted(here):
    answers = {row["class"] for row in ptkit.predict("ckpt.pkl", "images/red").rows} | {"red"}
    shown = done("images/red").stdout
    others = len(CLASSES) - len(answers)
    assert others > 0
    assert f"{others} other class" in shown
    rows = shown[shown.index("precision  recall") :].splitlines()[1:]
    assert {row.split()[0] for row in rows[: len(answers)]} == answers


def test_answers_of_several_labels_are_not_what_is_true(here):
    make_task(kind="multi-label", activation="sigmoid", thresholds=torch.tensor([0.5] * 3))
    Path("said.csv").write_text('path,classes,true\nimages/red/0.png,blue 0.9,"green, red"\n')
    # Words for people, which are no label; but those of the column true.
    assert "the label green, red has a comma" in done("said.csv").stdout


def test_the_class_of_an_unknown_image_is_beside_its_probability(here):
    done("images", "--threshold", "0.99", "--top", "2", "--out", "found")
    header = Path("found/predictions.csv").read_text().splitlines()[0].split(",")
    assert header[1:5] == ["class", "probability", "most_probable", "unknown_because"]
