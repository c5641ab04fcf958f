"""`ptkit predict` as it goes: rows while it runs, and what stays when it is stopped."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from example_run import write_images, write_run
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.errors import CheckpointError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.looking import subject as subjects
from ptkit.looking.predictions import begin_prediction
from ptkit.looking.subject import Subject, load_subject

RUN = CliRunner()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    write_images(tmp_path)
    return tmp_path


@pytest.fixture
def small_batches(here, monkeypatch):
    """Batches of five images."""
    monkeypatch.setattr(subjects, "evaluation_batch_size", lambda _size: 5)
    return here


def rows_of(*arguments, exit_code=0, **how):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", *arguments], **how)
    assert result.exit_code == exit_code, result.stderr
    return result.stdout


def test_jsonl_and_csv_have_the_rows_of_json(small_batches):
    rows = json.loads(rows_of("images", "--json"))
    lines = rows_of("images", "--jsonl", "--quiet").splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(rows_of("images", "--csv", "--quiet").splitlines()))
    assert list(table[0]) == ["path", "class", "probability", "true", "error"]
    assert [(row["path"], row["class"]) for row in table] == [(r["path"], r["class"]) for r in rows]
    assert list(ptkit.predict_each("ckpt.pkl", "images")) == rows


def test_parts_come_before_later_images_are_read(small_batches):
    begun = begin_prediction(load_subject(Path("ckpt.pkl")), ["images"], workers=1)
    assert begun.num_images == 12
    first = next(begun.parts)
    # Of five images a part; the last two are not read yet.
    os.unlink("images/red/3.png")
    later = list(begun.parts)
    assert [len(part.paths) for part in (first, *later)] == [5, 5, 2]
    assert (list(first.errors), list(later[-1].errors)) == ([], [1])


def test_what_was_done_stays_when_it_fails(small_batches, monkeypatch):
    whole = json.loads(rows_of("images", "--json"))
    done = Subject.predict_parts

    def ends(*args, **keywords):
        yield next(done(*args, **keywords))
        raise CheckpointError("no more")

    monkeypatch.setattr(Subject, "predict_parts", ends)
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--json", "--out", "found"])
    assert (result.exit_code, json.loads(result.stdout)) == (4, whole[:5])
    assert result.stderr.splitlines() == [
        "ptkit: stopped after 5 of 12 images; they are in found/predictions.part.csv",
        "ptkit: no more",
    ]
    with open("found/predictions.part.csv", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in whole[:5]]
    assert not Path("found/predictions.csv").exists()


def test_damaged_weights_are_a_checkpoint_error_that_names_an_image(here):
    contents = read_checkpoint(Path("ckpt.pkl"))
    contents["state_dict"]["conv1.weight"][0, 0, 0, 0] = torch.nan
    save_checkpoint(Path("runs/1/ckpt.pkl"), contents)
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--jsonl"])
    assert (result.exit_code, result.stdout) == (4, "")
    assert "gives NaN or infinite outputs for images/blue/0.png: " in result.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_that_were_printed(here):
    paths = [f"images/blue/{k % 4}.png" for k in range(30_000)]
    program = [sys.executable, "-m", "ptkit", "predict", "ckpt.pkl", "-", "--jsonl", "--out", "out"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as running:
        running.stdin.write("\n".join(paths))
        running.stdin.close()
        lines = [running.stdout.readline() for _ in range(256)]
        running.send_signal(signal.SIGINT)
        lines += running.stdout.readlines()
        errors = running.stderr.read().splitlines()
    assert running.returncode == 130
    # The signal may come in the middle of a line.
    whole = [line for line in lines if line.endswith("\n")]
    assert 256 <= len(whole) < len(paths)
    assert [json.loads(line)["path"] for line in whole] == paths[: len(whole)]
    assert re.fullmatch(r"ptkit: stopped after [\d,]+ of 30,000 images; .*", errors[0])
    assert errors[1:] == ["ptkit: interrupted"]
    with open("out/predictions.part.csv", newline="") as file:
        kept = [row["path"] for row in csv.DictReader(file)]
    assert kept == paths[: len(kept)]
    assert len(whole) - 256 <= len(kept)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_paths_come_from_standard_input(here, end):
    os.rename("images/red/0.png", "images/red/a b.png")
    paths = ["images/red/a b.png", "images/blue"]
    text = b"".join(path.encode() + end for path in paths)
    found = json.loads(rows_of("-", "images/green/0.png", "--json", input=text))
    assert [row["path"] for row in found] == [
        paths[0],
        *(f"images/blue/{k}.png" for k in range(4)),
        "images/green/0.png",
    ]


def test_an_empty_standard_input_is_told(here):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "-"], input="")
    assert (result.exit_code, "standard input is empty" in result.stderr) == (2, True)


def test_only_one_form_is_printed(here):
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--json", "--csv"])
    assert (result.exit_code, result.stderr) == (2, "ptkit: --json and --csv: choose one of them\n")
