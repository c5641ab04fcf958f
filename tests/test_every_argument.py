"""Every argument of every transform changes what comes out, as it does in torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from ptkit.core.data.keyed import uniforms
from ptkit.core.data.transforms.catalogue import (
    TRANSFORMS,
    build_transform,
    is_foreign,
    num_draws,
    spec_of,
)
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.parts.calls import parse

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 24, 32), dtype=np.uint8))

BILINEAR = "interpolation=InterpolationMode.BILINEAR"
NEAREST = "interpolation=InterpolationMode.NEAREST"
TURN, FLIP = "RandomRotation(90)", "RandomHorizontalFlip(p=1.0)"
MATRIX = "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"

# For each transform a call, and for each of its arguments the call with that argument as well.
ARGUMENTS = {
    "CenterCrop(9)": {"size": "CenterCrop(8)"},
    "FiveCrop(9)": {"size": "FiveCrop(8)"},
    "TenCrop(9)": {"size": "TenCrop(8)", "vertical_flip": "TenCrop(9, vertical_flip=True)"},
    "RandomCrop(22, padding=2)": {
        "size": "RandomCrop(21, padding=2)",
        "padding": "RandomCrop(22, padding=[2, 5])",
        "pad_if_needed": "RandomCrop(30, padding=2, pad_if_needed=True)",
        "fill": "RandomCrop(22, padding=2, fill=[9, 99, 199])",
        "padding_mode": "RandomCrop(22, padding=2, padding_mode='reflect')",
    },
    "RandomResizedCrop(9)": {
        "size": "RandomResizedCrop((9, 8))",
        "scale": "RandomResizedCrop(9, scale=[0.9, 1])",
        "ratio": "RandomResizedCrop(9, ratio=[2, 3])",
        "interpolation": f"RandomResizedCrop(9, {NEAREST})",
        "antialias": "RandomResizedCrop(9, antialias=False)",
    },
    "RandomHorizontalFlip()": {"p": "RandomHorizontalFlip(p=0.9)"},
    "RandomVerticalFlip()": {"p": "RandomVerticalFlip(p=0.9)"},
    "AlternatingFlip()": {},
    "WithHorizontalFlip()": {},
    "RandomRotation(30)": {
        "degrees": "RandomRotation([30, 50])",
        "interpolation": f"RandomRotation(30, {BILINEAR})",
        "expand": "RandomRotation(30, expand=True)",
        "center": "RandomRotation(30, center=[2, 3])",
        "fill": "RandomRotation(30, fill=99)",
    },
    "Resize(9)": {
        "size": "Resize((9, 9))",
        "interpolation": f"Resize(9, {NEAREST})",
        "max_size": "Resize(9, max_size=10)",
        "antialias": "Resize(9, antialias=False)",
    },
    "Pad(2)": {
        "padding": "Pad([2, 3])",
        "fill": "Pad(2, fill=[9, 99, 199])",
        "padding_mode": "Pad(2, padding_mode='edge')",
    },
    "PadToSquare()": {"fill": "PadToSquare(fill=128)"},
    "ColorJitter()": {
        "brightness": "ColorJitter(brightness=0.4)",
        "contrast": "ColorJitter(contrast=[0.2, 0.4])",
        "saturation": "ColorJitter(saturation=0.4)",
        "hue": "ColorJitter(hue=0.2)",
    },
    "Grayscale(1)": {"num_output_channels": "Grayscale(3)"},
    "RandomGrayscale()": {"p": "RandomGrayscale(p=0.9)"},
    "RandomAffine(30)": {
        "degrees": "RandomAffine([30, 50])",
        "translate": "RandomAffine(30, translate=[0.5, 0.2])",
        "scale": "RandomAffine(30, scale=[0.5, 0.9])",
        "shear": "RandomAffine(30, shear=20)",
        "interpolation": f"RandomAffine(30, {BILINEAR})",
        "fill": "RandomAffine(30, fill=99)",
        "center": "RandomAffine(30, center=[2, 3])",
    },
    "RandomErasing()": {
        "p": "RandomErasing(p=0.9)",
        "scale": "RandomErasing(scale=[0.5, 0.6])",
        "ratio": "RandomErasing(ratio=[3, 4])",
        "value": "RandomErasing(value='random')",
    },
    f"RandomApply([{TURN}])": {
        "transforms": f"RandomApply([{TURN}, {FLIP}])",
        "p": f"RandomApply([{TURN}], p=0.9)",
    },
    f"RandomChoice([{TURN}, {FLIP}])": {
        "transforms": f"RandomChoice([{FLIP}, {TURN}])",
        "p": f"RandomChoice([{TURN}, {FLIP}], p=[1, 9])",
    },
    f"RandomOrder([{TURN}, {FLIP}])": {"transforms": f"RandomOrder([{FLIP}])"},
    "AutoAugment()": {
        "policy": "AutoAugment(AutoAugmentPolicy.SVHN)",
        "interpolation": f"AutoAugment({BILINEAR})",
        "fill": "AutoAugment(fill=99)",
    },
    "RandAugment()": {
        "num_ops": "RandAugment(num_ops=3)",
        "magnitude": "RandAugment(magnitude=20)",
        "num_magnitude_bins": "RandAugment(num_magnitude_bins=11)",
        "interpolation": f"RandAugment({BILINEAR})",
        "fill": "RandAugment(fill=99)",
    },
    "TrivialAugmentWide()": {
        "num_magnitude_bins": "TrivialAugmentWide(num_magnitude_bins=5)",
        "interpolation": f"TrivialAugmentWide({BILINEAR})",
        "fill": "TrivialAugmentWide(fill=99)",
    },
    "AugMix()": {
        "severity": "AugMix(severity=9)",
        "mixture_width": "AugMix(mixture_width=1)",
        "chain_depth": "AugMix(chain_depth=4)",
        "alpha": "AugMix(alpha=9)",
        "all_ops": "AugMix(all_ops=False)",
        "interpolation": f"AugMix({NEAREST})",
        "fill": "AugMix(fill=99)",
    },
}
# What takes floats, PIL images, whole batches or names is tried below or elsewhere; `inplace` saves
# memory.
ELSEWHERE = {
    "Normalize",
    "ToTensor",
    "ToPILImage",
    "Lambda",
    "LinearTransformation",
    "MixUp",
    "CutMix",
}


def arguments_of(name):
    """Return the names of the arguments that a user may give to a part."""
    return {argument.name for argument in TRANSFORMS.arguments(name)} - {"inplace"}


def built_of(call):
    # One channel is refused in a call: models take three.
    return v2.Grayscale(1) if call == "Grayscale(1)" else build_transform(parse(call))


def results(call):
    """Return what the call makes of the image with each of 40 rows of draws, as bytes."""
    built = built_of(call)
    kernel = spec_of(built)
    draws = uniforms(0, "test", epoch=0, indices=np.arange(40), columns=num_draws(built))
    image = IMAGE.float() / 255 if isinstance(built, v2.RandomErasing) else IMAGE
    with torch.random.fork_rng(devices=[]):
        return [kernel.apply(built, image, row).numpy().tobytes() for row in draws]


def test_every_argument_of_every_transform_is_tried():
    tried = {parse(call).name: set(arguments) for call, arguments in ARGUMENTS.items()}
    assert tried == {name: arguments_of(name) for name in TRANSFORMS.parts.keys() - ELSEWHERE}


@pytest.mark.parametrize(
    ("call", "changed"),
    [(call, changed) for call, changes in ARGUMENTS.items() for changed in changes.values()],
)
def test_an_argument_changes_what_comes_out(call, changed):
    assert results(call) != results(changed)


@pytest.mark.parametrize("call", [call for call in ARGUMENTS if is_foreign(built_of(call))])
def test_policies_are_torchvisions_own_for_the_seed_that_the_draw_means(call):
    built = build_transform(parse(call))
    with torch.random.fork_rng(devices=[]):
        found = spec_of(built).apply(built, IMAGE, np.array([0.25]))
        torch.default_generator.manual_seed(1 << 51)
        assert torch.equal(found, built(IMAGE))


@pytest.mark.parametrize(
    "call", ["Normalize([0.5], [0.1])", "Normalize([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])"]
)
def test_normalize_takes_one_number_or_one_for_each_channel(call):
    image, mean, std = (
        IMAGE.float() / 255,
        *(torch.tensor(values)[:, None, None] for values in parse(call).args),
    )
    built = build_transform(parse(call))
    torch.testing.assert_close(
        spec_of(built).apply(built, image, np.empty(0)), (image - mean) / std
    )


def test_mode_of_a_pil_image_is_how_the_next_transform_reads_it():
    gray = build_transform(parse("Grayscale(num_output_channels=3)"))
    as_mode = {
        mode: gray(build_transform(parse(f"ToPILImage({mode!r})"))(IMAGE))
        for mode in ("RGB", "HSV")
    }
    assert as_mode["RGB"].tobytes() != as_mode["HSV"].tobytes()


def test_linear_transformation_takes_its_matrix_and_its_mean():
    pixel = torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1)
    for call, expected in (
        (f"LinearTransformation({MATRIX}, [0, 0, 0])", [0.25, 0.5, 0.75]),
        (f"LinearTransformation({MATRIX}, [0.25, 0, 0.5])", [0, 0.5, 0.25]),
        ("LinearTransformation([[0, 2, 0], [1, 0, 0], [0, 0, 1]], [0, 0, 0])", [0.5, 0.5, 0.75]),
    ):
        assert build_transform(parse(call))(pixel).flatten().tolist() == expected


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_alpha_of_a_mix_says_how_even_the_shares_are(name):
    images, labels = torch.rand(500, 3, 16, 16), torch.zeros(500, dtype=torch.int64)

    def spread(alpha):
        mixed = mix(
            build_transform(parse(f"{name}(alpha={alpha})")),
            images,
            labels,
            seed=0,
            epoch=0,
            batch=0,
        )[1]
        return mixed.share.std().item()

    assert spread(0.1) > 1.2 * spread(1.0) > 1.2 * 1.2 * spread(9.0)
