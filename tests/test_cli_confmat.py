import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.lists import list_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.shares import interval
from ptkit.looking.confusion import draw_evaluation
from ptkit.looking.evaluation import Evaluation
from ptkit.plots.saving import PictureFolder

from example_run import CLASSES, write_images, write_run  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_images(tmp_path)


@pytest.fixture
def probabilities(paths):
    model = ptkit.load("ckpt.pkl")
    pipeline = Pipeline.parse(model.pipeline["calls"])
    with torch.inference_mode():
        return (
            torch.stack([model(pipeline.read_image(path)[None])[0] for path in paths])
            .softmax(1)
            .numpy()
        )


def confmat(*arguments):
    return CliRunner().invoke(app, ["confmat", *map(str, arguments)])


def table(name):
    return list(csv.reader(Path("runs/1/confmat", name).read_text().splitlines()))


def test_json_holds_the_matrix_of_the_models_own_answers(paths, probabilities):
    labels, predictions = np.arange(3).repeat(4), probabilities.argmax(axis=1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, predictions), 1)
    result = confmat("ckpt.pkl", "test.txt", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["matrix"] == expected.tolist()
    assert found["accuracy"] == pytest.approx((labels == predictions).mean())
    assert found["num_images"] == 12
    assert found["classes"] == list(CLASSES)
    right = int(np.trace(expected))
    assert found["accuracy_interval"] == list(interval(right, 12))
    assert found["majority"] == {"class": "blue", "share": 1 / 3}
    assert found["recall_interval"] == [list(interval(n, 4)) for n in np.diag(expected).tolist()]
    assert found["recall"] == pytest.approx((np.diag(expected) / 4).tolist())
    assert [value is None for value in found["precision"]] == (expected.sum(axis=0) == 0).tolist()
    assert all(Path(file).is_file() for file in found["files"])


def test_screen_shows_accuracy_classes_and_confused_pairs(paths):
    result = confmat("ckpt.pkl", "test.txt")
    assert result.stdout.startswith("accuracy ")
    assert 'of 12 images, always "blue" 33.3%\nmacro F1 ' in result.stdout
    assert "class  precision  recall" in result.stdout
    assert "most confused  taken for" in result.stdout
    assert "3 pictures in runs/1/confmat" in result.stdout


def test_all_metrics_are_scikit_learns(paths, probabilities):
    labels, answers = np.arange(3).repeat(4), probabilities.argmax(axis=1)
    found = json.loads(confmat("ckpt.pkl", "test.txt", "--json").stdout)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, answers, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    area = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found["auroc"] == pytest.approx(area, abs=1e-6)
    assert "top5" not in found


def test_top_five_is_for_more_than_five_classes(paths):
    # The fifth and the sixth are alike: the later one comes first.
    rows = np.array([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]] * 3, np.float32)
    images = replace(
        list_of(list(map(str, paths[:3])), tuple("abcdef")), labels=np.array([0, 3, 5])
    )
    found = Evaluation(images, tuple("abcdef"), rows, rows.argmax(axis=1))
    assert found.metrics["top5"] == top_k_accuracy_score(images.labels, rows, k=5, labels=range(6))
    assert found.metrics["top5"] == pytest.approx(2 / 3)


def test_pictures_stand_beside_their_data(paths):
    confmat("ckpt.pkl", "test.txt")
    found = sorted(
        path.name for path in Path("runs/1/confmat").iterdir() if path.suffix in (".png", ".csv")
    )
    assert found == [
        "classes.csv",
        "confusion.csv",
        "confusion.png",
        "mistakes.csv",
        "mistakes.png",
        "pairs.csv",
        "pairs.png",
    ]
    assert table("confusion.csv")[0] == ["true \\ predicted", *CLASSES]
    assert [row[0] for row in table("classes.csv")[1:]] == list(CLASSES)


def test_mistakes_are_listed_from_the_worst_with_both_probabilities(paths, probabilities):
    confmat("ckpt.pkl", "test.txt")
    rows = table("mistakes.csv")[1:]
    labels, predictions = np.arange(3).repeat(4), probabilities.argmax(axis=1)
    assert len(rows) == (labels != predictions).sum() > 0
    listed = [float(row[3]) for row in rows]
    assert listed == sorted(listed)
    for path, true, predicted, of_true, of_predicted in rows:
        index = paths.index(path)
        assert (true, predicted) == (CLASSES[labels[index]], CLASSES[predictions[index]])
        assert float(of_true) == pytest.approx(probabilities[index, labels[index]], abs=1e-5)
        assert float(of_predicted) == pytest.approx(probabilities[index].max(), abs=1e-5)


def test_a_list_without_mistakes_leaves_no_pictures_of_mistakes(paths, probabilities):
    confmat("ckpt.pkl", "test.txt")
    lines = [
        f"{path} {label}\n" for path, label in zip(paths, probabilities.argmax(axis=1), strict=True)
    ]
    Path("right.txt").write_text("".join(lines))
    result = confmat("ckpt.pkl", "right.txt")
    assert "accuracy 100.0% (75.8 to 100.0%), 12 of 12 images, always" in result.stdout
    assert not Path("runs/1/confmat/mistakes.png").exists()
    assert not Path("runs/1/confmat/pairs.png").exists()
    assert table("mistakes.csv")[1:] == []


def test_undrawable_class_names_are_told_once(paths):
    weights = torch.load("ckpt.pkl", weights_only=True)["state_dict"]
    torch.save(weights, "bare.pt")
    Path("names.txt").write_text("\U0001f642\n\U0001f643\nred\n")
    answers = [
        "--model",
        "resnet8",
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.25,0.25,0.25",
        "--size",
        "16",
    ]
    result = confmat("bare.pt", "test.txt", *answers, "--classes", "names.txt")
    assert result.exit_code == 0
    assert result.stdout.count("#0 = \U0001f642, #1 = \U0001f643") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ckpt.pkl", "nope.txt"], 3, "nope.txt"),
        (["nope.pkl", "test.txt"], 4, "nope.pkl"),
        (["ckpt.pkl", "other/test.txt"], 3, "class 0 is 'ant' in other/classes.txt but 'blue'"),
        (["ckpt.pkl", "bare/test.txt"], 3, "has label 3, but ckpt.pkl knows the classes 0 to 2"),
        (["ckpt.pkl", "gone.txt"], 3, "gone.png"),
        (["ckpt.pkl", "test.txt", "--model", "lenet"], 4, "do not fit lenet"),
        (["ckpt.pkl", "test.txt", "--mean", "0,0,0"], 2, "leave out --mean"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(paths, arguments, code, message):
    for folder, line in (("other", "x.png 0\n"), ("bare", "x.png 3\n")):
        Path(folder).mkdir()
        Path(folder, "test.txt").write_text(line)
    Path("other/classes.txt").write_text("ant\nbee\nfly\n")
    Path("gone.txt").write_text("gone.png 0\n")
    result = confmat(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_numbers_are_refused_with_the_command_that_shows_them(paths):
    contents = read_checkpoint(Path("ckpt.pkl"))
    save_checkpoint(
        Path("runs/1/ckpt.pkl"), contents | {"task": {"kind": "regression", "activation": "number"}}
    )
    result = CliRunner().invoke(app, ["confmat", "ckpt.pkl", "test.txt"])
    assert result.exit_code == 2
    assert "`ptkit predict ckpt.pkl test.txt`" in result.stderr


def test_several_labels_have_rates_for_each_class(paths):
    contents = read_checkpoint(Path("ckpt.pkl"))
    # Always present, never present, and by chance.
    task = {
        "kind": "multi-label",
        "activation": "sigmoid",
        "thresholds": torch.tensor([0.0, 1.0, 0.5]),
    }
    save_checkpoint(Path("runs/1/ckpt.pkl"), contents | {"task": task})
    result = CliRunner().invoke(app, ["confmat", "ckpt.pkl", "test.txt", "--json"])
    found = json.loads(result.stdout)
    assert (found["recall"][0], found["precision"][0]) == (1.0, pytest.approx(4 / 12))
    assert (found["recall"][1], found["precision"][1]) == (0.0, None)
    assert found["matrix"][0] == [[0, 8], [0, 4]]
    assert {Path(file).name for file in found["files"]} >= {"labels.png", "classes.csv"}
    overall = ptkit.evaluate("ckpt.pkl", "test.txt").metrics
    assert {name: found[f"micro_{name}"] for name in ("f1", "precision", "recall")} == {
        name: overall[name] for name in ("f1", "precision", "recall")
    }
    assert (found["map"], found["accuracy"]) == (overall["map"], overall["accuracy"])


@pytest.mark.slow
def test_of_very_many_classes_the_matrix_has_only_the_pairs_that_occur(paths, tmp_path):
    rows = np.eye(1001, dtype=np.float32)[[7, 7, 1000]]
    names = tuple(f"class{k}" for k in range(1001))
    images = replace(list_of(list(map(str, paths[:3])), names), labels=np.array([7, 7, 7]))
    found = Evaluation(images, names, rows, rows.argmax(axis=1))
    assert found.as_dict()["matrix"] is None
    with PictureFolder(tmp_path / "out", command="confmat") as pictures:
        draw_evaluation(found, pictures, num_images=1)
    assert (tmp_path / "out" / "confusion.csv").read_text().splitlines() == [
        "true,predicted,images",
        "class7,class7,2",
        "class7,class1000,1",
    ]


def test_confmat_goes_on_past_bad_images_and_names_all_of_them(paths):
    whole = ptkit.evaluate("ckpt.pkl", "test.txt")
    bad = [0, 7]
    for index in bad:
        Path(paths[index]).write_bytes(b"not an image")
    done = confmat("ckpt.pkl", "test.txt", "--on-bad", "skip", "--json")
    found = json.loads(done.stdout)
    good = np.setdiff1d(np.arange(len(paths)), bad)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (whole.labels[good], whole.answers[good]), 1)
    assert (done.exit_code, found["num_images"]) == (3, len(good))
    assert found["matrix"] == matrix.tolist()
    assert found["skipped"] == [line.strip() for line in done.stderr.splitlines()[1:]]
    assert [reason.split(":")[0] for reason in found["skipped"]] == [
        f"cannot read {paths[index]}" for index in bad
    ]
    assert set(found["files"]) >= {"runs/1/confmat/mistakes.csv"}


def test_confmat_stops_at_a_bad_image_by_default(paths):
    Path(paths[1]).write_bytes(b"not an image")
    done = confmat("ckpt.pkl", "test.txt")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"ptkit: cannot read {paths[1]}: ")
    assert done.stderr.endswith("; --on-bad skip leaves such images out\n")
    Path(paths[1]).unlink()
    assert "--on-bad skip" in confmat("ckpt.pkl", "test.txt").stderr


def test_a_run_without_an_epoch_names_what_continues_it_and_another_file_is_just_not_there(paths):
    Path("runs/2").mkdir()
    Path("runs/2/config.toml").touch()
    told = confmat("runs/2", "test.txt")
    assert told.exit_code == 4
    assert "no epoch of this run was finished; `ptkit train --resume runs/2`" in told.stderr
    # To continue it would repeat how it ended.
    Path("runs/2/layers.jsonl").write_text('{"kind": "diverged", "step": 6}\n')
    told = confmat("runs/2", "test.txt")
    assert "it diverged: `ptkit diagnose runs/2` says what helps" in told.stderr
    for place in ("runs/1/best.pkl", "runs/2/best.pkl"):
        assert "no file" in confmat(place, "test.txt").stderr


def test_confmat_of_bad_images_alone_is_an_error(paths):
    for path in paths:
        Path(path).write_bytes(b"not an image")
    done = confmat("ckpt.pkl", "test.txt", "--on-bad", "skip")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("ptkit: no image of test.txt can be read; the first: ")
