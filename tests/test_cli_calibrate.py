"""`ptkit calibrate`: what it changes in a checkpoint, and what other commands then answer."""

import csv
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from example_run import write_images, write_run
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.calibration.thresholds import NEVER
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.training.holding import held

RUN = CliRunner()
CKPT = Path("runs/1/ckpt.pkl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Lists, and a run that knows their classes fairly well; only to be copied."""
    folder = make_lists(tmp_path_factory.mktemp("calibrate"), train=90, valid=60, test=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(epochs=8, tensorboard=False, pictures=False)
    return folder


@pytest.fixture(autouse=True)
def quick(blank_pictures):
    """Draw nothing."""


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    for name in ("train.txt", "valid.txt", "test.txt", "classes.txt"):
        shutil.copy(trained / name, tmp_path)
    shutil.copytree(trained / "runs", tmp_path / "runs")
    os.symlink(trained / "images", tmp_path / "images")
    os.symlink(CKPT, tmp_path / "ckpt.pkl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrated(*arguments):
    result = RUN.invoke(app, ["calibrate", "ckpt.pkl", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def of(command, *arguments):
    result = RUN.invoke(app, [command, "ckpt.pkl", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def rewrite(**task):
    contents = read_checkpoint(CKPT)
    save_checkpoint(CKPT, contents | {"task": contents["task"] | task})


def test_everything_is_in_the_checkpoint_and_removed_again(here):
    before = CKPT.read_bytes()
    found = calibrated("valid.txt")
    task = read_checkpoint(Path("ckpt.pkl"))["task"]
    assert task["temperature"] == pytest.approx(found["temperature"])
    assert task["thresholds"] == pytest.approx([row["threshold"] for row in found["thresholds"]])
    assert task["unknown"]["limit"] == pytest.approx(found["unknown_limit"])
    assert Path("ckpt.pkl").is_symlink()
    assert Path(found["kept"]).read_bytes() == before
    names = {Path(file).name for file in found["files"]}
    assert names >= {
        "reliability.png", "reliability.csv", "coverage.png", "coverage.csv", "thresholds.csv",
    }  # fmt: skip
    # A second time the first state is still the one that is kept.
    assert calibrated("valid.txt", "--only", "temperature", "--only", "thresholds")["kept"] is None
    assert calibrated("--remove") == {
        "checkpoint": str(CKPT.resolve().relative_to(here)),
        "removed": True,
    }
    old, new = (torch.load(file, weights_only=True) for file in (found["kept"], CKPT))
    assert (new["task"], new.keys()) == (old["task"], old.keys())


def test_a_temperature_changes_probabilities_and_no_answer(here):
    before, plain = ptkit.evaluate("ckpt.pkl", "test.txt"), of("predict", "test.txt")
    rewrite(temperature=4.0)
    after, flat = ptkit.evaluate("ckpt.pkl", "test.txt"), of("predict", "test.txt")
    assert after.answers.tolist() == before.answers.tolist()
    assert (after.probabilities.max(axis=1) < before.probabilities.max(axis=1)).all()
    assert [row["class"] for row in flat] == [row["class"] for row in plain]
    assert all(a["probability"] < b["probability"] for a, b in zip(flat, plain, strict=True))
    values = [row["probability"] for row in ptkit.load("ckpt.pkl").predict(flat[0]["path"])]
    assert values == [pytest.approx(flat[0]["probability"], abs=1e-5)]


def test_the_temperature_lowers_the_error_on_the_other_half(here):
    # Outputs that are ten times as sure.
    contents = read_checkpoint(CKPT)
    weights = contents["state_dict"]
    for name in ("fc.weight", "fc.bias"):
        weights[name] = 10 * weights[name]
    save_checkpoint(CKPT, contents)
    calibrated = ptkit.calibrate("ckpt.pkl", "valid.txt", only=["temperature"])
    found = calibrated.found
    assert (
        ptkit.predict(calibrated, "valid.txt").rows == ptkit.predict("ckpt.pkl", "valid.txt").rows
    )
    assert found.temperature.value > 3
    assert found.temperature.ece[1] < found.temperature.ece[0]
    assert found.temperature.loss[1] < found.temperature.loss[0]


def test_images_below_the_threshold_of_their_class_are_unknown(here):
    plain = of("predict", "test.txt")
    limits = sorted(row["probability"] for row in plain)
    rewrite(thresholds=[limits[20], 0.0, NEVER])
    found = of("predict", "test.txt")
    for old, new in zip(plain, found, strict=True):
        is_low = old["index"] == 2 or (old["index"] == 0 and old["probability"] < limits[20])
        assert (new["class"] == "unknown") is is_low
        assert new.get("most_probable", new["class"]) == old["class"]
        assert new.get("unknown_because") == ("threshold" if is_low else None)
    report = of("confmat", "test.txt")
    answered = [row for row in found if row["class"] != "unknown"]
    right = [row["true"] == row["class"] for row in answered]
    assert report["coverage"] == pytest.approx(len(answered) / len(found))
    assert report["accuracy_of_answered"] == pytest.approx(sum(right) / len(right))
    assert {"coverage.png", "coverage.csv"} <= {Path(file).name for file in report["files"]}


def test_a_threshold_on_the_command_line_takes_the_place_of_those_of_the_checkpoint(here):
    rewrite(thresholds=[1.0, 1.0, 1.0])
    assert {row["class"] for row in of("predict", "test.txt")} == {"unknown"}
    assert "unknown" not in {
        row["class"] for row in of("predict", "test.txt", "--threshold", "0.01")
    }


def test_strangers_are_unknown_to_every_door(here):
    calibrated("valid.txt", "--only", "unknown", "--known", "0.9")
    found = of("predict", "valid.txt")
    unknown = [row for row in found if row["class"] == "unknown"]
    assert len(unknown) == 6
    assert all(row["index"] is None for row in unknown)
    loaded = ptkit.load("ckpt.pkl").predict([row["path"] for row in found])
    assert [row["class"] for row in loaded] == [row["class"] for row in found]
    ptkit.export("ckpt.pkl")
    told = ptkit.predict("runs/1/export/model.onnx", "valid.txt")
    assert told.unknown.tolist() == [row["class"] == "unknown" for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("to", ["onnx", "torch-export", "torchscript"])
def test_every_graph_finds_the_same_images_strange(here, to, precision):
    calibrated("valid.txt", "--only", "unknown", "--known", "0.8")
    assert ptkit.export("ckpt.pkl", to=to, precision=precision).replayed.num_unknown_changed == 0


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"to": "safetensors"}, "weights alone tell nothing"),
        pytest.param({"precision": "int8"}, "int8 is too coarse", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_cannot_tell_strangers_says_so(here, how, reason):
    calibrated("valid.txt", "--only", "unknown")
    (note,) = ptkit.export("ckpt.pkl", **how).notes
    assert f"the check for strangers stays in the checkpoint, as {reason}" in note


def test_classes_that_cannot_reach_the_precision_are_named_with_an_interval(here):
    lines = (here / "valid.txt").read_text().splitlines()
    # Says that every square is a bar.
    wrong = [line[:-1] + ("0" if line[-1] == "2" else line[-1]) for line in lines]
    (here / "wrong.txt").write_text("\n".join(wrong) + "\n")
    result = RUN.invoke(app, ["calibrate", "ckpt.pkl", "wrong.txt", "--only", "thresholds"])
    assert result.exit_code == 0, result.stderr
    with Path("runs/1/calibrate/thresholds.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    square = rows["square"]
    assert (square["threshold"], square["reaches"], square["precision"]) == (
        "1.00000012",
        "False",
        "0",
    )
    assert float(square["low"]) < 1e-9 < float(square["high"])
    assert "square: cannot reach it, never answered; at best 0.0% (0.0 to" in result.stdout
    assert "square" not in {row["class"] for row in of("predict", "test.txt")}


def test_of_many_classes_those_that_are_not_named_are_counted(here, monkeypatch):
    monkeypatch.setattr("ptkit.commands.calibrate._MAX_CLASSES", 1)
    lines = (here / "valid.txt").read_text().splitlines()
    # No class is right often.
    wrong = [f"{line[:-1]}{(int(line[-1]) + 1) % 3}\n" for line in lines]
    (here / "wrong.txt").write_text("".join(wrong))
    result = RUN.invoke(app, ["calibrate", "ckpt.pkl", "wrong.txt", "--only", "thresholds"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("cannot reach it") == 1
    assert "  2 other classes: see thresholds.csv\n" in result.stdout


def test_a_file_at_the_place_of_the_kept_checkpoint_stays(here):
    theirs = Path("runs/1/ckpt-uncalibrated.pkl")
    theirs.write_text("of someone")
    before = CKPT.read_bytes()
    found = calibrated("valid.txt", "--only", "temperature")
    assert theirs.read_text() == "of someone"
    assert Path(found["kept"]).name == "ckpt-uncalibrated-2.pkl"
    assert Path(found["kept"]).read_bytes() == before


def test_calibrating_again_and_again_keeps_no_more_copies(here):
    for _ in range(4):
        kept = calibrated("valid.txt", "--only", "temperature")["kept"]
        ptkit.uncalibrate(CKPT)
    assert read_checkpoint(Path(kept)).keys() == read_checkpoint(CKPT).keys()
    assert len(list(CKPT.parent.glob("ckpt-uncalibrated*"))) <= 2


def rarely_the_last():
    """Give the classes thresholds, and let the model hardly ever answer with the last one."""
    rewrite(thresholds=[0.4, 0.6, 0.8])
    contents = read_checkpoint(CKPT)
    weights = contents["state_dict"]
    bias = next(reversed(weights))
    weights[bias] = weights[bias] - torch.tensor([0.0, 0.0, 12.0])
    save_checkpoint(CKPT, contents)


def test_a_class_with_too_few_answers_keeps_the_threshold_it_had(here):
    rarely_the_last()
    found = calibrated("valid.txt", "--only", "thresholds")
    assert found["thresholds"][2]["threshold"] == pytest.approx(0.8)
    # What it was is of other probabilities than those of a new temperature.
    found = calibrated("valid.txt", "--only", "thresholds", "--only", "temperature")
    assert found["temperature"] != 1
    assert found["thresholds"][2]["threshold"] == 0


def test_a_class_without_enough_answers_is_said_to_keep_its_threshold_or_to_have_none(here):
    rarely_the_last()
    command, name = ["calibrate", "ckpt.pkl", "valid.txt", "--only", "thresholds"], "square"
    said = RUN.invoke(app, command).stdout
    assert f"too few answers to tell, thresholds as they were: {name}\n" in said
    said = RUN.invoke(app, [*command, "--only", "temperature"]).stdout
    assert f"too few answers to tell, always answered: {name}\n" in said


def test_what_training_saved_while_its_run_was_waited_for_is_what_is_changed(here, monkeypatch):
    better = read_checkpoint(CKPT)
    name = next(reversed(better["state_dict"]))
    for change in (ptkit.uncalibrate, lambda file: ptkit.calibrate(file, "valid.txt")):
        better["state_dict"][name] = better["state_dict"][name] + 0.01

        @contextmanager
        def saving(run):
            save_checkpoint(CKPT, {**better, "calibration": {"thresholds": None}})
            with held(run):
                yield

        save_checkpoint(CKPT, {**read_checkpoint(CKPT), "calibration": {"thresholds": None}})
        with monkeypatch.context() as patch:
            patch.setattr("ptkit.looking.calibrated_checkpoints.held", saving)
            change("ckpt.pkl")
        assert torch.equal(read_checkpoint(CKPT)["state_dict"][name], better["state_dict"][name])


def test_a_seed_below_zero_is_refused_before_anything_is_run(here):
    with pytest.raises(UsageError, match="seed"):
        ptkit.calibrate("ckpt.pkl", "nothing.txt", seed=-1)


def test_nothing_to_fit_is_an_error(here):
    with pytest.raises(UsageError, match="no part to fit"):
        ptkit.calibrate("ckpt.pkl", "valid.txt", only=[])
    assert "calibration" not in read_checkpoint(CKPT)


def test_a_list_of_one_class_is_refused(here):
    lines = Path("valid.txt").read_text().splitlines()
    Path("one.txt").write_text("\n".join(line for line in lines if line.endswith(" 1")))
    result = RUN.invoke(app, ["calibrate", "ckpt.pkl", "one.txt"])
    name = Path("classes.txt").read_text().split()[1]
    assert result.exit_code == 3
    assert f"one.txt has images of the class {name} alone: calibration" in result.stderr


def test_moved_images_are_found_for_the_check_for_strangers_too(here):
    # Where the images of the run's own lists are now.
    os.renames("images", "moved/images")
    assert calibrated("valid.txt", "--only", "unknown", "--root", "moved")["num_images"] == 60
    arguments = ["--only", "unknown", "--train", "train.txt", "--root", "moved"]
    assert calibrated("valid.txt", *arguments)["num_images"] == 60


def test_training_images_of_the_list_are_left_out(here):
    lines = (here / "train.txt").read_text() + (here / "valid.txt").read_text()
    (here / "all.txt").write_text(lines)
    found = ptkit.calibrate("ckpt.pkl", "all.txt", only=["temperature"]).found
    assert (len(found.images), found.num_trained_on) == (60, 90)
    result = RUN.invoke(app, ["calibrate", "ckpt.pkl", "train.txt"])
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "has 0 images that the model was not trained on; 90 were" in result.stderr


def test_several_labels_get_thresholds_and_keep_those_of_training_for_remove(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    write_images(tmp_path, per_class=10)
    lines = (tmp_path / "test.txt").read_text().splitlines()
    several = [
        f"{line},{(k % 3 + 1) % 3}" if k % 2 else f"{line},{line[-1]}"
        for k, line in enumerate(lines)
    ]
    (tmp_path / "many.txt").write_text("\n".join(several) + "\n")
    first = torch.tensor([0.3, 0.5, 0.7])
    rewrite(kind="multi-label", activation="sigmoid", thresholds=first)
    found = ptkit.calibrate("ckpt.pkl", "many.txt", target_precision=0.6).found
    assert found.strange is None
    task = read_checkpoint(CKPT)["task"]
    assert len(task["thresholds"]) == 3
    assert task["temperature"] > 0
    ptkit.uncalibrate("ckpt.pkl")
    assert torch.equal(read_checkpoint(CKPT)["task"]["thresholds"], first)
    # Alone a temperature moves the thresholds with the probabilities: the answers stay.
    before = of("predict", "many.txt")
    ptkit.calibrate("ckpt.pkl", "many.txt", only=["temperature"])
    after = of("predict", "many.txt")
    assert [row["classes"] for row in after] == [row["classes"] for row in before]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ckpt.pkl"], 2, "name a list of images"),
        (["ckpt.pkl", "valid.txt", "--remove"], 2, "leave out LIST"),
        (["ckpt.pkl", "--remove"], 2, "has no calibration to remove"),
        (["ckpt.pkl", "--remove", "--seed", "3"], 2, "leave out --seed"),
        (["ckpt.pkl", "--remove", "--known", "0"], 2, "leave out --known"),
        (["ckpt.pkl", "valid.txt", "--only", "temprature"], 2, "--only"),
        (["ckpt.pkl", "valid.txt", "--target-precision", "95"], 2, "between 0 and 1"),
        (["ckpt.pkl", "valid.txt", "--only", "temperature", "--known", "0.9"], 2, "--known is"),
        (["ckpt.pkl", "nope.txt"], 3, "nope.txt"),
        (["nope.pkl", "valid.txt"], 4, "nope.pkl"),
        (["bare.pt", "valid.txt"], 4, "needs a ptkit checkpoint to save in"),
        (["alone.pkl", "valid.txt"], 3, "pass --train LIST"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(here, arguments, code, message):
    torch.save(read_checkpoint(CKPT)["state_dict"], "bare.pt")
    shutil.copy(CKPT, "alone.pkl")
    before = CKPT.read_bytes()
    result = RUN.invoke(app, ["calibrate", *arguments])
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert result.stderr.count("\n") == 1
    assert CKPT.read_bytes() == before


def test_thresholds_to_go_back_to_must_be_those_of_the_classes(here):
    contents = torch.load(CKPT, weights_only=True) | {"calibration": {"thresholds": [0.5]}}
    torch.save(contents, CKPT)
    with pytest.raises(CheckpointError, match=re.escape("calibration.thresholds is for (1,)")):
        read_checkpoint(CKPT)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", 0.0, "task.temperature is 0.0"),
        ("temperature", float("nan"), "task.temperature is nan"),
        ("thresholds", [0.5, 0.5], "task.thresholds is for (2,) classes"),
        ("thresholds", [0.5, 0.5, 1.5], "task.thresholds"),
        ("unknown", {}, "task.unknown.mean"),
        ("basis", torch.ones(3, 2), "task.unknown.basis has 3 for D"),
        ("variances", torch.zeros(64), "task.unknown.variances"),
        ("whitening", torch.full((64, 64), float("nan")), "task.unknown.whitening is not finite"),
    ],
)
def test_a_checkpoint_with_other_numbers_is_refused(here, key, value, message):
    ptkit.calibrate("ckpt.pkl", "valid.txt", only=["unknown"])
    contents = torch.load(CKPT, weights_only=True)
    inside = contents["task"] if key in contents["task"] else contents["task"]["unknown"]
    inside[key] = value
    torch.save(contents, CKPT)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_checkpoint(CKPT)


def test_a_kept_checkpoint_that_cannot_be_read_is_passed_over(here, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    Path("runs/1/ckpt-uncalibrated.pkl").write_text("of someone")
    monkeypatch.setattr("filecmp.cmp", refused)
    assert Path(calibrated("valid.txt", "--only", "temperature")["kept"]).name.endswith("-2.pkl")
