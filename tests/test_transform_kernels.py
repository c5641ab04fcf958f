import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data.keyed import uniforms
from ptkit.core.data.transforms.catalogue import build_transform, is_foreign, num_draws, spec_of
from ptkit.core.parts.calls import parse

BATCH = np.random.default_rng(0).integers(0, 256, (40, 7, 9, 3), dtype=np.uint8)


def draws_for(transform, num_images=40, *, seed=0):
    columns = num_draws(transform)
    return uniforms(seed, "test", epoch=0, indices=np.arange(num_images), columns=columns)


def tensors(batch):
    """Return uint8 (n, H, W, 3) pixels as a list of (3, H, W) tensors."""
    return list(torch.from_numpy(batch).permute(0, 3, 1, 2))


def each(transform, batch, draws):
    """Apply the image form to every image; uint8 (n, h, w, 3)."""
    kernel = spec_of(transform)
    done = [
        kernel.apply(transform, image, row)
        for image, row in zip(tensors(batch), draws, strict=True)
    ]
    return torch.stack(done).permute(0, 2, 3, 1).numpy()


def together(transform, batch, draws):
    return spec_of(transform).batch(transform, batch.copy(), draws)  # it may change its input


def between(draw, low, high):
    return low + (high - low) * draw


# -------------------------------------------------------------------------- crop and flips, exactly

CROPS = {
    "inside": v2.RandomCrop((4, 6)),
    "whole": v2.RandomCrop((7, 9)),
    "padded": v2.RandomCrop((7, 9), padding=2),
    "two paddings": v2.RandomCrop(7, padding=[3, 1]),
    "four paddings": v2.RandomCrop((8, 10), padding=[1, 2, 3, 4]),
    "filled": v2.RandomCrop(7, padding=2, fill=77),
    "filled by channel": v2.RandomCrop(7, padding=2, fill=(9, 99, 199)),
    "edge": v2.RandomCrop(7, padding=4, padding_mode="edge"),
    "reflect": v2.RandomCrop(7, padding=[4, 3], padding_mode="reflect"),
    "symmetric": v2.RandomCrop(7, padding=5, padding_mode="symmetric"),
    "padded if needed": v2.RandomCrop((12, 8), pad_if_needed=True, fill=5),
    "padded and more if needed": v2.RandomCrop((14, 20), padding=1, pad_if_needed=True),
}


def torchvision_crop(transform, image, draws):
    """Pad and crop with torchvision's functions at the corner that the two draws mean."""
    left, right, top, bottom = transform.padding or (0, 0, 0, 0)
    wanted_h, wanted_w = transform.size
    missing_h = max(wanted_h - image.shape[1] - top - bottom, 0) * transform.pad_if_needed
    missing_w = max(wanted_w - image.shape[2] - left - right, 0) * transform.pad_if_needed
    sides = [left + missing_w, top + missing_h, right + missing_w, bottom + missing_h]
    padded = F.pad(image, sides, fill=transform.fill, padding_mode=transform.padding_mode)
    spare_h, spare_w = padded.shape[1] - wanted_h + 1, padded.shape[2] - wanted_w + 1
    return F.crop(padded, int(draws[0] * spare_h), int(draws[1] * spare_w), wanted_h, wanted_w)


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_crop_gives_torchvisions_pixels_image_by_image_and_in_batches(crop):
    draws = draws_for(crop)
    expected = [
        torchvision_crop(crop, image, row) for image, row in zip(tensors(BATCH), draws, strict=True)
    ]
    expected = torch.stack(expected).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(each(crop, BATCH, draws), expected)
    assert np.array_equal(together(crop, BATCH, draws), expected)


def test_crop_finds_every_window_equally_often():
    where = np.arange(42, dtype=np.uint8).reshape(1, 6, 7, 1).repeat(3, axis=3).repeat(3600, axis=0)
    crop = v2.RandomCrop((4, 5))
    corners, counts = np.unique(
        together(crop, where, draws_for(crop, 3600))[:, 0, 0, 0], return_counts=True
    )
    assert corners.tolist() == [0, 1, 2, 7, 8, 9, 14, 15, 16]
    # 400 expected; 5 standard deviations of a binomial count.
    assert np.abs(counts - 400).max() < 5 * np.sqrt(3600 * (1 / 9) * (8 / 9))


def test_extreme_draws_stay_inside_the_image():
    crop = v2.RandomCrop((4, 5))
    first, last = np.zeros((40, 2)), np.full((40, 2), 1 - 2**-53)
    assert np.array_equal(together(crop, BATCH, first), BATCH[:, :4, :5])
    assert np.array_equal(together(crop, BATCH, last), BATCH[:, -4:, -5:])
    assert np.array_equal(each(crop, BATCH, last), BATCH[:, -4:, -5:])


@pytest.mark.parametrize("form", [each, together])
def test_crop_larger_than_the_image_is_refused(form):
    crop = v2.RandomCrop((8, 9))
    with pytest.raises(ValueError, match="RandomCrop of 8×9 from an image of 7×9"):
        form(crop, BATCH, draws_for(crop))


FLIPS = {v2.RandomHorizontalFlip: F.horizontal_flip, v2.RandomVerticalFlip: F.vertical_flip}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_turns_the_images_whose_draw_is_below_p(flip, p):
    transform = flip(p=p)
    draws = draws_for(transform)
    turned = [
        FLIPS[flip](image) if row[0] < p else image
        for image, row in zip(tensors(BATCH), draws, strict=True)
    ]
    expected = torch.stack(turned).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(each(transform, BATCH, draws), expected)
    assert np.array_equal(together(transform, BATCH, draws), expected)


@pytest.mark.parametrize("shape", [(5, 1, 1, 3), (5, 1, 6, 3), (5, 6, 1, 3), (1, 7, 9, 3)])
@pytest.mark.parametrize(
    "call", ["RandomCrop(1)", "RandomHorizontalFlip(p=0.6)", "RandomVerticalFlip(p=0.6)"]
)
def test_batch_form_equals_image_form_for_narrow_images(shape, call):
    transform, batch = (
        build_transform(parse(call)),
        BATCH.reshape(-1)[: math.prod(shape)].reshape(shape),
    )
    draws = draws_for(transform, len(batch))
    assert np.array_equal(together(transform, batch, draws), each(transform, batch, draws))


@pytest.mark.parametrize(
    "call", ["RandomCrop(5, padding=1)", "RandomHorizontalFlip(p=0.6)", "RandomVerticalFlip(p=0.6)"]
)
def test_batch_form_gives_whole_rows(call):
    transform = build_transform(parse(call))
    assert together(transform, BATCH, draws_for(transform)).flags.c_contiguous


# ---------------------------------------------------------- parameters: what the draws say, exactly


@pytest.fixture
def image():
    return tensors(BATCH)[0]


def applied(transform, image, draws):
    return spec_of(transform).apply(transform, image, np.asarray(draws))


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.9])
def test_rotation_is_torchvisions_at_the_drawn_angle(image, draw):
    turn = v2.RandomRotation(
        (-20, 60), interpolation=v2.InterpolationMode.BILINEAR, expand=True, fill=3
    )
    expected = F.rotate(
        image,
        between(draw, -20, 60),
        interpolation=v2.InterpolationMode.BILINEAR,
        expand=True,
        fill=3,
    )
    assert torch.equal(applied(turn, image, [draw]), expected)


@pytest.mark.parametrize("draws", [[0.1, 0.9, 0.2, 0.7, 0.4, 0.6], [0.5] * 6, [0.0] * 6])
def test_affine_is_torchvisions_with_the_drawn_numbers(image, draws):
    bend = v2.RandomAffine(
        30, translate=(0.3, 0.2), scale=(0.5, 2), shear=[-10, 10, -20, 5], fill=9, center=[1, 2]
    )
    expected = F.affine(
        image,
        angle=between(draws[0], -30, 30),
        translate=[round(between(draws[1], -2.7, 2.7)), round(between(draws[2], -1.4, 1.4))],
        scale=between(draws[3], 0.5, 2),
        shear=[between(draws[4], -10, 10), between(draws[5], -20, 5)],
        fill=9,
        center=[1, 2],
    )
    assert torch.equal(applied(bend, image, draws), expected)


def test_affine_without_ranges_only_rotates(image):
    expected = F.affine(image, angle=-15.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    assert torch.equal(applied(v2.RandomAffine((-20, 20)), image, [0.125] * 6), expected)


def test_color_jitter_runs_its_four_steps_in_the_drawn_order(image):
    jitter = v2.ColorJitter(0.4, (0.5, 0.9), 0.3, 0.1)
    # The first four draws, sorted, give the order: hue, contrast, brightness, saturation.
    draws = [0.5, 0.3, 0.9, 0.1, 0.2, 0.4, 0.6, 0.8]
    expected = F.adjust_hue(image, between(0.8, -0.1, 0.1))
    expected = F.adjust_contrast(expected, between(0.4, 0.5, 0.9))
    expected = F.adjust_brightness(expected, between(0.2, 0.6, 1.4))
    expected = F.adjust_saturation(expected, between(0.6, 0.7, 1.3))
    assert torch.equal(applied(jitter, image, draws), expected)


def test_color_jitter_leaves_out_what_it_was_not_given(image):
    assert torch.equal(applied(v2.ColorJitter(), image, [0.3] * 8), image)
    expected = F.adjust_saturation(image, between(0.75, 0.5, 1.5))
    assert torch.equal(applied(v2.ColorJitter(saturation=0.5), image, [0.75] * 8), expected)


def test_grayscale_happens_below_p(image):
    assert torch.equal(applied(v2.RandomGrayscale(0.3), image, [0.31]), image)
    assert torch.equal(
        applied(v2.RandomGrayscale(0.3), image, [0.29]), F.rgb_to_grayscale(image, 3)
    )


def test_resized_crop_takes_the_first_box_that_fits():
    image = torch.arange(3 * 10 * 10, dtype=torch.uint8).reshape(3, 10, 10)
    crop = v2.RandomResizedCrop(5, scale=(0.25, 1.0), ratio=(0.25, 4.0))
    draws = np.zeros(22)
    # Ratio 4 at the whole area is 20 wide; then area 0.25 and ratio 1 is a box of 5×5.
    draws[:4] = [1 - 1e-9, 1 - 1e-9, 0.0, 0.5]
    draws[-2:] = [0.55, 0.99]
    assert torch.equal(applied(crop, image, draws), image[:, 3:8, 5:10])


@pytest.mark.parametrize(("height", "width"), [(20, 4), (4, 20), (8, 8)])
def test_resized_crop_falls_back_to_the_centre_as_torchvision_does(height, width):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    crop = v2.RandomResizedCrop(6, scale=(30.0, 40.0), ratio=(0.9, 1.1))
    assert torch.equal(applied(crop, image, np.full(22, 0.5)), crop(image))


@pytest.mark.parametrize("height", [5, 16, 33])
def test_resized_crop_stays_inside_the_image(height):
    image = torch.ones(3, height, 16)
    crop = v2.RandomResizedCrop(4, scale=(0.01, 1.0), ratio=(0.2, 5.0))
    results = [applied(crop, image, row) for row in draws_for(crop, 200)]
    assert torch.allclose(torch.stack(results), torch.ones(200, 3, 4, 4))


def test_erasing_blots_out_one_box_and_nothing_else():
    image = torch.ones(3, 20, 30)
    erase = v2.RandomErasing(p=1, scale=(0.1, 0.2), value=[0.1, 0.2, 0.3])
    for row in draws_for(erase, 50):
        erased = applied(erase, image, row)
        rows, columns = np.nonzero((erased != 1).all(0).numpy())
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        box = erased[:, top:bottom, left:right]
        assert torch.equal(box, torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand_as(box))
        assert len(rows) == (bottom - top) * (right - left)
        assert 0.08 < len(rows) / 600 < 0.22


def test_random_erasing_value_depends_on_the_draws_alone():
    erase = v2.RandomErasing(p=1, value="random")
    first, other = draws_for(erase, 2)
    image = torch.zeros(3, 20, 20)
    assert torch.equal(applied(erase, image, first), applied(erase, image, first))
    assert not torch.equal(applied(erase, image, first), applied(erase, image, other))


@pytest.mark.parametrize(
    "call", ["RandomErasing(p=1)", "ColorJitter(0.5)", "RandomAffine(20)", "RandomResizedCrop(5)"]
)
def test_image_form_leaves_its_input_alone(call):
    transform, image = build_transform(parse(call)), torch.rand(3, 9, 9)
    before = image.clone()
    applied(transform, image, draws_for(transform, 1)[0])
    assert torch.equal(image, before)


# --------------------------------------------------------------------------------------- containers


def test_apply_gives_each_inner_transform_its_own_draws(image):
    both = v2.RandomApply([v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)], p=0.4)
    assert torch.equal(applied(both, image, [0.4, 0.1, 0.1]), image)
    assert torch.equal(applied(both, image, [0.39, 0.1, 0.9]), F.horizontal_flip(image))
    assert torch.equal(applied(both, image, [0.39, 0.9, 0.1]), F.vertical_flip(image))
    assert torch.equal(
        applied(both, image, [0.39, 0.1, 0.1]), F.vertical_flip(F.horizontal_flip(image))
    )


def test_choice_takes_one_with_its_probability_and_its_own_draws(image):
    inner = [v2.RandomHorizontalFlip(0.5), v2.RandomGrayscale(0.5), v2.RandomVerticalFlip(0.5)]
    choice = v2.RandomChoice(inner, p=[1, 0, 3])
    assert torch.equal(applied(choice, image, [0.24, 0.1, 0.9, 0.9]), F.horizontal_flip(image))
    assert torch.equal(applied(choice, image, [0.26, 0.9, 0.9, 0.1]), F.vertical_flip(image))
    assert torch.equal(applied(choice, image, [0.26, 0.1, 0.1, 0.9]), image)
    assert torch.equal(applied(choice, image, [1 - 2**-53, 0.9, 0.9, 0.1]), F.vertical_flip(image))


def test_order_follows_the_sorted_draws(image):
    order = v2.RandomOrder([v2.RandomCrop(4), v2.RandomHorizontalFlip(1.0)])
    corner_first = applied(order, image, [0.1, 0.9, 0.0, 0.0, 0.0])
    flip_first = applied(order, image, [0.9, 0.1, 0.0, 0.0, 0.0])
    assert torch.equal(corner_first, F.horizontal_flip(image[:, :4, :4]))
    assert torch.equal(flip_first, F.horizontal_flip(image)[:, :4, :4])


def test_containers_nest(image):
    inner = v2.RandomChoice(
        [v2.RandomHorizontalFlip(0.5), v2.RandomOrder([v2.RandomVerticalFlip(0.5)])]
    )
    nested = v2.RandomApply([inner, v2.RandomGrayscale(0.5)], p=0.5)
    assert num_draws(nested) == 1 + (1 + 1 + (1 + 1)) + 1
    assert torch.equal(
        applied(nested, image, [0.1, 0.9, 0.9, 0.9, 0.1, 0.9]), F.vertical_flip(image)
    )
    assert torch.equal(
        applied(nested, image, [0.1, 0.1, 0.1, 0.9, 0.1, 0.9]), F.horizontal_flip(image)
    )


# ------------------------------------------------------------------ distributions, as torchvision's

RAMP = torch.stack(
    [
        torch.linspace(0, 1, 12)[:, None].expand(12, 16),
        torch.linspace(0, 1, 16)[None, :].expand(12, 16),
        torch.rand(12, 16, generator=torch.Generator().manual_seed(0)),
    ]
)
NUM_DRAWN = 600

DISTRIBUTIONS = [
    "RandomCrop(8, padding=3)",
    "RandomCrop((14, 8), pad_if_needed=True)",
    "RandomHorizontalFlip(p=0.3)",
    "RandomVerticalFlip()",
    "RandomResizedCrop(8)",
    "RandomResizedCrop((6, 9), scale=(0.2, 0.9), ratio=(0.3, 2.0))",
    "RandomRotation(40)",
    "RandomAffine(20, translate=(0.3, 0.1), scale=(0.7, 1.4), shear=[-10, 10, -5, 30])",
    "ColorJitter(0.4, 0.3, 0.5, 0.2)",
    "RandomGrayscale(p=0.3)",
    "RandomErasing(p=0.7)",
    "RandomErasing(p=0.7, ratio=(2, 5), value='random')",
    "RandomErasing(p=1.0, scale=(0.7, 1.0), ratio=(0.75, 0.76))",
    "RandomApply([RandomRotation(40), RandomHorizontalFlip()], p=0.3)",
    (
        "RandomChoice([RandomRotation(40), RandomGrayscale(p=1.0), ColorJitter(0.5)], p=[0.5, 0.2,"
        " 0.3])"
    ),
    "RandomOrder([RandomCrop(8), RandomErasing(p=1.0), RandomResizedCrop(9)])",
]


def features(images):
    """Return numbers in which wrong positions, sizes, colours and probabilities show, (n, 9)."""
    corners = [[i[0, 0, 0], i[1, 0, -1], i[2, -1, 0]] for i in images]
    return np.array(
        [[*i.mean((1, 2)), *i.std((1, 2)), *some] for i, some in zip(images, corners, strict=True)]
    )


def largest_gap(some, others):
    """Return the Kolmogorov-Smirnov statistic of two samples: the largest gap between their
    distributions.
    """
    places = np.concatenate([some, others])
    shares = [
        np.searchsorted(np.sort(sample), places, side="right") / len(sample)
        for sample in (some, others)
    ]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize("call", DISTRIBUTIONS)
def test_results_are_distributed_as_torchvisions_own(call):
    transform = build_transform(parse(call))
    ours = [
        spec_of(transform).apply(transform, RAMP, row) for row in draws_for(transform, NUM_DRAWN)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [transform(RAMP) for _ in range(NUM_DRAWN)]
    # 0.112 is the 0.1 % point for two samples of 600; features are rounded, as equal ones may
    # differ in the last bit.
    gaps = [
        largest_gap(*pair)
        for pair in zip(features(ours).T.round(5), features(theirs).T.round(5), strict=True)
    ]
    assert max(gaps) < 0.112


# --------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("call", DISTRIBUTIONS)
def test_own_kernels_leave_the_global_generator_alone(call):
    transform = build_transform(parse(call))
    before = torch.get_rng_state()
    applied(transform, RAMP, draws_for(transform, 1)[0])
    assert not is_foreign(transform)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "call", ["AutoAugment()", "RandAugment()", "TrivialAugmentWide()", "AugMix()"]
)
def test_policies_are_foreign_also_inside_containers(call):
    assert is_foreign(build_transform(parse(call)))
    assert is_foreign(
        build_transform(parse(f"RandomApply([RandomChoice([RandomHorizontalFlip(), {call}])])"))
    )


@pytest.mark.parametrize("call", ["AutoAugment()", "RandomApply([TrivialAugmentWide()], p=1.0)"])
def test_foreign_transform_depends_on_the_draws_alone(call, image):
    transform = build_transform(parse(call))
    rows = draws_for(transform, 20)
    with torch.random.fork_rng(devices=[]):
        first = [applied(transform, image, row) for row in rows]
        again = [applied(transform, image, row) for row in rows[::-1]][::-1]
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert len({result.numpy().tobytes() for result in first}) > 5


@pytest.mark.parametrize("size", [(9, 11), (9, 9)])
@pytest.mark.parametrize(
    "call",
    [
        *DISTRIBUTIONS,
        "Resize(5)",
        "Resize((5, 6))",
        "Resize(5, max_size=6)",
        "CenterCrop(4)",
        "CenterCrop((20, 3))",
        "Pad(1)",
        "Pad([1, 2])",
        "Pad([1, 2, 3, 4])",
        "PadToSquare()",
        "Grayscale(num_output_channels=3)",
        "RandomRotation(40, expand=True)",
        "RandomApply([RandomCrop(4)])",
        "RandomApply([RandomHorizontalFlip()])",
    ],
)
def test_size_that_the_plan_promises_is_the_size_that_comes_out(call, size):
    transform = build_transform(parse(call))
    kernel, image = spec_of(transform), torch.rand(3, *size)
    promised = kernel.size(transform, size)
    sizes = {
        tuple(kernel.apply(transform, image, row).shape[1:]) for row in draws_for(transform, 10)
    }
    assert promised is None or sizes == {promised}
    assert kernel.size(transform, None) in (None, promised)
