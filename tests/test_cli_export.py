import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.lists import read_list
from ptkit.core.exporting import torch_files
from ptkit.core.exporting.quiet import quietly
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.looking.replaying import Inputs, Labelled, Replayed
from ptkit.looking.subject import load_subject

from example_run import CLASSES, write_images, write_run  # isort: skip

PYTHON_FILES = {"torch-export": "model.pt2", "torchscript": "model.pt"}
KEYS = {
    "format": 1,
    "kind": "single-label",
    "class_names": list(CLASSES),
    "thresholds": None,
    "temperature": None,
    "preprocessing": True,
    "model": "lenet(size=16)",
    "ptkit_version": ptkit.__version__,
    "precision": "fp32",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose validation list is test.txt, and its images."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path, "lenet()")
    write_images(tmp_path)
    (folder / "config.toml").write_text('[data]\nvalid = "../../test.txt"\n')
    return folder


def export(*arguments):
    return CliRunner().invoke(app, ["export", "ckpt.pkl", *map(str, arguments)])


def edited(**changes):
    """Write other.pkl into the run: its checkpoint with some keys changed."""
    contents = read_checkpoint(Path("ckpt.pkl"))
    for key, value in changes.items():
        contents[key] = {**contents[key], **value} if isinstance(value, dict) else value
    save_checkpoint(Path("runs/1/other.pkl"), contents)
    return "runs/1/other.pkl"


def pixels_of(path):
    return np.array(Image.open(path))[None]


def probabilities(*paths, ckpt="ckpt.pkl"):
    """What the model itself gives, (n, K)."""
    rows = ptkit.load(ckpt).predict(list(paths), top=len(CLASSES))
    tops = [{one["class"]: one["probability"] for one in row["top"]} for row in rows]
    return np.array([[top[name] for name in CLASSES] for top in tops])


def test_an_onnx_file_takes_images_of_any_size_and_gives_the_model_s_probabilities(run):
    result = export()
    assert result.exit_code == 0, result.stderr
    assert "replayed 12 images: largest difference in probability" in result.stdout
    assert "; accuracy 33.33%, the model's 33.33%" in result.stdout
    assert "wrote runs/1/export/model.onnx" in result.stdout
    assert os.listdir("runs/1/export") == ["model.onnx"]
    session = onnxruntime.InferenceSession("runs/1/export/model.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type) == ("images", "tensor(uint8)")
    assert (given.name, given.type) == ("probabilities", "tensor(float)")
    assert taken.shape == ["batch", "height", "width", 3]
    for number, size in enumerate([(12, 10), (40, 9), (3, 70)]):
        image = Image.open("images/red/1.png").resize(size)
        image.save(f"{number}.png")
        found = session.run(None, {"images": np.repeat(np.array(image)[None], 3, axis=0)})[0]
        np.testing.assert_allclose(found, probabilities(*[f"{number}.png"] * 3), atol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    about = json.loads(metadata["ptkit"])
    assert about.items() >= KEYS.items()
    told = {"calls", "size", "alpha", "channels", "mean", "std"}
    assert about["pipeline"].keys() == told
    assert len(about["source_sha256"]) == 64
    assert json.loads(metadata["names"]) == {"0": "blue", "1": "green", "2": "red"}
    assert b"site-packages" not in Path("runs/1/export/model.onnx").read_bytes()


@pytest.mark.parametrize(
    "to", ["torchscript", pytest.param("torch-export", marks=pytest.mark.slow)]
)
def test_a_file_of_torch_s_takes_images_of_any_size_too(run, to):
    result = export("--to", to)
    assert result.exit_code == 0, result.stderr
    path, extra = Path("runs/1/export", PYTHON_FILES[to]), {"ptkit.json": ""}
    with quietly():
        if to == "torchscript":
            model = torch.jit.load(path, _extra_files=extra)
        else:
            model = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra["ptkit.json"])
    assert about.items() >= KEYS.items()
    Image.open("images/red/1.png").resize((31, 7)).save("wide.png")
    for path in ("images/red/1.png", "wide.png"):
        found = model(torch.from_numpy(pixels_of(path)))
        np.testing.assert_allclose(found.numpy(), probabilities(path), atol=1e-6)
    records = zipfile.ZipFile(Path("runs/1/export", PYTHON_FILES[to]))
    assert [name for name in records.namelist() if b"site-packages" in records.read(name)] == []


def test_weights_alone_load_under_their_names(run):
    assert export("--to", "safetensors", "--out", "own.safetensors").exit_code == 0
    with safe_open("own.safetensors", "pt") as file:
        names, about = set(file.keys()), json.loads(file.metadata()["ptkit"])
    assert names == ptkit.load("ckpt.pkl").state_dict().keys()
    assert about["preprocessing"] is False
    # It may be replaced: it is ptkit's own.
    assert export("--to", "safetensors", "--out", "own.safetensors").exit_code == 0


@pytest.mark.slow
def test_without_preprocessing_the_graph_takes_what_the_pipeline_makes(run):
    assert export("--without-preprocessing").exit_code == 0
    session = onnxruntime.InferenceSession("runs/1/export/model.onnx")
    (taken,) = session.get_inputs()
    assert (taken.type, taken.shape) == ("tensor(float)", ["batch", 3, 16, 16])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_make_a_smaller_file(run, precision):
    whole, small = (
        json.loads(export("--precision", each, "--json").stdout) for each in ("fp32", precision)
    )
    assert small["bytes"] < 0.7 * whole["bytes"]
    assert 0 < small["difference"] < 1e-2


def test_a_folder_has_no_labels_and_so_no_accuracy(run):
    found = json.loads(export("--to", "torchscript", "--images", "images/red", "--json").stdout)
    assert (found["num_images"], found["metric"], found["score"]) == (4, None, None)


def test_numbers_come_out_in_the_labels_units(run):
    task = {"kind": "regression", "activation": "number", "scale": torch.tensor([2.0, 3.0, 4.0]),
            "shift": torch.tensor([10.0, 20.0, 30.0])}  # fmt: skip
    ckpt, to = edited(task=task), ["--to", "torchscript"]
    assert CliRunner().invoke(app, ["export", ckpt, *to, "--images", "images"]).exit_code == 0
    with quietly():
        model = torch.jit.load("runs/1/export/model.pt")
    (row,) = ptkit.load(ckpt).predict(["images/red/1.png"])
    found = model(torch.from_numpy(pixels_of("images/red/1.png")))
    np.testing.assert_allclose(found[0], list(row["numbers"].values()), rtol=1e-5)


def test_several_labels_keep_their_thresholds(run):
    task = {"kind": "multi-label", "activation": "sigmoid",
            "thresholds": torch.tensor([0.25, 0.5, 0.75])}  # fmt: skip
    result = CliRunner().invoke(
        app, ["export", edited(task=task), "--to", "torchscript", "--images", "images"]
    )
    assert result.exit_code == 0, result.stderr
    with zipfile.ZipFile("runs/1/export/model.pt") as file:
        (name,) = [name for name in file.namelist() if name.endswith("ptkit.json")]
        about = json.loads(file.read(name))
    assert about["thresholds"] == {"blue": 0.25, "green": 0.5, "red": 0.75}


def test_a_file_that_does_not_agree_is_not_kept(run, monkeypatch):
    runner_of = torch_files.runner_of_torchscript

    def off(path):
        run = runner_of(path)
        return lambda images: run(images) + np.float32(2e-4)

    monkeypatch.setattr(torch_files, "runner_of_torchscript", off)
    result = export("--to", "torchscript")
    assert result.exit_code == 4
    assert "is not written: its results differ from the model's by up to 0.0002" in result.stderr
    assert os.listdir("runs/1/export") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "onx"], 2, "did you mean onnx?"),
        (["--precision", "int4"], 2, "--precision must be one of"),
        (["--to", "torchscript", "--opset", 18], 2, "--opset is of ONNX"),
        (["--opset", 9], 2, "--opset must be 18 to"),
        (["--to", "torchscript", "--precision", "int8"], 2, "int8 is made for onnxruntime"),
        (["--precision", "int8", "--images", "images"], 2, "--images must be a list with labels"),
        (["--to", "safetensors", "--without-preprocessing"], 2, "without a graph"),
        (["--out", "model.pt"], 2, "must end in .onnx"),
        (["--out", "taken.onnx"], 2, "ptkit did not write it"),
        (["--images", "nothing"], 3, "nothing"),
        (["--images", "nothing.txt"], 3, "nothing.txt"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(run, arguments, code, message):
    Path("taken.onnx").write_text("of someone")
    result = export(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert Path("taken.onnx").read_text() == "of someone"


@pytest.mark.parametrize("to", ["torchscript", "safetensors"])
def test_an_export_replaces_the_one_before(run, to):
    for _ in range(2):
        assert export("--to", to).exit_code == 0


def test_a_file_of_another_program_at_the_usual_place_stays(run):
    Path("runs/1/export").mkdir()
    Path("runs/1/export/model.pt").write_text("of someone")
    result = export("--to", "torchscript")
    assert result.exit_code == 2
    assert f"{Path('runs/1/export/model.pt')} is there already" in result.stderr
    assert Path("runs/1/export/model.pt").read_text() == "of someone"


def test_a_model_outside_of_a_run_needs_images(run):
    Path("runs/1/config.toml").unlink()
    result = export()
    assert result.exit_code == 2
    assert "name a list or a folder with --images" in result.stderr


def test_a_run_without_its_list_says_which(run):
    Path("test.txt").unlink()
    result = export()
    assert result.exit_code == 3
    assert "test.txt is not there: name another list with --images" in result.stderr


def test_a_step_that_no_graph_has_is_named(run):
    calls = ["Resize((20, 20))", "FiveCrop(16)", "ToTensor()"]
    ckpt = edited(pipeline={"calls": calls, "mean": None, "std": None})
    result = CliRunner().invoke(app, ["export", ckpt])
    assert result.exit_code == 2
    assert "FiveCrop(16) cannot be put into a graph" in result.stderr
    without = CliRunner().invoke(
        app, ["export", ckpt, "--to", "torchscript", "--without-preprocessing"]
    )
    assert without.exit_code == 0, without.stderr


def test_several_crops_are_compared_one_by_one(run):
    weights = read_checkpoint(Path("ckpt.pkl"))["state_dict"]
    # Sure of itself, as a trained one is: the mean of probabilities is not that of outputs.
    last = [name for name in weights if weights[name].ndim == 2][-1]
    weights[last] = weights[last] * 100
    calls = ["Resize((20, 20))", "FiveCrop(16)", "ToTensor()"]
    ckpt = edited(pipeline={"calls": calls, "mean": None, "std": None}, state_dict=weights)
    found = ptkit.export(ckpt, to="torchscript", preprocessing=False)
    assert found.replayed.difference < 1e-4


def test_images_are_looked_for_where_the_run_found_them(run):
    os.renames("images", "moved/images")
    (run / "config.toml").write_text('[data]\nvalid = "../../test.txt"\nroot = "../../moved"\n')
    assert ptkit.export("ckpt.pkl", to="torchscript").replayed.num_images == 12


def test_classes_are_those_that_the_run_named(run):
    Path("names.txt").write_text("\n".join(CLASSES) + "\n")
    Path("classes.txt").write_text("one\ntwo\nthree\n")
    (run / "config.toml").write_text(
        '[data]\nvalid = "../../test.txt"\nclasses = "../../names.txt"\n'
    )
    assert ptkit.export("ckpt.pkl", to="torchscript").replayed.num_images == 12


def test_a_disk_that_fails_is_said(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptkit.core.exporting.torch_files.write_torchscript", full)
    result = export("--to", "torchscript")
    assert result.exit_code == 74
    assert "cannot write runs/1/export/model.pt: No space left on device" in result.stderr
    assert os.listdir("runs/1/export") == []


def test_a_file_that_is_there_and_cannot_be_read_is_said(run, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    assert export("--to", "torchscript").exit_code == 0
    monkeypatch.setattr("ptkit.looking.exporting.is_exported", refused)
    result = export("--to", "torchscript")
    assert result.exit_code == 74
    assert "cannot read runs/1/export/model.pt: Permission denied" in result.stderr


def test_results_that_are_no_numbers_are_said():
    fault = Replayed(num_images=9, difference=float("nan"), num_changed=9).fault("fp16")
    assert fault == (
        "its results are not finite: numbers of this model are too large for fp16, --precision fp32"
        " takes them"
    )


def test_int8_may_cost_exactly_a_point():
    found = Replayed(
        num_images=300, difference=0.3, num_changed=3, score=149 / 300, original_score=152 / 300
    )
    assert found.fault("int8") is None


@pytest.mark.parametrize(("score", "is_refused"), [(0.905, True), (0.911, False), (0.95, False)])
def test_int8_may_cost_a_point_of_accuracy(score, is_refused):
    found = Replayed(
        num_images=1000, difference=0.3, num_changed=40, score=score, original_score=0.92
    )
    fault = found.fault("int8")
    assert (fault is not None) == is_refused
    assert fault in (None, "its accuracy on 1,000 images is 90.50%, the model's 92.00%: int8 costs"
                     " more than a point; --precision fp16 costs less")  # fmt: skip


def test_classes_that_the_loss_ignored_do_not_count(run):
    counted = torch.tensor([True, False, True])
    ckpt = edited(task={"counted": counted})
    assert ptkit.export(ckpt, to="torchscript").replayed.num_images == 8


def test_large_images_go_through_the_graph_a_few_at_a_time(run, monkeypatch):
    monkeypatch.setattr("ptkit.looking.replaying._BYTES_AT_ONCE", 3 * 12 * 10 * 3)
    images = Labelled(read_list(Path("test.txt")), has_labels=True).images
    inputs = Inputs(load_subject(Path("ckpt.pkl")).parse_pipeline(), as_pixels=True)
    batches = list(inputs.batches(images))
    assert [len(rows) for rows, _ in batches] == [3, 3, 3, 3]
    assert [row for rows, _ in batches for row in rows] == list(range(12))


def test_a_missing_library_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = export()
    assert result.exit_code == 2
    assert "pip install 'ptkit[export]'" in result.stderr


@pytest.mark.parametrize(
    "to", ["torchscript", pytest.param("torch-export", marks=pytest.mark.slow)]
)
def test_an_export_that_only_other_programs_run_is_told(run, to):
    file = json.loads(export("--to", to, "--json").stdout)["file"]
    result = CliRunner().invoke(app, ["confmat", file, "test.txt"])
    assert result.exit_code == 4
    assert "is a model that `ptkit export` wrote for other programs" in result.stderr
