import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.transforms.catalogue import build_transform, spec_of
from ptkit.core.data.transforms.completion import complete, default_transforms, evaluation_geometry
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.data.transforms.pipeline import Pipeline, refusal
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.parts.calls import parse, parse_all

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
NORMALIZE = f"Normalize(mean={MEAN}, std={STD})"


@pytest.fixture
def saved(tmp_path):
    """A function that saves a picture of random pixels, (height, width), and returns its path."""

    def save(height, width):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{height}x{width}.png")
        return tmp_path / f"{height}x{width}.png"

    return save


@pytest.fixture
def own_code(tmp_path):
    """A user's file of functions, to be named as `own_code:function`."""
    file = tmp_path / "own_code.py"
    file.write_text(
        "import torch\n"
        "def invert(image): return 255 - image\n"
        "def to_float(image): return image.float() / 255\n"
        "def to_numpy(image): return image.numpy()\n"
        "def lookup(image): return {}['key']\n"
        "def noise(image): return (image + torch.randint(0, 9, image.shape)).to(torch.uint8)\n"
    )
    return str(file)


def pixels_of(path):
    return np.asarray(Image.open(path))


def tensor_of(path):
    return torch.from_numpy(pixels_of(path).copy()).permute(2, 0, 1)


def step_by_step(calls, image):
    """Apply the calls one after the other, as torchvision's Compose does."""
    for call in calls:
        image = build_transform(parse(call))(image)
    return image


def error_of(calls):
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(calls)
    return str(caught.value)


def names(steps):
    return [type(step.transform).__name__ for step in steps]


# -------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([], "must end in a float tensor: add ToTensor()"),
        (["RandomHorizontalFlip()"], "must end in a float tensor: add ToTensor()"),
        (["Resize(8)", "ToPILImage()"], "must end in a float tensor: add ToTensor()"),
        (["ToTensor()", "ToTensor()"], "ToTensor appears twice"),
        (["ToTensor()", NORMALIZE, "ToTensor()"], "ToTensor appears twice"),
        ([NORMALIZE, "ToTensor()"], "put ToTensor() before it"),
        (["ToPILImage()", NORMALIZE, "ToTensor()"], "put ToTensor() before it"),
        (["ToTensor()", NORMALIZE, NORMALIZE], "Normalize appears twice"),
        (["ToTensor()", "ToPILImage()"], "ToPILImage must come before ToTensor"),
        (["ToPILImage()", "RandomErasing()", "ToTensor()"], "RandomErasing needs a float tensor"),
        (
            ["RandomCorp(8)", "ToTensor()"],
            "no transform is called RandomCorp; did you mean RandomCrop?",
        ),
        (
            ["Resize(8, antialas=True)", "ToTensor()"],
            "Resize has no argument antialas; did you mean antialias?",
        ),
        (
            ["RandomApply([Grayscale()])", "ToTensor()"],
            "Grayscale makes 1 channel, and RandomApply would give some images 3: put it outside",
        ),
        (
            ["RandomChoice([Grayscale(), Pad(2)])", "ToTensor()"],
            "Grayscale makes 1 channel, and RandomChoice would give some images 3",
        ),
        (
            ["RandomOrder([Grayscale(), Grayscale(3)])", "ToTensor()"],
            "Grayscale makes 1 channel, and RandomOrder would give some images 3",
        ),
        (
            ["Grayscale()", "RandomApply([Pad(2), Grayscale(3)], p=0.9)", "ToTensor()"],
            "Grayscale makes 3 channels, and RandomApply would give some images 1",
        ),
        (
            ["Grayscale()", "ToTensor()", "Normalize([0.5, 0.5, 0.5], [1, 1, 1])"],
            "Normalize has 3 numbers as mean, and images have 1 channel here",
        ),
        (
            ["Grayscale()", "RandomCrop(8, padding=1, fill=[1, 2, 3])", "ToTensor()"],
            "RandomCrop has 3 numbers as fill, and images have 1 channel here",
        ),
        (
            ["ToTensor()", "Normalize(mean=[0.5, 0.5], std=[1, 1])"],
            "Normalize: mean must be a list of 1 or 3",
        ),
        (
            ["ToTensor()", "Normalize(mean=[0, 0, 0], std=[1, 0, 1])"],
            "Normalize: std must be a list of 1 or 3",
        ),
    ],
)
def test_calls_that_cannot_work_are_refused_when_they_are_read(calls, message):
    assert message in error_of(calls)


def test_errors_point_at_the_call():
    assert error_of(["ToTensor()", "ToTensor()"]).splitlines()[1:] == ["    ToTensor()", "    ^"]


def test_user_code_out_of_a_checkpoint_is_refused_and_never_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\ndef same(x): return x\n")
    for call in (
        f'Lambda("{file}:same")',
        f"{file}:same()",
        f'RandomApply([Lambda("{file}:same")])',
    ):
        with pytest.raises(CheckpointError, match="names user code"):
            Pipeline.parse([call, "ToTensor()"], allow_user_code=False)
    assert not (tmp_path / "was_run").exists()


def test_calls_come_back_as_text_that_parses_to_the_same():
    calls = [
        "RandomCrop( 8,padding = 2 )",
        "RandomApply([ColorJitter(.4)], p=0.5)",
        "ToTensor",
        NORMALIZE,
    ]
    pipeline = Pipeline.parse(calls)
    assert tuple(map(str, pipeline.calls)) == (
        "RandomCrop(8, padding=2)",
        "RandomApply([ColorJitter(0.4)], p=0.5)",
        "ToTensor()",
        NORMALIZE,
    )
    assert Pipeline.parse(map(str, pipeline.calls)).calls == pipeline.calls


# --------------------------------------------------------------------------------------------- plan

CROP, FLIP = "RandomCrop(8, padding=1)", "RandomHorizontalFlip()"
TENSOR, ERASE = "ToTensor()", "RandomErasing()"
JITTER, ZOOM = "ColorJitter(0.4)", "RandomResizedCrop(8)"


@pytest.mark.parametrize(
    ("calls", "prefix", "middle", "batched"),
    [
        (["Resize((8, 8))", CROP, FLIP], ["Resize"], [], ["RandomCrop", "RandomHorizontalFlip"]),
        (
            ["Resize(9)", "CenterCrop(8)", FLIP],
            ["Resize", "CenterCrop"],
            [],
            ["RandomHorizontalFlip"],
        ),
        (["Resize((8, 8))", JITTER, FLIP], ["Resize"], [], ["ColorJitter", "RandomHorizontalFlip"]),
        (
            ["Resize((8, 8))", ZOOM, FLIP],
            ["Resize"],
            ["RandomResizedCrop"],
            ["RandomHorizontalFlip"],
        ),
        (
            ["Resize((8, 8))", FLIP, ZOOM],
            ["Resize"],
            ["RandomHorizontalFlip", "RandomResizedCrop"],
            [],
        ),
        (["Resize((8, 8))", "FiveCrop(6)", JITTER], ["Resize"], [], ["FiveCrop", "ColorJitter"]),
        (["Resize(8)", "FiveCrop(6)", JITTER], ["Resize"], ["FiveCrop"], ["ColorJitter"]),
        (["Resize((8, 8))", f"RandomApply([{JITTER}, {FLIP}])"], ["Resize"], [], ["RandomApply"]),
        # An inner crop would give some images of the batch another size, and a resized crop runs
        # image by image.
        (["Resize((9, 9))", f"RandomApply([{CROP}])"], ["Resize"], ["RandomApply"], []),
        (
            ["Resize((9, 9))", f"RandomApply([{CROP}])", CROP],
            ["Resize"],
            ["RandomApply", "RandomCrop"],
            [],
        ),
        (["Resize((8, 8))", f"RandomOrder([{FLIP}, {ZOOM}])"], ["Resize"], ["RandomOrder"], []),
        (["RandomResizedCrop(8)", FLIP], [], ["RandomResizedCrop"], ["RandomHorizontalFlip"]),
        ([CROP, "Resize((4, 4))"], [], ["RandomCrop", "Resize"], []),
        # Where the size depends on the image nothing runs on batches, until it no longer does.
        (["Resize(8)", FLIP], ["Resize"], ["RandomHorizontalFlip"], []),
        ([FLIP, CROP], [], ["RandomHorizontalFlip", "RandomCrop"], []),
        ([FLIP, CROP, FLIP], [], ["RandomHorizontalFlip", "RandomCrop"], ["RandomHorizontalFlip"]),
        (
            ["Resize((8, 8))", "AutoAugment()", FLIP],
            ["Resize"],
            ["AutoAugment", "RandomHorizontalFlip"],
            [],
        ),
        ([], [], [], []),
    ],
)
def test_plan_keeps_the_start_and_batches_the_end(calls, prefix, middle, batched):
    pipeline = Pipeline.parse([*calls, "ToTensor()", NORMALIZE])
    assert names(pipeline.plan.prefix) == prefix
    assert names(pipeline.plan.image_steps) == middle
    assert names(pipeline.plan.batch_steps) == batched


@pytest.mark.parametrize(
    ("calls", "middle", "batched", "tail"),
    [
        ([FLIP, TENSOR, NORMALIZE, ERASE], [], ["RandomHorizontalFlip"], ["RandomErasing"]),
        (
            [TENSOR, ERASE, FLIP, NORMALIZE],
            [],
            [],
            ["RandomErasing", "RandomHorizontalFlip", "Normalize"],
        ),
        ([TENSOR, f"RandomApply([{ERASE}])"], [], [], ["RandomApply"]),
        (
            [FLIP, TENSOR, ZOOM, NORMALIZE, ERASE],
            [FLIP, TENSOR, ZOOM],
            [],
            ["Normalize", "RandomErasing"],
        ),
        ([TENSOR, NORMALIZE, "CenterCrop(6)"], [TENSOR, NORMALIZE, "CenterCrop(6)"], [], []),
    ],
)
def test_what_follows_the_tensor_runs_on_whole_batches_from_where_all_can(
    calls, middle, batched, tail
):
    pipeline = Pipeline.parse(["Resize((8, 8))", *calls])
    assert names(pipeline.plan.image_steps) == [parse(call).name for call in middle]
    assert (names(pipeline.plan.batch_steps), names(pipeline.plan.float_steps)) == (batched, tail)
    assert (pipeline.plan.fused is None) == (TENSOR in middle)


@pytest.mark.parametrize(
    ("calls", "prefix_size", "size"),
    [
        (["Resize((8, 6))"], (8, 6), (8, 6)),
        (["Resize(8)"], None, None),
        (["Resize(8)", "CenterCrop(6)", "Pad([1, 2])"], (10, 8), (10, 8)),
        (["RandomResizedCrop(8)"], None, (8, 8)),
        (["Resize((8, 8))", "RandomCrop((4, 5))"], (8, 8), (4, 5)),
        (["Resize((8, 8))", "RandomRotation(5, expand=True)"], (8, 8), None),
    ],
)
def test_plan_knows_the_sizes_that_do_not_depend_on_the_image(calls, prefix_size, size):
    pipeline = Pipeline.parse([*calls, "ToTensor()"])
    assert (pipeline.plan.prefix_size, pipeline.size) == (prefix_size, size)


OWN = 'Lambda("own_code.py:invert")'


@pytest.mark.parametrize(
    ("calls", "channels"),
    [
        # Each list that a container may run starts from what comes in.
        ([f"RandomChoice([{OWN}, Grayscale()])"], None),
        ([f"RandomChoice([Grayscale(), {OWN}])"], None),
        ([f"RandomChoice([{OWN}, Grayscale(3)])"], None),
        ([f"RandomChoice([Grayscale(), {OWN}], p=[1, 0])"], 1),
        ([f"RandomApply([{OWN}, Grayscale()], p=1.0)"], 1),
        ([f"RandomApply([{OWN}, Grayscale(3)])"], 3),
        ([f"RandomApply([Grayscale(), {OWN}])"], None),
        ([f"RandomOrder([{OWN}, Grayscale()])"], None),
        ([OWN, "RandomApply([Grayscale()])"], None),
        ([OWN, "RandomApply([Grayscale()], p=1.0)"], 1),
        ([OWN, "RandomChoice([Grayscale(), Grayscale()])"], 1),
        # What is always done may change them.
        (["RandomApply([Grayscale()], p=1.0)"], 1),
        (["RandomApply([Grayscale()], p=0.0)"], 3),
        (["RandomApply([Grayscale(), Grayscale(3)])"], 3),
        (["RandomChoice([Grayscale()])"], 1),
        (["RandomChoice([Grayscale(), Grayscale()])"], 1),
        (["RandomChoice([RandomApply([Grayscale()], p=1.0), Pad(2)], p=[1, 0])"], 1),
        (["RandomOrder([Grayscale(), ColorJitter(0.4)])"], 1),
        (["Grayscale()", "RandomApply([Grayscale(3)], p=1.0)"], 3),
    ],
)
def test_channels_after_a_container_are_those_after_all_that_it_may_run(
    calls, channels, own_code, monkeypatch
):
    monkeypatch.chdir(Path(own_code).parent)
    assert Pipeline.parse([*calls, "ToTensor()"]).channels == channels


def test_own_steps_of_unknown_channels_cannot_be_followed_by_a_choice_of_them(own_code):
    message = error_of(
        [
            OWN.replace("own_code.py", own_code),
            "RandomChoice([Grayscale(), Grayscale(3)])",
            "ToTensor()",
        ]
    )
    assert "Grayscale makes 1 channel, and RandomChoice would give some images 3" in message


@pytest.mark.parametrize(
    ("call", "theirs"),
    [
        ("RandomApply([Grayscale(), ColorJitter([2, 2])], p=1.0)", v2.Grayscale()),
        ("RandomChoice([Grayscale(), Grayscale()])", v2.Grayscale()),
        ("RandomOrder([Grayscale(), RandomVerticalFlip(0.0)])", v2.Grayscale()),
        ("RandomApply([Grayscale(), Grayscale(3)], p=1.0)", v2.Grayscale(3)),
    ],
)
def test_a_container_that_changes_the_channels_gives_the_same_on_batches(call, theirs):
    if "ColorJitter" in call:
        theirs = v2.Compose([theirs, v2.ColorJitter([2, 2])])
    calls = ["Resize((8, 8))", call, "RandomHorizontalFlip()", "ToTensor()"]
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for pipeline in (here := Pipeline.parse(calls), here.for_device(torch.device("cuda"))):
        draws = pipeline.draws(0, epoch=1, keys=np.arange(6))
        stacked = pipeline.stack(list(map(pipeline.apply_to_image, images, draws)))
        batch = torch.from_numpy(pipeline.apply_to_batch(stacked, draws))
        found = pipeline.finish_on_device(batch, draws)
        tensors = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
        is_mirrored = torch.from_numpy(draws[:, pipeline.num_draws - 1] < 0.5)
        expected = torch.where(is_mirrored[:, None, None, None], tensors.flip(-1), tensors) / 255
        torch.testing.assert_close(found, expected)


def test_a_container_that_keeps_the_channels_runs_on_batches():
    for before in ([], ["Grayscale()"]):
        inner = f"Grayscale({1 if before else 3})"
        calls = ["Resize((8, 8))", *before, f"RandomApply([{inner}])", "ToTensor()"]
        assert names(Pipeline.parse(calls).plan.batch_steps) == ["RandomApply"]


def test_a_to_tensor_that_is_always_applied_is_one():
    calls = ["RandomApply([ToTensor()], p=1.0)", NORMALIZE]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    expected = F.normalize(torch.from_numpy(pixels).permute(2, 0, 1) / 255, MEAN, STD)
    torch.testing.assert_close(Pipeline.parse(calls).view(pixels), expected)
    assert "Normalize needs a float tensor" in error_of([calls[0].replace("1.0", "0.9"), NORMALIZE])


def test_plan_says_what_is_random_and_what_is_foreign(own_code):
    assert not Pipeline.parse(["Resize(8)", "ToTensor()"]).is_random
    assert Pipeline.parse([FLIP, "ToTensor()"]).is_random
    assert not Pipeline.parse([FLIP, "ToTensor()"]).is_foreign
    assert Pipeline.parse(["RandomApply([AutoAugment()])", "ToTensor()"]).is_foreign
    assert Pipeline.parse([f'Lambda("{own_code}:invert")', "ToTensor()"]).is_foreign


SURE = [
    ["ToTensor()", NORMALIZE],
    ["ToTensor()"],
    ["Resize((8, 8))", "ToTensor()", NORMALIZE],
    ["Resize(12)", "CenterCrop(8)", "ToTensor()", NORMALIZE],
    ["CenterCrop(9)", "Resize((8, 8))", "ToTensor()", NORMALIZE],
    ["Resize((8, 8))", "Pad(2, padding_mode='reflect')", "ToTensor()", NORMALIZE],
    ["Grayscale(num_output_channels=3)", "Resize(8)", "ToTensor()", NORMALIZE],
    ["Resize((8, 8), interpolation=InterpolationMode.NEAREST)", "ToTensor()", NORMALIZE],
    ["Resize((8, 8))", "RandomHorizontalFlip(p=1.0)", "RandomCrop(8)", "ToTensor()", NORMALIZE],
    ["RandomVerticalFlip(p=1.0)", "ToTensor()", NORMALIZE],
    ["ToPILImage()", "Resize((8, 8))", "RandomHorizontalFlip(p=1.0)", "ToTensor()", NORMALIZE],
    ["ToTensor()", "Resize((8, 8))", NORMALIZE],
    ["ToTensor()", NORMALIZE, "CenterCrop(6)"],
]


@pytest.mark.parametrize("calls", SURE, ids=[" ".join(calls) for calls in SURE])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (9, 13), (1, 8)])
def test_planned_result_is_what_the_calls_give_one_after_the_other(calls, size, saved):
    path = saved(*size)
    expected = step_by_step(calls, tensor_of(path))
    found = Pipeline.parse(calls).read_image(path)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_image_of_a_broken_file_is_a_data_error_with_its_path(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.png: the file is empty"):
        Pipeline.parse(["ToTensor()"]).read_image(tmp_path / "broken.png")


def test_own_function_is_applied_and_leaves_the_global_generators_alone(saved, own_code):
    pipeline = Pipeline.parse(
        [f'Lambda("{own_code}:invert")', f'Lambda("{own_code}:noise")', "ToTensor()"]
    )
    path = saved(8, 8)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, again = pipeline.read_image(path), pipeline.read_image(path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(first, again)
    inverted = Pipeline.parse([f'Lambda("{own_code}:invert")', "ToTensor()"]).read_image(path)
    assert torch.equal(inverted, F.to_dtype(255 - tensor_of(path), torch.float32, scale=True))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (["RandomCrop(9)"], "RandomCrop of 9×9 from an image of 8×8"),
        (["Resize((8, 8))", "RandomCrop(9)"], "RandomCrop of 9×9 from an image of 8×8"),
        (["RandomCrop(8, padding=8, padding_mode='reflect')"], "RandomCrop cannot be applied: "),
        (
            ["Resize((8, 8))", "RandomCrop(8, padding=8, padding_mode='reflect')"],
            "RandomCrop cannot be applied: ",
        ),
        (
            ["Resize((8, 8))", "RandomCrop(8, padding=9, padding_mode='symmetric')"],
            "RandomCrop cannot be applied: IndexError: ",
        ),
        (["Pad(8, padding_mode='reflect')"], "Pad cannot be applied: "),
        (['Lambda("{own_code}:lookup")'], "Lambda cannot be applied: KeyError: 'key'"),
        (
            ['Lambda("{own_code}:to_numpy")'],
            "it must return a tensor or a PIL image, found ndarray",
        ),
        (['Lambda("{own_code}:to_float")'], "found float32 before ToTensor"),
    ],
)
def test_transform_that_does_not_fit_the_image_is_a_usage_error(calls, message, saved, own_code):
    pipeline = Pipeline.parse(
        [*(call.replace("{own_code}", own_code) for call in calls), "ToTensor()", NORMALIZE]
    )
    with pytest.raises(UsageError) as caught:
        pipeline.read_image(saved(8, 8))
    assert message in str(caught.value)


def test_pipeline_travels_to_a_process_that_has_not_loaded_the_users_file(own_code, saved):
    pipeline = Pipeline.parse([f'Lambda("{own_code}:invert")', "ToTensor()", NORMALIZE])
    packed = pickle.dumps(pipeline)
    assert b"ptkit_user" not in packed
    assert torch.equal(
        pickle.loads(packed).read_image(saved(8, 8)), pipeline.read_image(saved(8, 8))
    )


# ---------------------------------------------------------------------------------------- normalise

EVERY_VALUE = (
    np.arange(256, dtype=np.uint8)[:, None, None, None]
    .repeat(5, axis=1)
    .repeat(7, axis=2)
    .repeat(3, axis=3)
)


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ([0.0] * 3, [1.0] * 3), ([0.5], [0.25])])
def test_normalise_is_torchvisions_within_a_millionth(mean, std):
    pipeline = Pipeline.parse(["ToTensor()", f"Normalize(mean={mean}, std={std})"])
    found = pipeline.normalise_batch(torch.from_numpy(EVERY_VALUE))
    scaled = torch.from_numpy(EVERY_VALUE).permute(0, 3, 1, 2).double() / 255
    expected = v2.Normalize(mean, std)(scaled)
    assert (found.double() - expected).abs().max() <= 1e-6
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_tensor_alone_divides_by_255():
    found = Pipeline.parse(["ToTensor()"]).normalise_batch(torch.from_numpy(EVERY_VALUE))
    torch.testing.assert_close(found[:, 0, 0, 0], torch.arange(256) / 255, rtol=0, atol=1e-7)


def test_denormalise_inverts_normalise_for_every_value():
    pipeline = Pipeline.parse(["ToTensor()", NORMALIZE])
    normalised = pipeline.normalise_batch(torch.from_numpy(EVERY_VALUE))
    assert np.array_equal(denormalise(normalised, MEAN, STD), EVERY_VALUE)
    assert np.array_equal(denormalise(normalised[7], MEAN, STD), EVERY_VALUE[7])


def test_denormalise_takes_any_leading_dimensions_and_clips():
    wild = (
        torch.tensor([-100.0, 0.0, 100.0])[:, None, None, None, None]
        .expand(3, 2, 3, 4, 5)
        .requires_grad_()
    )
    pixels = denormalise(wild, [0.2] * 3, [1.0] * 3)
    assert (pixels.shape, pixels.dtype) == ((3, 2, 4, 5, 3), np.uint8)
    assert [np.unique(part).tolist() for part in pixels] == [[0], [51], [255]]


# ---------------------------------------------------------------------------------- completed lists

AROUND = ("ToTensor()", "Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25])")


@pytest.mark.parametrize(
    ("calls", "size", "expected"),
    [
        ([], 32, ("Resize((32, 32))", *AROUND)),
        ([FLIP], 224, ("Resize(256)", "CenterCrop(224)", FLIP, *AROUND)),
        (
            ["RandomCrop(32, padding=4)"],
            32,
            ("Resize((32, 32))", "RandomCrop(32, padding=4)", *AROUND),
        ),
        (["RandomCrop(224)"], 224, ("Resize(256)", "RandomCrop(224)", *AROUND)),
        (["RandomResizedCrop(224)"], 224, ("RandomResizedCrop(224)", *AROUND)),
        (["Resize((9, 9))", FLIP], 32, ("Resize((9, 9))", FLIP, *AROUND)),
        ([FLIP, "ToTensor()"], 32, ("Resize((32, 32))", FLIP, *AROUND)),
        (["ToTensor()", "Normalize([0], [1])"], 32, ("ToTensor()", "Normalize([0], [1])")),
    ],
)
def test_list_is_completed_with_what_it_does_not_name(calls, size, expected):
    assert complete(parse_all(calls), size=size, mean=MEAN, std=STD) == parse_all(expected)


@pytest.mark.parametrize("size", [16, 64, 65, 224])
@pytest.mark.parametrize("augment", ["auto", "none", "safe", "natural"])
def test_ready_lists_give_images_of_the_wanted_size(augment, size):
    training = complete(default_transforms(augment, size), size=size, mean=MEAN, std=STD)
    evaluation = complete(evaluation_geometry(size), size=size, mean=MEAN, std=STD)
    assert Pipeline.of(training).size == (size, size)
    assert Pipeline.of(evaluation).size == (size, size)
    assert not Pipeline.of(evaluation).is_random


def test_default_augmentation_shifts_small_images_and_never_flips_them():
    assert default_transforms("auto", 64) == parse_all(["RandomCrop(64, padding=8)"])
    assert parse("RandomHorizontalFlip()") in default_transforms("auto", 65)
    assert spec_of(build_transform(default_transforms("safe", 4)[0])).batch is not None


def test_a_users_own_kind_of_resize_is_not_taken_for_a_fixed_one(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torchvision.transforms import v2\nclass Jittered(v2.Resize):\n    def"
        " __init__(self):\n        super().__init__((8, 8))\n"
    )
    pipeline = Pipeline.parse([f"{tmp_path / 'own.py'}:Jittered()", "ToTensor()"])
    assert (pipeline.plan.prefix, pipeline.is_foreign) == ((), True)


def test_a_users_transform_that_works_in_place_does_not_change_what_is_kept(tmp_path):
    (tmp_path / "own.py").write_text("def darker(image):\n    return image.sub_(1)\n")
    pipeline = Pipeline.parse([f"Lambda('{tmp_path}/own.py:darker')", "ToTensor()"])
    pixels = np.full((4, 5, 3), 100, np.uint8)
    for _ in range(2):
        assert pipeline.view(pixels).mul(255).round().unique().tolist() == [99]
    assert pixels.min() == 100


@pytest.mark.parametrize(("device", "num_there"), [("cpu", 0), ("mps", 0), ("cuda", 2)])
def test_only_cuda_takes_over_the_steps_for_batches(device, num_there):
    pipeline = Pipeline.parse(
        ["Resize((16, 16))", "RandomCrop(16, padding=2)", "RandomHorizontalFlip()", "ToTensor()"]
    )
    assert len(pipeline.for_device(torch.device(device)).plan.device_steps) == num_there


def test_memory_that_is_used_up_is_no_fault_of_a_step():
    step = Pipeline.parse(["RandomRotation(9)", "ToTensor()"]).plan.image_steps[0]
    assert "RandomRotation cannot be applied: too small" in str(
        refusal(step, ValueError("too small"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        refusal(step, torch.OutOfMemoryError("CUDA out of memory"))
    of_opencv = cv2.error("Insufficient memory")
    of_opencv.code = -4
    # Which nobody else catches by its class.
    with pytest.raises(MemoryError, match="Insufficient"):
        refusal(step, of_opencv)
