"""Files of a run that are damaged, cut off or not there, for every command that reads them."""

import io
import json

import numpy as np
import pytest
from tiny_records import make_run
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.errors import DataError
from ptkit.core.run_files import read_arrays, read_layers, read_metrics, read_outputs

ROW = "epoch,train_loss,valid_loss,valid_accuracy\n"
METRICS = {
    "a word": f"{ROW}1,0.5,x,0.5\n",
    "a cell too many": f"{ROW}1,0.5,0.5,0.5,7\n",
    "a cell too few": f"{ROW}1,0.5\n",
    "no epoch": "train_loss,valid_loss\n0.5,0.5\n",
    "an endless epoch": f"{ROW}inf,0.5,0.5,0.5\n",
}


def as_bytes(save, *arrays, **named):
    content = io.BytesIO()
    save(content, *arrays, **named)
    return content.getvalue()


ARRAYS = {
    "no archive": b"PK",
    "cut short": as_bytes(np.savez, best=np.zeros((9, 2)), labels=np.zeros(9, int))[:300],
    "a plain array": as_bytes(np.save, np.zeros(9)),
    "objects": as_bytes(np.savez, best=np.array([None]), labels=np.zeros(1, int)),
    "words": as_bytes(np.savez, best=np.array([["x", "y"]]), labels=np.zeros(1, int)),
    "no labels": as_bytes(np.savez, best=np.zeros((9, 2))),
    "other labels": as_bytes(np.savez, best=np.zeros((9, 2)), labels=np.full(9, 2)),
    "too few labels": as_bytes(np.savez, best=np.zeros((9, 2)), labels=np.zeros(8, int)),
}


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("command", ["diagnose", "compare", "report"])
@pytest.mark.parametrize("name", METRICS)
def test_damaged_metrics_are_one_clear_line(tmp_path, command, name, blank_pictures):
    folder = make_run(tmp_path / "a")
    others = [make_run(tmp_path / "b")] if command == "compare" else []
    (folder / "metrics.csv").write_text(METRICS[name])
    result = run(command, folder, *others)
    assert result.exit_code == 3
    assert f"{folder / 'metrics.csv'} is damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_outputs_are_refused_by_name(tmp_path, name):
    folder = make_run(tmp_path / "a")
    (folder / "valid_outputs.npz").write_bytes(ARRAYS[name])
    with pytest.raises(DataError, match=r"valid_outputs\.npz is damaged"):
        read_outputs(folder)
    assert run("diagnose", folder).exit_code == 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_line_of_layers_without_one_of_its_keys_is_one_clear_line(tmp_path, number):
    folder = make_run(tmp_path / "a")
    lines = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    optional = ("version", "kind", "guessing", "precision", "clip_grad", "step", "output_bias",
                "recording_s")  # fmt: skip
    for key in set(lines[number]).difference(optional):
        changed = [dict(line) for line in lines]
        del changed[number][key]
        text = "".join(json.dumps(line) + "\n" for line in changed)
        (folder / "layers.jsonl").write_text(text)
        result = run("diagnose", folder)
        assert (result.exit_code, "layers.jsonl is damaged" in result.stderr) == (3, True), key


@pytest.mark.parametrize("file", ["metrics.csv", "layers.jsonl", "valid_outputs.npz"])
def test_a_folder_in_the_place_of_a_file_is_one_clear_line(tmp_path, file):
    folder = make_run(tmp_path / "a")
    (folder / file).unlink()
    (folder / file).mkdir()
    result = run("diagnose", folder)
    assert (result.exit_code, f"cannot read {folder / file}" in result.stderr) == (74, True)


def test_files_that_are_not_there_have_nothing(tmp_path):
    assert (read_metrics(tmp_path), read_layers(tmp_path)) == ([], [])
    assert read_outputs(tmp_path) is None


def test_outputs_that_are_not_finite_say_nothing(tmp_path):
    folder = make_run(tmp_path / "a", values=np.full((200, 2), np.inf, np.float32))
    assert read_outputs(folder) is None


def test_arrays_of_more_than_they_may_have_are_refused(tmp_path):
    file = tmp_path / "zeros.npz"
    np.savez_compressed(file, zeros=np.zeros(1 << 20))
    with pytest.raises(DataError, match="would take over 1,000 bytes"):
        read_arrays(file, most_bytes=1_000)
