from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ptkit.core.data.lists import list_of
from ptkit.core.errors import CheckpointError, DataError, StorageError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.weights import Weights
from ptkit.looking.pictures import picture_folder
from ptkit.looking.subject import load_subject

from example_run import CLASSES, write_run  # isort: skip

ANSWERS = {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "size": 16}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path)


@pytest.fixture
def bare(run):
    path = Path("bare.pt")
    torch.save(read_checkpoint(run)["state_dict"], path)
    return path


def scores(subject):
    with torch.inference_mode():
        return subject.model(torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["ckpt.pkl", "runs/1", "runs/1/ckpt.pkl"])
def test_link_run_folder_and_file_mean_the_same_checkpoint(run, name):
    subject = load_subject(Path(name))
    assert subject.weights.run == Path("runs/1")
    assert subject.class_names == CLASSES
    assert subject.weights.epoch == 7
    assert subject.weights.described == "runs/1/ckpt.pkl · epoch 7"
    assert subject.weights.mean == (0.5, 0.5, 0.5)
    assert not subject.model.training


def test_bare_weights_with_the_answers_are_the_same_model(run, bare):
    subject = load_subject(bare, model="resnet8", **ANSWERS)
    original = load_subject(run)
    assert torch.equal(scores(subject), scores(original))
    assert subject.weights.pipeline == original.weights.pipeline
    assert subject.class_names == ("0", "1", "2")
    assert (subject.weights.run, subject.weights.epoch, subject.has_class_names) == (
        None,
        None,
        False,
    )


def test_class_names_of_bare_weights_come_from_a_file(bare):
    Path("names.txt").write_text("a\nb\nc\n")
    assert load_subject(
        bare, model="resnet8", classes=Path("names.txt"), **ANSWERS
    ).class_names == ("a", "b", "c")


def test_a_wrong_number_of_class_names_is_an_error(bare):
    Path("names.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="2 class names, but the weights have 3 outputs"):
        load_subject(bare, model="resnet8", classes=Path("names.txt"), **ANSWERS)


def test_everything_that_bare_weights_lack_is_asked_for_in_one_line(bare):
    with pytest.raises(UsageError) as raised:
        load_subject(bare, mean="0.5,0.5,0.5")
    expected = (
        "bare.pt holds bare weights: add --model NAME, --std R,G,B, --size PIXELS (and --classes"
        " FILE for names)"
    )
    assert str(raised.value) == expected


def test_what_a_checkpoint_says_itself_cannot_be_said_again(run):
    with pytest.raises(UsageError, match=r"already stores this: leave out --std, --size"):
        load_subject(run, std="1,1,1", size=16)


@pytest.mark.parametrize("mean", ["0.5,0.5", "a,b,c", "0.5,0.5,128", "0.5,0.5,0.5,0.5", ""])
def test_a_mean_that_is_not_three_shares_is_an_error(bare, mean):
    with pytest.raises(UsageError, match="--mean must be three numbers"):
        load_subject(bare, model="resnet8", **ANSWERS | {"mean": mean})


def test_a_standard_deviation_of_zero_is_an_error(bare):
    with pytest.raises(UsageError, match="--std must be above 0"):
        load_subject(bare, model="resnet8", **ANSWERS | {"std": "0,1,1"})


def test_weights_of_another_model_are_an_error(bare):
    with pytest.raises(CheckpointError, match="do not fit lenet"):
        load_subject(bare, model="lenet(num_classes=3)", **ANSWERS)
    with pytest.raises(CheckpointError, match=r"bare.pt do not fit lenet\(\): 9 missing"):
        load_subject(bare, model="lenet", **ANSWERS | {"size": 32})


def test_user_code_in_a_checkpoint_must_be_named_again(run):
    contents = read_checkpoint(run)
    contents["model"]["call"] = "mine.py:net()"
    save_checkpoint(Path("theirs.pkl"), contents)
    Path("mine.py").write_text("raise SystemExit('this file was run')")
    with pytest.raises(CheckpointError, match="names user code"):
        load_subject(Path("theirs.pkl"))
    assert load_subject(Path("theirs.pkl"), model="resnet8").class_names == CLASSES


def test_pictures_go_to_the_run_or_beside_or_where_out_says(run):
    assert picture_folder("confmat", run=Path("runs/1")).folder == Path("runs/1/confmat")
    assert picture_folder("confmat").folder == Path("ptkit-confmat")
    assert picture_folder("confmat", run=Path("runs/1"), out=Path("x")).folder == Path("x")


def test_pictures_do_not_go_through_a_link_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/1", "elsewhere"):
        Path(name).mkdir(parents=True)
    for link, run in (("runs/1/confmat", Path("runs/1")), ("ptkit-confmat", None)):
        Path(link).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match=f"{link} is a link to "):
            picture_folder("confmat", run=run)
        assert picture_folder("confmat", run=run, out=Path(link)).folder == Path(link)
    # A run may itself be on another disk.
    Path("runs/2").symlink_to(tmp_path / "elsewhere")
    assert picture_folder("confmat", run=Path("runs/2")).folder == Path("runs/2/confmat")


def test_a_file_is_described_by_its_path_and_epoch_if_known():
    weights = Weights(state_dict={}, path=Path("a.pt"), source="a.pt")
    assert weights.described == "a.pt"
    assert replace(weights, epoch=3).described == "a.pt · epoch 3"


def test_a_torchvision_model_answers_as_torchvision_says(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1().eval()
    # Else all classes are about as likely, whatever the image.
    model.classifier[1].weight.data *= 30
    torch.save(model.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    rows, columns = np.mgrid[0:300, 0:260]
    pixels = np.stack([rows * 0.8, columns * 0.9, (rows + columns) % 256], axis=2)
    image = Image.fromarray(pixels.astype(np.uint8))
    image.save("photo.png")
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    with torch.inference_mode():
        expected = model(weights.transforms()(image)[None]).softmax(1)[0]
    subject = load_subject(Path("squeezenet1_1"))
    assert subject.class_names == tuple(weights.meta["categories"])
    found, _ = subject.predict(list_of(["photo.png"], ("one",)), device="cpu", workers=0)
    np.testing.assert_allclose(found.values[0], expected, atol=0.01)


def test_outputs_that_are_not_finite_are_no_answers(run):
    contents = read_checkpoint(run)
    contents["state_dict"]["conv1.weight"][0, 0, 0, 0] = torch.nan
    save_checkpoint(Path("nan.pkl"), contents)
    Image.new("RGB", (16, 16)).save("photo.png")
    subject = load_subject(Path("nan.pkl"))
    images = list_of(["photo.png"], ("one",))
    with pytest.raises(
        CheckpointError, match=r"nan\.pkl gives NaN or infinite .* for 1 of 1 image"
    ):
        subject.predict(images, device="cpu", workers=0)
