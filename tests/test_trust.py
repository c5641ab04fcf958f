"""Code that a file names runs only when this very call names it too, or says --trust."""

import contextlib
import typing
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.config.settings import FIELDS
from ptkit.core.errors import CheckpointError, PtkitError
from ptkit.core.parts.trust import gather_trusted

pytestmark = pytest.mark.usefixtures("blank_pictures")

OWN = """
from pathlib import Path
import torch
Path("ran").touch()

def net(num_classes, width=4):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(width, num_classes))

def same(image):
    return image
"""
QUIET = {
    "epochs": 1,
    "batch_size": 16,
    "tensorboard": False,
    "pictures": False,
    "size": 16,
}
TEXTS = [
    f"{section}.{name}"
    for section, fields in FIELDS.items()
    for name, field in fields.items()
    if str in (*typing.get_args(field.type), field.type)
    and not field.metadata["choices"]
    and not field.metadata["is_path"]
]
NAMING = [
    "own.py:net()",
    "timm:own.py:net()",
    "Linear=own.py:net()",
    "Linear=own.py:net(a='=')",
    "RandomApply([own.py:same()])",
    "RandomChoice([own.py:same(), RandomHorizontalFlip()], p=[0.5, 0.5])",
    "LambdaLR(lr_lambda='own.py:same')",
    "LambdaLR(lr_lambda=['own.py:same'])",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    Path("own.py").write_text(OWN)
    return tmp_path


def test_the_texts_of_settings_are_found():
    assert {"model.call", "model.init", "data.transforms", "loss.call"} <= set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_no_setting_of_a_file_runs_code(here, name):
    section, key = name.split(".")
    is_list = typing.get_origin(FIELDS[section][key].type) is tuple
    for text in NAMING:
        Path("sent.toml").write_text(f"[{section}]\n{key} = {[text] if is_list else repr(text)}\n")
        # Refused, or no call: never run.
        with contextlib.suppress(PtkitError):
            ptkit.train(config="sent.toml", **QUIET)
        assert not Path("ran").exists(), text


@pytest.mark.parametrize("door", ["config", "recipe"])
def test_a_file_that_names_code_is_refused_with_what_to_type(here, door):
    Path("sent.toml").write_text("[model]\ncall = 'own.py:net(width=5)'\n")
    result = CliRunner().invoke(app, ["train", f"--{door}", "sent.toml", "--epochs", "1"])
    assert result.exit_code == 4
    assert not Path("ran").exists()
    assert result.stderr == (
        "ptkit: sent.toml names code of its own (model.call = own.py:net(width=5)); nothing was"
        " run: if you trust it, name it again (--model 'own.py:net(width=5)') or pass --trust\n"
    )
    # Another model in its place: then the file's is not asked for.
    assert gather_trusted({"model": "resnet8"}, **{door: _argument(door)}).model.call == "resnet8"


def _argument(door):
    return Path("sent.toml") if door == "config" else "sent.toml"


def test_what_is_named_again_or_trusted_runs(here):
    Path("sent.toml").write_text("[data]\neval_transforms = ['own.py:same()', 'ToTensor()']\n")
    with pytest.raises(CheckpointError, match=r"--set data.eval_transforms='own.py:same\(\)'"):
        gather_trusted({}, config=Path("sent.toml"))
    assert gather_trusted({}, config=Path("sent.toml"), trust=True).data.eval_transforms
    named = gather_trusted(
        {"eval_transforms": ["own.py:same()", "ToTensor()"]}, config=Path("sent.toml")
    )
    assert named == gather_trusted({}, config=Path("sent.toml"), trust=True)


def test_a_run_that_calls_own_code_is_resumed_when_it_is_named_or_trusted(here):
    plain = {**QUIET, "scheduler": "none"}
    ptkit.train(model="own.py:net", name="long", **{**plain, "epochs": 2})
    for name, more in (("named", {"model": "own.py:net"}), ("trusted", {"trust": True})):
        ptkit.train(model="own.py:net", name=name, **plain)
        with pytest.raises(CheckpointError, match=r"\(--model 'own.py:net\(\)'\)"):
            ptkit.train(resume=f"runs/{name}", epochs=2)
        ptkit.train(resume=f"runs/{name}", epochs=2, **more)
        long, resumed = (
            torch.load(f"runs/{run}/last.pkl", weights_only=True)["state_dict"]
            for run in ("long", name)
        )
        assert all(torch.equal(long[key], resumed[key]) for key in long)


def test_trust_without_a_file_has_no_effect_and_is_refused(here):
    result = CliRunner().invoke(app, ["train", "--trust"])
    assert (result.exit_code, result.stderr) == (
        2, "ptkit: --trust is for the code that a file names: none is given\n"
    )  # fmt: skip


def test_no_file_can_trust_itself(here):
    Path("sent.toml").write_text("[train]\ntrust = true\n")
    with pytest.raises(PtkitError, match=r"\[train\] has no setting trust"):
        gather_trusted({}, config=Path("sent.toml"))
