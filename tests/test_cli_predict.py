"""`ptkit predict`: what each kind of task answers."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from example_run import CLASSES, write_images, write_run
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint

RUN = CliRunner()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    write_images(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to get 2 GiB\nmore"),
         "out of memory (CUDA out of memory. Tried to get 2 GiB): free what other programs hold"),
        (MemoryError(), "out of memory: free what other programs hold"),
    ],
)  # fmt: skip
def test_memory_that_is_used_up_is_one_line(here, monkeypatch, error, line):
    def ask(*_, **__):
        raise error

    monkeypatch.setattr("ptkit.commands.predict.ask", ask)
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "test.txt"])
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def answers(*arguments):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def make_task(**task):
    """Give the example's checkpoint another kind of task."""
    contents = read_checkpoint(Path("ckpt.pkl"))
    save_checkpoint(Path("runs/1/ckpt.pkl"), contents | {"task": task})


def test_an_image_gets_its_class_with_its_probability(here):
    (found,) = answers("images/red/0.png")
    assert found.keys() == {"path", "class", "index", "probability"}
    assert found["class"] == CLASSES[found["index"]]
    assert 1 / 3 <= found["probability"] <= 1


def test_files_folders_and_lists_are_answered_in_order(here):
    found = answers("images/red/1.png", "images/blue", "test.txt")
    assert [row["path"] for row in found[:5]] == [
        "images/red/1.png",
        *(f"images/blue/{k}.png" for k in range(4)),
    ]
    assert len(found) == 1 + 4 + 12


def test_the_answer_for_an_image_does_not_depend_on_its_company(here):
    alone, among = answers("images/red/1.png")[0], answers("test.txt")
    other = next(row for row in among if row["path"] == "images/red/1.png")
    assert other["probability"] == pytest.approx(alone["probability"], abs=1e-6)


def test_top_names_the_most_probable_classes_first(here):
    (found,) = answers("images/red/0.png", "--top", "3")
    assert found["top"][0]["class"] == found["class"]
    assert sum(row["probability"] for row in found["top"]) == pytest.approx(1)


def test_several_labels_are_named_with_all_probabilities(here):
    make_task(kind="multi-label", activation="sigmoid", thresholds=torch.tensor([0.0, 0.0, 1.0]))
    (found,) = answers("images/red/0.png")
    assert (found["classes"], found["indices"]) == (["blue", "green"], [0, 1])
    assert found["probabilities"].keys() == set(CLASSES)
    probabilities = found["probabilities"]
    screen = RUN.invoke(app, ["predict", "ckpt.pkl", "images/red/0.png"]).stdout
    assert f"blue {probabilities['blue']:.1%}, green {probabilities['green']:.1%}" in screen


def test_an_image_of_no_class_is_told_so(here):
    make_task(kind="multi-label", activation="sigmoid", thresholds=torch.ones(3))
    screen = RUN.invoke(app, ["predict", "ckpt.pkl", "images/red/0.png"]).stdout
    assert screen.splitlines()[1].split() == ["images/red/0.png", "none"]


def test_numbers_are_given_in_their_own_units(here):
    ones = torch.ones(3)
    make_task(kind="regression", activation="number", scale=0 * ones, shift=1234.5 * ones)
    (found,) = answers("images/red/0.png")
    assert found["numbers"] == dict.fromkeys(CLASSES, 1234.5)
    screen = RUN.invoke(app, ["predict", "ckpt.pkl", "images/red/0.png"]).stdout.splitlines()
    assert [line.split() for line in screen] == [
        ["path", *CLASSES],
        ["images/red/0.png", *["1234.5"] * 3],
    ]


def test_an_embedding_is_answered_with_the_nearest_class(here):
    model_outputs = torch.eye(3)
    make_task(kind="embedding", activation="nearest", class_means=model_outputs)
    (found,) = answers("images/red/0.png")
    assert found["class"] in CLASSES


def test_the_table_goes_to_a_file_with_out(here):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images/blue", "--out", "found"])
    assert result.exit_code == 0
    lines = Path("found/predictions.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("path,class,probability,true", 5)
    first = answers("images/blue")[0]
    assert lines[1] == f"{first['path']},{first['class']},{first['probability']:.6g},blue"
    assert sorted(os.listdir("found")) == ["predictions.csv", "scores.json", "wrong.csv"]


def test_the_screen_shows_a_line_for_each_image_and_a_column_for_each_rank(here):
    os.rename("images/blue", "images/new")
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images/new", "--top", "2"])
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["path", "class", "probability", "class", "2", "probability", "2"]
    best = answers("images/new", "--top", "2")[0]["top"]
    words = [text for row in best for text in (row["class"], f"{row['probability']:.1%}")]
    assert (lines[0].split(), len(lines)) == (["images/new/0.png", *words], 4)


@pytest.mark.parametrize(
    ("sources", "exit_code", "message"),
    [
        (["missing.png"], 3, "missing.png"),
        (["runs"], 3, "runs has no images"),
        (["missing.txt"], 3, "no missing.txt here"),
    ],
)
def test_what_is_not_there_is_told(here, sources, exit_code, message):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *sources])
    assert (result.exit_code, message in result.output) == (exit_code, True)


def test_an_unknown_kind_of_task_is_a_checkpoint_error(here):
    make_task(kind="segmentation", activation="softmax")
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images"])
    assert result.exit_code == 4
    assert "no kind of task is called segmentation" in result.stderr


def test_top_is_refused_where_classes_are_not_ranked(here):
    make_task(kind="multi-label", activation="sigmoid", thresholds=torch.tensor([0.5] * 3))
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--top", "2"])
    assert (result.exit_code, "--top ranks classes" in result.stderr) == (2, True)


# --------------------------------------------------------------------- images that cannot be read


@pytest.fixture
def broken(here):
    """Two of the images cannot be read; every command's answer for the others is asked for."""
    for name in ("green/1", "red/0"):
        path = here / f"images/{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    return ["images/green/1.png", "images/red/0.png"]


def is_bad(path):
    return path in ("images/green/1.png", "images/red/0.png")


def test_a_bad_file_is_a_row_and_costs_no_other_answer(here):
    before = answers("images")
    for path in ("images/green/1.png", "images/red/0.png"):
        (here / path).write_bytes(b"not an image")
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--json"])
    words = "it is not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"
    assert result.exit_code == 3
    assert json.loads(result.stdout) == [
        {"path": row["path"], "error": f"cannot read {row['path']}: {words}"}
        if is_bad(row["path"])
        else row
        for row in before
    ]
    assert result.stderr.splitlines() == [
        "ptkit: 2 images left out:",
        f"  cannot read images/green/1.png: {words}",
        f"  cannot read images/red/0.png: {words}",
    ]


def test_a_bad_file_is_complained_of_once_where_a_table_names_it(broken):
    shown = RUN.invoke(app, ["predict", "ckpt.pkl", *broken, "images/blue/0.png"])
    assert shown.stdout.count("cannot read images/red/0.png: ") == 1
    assert (shown.exit_code, shown.stderr) == (3, "ptkit: 2 images left out; the table says why\n")
    quiet = RUN.invoke(app, ["predict", "ckpt.pkl", *broken, "--quiet"])
    assert (quiet.stdout, quiet.stderr.count("cannot read images/red/0.png: ")) == ("", 1)


def test_bad_files_have_a_column_of_their_own_in_the_table(broken):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *broken, "images/blue/0.png", "--out", "p"])
    assert result.exit_code == 3
    header, *rows = csv.reader(Path("p/predictions.csv").read_text().splitlines())
    assert header == ["path", "class", "probability", "error"]
    assert [row[0] for row in rows] == [*broken, "images/blue/0.png"]
    assert [row[1:3] for row in rows[:2]] == [["", ""]] * 2
    assert rows[2][3] == ""
    assert all(row[3].startswith(f"cannot read {row[0]}: ") for row in rows[:2])


def test_predict_of_bad_files_alone_answers_all_the_same(broken):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *broken, "nowhere.png", "--json"])
    rows = json.loads(result.stdout)
    assert (result.exit_code, [*map(sorted, rows)]) == (3, [["error", "path"]] * 3)


def test_predict_stops_at_a_bad_file_if_asked_to(broken):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--on-bad", "stop"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("ptkit: cannot read images/green/1.png: ")


def test_an_unknown_choice_for_bad_files_is_a_usage_error(here):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--on-bad", "skp"])
    assert result.exit_code == 2
    assert (
        result.stderr
        == "ptkit: --on-bad must be one of stop, skip, found 'skp'; did you mean skip?\n"
    )


@pytest.mark.parametrize("workers", ["1", "3"])
def test_images_of_their_own_size_may_be_bad_too(broken, workers):
    contents = read_checkpoint(Path("ckpt.pkl"))
    calls = contents["pipeline"]["calls"][1:]
    pipeline = {**contents["pipeline"], "calls": calls}
    save_checkpoint(Path("runs/1/ckpt.pkl"), contents | {"pipeline": pipeline})
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--json", "--workers", workers])
    rows = json.loads(result.stdout)
    assert [row["path"] for row in rows if "error" in row] == broken


def test_an_embedding_without_class_means_names_the_checkpoint_that_has_them(here):
    make_task(kind="embedding", activation="nearest")
    # As the last state of a run is.
    Path("runs/1/ckpt.pkl").rename("last.pkl")
    result = RUN.invoke(app, ["predict", "last.pkl", "images"])
    assert (result.exit_code, result.stderr) == (
        4,
        "ptkit: last.pkl has no class means, by which images get a class; the ckpt.pkl of its run"
        " has them\n",
    )
