"""Folders for the Hugging Face Hub: timm gives the same probabilities, and the card says what is
known.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from example_run import CLASSES, write_images, write_run
from PIL import Image
from safetensors.torch import load_file
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.calibration.strangers import fit_strangers
from ptkit.core.errors import UsageError
from ptkit.core.exporting.hub_folder import timm_geometry
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.training.tasks.task import DECODERS, Task
from ptkit.looking.hub import write_for_hub
from ptkit.looking.model_card import lines_to_read, train_command
from ptkit.looking.subject import load_subject

NORMALIZE = "Normalize(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])"
TINY = "timm:test_resnet"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with images."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    return tmp_path


def exported(folder, call):
    model = call if call.startswith("timm:") else None
    subject = load_subject(write_run(folder, call), model=model)
    return subject, write_for_hub(subject, Path("hub"))


def of_program(card):
    """Run the program of a card on this folder; return its names, `last` for what it prints."""
    program = (
        card.split("```python\n")[1].split("```")[0].replace("local-dir:FOLDER", "local-dir:hub")
    )
    names = {"print": lambda value: names.update(last=value)}
    exec(program, names)
    return names


@pytest.mark.parametrize(
    ("kind", "activation"),
    [(kind, name) for kind in ("single-label", "multi-label", "regression")
     for name in DECODERS[kind] if name != "none"],
)  # fmt: skip
def test_the_program_of_the_card_reads_outputs_as_the_task_does(kind, activation):
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    places = {"scale": torch.tensor([2.0, 3.0, 4.0]), "shift": torch.ones(3)}
    task = Task(kind, activation, **(places if kind == "regression" else {"temperature": 1.5}))
    names = {"model": lambda _images: outputs, "images": None, "torch": torch}
    exec(lines_to_read(task), names)
    torch.testing.assert_close(names["values"], task.values(outputs))


def card_of(**task):
    """Write a folder for the Hub of a checkpoint with this in its task; return run and card."""
    run = write_run(Path.cwd(), TINY)
    contents = read_checkpoint(run / "ckpt.pkl")
    save_checkpoint(run / "ckpt.pkl", contents | {"task": contents["task"] | task})
    write_for_hub(load_subject(run, model=TINY), Path("hub"))
    return run, Path("hub/README.md").read_text()


def differs_by(run, card):
    """Return how far the program of a card is off on an image."""
    os.replace("images/red/0.png", "image.jpg")
    expected = ptkit.predict(run, "image.jpg", model=TINY).values
    return np.abs(of_program(card)["last"].detach().numpy() - expected).max()


def test_the_program_of_the_card_applies_the_temperature(folder):
    run, card = card_of(temperature=2.5)
    assert differs_by(run, card) < 1e-3
    # These weights are of no run.
    assert "trained with ptkit" not in card


def test_the_program_of_the_card_puts_transparent_images_on_white(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 4), np.uint8)
    Image.fromarray(pixels).save("images/red/0.png")
    run = write_run(folder, TINY)
    contents = read_checkpoint(run / "ckpt.pkl")
    pipeline = contents["pipeline"] | {"alpha": "white"}
    save_checkpoint(run / "ckpt.pkl", contents | {"pipeline": pipeline})
    write_for_hub(load_subject(run, model=TINY), Path("hub"))
    assert differs_by(run, Path("hub/README.md").read_text()) < 1e-3


def test_the_program_of_the_card_gives_numbers_in_the_labels_units(folder):
    places = {"scale": torch.tensor([2.0, 3.0, 4.0]), "shift": torch.tensor([10.0, 20.0, 30.0])}
    run, card = card_of(kind="regression", activation="number", **places)
    assert differs_by(run, card) < 1e-2
    assert "It knows its classes only" not in card


def test_the_card_says_where_thresholds_are(folder):
    _, card = card_of(thresholds=[0.2, 0.3, 0.4])
    thresholds = json.loads(Path("hub/config.json").read_text())["ptkit"]["task"]["thresholds"]
    assert thresholds == pytest.approx([0.2, 0.3, 0.4])
    assert "`ptkit.task.thresholds` of `config.json`: it is answered" in card


@pytest.mark.parametrize(
    "call", [TINY, pytest.param("resnet18(stem='standard')", marks=pytest.mark.slow)]
)
def test_timm_loads_the_folder_and_gives_the_same_probabilities(folder, call):
    subject, found = exported(folder, call)
    assert found.is_timm
    card = Path("hub/README.md").read_text()
    assert "tags:\n- image-classification\n- timm\n- ptkit\n---" in card
    path = "image.jpg"
    # Lying on its side, as cameras write photographs that were taken upright.
    with Image.open("images/red/0.png") as picture:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, exif=exif, quality=95)
    expected = ptkit.predict(subject.weights.path, path, model=call).values
    found = of_program(card)
    # timm resizes with Pillow, a level apart from torchvision where that is old.
    np.testing.assert_allclose(found["last"].detach().numpy(), expected, atol=1e-3)
    assert list(found["model"].pretrained_cfg["label_names"]) == list(CLASSES)


@pytest.mark.parametrize(
    "call",
    [
        "resnet8()",
        pytest.param("resnet18(stem='small')", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2()", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_timm_does_not_have_is_loaded_as_the_card_says(folder, call):
    subject, found = exported(folder, call)
    assert not found.is_timm
    card = Path("hub/README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0]
    shown = {}
    expected = ptkit.predict(subject.weights.path, "images/red/0.png").rows
    os.chdir("hub")
    program = program.replace("image.jpg", "../images/red/0.png").replace("print(", "shown.extend(")
    exec(program, {"shown": (rows := [])}, shown)
    assert rows == [expected[0] | {"path": "../images/red/0.png"}]


def test_the_weights_are_those_of_the_checkpoint(folder):
    subject, _ = exported(folder, "resnet8()")
    found, expected = load_file("hub/model.safetensors"), subject.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (["Resize((16, 16))"], ("bilinear", 1.0, "squash")),
        (["Resize(256)", "CenterCrop(224)"], ("bilinear", 0.875, "center")),
        (["Resize(73, InterpolationMode.BICUBIC)", "CenterCrop(64)"],
         ("bicubic", 64 / 73, "center")),
        (["Resize(size=256)", "CenterCrop(size=224)"], ("bilinear", 0.875, "center")),
        (["Resize(256, InterpolationMode.BICUBIC, 300)", "CenterCrop(224)"], None),
        (["Resize(256)", "FiveCrop(224)"], None),
        (["Resize(256)"], None),
        (["Resize((16, 16))", "Grayscale()"], None),
        (["Pad(2)", "Resize((16, 16))"], None),
    ],
)  # fmt: skip
def test_what_timm_can_say_of_resizing_is_said(calls, expected):
    found = timm_geometry([*calls, "ToTensor()", NORMALIZE])
    assert (found and tuple(found.values())) == expected


def test_the_checkpoint_in_the_folder_keeps_the_task_and_leaves_the_run_out(folder):
    run = write_run(folder)
    task = {"kind": "multi-label", "activation": "sigmoid", "thresholds": torch.tensor([0.2] * 3)}
    config = {"data": {"train": "/secret/train.txt"}}
    save_checkpoint(run / "ckpt.pkl", read_checkpoint(run) | {"task": task, "config": config})
    write_for_hub(load_subject(run), Path("hub"))
    found = read_checkpoint(Path("hub/ckpt.pkl"))
    assert (found["task"]["kind"], "config" in found) == ("multi-label", False)
    assert ptkit.predict("hub", "images").rows == ptkit.predict(run, "images").rows
    assert "secret" not in Path("hub/README.md").read_text()


def test_a_check_for_strangers_stays_in_the_checkpoint(folder):
    run = write_run(folder)
    features = torch.rand(30, 64, generator=torch.Generator().manual_seed(0))
    strangers = fit_strangers(features, torch.arange(30) % 3, 3)
    unknown = replace(strangers, limit=9.0, far_limit=9.0).as_dict()
    task = {"kind": "single-label", "activation": "softmax", "unknown": unknown}
    save_checkpoint(run / "ckpt.pkl", read_checkpoint(run) | {"task": task})
    write_for_hub(load_subject(run), Path("hub"))
    assert "unknown" not in json.loads(Path("hub/config.json").read_text())["ptkit"]["task"]
    assert read_checkpoint(Path("hub/ckpt.pkl"))["task"]["unknown"]["limit"] == 9


def test_timm_has_no_place_for_the_check_for_strangers_and_the_command_says_so(folder):
    run = write_run(folder, TINY)
    features = torch.rand(30, 64, generator=torch.Generator().manual_seed(0))
    unknown = fit_strangers(features, torch.arange(30) % 3, 3)
    task = {
        "kind": "single-label",
        "activation": "softmax",
        "unknown": replace(unknown, limit=9.0, far_limit=9.0).as_dict(),
    }
    save_checkpoint(run / "ckpt.pkl", read_checkpoint(run) | {"task": task})
    done = CliRunner().invoke(app, ["export", "runs/1", "--to", "hf", "--model", TINY])
    assert "the check for strangers stays in the checkpoint, as timm's models" in done.stdout
    assert "check for strangers is not part" in (run / "export/hf/README.md").read_text()


def test_files_that_are_there_are_not_replaced(folder):
    subject, _ = exported(folder, "resnet8()")
    with pytest.raises(UsageError, match=r"model\.safetensors is there already"):
        write_for_hub(subject, Path("hub"))


def test_export_writes_the_folder_into_the_run(folder):
    run = write_run(folder, TINY)
    done = CliRunner().invoke(app, ["export", "runs/1", "--to", "hf", "--model", TINY])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"wrote 3 files to {Path('runs/1/export/hf')}, for timm"
    names = sorted(path.name for path in (run / "export" / "hf").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]


def test_flags_without_effect_on_the_folder_are_refused(folder):
    write_run(folder)
    arguments = ["export", "runs/1", "--to", "hf", "--precision", "fp16", "--opset", "18"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "leave out --precision, --opset" in done.stderr) == (2, True)


def test_a_model_that_compares_images_is_refused(folder):
    run = write_run(folder)
    contents = read_checkpoint(run)
    task = {"kind": "embedding", "activation": "nearest", "class_means": torch.zeros(3, 3)}
    save_checkpoint(run / "ckpt.pkl", contents | {"task": task})
    with pytest.raises(UsageError, match="compares images with the means of its classes"):
        write_for_hub(load_subject(run), Path("hub"))


def test_the_card_has_the_figures_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    result = ptkit.train(epochs=1, lr=0.05, tensorboard=False, pictures=False)
    write_for_hub(load_subject(result.run), Path("hub"))
    card = Path("hub/README.md").read_text()
    accuracy = result.best["accuracy"]
    low, high = result.accuracy_interval
    assert f"| accuracy | {accuracy:.1%} | {low:.1%} to {high:.1%} |" in card
    assert "ptkit train --model 'resnet8()'" in card
    assert "--lr 0.05 --epochs 1" in card
    assert "| class | training | validation | recall |" in card
    assert "their recall is uncertain" in card
    config = json.loads(Path("hub/config.json").read_text())
    assert config["ptkit"]["task"]["activation"] == "softmax"


def test_names_cannot_break_the_card(folder):
    run = write_run(folder)
    names = ["a|b", "# <b>c</b>", "`d`\ne"]
    save_checkpoint(run / "ckpt.pkl", read_checkpoint(run) | {"classes": names})
    write_for_hub(load_subject(run), Path("hub"))
    card = Path("hub/README.md").read_text()
    assert r"| a\|b |" in card
    assert r"| \# \<b\>c\</b\> |" in card
    assert [line for line in card.splitlines() if line.startswith("e")] == []


def test_a_command_has_what_differs_from_the_defaults():
    config = {"data": {"train": "x/train.txt", "transforms": ["RandomCrop(16, padding=2)"]},
              "model": {"call": "resnet8()"}, "train": {"epochs": 3, "patience": 2, "seed": 0},
              "log": {"pictures": False}}  # fmt: skip
    assert train_command(config) == (
        "ptkit train --transform 'RandomCrop(16, padding=2)' --model 'resnet8()' --epochs 3"
        " --set train.patience=2"
    )
