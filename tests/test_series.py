import csv
import json
import os
import shutil
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit import finetune_series, train, train_series
from ptkit.commands.app import app
from ptkit.core.data.loading import keeping
from ptkit.core.errors import InterruptedRunError, UsageError
from ptkit.core.training import session

QUICK = ["--epochs", "1", "--batch-size", "16", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false"]  # fmt: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


@pytest.fixture
def folds(here):
    lines = (here / "train.txt").read_text().splitlines()
    for number in (1, 2):
        fold = here / f"folds/fold{number}"
        fold.mkdir(parents=True)
        shutil.copy("classes.txt", fold)
        halves = lines[:24], lines[24:]
        parts = {"valid": halves[number - 1], "train": halves[2 - number]}
        for name, chosen in parts.items():
            (fold / f"{name}.txt").write_text("".join(f"../../{line}\n" for line in chosen))
    return here / "folds"


def ptkit(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_seeds_are_ordinary_runs_in_one_folder_with_one_summary(here, monkeypatch):
    decoded = []
    decode = keeping.decode_all
    monkeypatch.setattr(
        keeping, "decode_all", lambda images, *a, **k: decoded.append(1) or decode(images, *a, **k)
    )
    result = ptkit("train", *QUICK, "--seeds", 3, "--seed", 5, "--name", "x", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [run["run"] for run in found["runs"]] == [f"runs/x/seed-{seed}" for seed in (5, 6, 7)]
    values = [run["metrics"]["accuracy"] for run in found["runs"]]
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["mean"], accuracy["std"]) == (fmean(values), stdev(values))
    assert json.loads(Path("runs/x/summary.json").read_text()) == found
    best = values.index(max(values))
    assert found["checkpoint"] == f"runs/x/seed-{5 + best}/ckpt.pkl"
    for link in ("ckpt.pkl", "runs/x/ckpt.pkl"):
        assert Path(link).resolve() == (here / found["checkpoint"])
    rows = list(csv.reader(Path("runs/x/summary.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["run", "seed-5", "seed-6", "seed-7", "mean", "std"]
    # The training and the validation list.
    assert len(decoded) == 2


def test_a_run_of_a_series_is_the_run_that_its_seed_gives_alone():
    assert ptkit("train", *QUICK, "--seeds", 2, "--name", "x").exit_code == 0
    assert ptkit("train", *QUICK, "--seed", 1, "--name", "alone").exit_code == 0
    ours, alone = weights("runs/x/seed-1/ckpt.pkl"), weights("runs/alone/ckpt.pkl")
    assert all(torch.equal(ours[name], alone[name]) for name in alone)


def test_resume_trains_what_is_missing_of_a_series(monkeypatch):
    train, done = session.run, []

    def interrupted(settings, **keywords):
        if settings.train.seed == 1 and not done:
            done.append(1)
            raise InterruptedRunError("interrupted")
        return train(settings, **keywords)

    monkeypatch.setattr(session, "run", interrupted)
    result = ptkit("train", *QUICK, "--seeds", 3, "--name", "x")
    assert result.exit_code == 130
    assert "interrupted; all 3 runs: ptkit train --resume runs/x" in result.stderr
    assert not Path("runs/x/seed-1").exists()
    first = Path("runs/x/seed-0/ckpt.pkl").stat().st_mtime_ns
    result = ptkit("train", "--resume", "runs/x")
    assert result.exit_code == 0, result.output
    assert "runs/x/seed-0 is finished" in result.stdout
    assert "checkpoint: runs/x/seed-" in result.stdout
    assert Path("runs/x/seed-0/ckpt.pkl").stat().st_mtime_ns == first
    assert Path("runs/x/seed-2/valid_predictions.csv").exists()


def test_folds_are_trained_on_their_own_lists(folds):
    result = ptkit("train", *QUICK, "--folds", folds, "--name", "cv")
    assert result.exit_code == 0, result.output
    assert "mean ± std" in result.stdout
    for number in (1, 2):
        answers = Path(f"runs/cv/fold-{number}/valid_predictions.csv").read_text().splitlines()
        listed = (folds / f"fold{number}/valid.txt").read_text().splitlines()
        assert [row.split(",")[0] for row in answers[1:]] == [row.split()[0] for row in listed]
    (setting,) = json.loads(ptkit("compare", "runs", "--by", "setting", "--json").stdout)[
        "settings"
    ]
    assert setting["runs"] == ["runs/cv/fold-1", "runs/cv/fold-2"]


@pytest.mark.slow
def test_finetuning_has_seeds_too():
    assert ptkit("train", *QUICK, "--name", "first").exit_code == 0
    result = ptkit("finetune", "runs/first", *QUICK, "--seeds", 2, "--name", "tuned")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("runs/tuned/summary.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    compared = ptkit("compare", "runs", "--by", "setting", "--json")
    assert compared.exit_code == 0, compared.output
    assert [len(each["runs"]) for each in json.loads(compared.stdout)["settings"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seeds", "2", "--folds", "folds"], 2, "--seeds and --folds cannot be combined"),
        (["--folds", "folds"], 3, "folds holds 0 folds; `ptkit split IMAGES --kfold 5"),
        (["--folds", "f", "--train", "train.txt"], 2, "--folds has its own lists"),
        (["--seeds", "1"], 2, "Invalid value for '--seeds'"),
    ],
)
def test_series_that_make_no_sense_are_one_clear_line(arguments, code, message):
    result = ptkit("train", *QUICK, *arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_series_that_cannot_begin_leaves_no_folder():
    result = ptkit("train", *QUICK, "--seeds", 2, "--model", "nothing")
    assert result.exit_code == 2
    assert list(Path("runs").iterdir()) == []


def test_resuming_a_series_takes_no_settings():
    assert ptkit("train", *QUICK, "--seeds", 2, "--name", "x").exit_code == 0
    result = ptkit("train", "--resume", "runs/x", "--lr", "1")
    assert result.exit_code == 2
    assert "continues with the runs' own settings: leave out --lr" in result.stderr


PLAIN = {"epochs": 1, "batch_size": 16, "tensorboard": False, "pictures": False}


def test_seeds_in_python_are_those_of_the_command(here):
    found = train_series(seeds=2, seed=5, name="x", link=None, **PLAIN)
    assert [run.name for run in found.setting.runs] == ["runs/x/seed-5", "runs/x/seed-6"]
    assert json.loads(json.dumps(found.as_dict())) == json.loads(
        Path("runs/x/summary.json").read_text()
    )
    assert found.checkpoint.is_file()
    assert not Path("ckpt.pkl").exists()
    assert train_series(resume="runs/x", link="best.pkl").as_dict() == found.as_dict()
    # Where a path is expected, a series is its best run.
    assert os.fspath(found) == str(found.best.folder) == f"runs/x/{found.as_dict()['best']}"
    assert Path("best.pkl").resolve() == (here / found.checkpoint).resolve()


def test_a_series_in_python_is_resumed_as_one(here):
    found = train_series(seeds=2, name="x", epochs=1, pictures=False, tensorboard=False)
    assert train_series(resume=found).as_dict() == found.as_dict()
    for resume in (found, "runs/x"):
        with pytest.raises(UsageError, match=r"^runs/x is a series of runs: .*\.train_series\("):
            train(resume=resume, epochs=2)
    with pytest.raises(UsageError, match="runs/x/seed-0 is not the folder of a series"):
        train_series(resume="runs/x/seed-0")


def test_folds_in_python_have_their_own_lists(folds):
    found = train_series(folds=folds, name="cv", **PLAIN)
    assert [run.folder.name for run in found.setting.runs] == ["fold-1", "fold-2"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(seeds=3), "seeds makes several runs: ptkit.train_series(seeds=...)"),
        (train_series, "a series needs folds, or seeds=2 and more; found seeds=None"),
        (lambda: train_series(seeds=1), "found seeds=1"),
        (lambda: train_series(seeds=2, folds="f"), "cannot be combined"),
        (lambda: train_series(seeds=2, preflight=True), "--preflight is for one run"),
        (lambda: finetune_series("x.pkl", seeds=2, epoch=1), "no setting is called epoch"),
    ],
)
def test_series_in_python_that_make_no_sense_are_errors(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
