"""Images of one channel, end to end: the pixels, their statistics, the models built for them, and
what the commands make of those.
"""

import multiprocessing
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import make_lists
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.keyed import Sampling, uniforms
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.keeping import decode_all, decode_to_disk, key_of
from ptkit.core.data.transforms.color import grey_pixels
from ptkit.core.data.transforms.conversions import ToTensor, denormalise
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.models.channels import summed_over_rgb
from ptkit.core.models.transfer import transfer
from ptkit.core.models.weightless import without_weights
from ptkit.core.models.zoo import build_model, check_forward
from ptkit.core.training.observers import Watcher
from ptkit.looking.subject import load_subject
from ptkit.looking.transforms import transform_sheets

pytestmark = pytest.mark.usefixtures("blank_pictures")

GREY = {"transforms": ["Grayscale()"]}
QUICK = {"epochs": 1, "batch_size": 16, "tensorboard": False, "pictures": False}
OWN_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels={default}):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))
"""


class Listener(Watcher):
    """Remembers what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def model(self) -> str:
        """The line about the model."""
        return next(line for line in self.lines if line.startswith("model: "))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the lists and a run of a LeNet on grey images."""
    folder = make_lists(tmp_path_factory.mktemp("grey"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(**QUICK | {"pictures": True}, model="lenet", **GREY)
    return folder


@pytest.fixture
def listed(tmp_path):
    """A list of images of two sizes."""
    random = np.random.default_rng(0)
    for k, size in enumerate([(12, 9), (10, 14), (12, 9), (8, 8), (16, 16)]):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    lines = "".join(f"{k}.png {k % 2}\n" for k in range(5))
    (tmp_path / "list.txt").write_text(lines)
    return read_list(tmp_path / "list.txt")


def grey_of(file):
    """Return an image file as torchvision makes it grey, uint8 (1, H, W)."""
    pixels = np.array(Image.open(file).convert("RGB"))
    return F.rgb_to_grayscale(torch.from_numpy(pixels).permute(2, 0, 1))


# ------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    "calls",
    [
        ["Resize((7, 8))", "Grayscale()", "ToTensor()", "Normalize([0.4], [0.3])"],
        ["RandomCrop(9)", "Grayscale()", "ToTensor()", "Normalize([0.4], [0.3])"],
        ["Resize((7, 8))", "ToTensor()", "Grayscale()", "Normalize([0.4], [0.3])"],
        ["ToPILImage()", "Grayscale()", "Resize((7, 8))", "ToTensor()", "Normalize([0.4], [0.3])"],
        ["Resize((7, 8))", "Grayscale()", "ToTensor()"],
        ["Resize((7, 8))", "Grayscale()", "Grayscale(num_output_channels=3)", "ToTensor()"],
    ],
)
def test_images_are_those_of_torchvision(listed, calls):
    pipeline = Pipeline.parse(calls)
    pixels = np.array(Image.open(listed.image_path(0)))
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    draws = uniforms(0, "test", epoch=1, indices=np.arange(1), columns=pipeline.num_draws)[0]
    steps = {
        "Resize((7, 8))": v2.Resize((7, 8)),
        # 12×9 pixels: only the row is drawn.
        "RandomCrop(9)": lambda image: F.crop(image, int(draws[0] * 4), 0, 9, 9),
        "Grayscale()": v2.Grayscale(),
        "Grayscale(num_output_channels=3)": v2.Grayscale(3),
        "ToPILImage()": v2.ToPILImage(),
        "ToTensor()": ToTensor(),
        "Normalize([0.4], [0.3])": v2.Normalize([0.4], [0.3]),
    }
    expected = v2.Compose([steps[call] for call in calls])(image)
    found = pipeline.apply(pixels, draws)[0]
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-6 if "Normalize" in calls[-1] else 0
    )
    assert pipeline.channels == len(found)


@pytest.mark.parametrize(
    "calls",
    [
        ["Resize((8, 8))", "Grayscale()", "RandomHorizontalFlip()", "ToTensor()"],
        ["Resize((8, 8))", "RandomChoice([Grayscale(), Grayscale()])", "ToTensor()"],
        ["Grayscale()", "RandomResizedCrop(8)", "ToTensor()", "Normalize([0.5], [0.2])"],
        ["RandomResizedCrop(8)", "ColorJitter(0.3, 0.3)", "ToTensor()", "Grayscale()"],
        ["Grayscale()", "RandAugment()", "Resize((8, 8))", "ToTensor()", "RandomErasing(p=1)"],
    ],
)
def test_kept_or_not_a_batch_has_the_same_bits_in_the_same_layout(
    listed, calls, tmp_path, monkeypatch
):
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    pipeline = Pipeline.parse(calls)
    places = [
        None,
        decode_all(listed, pipeline),
        decode_to_disk(listed, pipeline, key=key_of(listed, pipeline)),
    ]
    found = []
    for kept in places:
        batches = Batches(listed, pipeline, Sampling(2, seed=1), kept=kept, workers=2)
        found.append([batch.images for batch in batches.epoch(1)])
        batches.close()
    for first, *others in zip(*found, strict=True):
        assert first.shape[1:] == (1, 8, 8)
        # That of channels last: by its strides torch chooses the kernels of a model.
        assert first.stride() == (64, 1, 8, 1)
        assert all(
            torch.equal(other, first) and other.stride() == first.stride() for other in others
        )


def test_images_that_are_kept_take_a_third_of_the_memory(listed):
    pipelines = [Pipeline.parse(calls) for calls in (["Grayscale()", "ToTensor()"], ["ToTensor()"])]
    grey, rgb = (decode_all(listed, pipeline) for pipeline in pipelines)
    assert (grey.nbytes, grey.image(1).shape) == (rgb.nbytes / 3, (10, 14, 1))
    expected = grey_of(listed.image_path(1)).permute(1, 2, 0).numpy()
    assert np.array_equal(grey.subset([1]).image(0), expected)


@pytest.mark.parametrize("size", [[], ["Resize((7, 8))"]], ids=["of all sizes", "of one size"])
def test_measuring_writes_nothing_into_kept_images(listed, size):
    kept = decode_all(listed, Pipeline.parse([*size, "Grayscale()", "ToTensor()"]))
    for pixels in kept.layout.blocks if kept.layout else [kept.pixels]:
        pixels.flags.writeable = False
    grey = [grey_pixels(stack, 1) for stack in kept.stacks(np.arange(5))]
    found = [image for stack in grey for image in stack]
    assert all(map(np.array_equal, found, map(kept.image, range(5))))


def test_what_the_model_sees_is_drawn_in_grey(listed):
    pixels = grey_of(listed.image_path(4))
    shown = denormalise((pixels / 255 - 0.4) / 0.3, [0.4], [0.3])
    assert np.array_equal(shown, pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def test_the_sheet_of_transforms_shows_a_grey_step(listed):
    path = listed.image_path(4)
    calls = Pipeline.parse(
        ["RandomCrop(16, padding=1)", "Grayscale()", "ToTensor()", "Normalize([0.5], [0.2])"]
    ).calls
    (sheet,) = transform_sheets([path], calls, num_draws=2)
    expected = grey_of(path).expand(3, -1, -1).permute(1, 2, 0).numpy()
    assert np.array_equal(sheet.steps[1].draws[0], expected)
    assert {draw.shape for draw in sheet.whole.draws} == {(16, 16, 3)}


def test_a_file_of_statistics_for_three_channels_is_not_taken_for_one(here):
    ptkit.normstats("train.txt")
    listener = Listener()
    result = ptkit.train(**QUICK, **GREY, model="lenet", watch=listener)
    mean = np.concatenate([grey_of(path).flatten() for path in training_paths(here)]).mean()
    assert statistics_of(result)["mean"] == [pytest.approx(mean / 255)]
    assert "normalised with statistics measured over 48 images" in listener.lines[1]


@pytest.mark.parametrize("cache", ["ram", "off"])
@pytest.mark.parametrize(
    "transforms",
    [
        ["Grayscale()"],
        ["RandomCrop(16, padding=2)", "Grayscale()"],
        ["RandomApply([Grayscale()], p=1.0)"],
    ],
)
def test_statistics_are_those_of_the_grey_images(here, transforms, cache):
    result = ptkit.train(**QUICK, model="lenet", transforms=transforms, cache=cache)
    values = np.concatenate([grey_of(path).flatten() for path in training_paths(here)]) / 255
    found = statistics_of(result)
    assert found["mean"] == [pytest.approx(values.mean(), abs=1e-12)]
    assert found["std"] == [pytest.approx(values.std(), abs=1e-12)]


def training_paths(folder):
    images = read_list(folder / "train.txt")
    return [images.image_path(k) for k in range(len(images))]


def statistics_of(result):
    return torch.load(result.checkpoint, weights_only=True)["pipeline"]


# ------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("call", ["lenet", "resnet8", "whitenet(widths=[8, 16])", "resnet18"])
def test_a_model_is_built_for_the_channels_of_its_images(call):
    model, text = build_model(call, num_classes=3, size=32, channels=1, seed=0)
    check_forward(model, 32, num_classes=3, channels=1)
    assert "in_channels=1" in text
    again, _ = build_model(text, num_classes=3, size=None, seed=0)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("call", ["lenet", "resnet8", "whitenet", "resnet18", "vit_b_16"])
def test_for_three_channels_nothing_is_added_to_the_call(call):
    with without_weights():
        texts = {
            build_model(call, num_classes=3, size=32, channels=channels, seed=0)[1]
            for channels in (None, 3)
        }
    assert len(texts) == 1
    assert "in_channels" not in texts.pop()


@pytest.mark.parametrize(
    "name",
    ["alexnet", "googlenet", "mnasnet0_5", "mobilenet_v2", "resnet18", "vit_b_16",
     *(pytest.param(name, marks=pytest.mark.slow) for name in (
         "convnext_tiny", "densenet121", "efficientnet_b0", "inception_v3", "maxvit_t",
         "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
         "vgg11"))],
)  # fmt: skip
def test_every_kind_of_torchvision_model_takes_one_channel(name):
    # Shapes without values: it costs no time.
    with without_weights():
        model, _ = build_model(name, num_classes=3, size=224, channels=1, seed=0)
    check_forward(model.to("meta"), 224, num_classes=3, channels=1)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_torchvision_model_of_one_channel_is_that_of_three_on_a_grey_image(name):
    one, three = (
        build_model(name, num_classes=3, size=32, channels=channels, seed=0)[0].eval()
        for channels in (1, 3)
    )
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one(grey), three(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("resnet18(in_channels=4)", "in_channels must be 1 or 3, found 4"),
        ("googlenet(in_channels=1, transform_input=True)", "transform_input takes three channels"),
        ("lenet(in_channels=0)", "in_channels must be 1 or 3"),
    ],
)
def test_channels_that_cannot_be_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        build_model(call, num_classes=3, size=32, seed=0)


@pytest.mark.parametrize("prefix", ["", "backbone.", "model."])
def test_kernels_of_three_channels_are_summed_for_one(prefix):
    weights = build_model("resnet8", num_classes=3, size=16, seed=0)[0].state_dict()
    model, _ = build_model("resnet8", num_classes=3, size=16, channels=1, seed=1)
    given = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    if prefix == "model.":
        # A second network, before the one that is taken.
        given = {f"ema.{name}": 2 * tensor for name, tensor in weights.items()} | given
    report = transfer(model, given)
    assert report.notes[-1] == "summed conv1.weight over its three channels"
    assert torch.equal(model.conv1.weight, weights["conv1.weight"].sum(1, keepdim=True))
    assert not report.mismatched


def test_weights_of_one_channel_stay_as_they_are():
    model, _ = build_model("resnet8", num_classes=3, size=16, channels=1, seed=0)
    assert summed_over_rgb(model.state_dict(), model)[1] == ()
    rgb, _ = build_model("resnet8", num_classes=3, size=16, seed=0)
    assert summed_over_rgb(rgb.state_dict(), rgb)[1] == ()


# ------------------------------------------------------------------------------------------ one run


def test_a_run_says_what_it_built_and_repeats_it(trained, monkeypatch):
    monkeypatch.chdir(trained)
    checkpoint = torch.load("ckpt.pkl", weights_only=True)
    assert checkpoint["model"]["call"] == "lenet(size=16, in_channels=1)"
    assert checkpoint["pipeline"]["channels"] == 1
    assert checkpoint["state_dict"]["conv1.weight"].shape == (6, 1, 5, 5)
    again = ptkit.train(config="runs/1/config.toml", link=None, pictures=False)
    assert all(
        map(
            torch.equal,
            torch.load(again.checkpoint, weights_only=True)["state_dict"].values(),
            checkpoint["state_dict"].values(),
        )
    )


def test_every_picture_of_the_run_was_drawn(trained):
    names = {file.name for file in (trained / "runs" / "1").rglob("*.png")}
    assert names >= {"conv1.png", "embedding.png", "gradcam.png", "confusion.png", "pr_curves.png"}
    assert (trained / "runs" / "1" / "kernels.gif").exists()


def test_predictions_are_those_of_plain_torch(trained, monkeypatch):
    monkeypatch.chdir(trained)
    checkpoint = torch.load("ckpt.pkl", weights_only=True)
    plain = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 3),
    )  # fmt: skip
    plain.load_state_dict(
        dict(zip(plain.state_dict(), checkpoint["state_dict"].values(), strict=True))
    )
    images = read_list(Path("test.txt"))
    grey = torch.stack([grey_of(images.image_path(k)) for k in range(len(images))])
    inputs = v2.Normalize(*(checkpoint["pipeline"][key] for key in ("mean", "std")))(grey / 255)
    expected = plain(inputs).softmax(dim=1).detach().numpy()
    found = ptkit.predict("ckpt.pkl", "test.txt")
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    evaluation = ptkit.evaluate("ckpt.pkl", "test.txt")
    assert evaluation.accuracy == (expected.argmax(axis=1) == images.labels).mean()
    model = ptkit.load("ckpt.pkl")
    (row,) = model.predict(np.array(Image.open(images.image_path(0))))
    assert row["probability"] == pytest.approx(expected[0].max(), abs=1e-6)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["confmat", "ckpt.pkl", "test.txt"], "accuracy"),
        (["predict", "ckpt.pkl", "images/bar"], "bar"),
        (["viz-weights", "ckpt.pkl"], "conv1: 6×1×5×5"),
        (["viz-featuremaps", "ckpt.pkl", "images/bar/test0.png"], "conv1: 6×12×12"),
        (["viz-featuremaps", "ckpt.pkl", "--list"], "conv1"),
        (["viz-transforms", "images/bar/test0.png", "--config", "runs/1/config.toml"], "Grayscale"),
        (["summary", "ckpt.pkl"], "lenet(size=16, in_channels=1): 3 classes"),
    ],
)
def test_the_commands_show_the_run(trained, monkeypatch, command, said):
    monkeypatch.chdir(trained)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert said in result.output


def test_finetuning_goes_on_with_grey_images(trained, monkeypatch):
    monkeypatch.chdir(trained)
    listener = Listener()
    ptkit.finetune("ckpt.pkl", **QUICK, **GREY, link=None, watch=listener)
    assert "normalised with the statistics of the weights" in listener.lines[1]
    assert any("took 10 of the model's 10 tensors" in line for line in listener.lines)


def test_bare_weights_of_one_channel_need_one_number(trained, monkeypatch):
    monkeypatch.chdir(trained)
    checkpoint = torch.load("ckpt.pkl", weights_only=True)
    torch.save(checkpoint["state_dict"], "bare.pt")
    mean, std = (checkpoint["pipeline"][key] for key in ("mean", "std"))
    asked = {"model": "lenet", "size": 16, "classes": "classes.txt"}
    found = ptkit.predict("bare.pt", "test.txt", mean=mean, std=std, **asked)
    expected = ptkit.predict("ckpt.pkl", "test.txt")
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    with pytest.raises(UsageError, match="--mean and --std must be as many numbers"):
        load_subject(Path("bare.pt"), mean="0.5", std="0.2,0.2,0.2", model="lenet", size=16)


def test_a_checkpoint_of_three_channels_is_finetuned_on_one(here):
    first = ptkit.train(**QUICK, model="resnet8")
    listener = Listener()
    result = ptkit.finetune("ckpt.pkl", **QUICK, **GREY, watch=listener)
    start, end = (
        torch.load(run.checkpoint, weights_only=True)["pipeline"] for run in (first, result)
    )
    assert listener.model.startswith("model: resnet8(in_channels=1), ")
    assert "weights of ckpt.pkl: summed conv1.weight over its three channels" in listener.lines
    assert any("took 56 of the model's 56 tensors; sha256 " in line for line in listener.lines)
    assert end["mean"] == [pytest.approx(np.mean(start["mean"]))]
    assert end["std"] == [pytest.approx(np.mean(start["std"]))]


def test_one_number_given_for_three_channels_is_for_each(here):
    result = ptkit.train(**QUICK, model="lenet", mean=(0.5,), std=(0.25,))
    found = statistics_of(result)
    assert (found["mean"], found["std"], found["channels"]) == ([0.5] * 3, [0.25] * 3, 3)


# ------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            GREY | {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)},
            "Normalize has 3 numbers as mean",
        ),
        (GREY | {"mean": (0.5,)}, "mean and std go together"),
        (GREY | {"model": "lenet(in_channels=3)"}, "it takes 3 channels and the images have 1"),
        (
            {"model": "lenet(in_channels=1)"},
            "it takes 1 channel and the images have 3; add Grayscale",
        ),
        (
            GREY | {"eval_transforms": ["Resize((16, 16))"]},
            "training images get 1 channel, evaluation images 3",
        ),
        (
            {"transforms": ["RandomApply([Grayscale()])"]},
            "Grayscale makes 1 channel, and RandomApply would give some images 3",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run_begins(here, settings, message):
    with pytest.raises(UsageError, match=message):
        ptkit.train(**QUICK, **settings)
    assert not Path("runs").exists()


def test_an_own_model_of_three_channels_is_refused(here):
    Path("net.py").write_text(OWN_NET.format(default=3).replace("in_channels=3", "wide=3")
                              .replace("in_channels,", "wide,"))  # fmt: skip
    with pytest.raises(UsageError) as refused:
        ptkit.train(**QUICK, **GREY, model="net.py:Net")
    assert re.fullmatch(
        r"Net does not take 16×16 images \(Given groups=1, .*\): it takes 3 channels and the images"
        r" have 1; add Grayscale\(num_output_channels=3\) to the transforms, or change --model",
        str(refused.value),
    )


@pytest.mark.parametrize(("settings", "channels"), [(GREY, 1), ({}, 3)])
def test_an_own_model_that_asks_for_its_channels_gets_them(here, settings, channels):
    Path("net.py").write_text(OWN_NET.format(default=2))
    listener = Listener()
    ptkit.train(**QUICK, **settings, model="net.py:Net", watch=listener)
    assert listener.model.startswith(f"model: net.py:Net(in_channels={channels}), ")


@pytest.mark.slow
def test_an_own_transform_may_make_one_channel(here):
    Path("own.py").write_text("def red(image):\n    return image[:1]\n")
    own = {"transforms": ['Lambda("own.py:red")']}
    listener = Listener()
    ptkit.train(**QUICK, **own, model="resnet8", mean=(0.5,), std=(0.2,), workers=1, watch=listener)
    assert listener.model.startswith("model: resnet8(in_channels=1), ")


def test_an_own_transform_that_makes_one_channel_of_three_statistics_is_refused(here):
    Path("own.py").write_text("def red(image):\n    return image[:1]\n")
    own = {"transforms": ['Lambda("own.py:red")'], "eval_transforms": ["Resize((16, 16))"]}
    with pytest.raises(UsageError, match="Normalize has 3 numbers and the images 1 channel"):
        ptkit.train(**QUICK, **own, workers=1)


def test_an_own_step_that_drops_channels_in_evaluation_alone_is_refused_before_the_first_epoch(
    here,
):
    Path("own.py").write_text("def one(image):\n    return image[:1]\n")
    normalised = ["Resize((16, 16))", "ToTensor()", "Normalize([0.5], [0.25])"]
    with pytest.raises(UsageError, match="it takes 3 channels and the images have 1"):
        ptkit.train(
            **QUICK,
            model="lenet",
            transforms=normalised,
            eval_transforms=[*normalised, "Lambda('own.py:one')"],
            workers=1,
        )
    assert not Path("runs").exists()
    # Else the process waits for them at some later moment.
    assert multiprocessing.active_children() == []


def test_images_of_a_batch_must_have_the_same_number_of_channels():
    pipeline = Pipeline.parse(["ToTensor()"])
    images = [torch.zeros(channels, 8, 8, dtype=torch.uint8) for channels in (1, 3)]
    with pytest.raises(DataError, match="with 1 and with 3 channels"):
        pipeline.stack(images)


def test_parts_of_a_batch_must_have_the_same_number_of_channels(listed, tmp_path):
    (tmp_path / "own.py").write_text(
        "def some(image):\n    return image[: 1 if image.shape[1] == 8 else 3]\n"
    )
    pipeline = Pipeline.parse([f'Lambda("{tmp_path}/own.py:some")', "Resize((8, 8))", "ToTensor()"])
    batches = Batches(listed, pipeline, Sampling(5), workers=1)
    with closing(batches), pytest.raises(DataError, match="with 1 and with 3 channels"):
        next(batches.epoch())


def test_grey_weights_are_finetuned_on_grey_images_and_grey_arrays_are_predicted(here):
    ptkit.train(**QUICK, model="lenet", transforms=["Grayscale()"], name="grey")
    tuned = ptkit.finetune("runs/grey", **QUICK, augment="safe", name="tuned")
    model = ptkit.load(tuned.checkpoint)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    answers = [
        model.predict(pixels)[0] for pixels in (grey, grey[:, :, None], Image.fromarray(grey))
    ]
    assert answers[0]["class"] == answers[1]["class"] == answers[2]["class"]
    assert answers[0]["probability"] == pytest.approx(answers[2]["probability"], abs=1e-6)
