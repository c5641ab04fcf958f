"""`ptkit convert`: old and foreign files of weights to a checkpoint or .safetensors."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from example_run import CLASSES, write_images, write_run
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.zoo import build_model

IMAGES = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--size", "16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, images, and the weights of that run in several foreign files; only to be copied."""
    made = tmp_path_factory.mktemp("convert") / "made"
    made.mkdir()
    write_run(made)
    write_images(made)
    weights = read_checkpoint(made / "ckpt.pkl")["state_dict"]
    model, _ = build_model("resnet8", num_classes=3, size=16, seed=0)
    model.load_state_dict(weights)
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(model).state_dict()}, made / "nested.pth")
    torch.save(model, made / "module.pt")
    torch.save(model, made / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"ema": nn.DataParallel(model), "epoch": 3}, made / "ema.pt")
    return made


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A working directory of their own for each test."""
    folder = shutil.copytree(made, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def run(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "nested.pth",
        "module.pt",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("legacy.pt", "ema.pt")),
    ],
)
def test_a_foreign_file_becomes_a_checkpoint_with_the_same_answers(folder, name):
    flags = ["--model", "resnet8", *IMAGES, "--classes", "classes.txt"]
    code, out, err = run("convert", name, *flags, "--out", "new.pkl")
    assert (code, err) == (0, "")
    assert "model: resnet8(" in out
    assert "wrote new.pkl: " in out
    expected, found = (ptkit.predict(file, "images").rows for file in ("ckpt.pkl", "new.pkl"))
    assert found == expected


def test_what_was_done_is_said_in_lines(folder):
    _, out, _ = run("convert", "nested.pth", "--to", "safetensors")
    assert out.splitlines()[:2] == [
        "weights of nested.pth: took the weights under state_dict",
        "weights of nested.pth: removed the prefix module. from the weights' names",
    ]
    assert out.splitlines()[2].startswith("wrote nested.safetensors: ")


@pytest.mark.parametrize("name", ["nested.pth", "module.pt", "ckpt.pkl", "runs/1"])
def test_safetensors_have_the_weights_under_the_models_own_names(folder, name):
    assert run("convert", name, "--to", "safetensors", "--out", "new.safetensors")[0] == 0
    expected, found = read_checkpoint(Path("ckpt.pkl"))["state_dict"], load_file("new.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_checkpoint_is_written_without_the_state_of_training(folder, monkeypatch):
    from ptkit.core.models.checkpoints import save_checkpoint

    whole = read_checkpoint(Path("ckpt.pkl"))
    state = {"epoch": 7, "optimizer": {"state": {0: {"m": torch.ones(3)}}, "param_groups": []}}
    save_checkpoint(Path("last.pkl"), {**whole, "kind": "last", "train": state})
    code, out, _ = run("convert", "last.pkl", "--out", "new.pkl")
    assert (code, "left out the state of training" in out) == (0, True)
    assert "it is a checkpoint of ptkit already" in out
    found = read_checkpoint(Path("new.pkl"))
    assert (found["kind"], "train" in found, found["classes"]) == ("best", False, list(CLASSES))
    assert all(torch.equal(found["state_dict"][n], t) for n, t in whole["state_dict"].items())


def test_json_says_what_was_written(folder):
    arguments = ["convert", "module.pt", "--model", "resnet8", *IMAGES, "--json"]
    code, out, _ = run(*arguments)
    found = json.loads(out)
    assert (code, found["file"], found["to"]) == (0, "module.pkl", "ckpt")
    assert (found["classes"], found["bytes"]) == (
        ["0", "1", "2"],
        Path("module.pkl").stat().st_size,
    )
    assert "of which nothing was run" in found["notes"][0]


def test_a_model_that_shares_weights_goes_into_safetensors(folder):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    torch.save(model, "tied.pt")
    assert ptkit.convert("tied.pt", to="safetensors").num_tensors == 4
    assert torch.equal(*(load_file("tied.safetensors")[f"{k}.weight"] for k in (0, 1)))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["module.pt"], 2, "module.pt holds bare weights: add --model NAME; they look like those"),
        (["module.pt", "--model", "resnet8"], 2, "add --mean R,G,B, --std R,G,B, --size PIXELS"),
        (["module.pt", "--to", "safetensors", "--mean", "0,0,0"], 2, "leave out --mean"),
        (["module.pt", "--to", "safetensors", "--size", "8"], 2, "--size is of the model"),
        (["ckpt.pkl", "--size", "8", "--out", "new.pkl"], 2, "already stores this: leave out --s"),
        (
            ["ckpt.pkl", "--classes", "classes.txt", "--out", "new.pkl"],
            2,
            "leave out --classes\n",
        ),
        (["module.pt", "--model", "resnet8", *IMAGES, "--alpha", "no"], 2, "--alpha must be one"),
        (
            ["ckpt.pkl"],
            2,
            "ckpt.pkl is there already, and is not replaced: name another with --out",
        ),
        (["module.pt", "--out", "new.bin", "--model", "resnet8"], 2, "--out must end in .pkl"),
        (["module.pt", "--to", "hdf5"], 2, "--to must be one of ckpt, safetensors"),
        (["module.pt", "--model", "lenet", *IMAGES], 4, "do not fit lenet("),
        (["test.txt"], 4, "test.txt is not a file of weights"),
        (["nothing.pt"], 4, "no file nothing.pt"),
        (["images"], 4, "images"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_written(
    folder, arguments, code, message
):
    before = sorted(folder.iterdir())
    found, out, err = run("convert", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_a_module_of_a_class_that_is_not_there_is_taken_apart(folder):
    program = "class Net(nn.Sequential):\n    pass\n"
    Path("gone.py").write_text(f"from torch import nn\nopen('ran', 'w').close()\n{program}")
    sys.path.insert(0, str(folder))
    try:
        import gone

        torch.save(gone.Net(nn.Linear(2, 3)), "gone.pt")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["gone"]
    Path("ran").unlink()
    code, _, err = run("convert", "gone.pt", "--to", "safetensors")
    assert (code, err) == (0, "")
    assert load_file("gone.safetensors").keys() == {"0.weight", "0.bias"}
    assert not Path("ran").exists()


def test_other_commands_name_convert_for_a_pickled_module(folder):
    code, _, err = run("predict", "module.pt", "images")
    assert code == 4
    assert "nothing was run: `ptkit convert module.pt` takes the tensors out" in err
