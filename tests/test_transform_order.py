import numpy as np
import pytest
import torch

from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse, parse_all

TENSOR, NORMALIZE, LINEAR = (
    "ToTensor()",
    "Normalize([0.5], [0.2])",
    "LinearTransformation([[1, 0], [0, 1]], [0, 0])",
)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(
        "class Blur:\n"
        "    def __init__(self, width=3): pass\n"
        "    def __call__(self, image): return image\n"
        "class Normalize(Blur): pass\n"
    )
    return f"{tmp_path / 'own.py'}:Blur(width=5)"


@pytest.mark.parametrize(
    ("calls", "message", "pointed_at"),
    [
        (
            ["RandomErasing()", TENSOR],
            "RandomErasing needs a float tensor: put ToTensor() before it",
            "RandomErasing",
        ),
        (
            [NORMALIZE, TENSOR],
            "Normalize needs a float tensor: put ToTensor() before it",
            "Normalize",
        ),
        (
            [LINEAR, TENSOR],
            "LinearTransformation needs a float tensor: put ToTensor() before it",
            "LinearTrans",
        ),
        (
            ["ToPILImage()", "RandomErasing()", TENSOR],
            "RandomErasing needs a float tensor",
            "RandomErasing",
        ),
        ([f"RandomApply([{NORMALIZE}])", TENSOR], "Normalize needs a float tensor", "Normalize"),
        (
            ["RandomRotation(9, interpolation=InterpolationMode.BICUBIC)", TENSOR],
            (
                "of a tensor the interpolation is NEAREST, BILINEAR; others need ToPILImage()"
                " before it"
            ),
            "RandomRot",
        ),
        (
            ["Resize(9, interpolation=InterpolationMode.BOX)", TENSOR],
            "of a tensor the interpolation is",
            "Resize",
        ),
        (
            [TENSOR, TENSOR],
            "ToTensor appears twice; the image is a float tensor already",
            "ToTensor",
        ),
        ([TENSOR, NORMALIZE, TENSOR], "ToTensor appears twice", "ToTensor"),
        (["RandomApply([ToTensor()])", TENSOR], "ToTensor appears twice", "ToTensor"),
        ([TENSOR, NORMALIZE, NORMALIZE], "Normalize appears twice", "Normalize"),
        (
            [TENSOR, f"RandomChoice([RandomHorizontalFlip(), {NORMALIZE}])", NORMALIZE],
            "Normalize appears twice",
            "Norm",
        ),
        ([TENSOR, "ToPILImage()"], "ToPILImage must come before ToTensor", "ToPILImage"),
        (["ToPILImage()", "ToPILImage()", TENSOR], "ToPILImage appears twice", "ToPILImage"),
        ([TENSOR, LINEAR, LINEAR], "LinearTransformation appears twice", "LinearTrans"),
        (
            [TENSOR, NORMALIZE, LINEAR],
            "LinearTransformation takes values 0..1: put it before Normalize",
            "LinearTrans",
        ),
        (
            [TENSOR, NORMALIZE, "ColorJitter(0.4)"],
            "ColorJitter takes values 0..1: put it before Normalize",
            "Color",
        ),
        (
            [TENSOR, NORMALIZE, "AutoAugment()"],
            "AutoAugment takes values 0..1: put it before Normalize",
            "AutoAug",
        ),
        (
            [TENSOR, LINEAR, "RandAugment()"],
            "RandAugment takes values 0..1: put it before LinearTransf",
            "RandAug",
        ),
        (
            ["RandomOrder([ToTensor(), ColorJitter()])"],
            "ToTensor changes what an image is",
            "ToTensor",
        ),
        (["FiveCrop(4)", "TenCrop(3)", TENSOR], "TenCrop cannot follow FiveCrop", "TenCrop"),
        (
            ["FiveCrop(4)", "ToPILImage()", TENSOR],
            "ToPILImage takes one image, not the crops of one",
            "ToPILImage",
        ),
        (["TenCrop(4)", "AutoAugment()", TENSOR], "put it before TenCrop", "AutoAugment"),
        (
            ["TenCrop(4)", "RandomApply([AugMix()])", TENSOR],
            "RandomApply takes one image",
            "RandomApply",
        ),
        (
            ["ToPILImage()", "FiveCrop(4)", TENSOR],
            "FiveCrop needs a tensor: put it before ToPILImage",
            "FiveCrop",
        ),
        (
            ["RandomApply([FiveCrop(4)])", TENSOR],
            "FiveCrop makes several images of each: it cannot be in",
            "Five",
        ),
        (
            ["FiveCrop(4)", TENSOR, "MixUp()"],
            "MixUp mixes single images: it cannot be used with FiveCrop",
            "MixUp",
        ),
        (
            ["TenCrop(4)", TENSOR, "RandomChoice([MixUp(), CutMix()])"],
            "it cannot be used with TenCrop",
            "RandomChoice",
        ),
        (
            ["RandomApply([MixUp()])", TENSOR],
            "mixes whole batches: put it at the end, once",
            "MixUp",
        ),
        (
            [TENSOR, "CutMix()", "RandomErasing()"],
            "mixes whole batches: put it at the end, once",
            "CutMix",
        ),
    ],
)
def test_a_transform_in_the_wrong_place_is_refused_and_pointed_at(calls, message, pointed_at):
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(["Resize((8, 8))", *calls])
    reason, source, caret = str(caught.value).split("\n")
    assert message in reason
    assert source[caret.index("^") :].startswith(pointed_at)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([], "the transforms must end in a float tensor: add ToTensor()"),
        (
            ["ToPILImage()"],
            "the transforms must end in a float tensor: add ToTensor() after ToPILImage()",
        ),
        (
            ["RandomApply([ToTensor()])"],
            "the transforms must end in a float tensor: add ToTensor()",
        ),
        (
            ["Lambda('os:getcwd')", "FiveCrop(4)", "Lambda('os:getcwd')", TENSOR],
            "put it before FiveCrop",
        ),
    ],
)
def test_list_that_ends_in_something_else_is_refused(calls, message):
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(calls)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "calls",
    [
        ["ToPILImage()", "AutoAugment()", TENSOR],
        ["RandomApply([ToPILImage(), ColorJitter(0.4)])", TENSOR, NORMALIZE],
        [TENSOR, "ColorJitter(0.4)", "FiveCrop(4)", NORMALIZE, "RandomErasing()"],
        ["FiveCrop(4)", "RandomHorizontalFlip()", TENSOR, NORMALIZE],
        [TENSOR, LINEAR.replace("[[1, 0], [0, 1]], [0, 0]", "[[1]], [0]"), NORMALIZE],
        ["RandomOrder([ColorJitter(0.4), RandomRotation(3)])", TENSOR, "MixUp()"],
    ],
)
def test_orders_that_work_are_taken(calls):
    assert Pipeline.parse(calls).calls == parse_all(calls)


def completed(*calls, size=8):
    return complete(parse_all(calls), size=size, mean=(0, 0, 0), std=(1, 1, 1))


def test_pil_image_at_the_end_of_an_automatic_list_is_refused():
    with pytest.raises(
        UsageError, match="ToPILImage at the end: nothing that takes a PIL image follows it"
    ):
        completed("RandomHorizontalFlip()", "ToPILImage()")


def test_what_takes_float_tensors_gets_one_in_an_automatic_list():
    normalize = "Normalize(mean=[0, 0, 0], std=[1, 1, 1])"
    erase = "RandomApply([RandomErasing(value='random')])"
    resize, flip, turn = "Resize((8, 8))", "RandomHorizontalFlip()", "RandomVerticalFlip()"
    expected = (resize, flip, TENSOR, erase, turn, normalize)
    assert completed(flip, erase, turn) == parse_all(expected)
    assert completed(TENSOR, erase) == parse_all([resize, TENSOR, erase, normalize])


def test_users_own_normalize_does_not_stop_the_automatic_one(own):
    mine = own.replace("Blur(width=5)", "Normalize()")
    assert completed(mine)[-1] == parse("Normalize(mean=[0, 0, 0], std=[1, 1, 1])")


# ----------------------------------------------------------------------------------- text as a call


def test_own_class_in_a_container_can_be_text(own):
    pipeline = Pipeline.parse([f"RandomApply([RandomHorizontalFlip(), '{own}'], p=0.5)", TENSOR])
    (apply,) = (step.transform for step in pipeline.plan.image_steps)
    assert [type(inner).__name__ for inner in apply.transforms] == ["RandomHorizontalFlip", "Blur"]
    assert Pipeline.of(pipeline.calls).is_foreign


def test_own_class_in_nested_containers_can_be_text(own):
    pipeline = Pipeline.parse(
        [f"RandomOrder(transforms=[RandomChoice(['{own}', 'RandomVerticalFlip()'])])", TENSOR]
    )
    (order,) = (step.transform for step in pipeline.plan.image_steps)
    (choice,) = order.transforms
    assert [type(inner).__name__ for inner in choice.transforms] == ["Blur", "RandomVerticalFlip"]


def test_mistakes_in_text_are_reported_as_elsewhere(own):
    for text, message in (
        (
            "RandomVerticalFlop()",
            "no transform is called RandomVerticalFlop; did you mean RandomVerticalFlip?",
        ),
        (own.replace("Blur", "Blurr"), "did you mean Blur?"),
        ("Blur(", "never closed"),
    ):
        with pytest.raises(UsageError) as caught:
            Pipeline.parse([f"RandomApply(['{text}'])", TENSOR])
        assert message in str(caught.value)


@pytest.mark.parametrize(("number", "name"), [(0, "NEAREST"), (2, "BILINEAR"), (3, "BICUBIC")])
def test_pillows_numbers_mean_its_interpolations(number, name):
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    given, named = (
        Pipeline.parse([f"Resize((7, 7), interpolation={value})", TENSOR]).view(pixels)
        for value in (number, f"InterpolationMode.{name}")
    )
    assert torch.equal(given, named)
