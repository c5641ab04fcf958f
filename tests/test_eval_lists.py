"""Evaluation sees what the model was trained for: what is not random stays, what is random goes."""

import json
import random
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import make_lists
from torchvision.transforms import v2
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.config.layers import parse_assignment, resolve
from ptkit.core.data.transforms.catalogue import build_transform
from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import joined, parse, parse_all
from ptkit.core.training.observers import Watcher
from ptkit.core.training.session import run

pytestmark = pytest.mark.usefixtures("blank_pictures")

INVERT = """
import os, random
import numpy as np, torch
from PIL import ImageOps

RNG = np.random.default_rng()

def invert(image): return 255 - image
def invert_floats(image): return 1 - image
def invert_pil(image): return ImageOps.invert(image)
def in_place(image):
    image[:, 0] = 255 - image[:, 0]
    return image
def draws_in_vain(image):
    random.random()
    return 255 - image
class Invert:
    def __call__(self, image): return 255 - image

def rarely(image): return 255 - image if random.random() < 0.1 else image
def by_torch(image): return image if torch.rand(()) < 0.5 else 255 - image
def by_numpy(image): return image if np.random.random() < 0.5 else 255 - image
def by_own(image): return image if RNG.random() < 0.5 else 255 - image
def by_the_machine(image): return torch.from_numpy(
    np.frombuffer(os.urandom(image.numel()), np.uint8).reshape(image.shape).copy())
def at_times(image): return 255 - image if os.urandom(1) < b"\\x80" else image
def made_anew(image): return image if np.random.default_rng().random() < 0.5 else 255 - image
class Every:
    def __init__(self): self.count = 0
    def __call__(self, image):
        self.count += 1
        return image if self.count % 2 else 255 - image
"""
IMAGES = [np.random.default_rng(k).integers(0, 256, (9, 12, 3), np.uint8) for k in range(3)]


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(INVERT)
    return file


def evaluation(*calls, size=32, images=IMAGES):
    """The calls of evaluation, without the ToTensor at their end."""
    found = evaluation_of(complete(parse_all(calls), size=size), images)
    assert joined(found[-1:]) == "ToTensor()"
    return joined(found[:-1])


SMALL, LARGE = "Resize((32, 32))", "Resize(256)"


@pytest.mark.parametrize(
    ("training", "size", "expected"),
    [
        ([], 32, [SMALL]),
        ([], 224, [LARGE, "CenterCrop(224)"]),
        # What is not random stays in its place.
        (["Grayscale(3)", "RandomVerticalFlip()"], 32, [SMALL, "Grayscale(3)"]),
        (["CenterCrop(24)", "Pad(4)"], 32, [SMALL, "CenterCrop(24)", "Pad(4)"]),
        (
            ["Pad(4, fill=9)", "ColorJitter(0.4)", "CenterCrop(24)"],
            32,
            [SMALL, "Pad(4, fill=9)", "CenterCrop(24)"],
        ),
        (["ToPILImage()", "AutoAugment()"], 32, [SMALL, "ToPILImage()"]),
        (
            ["Resize(40)", "RandomRotation(9)", "CenterCrop(32)"],
            32,
            ["Resize(40)", "CenterCrop(32)"],
        ),
        # A random crop is the centre crop of its size.
        (["RandomCrop(32, padding=4)"], 32, [SMALL]),
        (["RandomCrop(28)"], 32, [SMALL, "CenterCrop(28)"]),
        (["RandomCrop((28, 20))"], 32, [SMALL, "CenterCrop((28, 20))"]),
        (["RandomCrop(224)"], 224, [LARGE, "CenterCrop(224)"]),
        (["RandomCrop(40, padding=4)"], 32, [SMALL, "CenterCrop(40)"]),
        (
            ["RandomCrop(40, padding=4, fill=9)"],
            32,
            [SMALL, "Pad([4, 4, 4, 4], fill=9)", "CenterCrop(40)"],
        ),
        (
            ["RandomCrop(40, pad_if_needed=True, padding_mode='edge')"],
            32,
            [SMALL, "Pad([8, 8, 8, 8], padding_mode='edge')", "CenterCrop(40)"],
        ),
        (["RandomResizedCrop(224)", "RandomHorizontalFlip()"], 224, [LARGE, "CenterCrop(224)"]),
        (["RandomResizedCrop(28)"], 32, ["Resize(32)", "CenterCrop(28)"]),
        (
            ["RandomResizedCrop((28, 56), interpolation=3)"],
            32,
            ["Resize((32, 64), interpolation=InterpolationMode.BICUBIC)", "CenterCrop((28, 56))"],
        ),
        # Random in name only.
        (["RandomHorizontalFlip(1.0)"], 32, [SMALL, "RandomHorizontalFlip(1.0)"]),
        (["RandomGrayscale(p=1.0)", "RandomGrayscale(0.9)"], 32, [SMALL, "RandomGrayscale(p=1.0)"]),
        (["RandomRotation([90, 90])"], 32, [SMALL, "RandomRotation([90, 90])"]),
        (["RandomAffine([0, 0], shear=[5, 5])"], 32, [SMALL, "RandomAffine([0, 0], shear=[5, 5])"]),
        (["RandomAffine([0, 0], translate=[0.1, 0])", "AlternatingFlip()"], 32, [SMALL]),
        (["ColorJitter([2, 2])"], 32, [SMALL, "ColorJitter([2, 2])"]),
        (["ColorJitter([2, 2], [3, 3])"], 32, [SMALL]),
        # A container is what it does in any case.
        (
            ["RandomApply([Grayscale(3), RandomCrop(28)], p=1.0)"],
            32,
            [SMALL, "Grayscale(3)", "CenterCrop(28)"],
        ),
        (["RandomApply([Grayscale(3)])"], 32, [SMALL]),
        (["RandomApply([Grayscale(3)], p=0.0)"], 32, [SMALL]),
        (["RandomChoice([Grayscale(3)])"], 32, [SMALL, "Grayscale(3)"]),
        (["RandomChoice([Grayscale(3), Pad(2)], p=[1, 0])"], 32, [SMALL, "Grayscale(3)"]),
        (["RandomChoice([Grayscale(3), Pad(2)])"], 32, [SMALL]),
        (["RandomChoice([RandomCrop(28), CenterCrop(28)])"], 32, [SMALL, "CenterCrop(28)"]),
        (["RandomChoice([RandomCrop(24), RandomResizedCrop(24)])"], 32, [SMALL, "CenterCrop(24)"]),
        (["RandomChoice([RandomCrop(24), RandomCrop(28)])"], 32, [SMALL]),
        (["RandomApply([RandomCrop(24)])"], 32, [SMALL]),
        (["RandomOrder([Grayscale(3), Pad(2)])"], 32, [SMALL, "Grayscale(3)", "Pad(2)"]),
        (["RandomOrder([Resize(28), Resize(24)])"], 32, [SMALL]),
        (["RandomOrder([Pad(2), RandomVerticalFlip()])"], 32, [SMALL, "Pad(2)"]),
        # Backwards it is the same list, but not in other orders.
        (["RandomOrder([Pad(2), CenterCrop(20), Pad(2)])"], 32, [SMALL]),
        (["RandomOrder([Pad(2), Pad(2), Pad(2)])"], 32, [SMALL, "Pad(2)", "Pad(2)", "Pad(2)"]),
        (
            ["RandomOrder([ColorJitter(0.4), RandomCrop(24), RandomRotation(9), AugMix()])"],
            32,
            [SMALL, "CenterCrop(24)"],
        ),
        # Of so many steps not all orders are compared.
        ([f"RandomOrder([{', '.join(['Pad(2)'] * 6)}])"], 32, [SMALL]),
        ([f"RandomOrder([{', '.join(['RandomVerticalFlip()'] * 6)}])"], 32, [SMALL]),
        (["MixUp()"], 32, [SMALL]),
        (["RandomChoice([MixUp(), CutMix()])"], 32, [SMALL]),
        # Several crops are averaged.
        (["FiveCrop(28)", "RandomHorizontalFlip()"], 32, [SMALL, "FiveCrop(28)"]),
        (["TenCrop(224, vertical_flip=True)"], 224, [LARGE, "TenCrop(224, vertical_flip=True)"]),
        (
            ["ColorJitter(0.4)", "Resize(40)", "Pad(2)", "FiveCrop(32)"],
            32,
            ["Resize(40)", "Pad(2)", "FiveCrop(32)"],
        ),
        (
            ["RandomResizedCrop(28)", "FiveCrop(20)"],
            32,
            ["Resize(32)", "CenterCrop(28)", "FiveCrop(20)"],
        ),
        (["TenCrop(20)", "Resize((32, 32))"], 32, ["TenCrop(20)", SMALL]),
        (
            ["RandomCrop(30)", "CenterCrop(9)", "TenCrop(8)"],
            32,
            [SMALL, "CenterCrop(30)", "CenterCrop(9)", "TenCrop(8)"],
        ),
    ],
)
def test_evaluation_is_derived_from_the_training_list(training, size, expected):
    assert evaluation(*training, size=size) == joined(parse_all(expected))
    calls = evaluation_of(complete(parse_all(training), size=size))
    # Complete, and nothing in it is left to go.
    assert complete(calls, size=size) == evaluation_of(calls) == calls


def test_a_list_that_names_normalize_keeps_its_places():
    listed = "RandomCrop(8)", "ToTensor()", "RandomErasing()", "Normalize([0.5], [0.25])"
    found = evaluation_of(complete(parse_all(listed), size=16))
    assert joined(found) == "CenterCrop(8), ToTensor(), Normalize([0.5], [0.25])"


def test_what_followed_to_tensor_still_gets_floats(own):
    listed = "RandomErasing()", f'Lambda("{own}:invert_floats")'
    found = evaluation_of(complete(parse_all(listed), size=8), IMAGES)
    assert joined(found) == f"Resize((8, 8)), ToTensor(), Lambda('{own}:invert_floats')"


def test_evaluation_gives_the_pixels_of_torchvision():
    training = complete(
        parse_all(["RandomCrop(12)", "RandomHorizontalFlip()", "Grayscale(3)", "Pad(2, fill=7)"]),
        size=16,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    found = Pipeline.of(evaluation_of(training)).view(pixels)
    theirs = v2.Compose(
        [
            *(v2.Resize((16, 16)), v2.CenterCrop(12), v2.Grayscale(3), v2.Pad(2, fill=7)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
        ]
    )
    torch.testing.assert_close(found, theirs(torch.from_numpy(pixels).permute(2, 0, 1)))


@pytest.mark.parametrize(
    "step",
    [
        'Lambda("{}:invert")',
        "{}:Invert()",
        'Lambda("{}:in_place")',
        'Lambda("{}:draws_in_vain")',
        "torchvision.transforms.v2:GaussianBlur(3, 1.0)",
        "torchvision.transforms.v2:RandomInvert(1.0)",
        'RandomApply([Lambda("{}:invert")], p=1.0)',
    ],
)
def test_a_step_of_ones_own_without_randomness_stays(own, step):
    step = step.format(own)
    inside = step.removeprefix("RandomApply([").removesuffix("], p=1.0)")
    expected = joined(parse_all([SMALL, inside]))
    assert evaluation(step, "RandomHorizontalFlip()") == expected


def test_a_step_of_ones_own_is_tried_on_what_it_gets_in_training(own):
    pil = f'Lambda("{own}:invert_pil")'
    assert evaluation("ToPILImage()", pil) == f"{SMALL}, ToPILImage(), {joined(parse_all([pil]))}"
    with pytest.raises(UsageError, match="Lambda cannot be applied"):
        evaluation(pil)


@pytest.mark.parametrize(
    "step",
    [
        'Lambda("{}:rarely")',
        'Lambda("{}:by_torch")',
        'Lambda("{}:by_numpy")',
        'Lambda("{}:by_own")',
        'Lambda("{}:by_the_machine")',
        'Lambda("{}:at_times")',
        'Lambda("{}:made_anew")',
        "{}:Every()",
        "torchvision.transforms.v2:GaussianBlur(3)",
        'RandomApply([Lambda("{}:invert")], p=0.5)',
    ],
)
def test_a_step_of_ones_own_that_is_random_goes(own, step):
    assert evaluation(step.format(own), "RandomHorizontalFlip()") == SMALL


@pytest.mark.parametrize("low", [0.2, 0.8])
def test_a_step_that_is_rarely_random_goes(own, low):
    # Not in the states that the first image is tried in.
    with own.open("a") as file:
        file.write(
            "\ndef seldom(image):\n"
            f"    return 255 - image if {low} < random.random() < {low} + 0.02 else image\n"
        )
    step = f'Lambda("{own}:seldom")'
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in range(3)]
    assert evaluation(step, images=images) == SMALL


@pytest.mark.parametrize("name", ["invert", "draws_in_vain", "rarely", "by_own", "in_place"])
def test_trying_a_step_changes_no_generator_and_no_image(own, name):
    images = [image.copy() for image in IMAGES]
    step = f'Lambda("{own}:{name}")'
    rng = build_transform(parse(step)).function.__globals__["RNG"]

    def states():
        own = rng.bit_generator.state
        return repr((own, random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))

    before = states()
    evaluation(step, images=images)
    assert states() == before
    assert all(map(np.array_equal, images, IMAGES))


def test_a_step_of_ones_own_is_never_judged_without_an_image(own):
    calls = parse_all([f'Lambda("{own}:invert")', "ToTensor()"])
    with pytest.raises(AssertionError, match="no image to try"):
        evaluation_of(calls)


# ------------------------------------------------------------------------------------------ in runs


RUN = CliRunner()
TINY = {
    "data": {"train": "train.txt", "valid": "valid.txt", "workers": 1},
    "train": {"epochs": 1, "batch_size": 16},
    "log": {"tensorboard": False, "pictures": False, "layers": False},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))


class Notes(Watcher):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def train(data, *, epochs=1, watch=None, **arguments):
    settings = resolve(TINY, {"data": data, "train": {"epochs": epochs}})
    return run(settings, watch=watch or Notes(), **arguments)


def calls_of(result):
    return torch.load(result.checkpoint, weights_only=True)["pipeline"]["calls"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_run_is_scored_on_what_it_is_trained_on(own):
    # 255 - x, normalised, is the negative of x: what is learned of one is wrong for the other.
    step = f'Lambda("{own}:invert")'
    result = train({"transforms": [step]}, epochs=12)
    assert calls_of(result)[1] == joined(parse_all([step]))
    assert result.best["accuracy"] > 0.9


@pytest.mark.usefixtures("here")
def test_a_run_says_with_what_it_is_evaluated():
    notes = Notes()
    train({"transforms": ["RandomCrop(12)"]}, watch=notes)
    line = "evaluated with: Resize((16, 16)), CenterCrop(12), ToTensor()"
    assert line in "\n".join(notes.lines).splitlines()


@pytest.mark.usefixtures("here")
def test_eval_transforms_may_be_ones_own_but_not_random(own):
    mine, random_one = f'Lambda("{own}:invert")', f'Lambda("{own}:by_own")'
    data = {"transforms": [mine], "eval_transforms": [mine, "RandomHorizontalFlip(1.0)"]}
    assert calls_of(train(data))[1:3] == [joined(parse_all([mine])), "RandomHorizontalFlip(1.0)"]
    with pytest.raises(UsageError, match=r"data\.eval_transforms must not be random"):
        train({"eval_transforms": [random_one]})


NOTHING_RANDOM = {
    "RandomApply([Grayscale(3)], p=1.0)": ["Grayscale(3)"],
    "RandomApply([RandomVerticalFlip()], p=0.0)": [],
    "RandomChoice([Pad(2)])": ["Pad(2)"],
    "RandomChoice([Pad(2), RandomCrop(8)], p=[1, 0])": ["Pad(2)"],
    "RandomChoice([Pad(2), Pad(2)])": ["Pad(2)"],
    "RandomOrder([Pad(2)])": ["Pad(2)"],
    "RandomCrop(16)": [],
    "RandomHorizontalFlip(0.0)": [],
    "RandomGrayscale(p=0)": [],
    "RandomHorizontalFlip(1.0)": ["RandomHorizontalFlip(1.0)"],
    "ColorJitter([2, 2])": ["ColorJitter([2, 2])"],
}
# A kind each of what makes a step certain; the others in the slow set.
QUICK = {
    *("RandomApply([RandomVerticalFlip()], p=0.0)", "RandomCrop(16)", "ColorJitter([2, 2])"),
    "RandomChoice([Pad(2), RandomCrop(8)], p=[1, 0])",
}
RANDOM = [
    "RandomApply([Grayscale(3)])",
    "RandomApply([RandomVerticalFlip()], p=1.0)",
    "RandomChoice([RandomCrop(16, padding=2)])",
    "RandomChoice([RandomCrop(12), CenterCrop(12)])",
    "RandomChoice([Resize((12, 12)), CenterCrop(12)])",
    "RandomOrder([Pad(2), CenterCrop(12), Pad(2)])",
    "RandomCrop(12)",
    "RandomCrop(16, padding=2)",
    "MixUp()",
    "AutoAugment()",
    "AlternatingFlip()",
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "call", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in NOTHING_RANDOM]
)
def test_eval_transforms_are_taken_if_nothing_is_random_in_them(call):
    found = calls_of(train({"eval_transforms": [call], "size": 16}))
    assert found[1:-2] == list(map(str, parse_all(NOTHING_RANDOM[call])))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("call", RANDOM)
def test_eval_transforms_are_refused_if_anything_is_random_in_them(call):
    with pytest.raises(UsageError, match=r"data\.eval_transforms must not be random"):
        train({"eval_transforms": [call], "size": 16})


@pytest.mark.usefixtures("here")
def test_a_step_of_ones_own_is_tried_on_an_image_that_can_be_read(own):
    Path("images/bar/train0.png").write_bytes(b"no image")
    step = f'Lambda("{own}:invert")'
    result = train({"transforms": [step], "on_bad": "skip"})
    assert calls_of(result)[1] == joined(parse_all([step]))


@pytest.mark.usefixtures("here")
def test_a_run_that_was_evaluated_otherwise_is_refused_with_what_to_pass():
    data = {"transforms": ["RandomCrop(12)", "Grayscale(3)"]}
    folder = train(data).run
    # As an earlier version evaluated such a run.
    state = torch.load(folder / "last.pkl", weights_only=True)
    calls = state["pipeline"]["calls"]
    old = [calls[0], *calls[-2:]]
    torch.save(state | {"pipeline": state["pipeline"] | {"calls": old}}, folder / "last.pkl")
    with pytest.raises(UsageError, match="it was evaluated with Resize") as refused:
        train(data, epochs=2, resume=folder)
    (remedy,) = shlex.split(str(refused.value).split("--set ")[1])
    data |= parse_assignment(remedy)["data"]
    assert calls_of(train(data, epochs=2, resume=folder)) == old


@pytest.mark.usefixtures("here")
def test_a_checkpoint_runs_own_steps_only_when_they_are_named_again(own):
    step = f'Lambda("{own}:invert")'
    result = train({"transforms": [step]})
    checkpoint = str(result.checkpoint)
    refused = RUN.invoke(app, ["confmat", checkpoint, "valid.txt"])
    assert refused.exit_code == 4
    assert "names user code" in refused.stderr
    assert "again, each with a --transform" in refused.stderr
    given = ["--transform", step, "--workers", "1", "--json"]
    found = RUN.invoke(app, ["confmat", checkpoint, "valid.txt", *given])
    accuracy = json.loads(found.stdout)["accuracy"]
    assert accuracy == pytest.approx(result.best["accuracy"])
    found = RUN.invoke(app, ["predict", checkpoint, "valid.txt", *given])
    named = [row["class"] for row in json.loads(found.stdout)]
    loaded = ptkit.load(checkpoint, transforms=[step])
    paths = [line.rsplit(" ", 1)[0] for line in Path("valid.txt").read_text().splitlines()]
    assert [row["class"] for row in loaded.predict(paths)] == named
    twice = RUN.invoke(app, ["confmat", checkpoint, "valid.txt", *given, "--transform", step])
    assert twice.exit_code == 2
    assert "names the own transforms of a checkpoint again" in twice.stderr
