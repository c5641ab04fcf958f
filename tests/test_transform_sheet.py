import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list
from torchvision.transforms.v2 import functional as F

from ptkit.core.config.layers import resolve
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.completion import complete, default_transforms
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.parts.calls import parse_all
from ptkit.looking.transforms import calls_for, transform_sheets
from ptkit.plots.transform_sheet import Step, transform_figure

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def paths(tmp_path):
    """Three images of 30×40 pixels, smooth and without symmetry."""
    rng = np.random.default_rng(0)
    for index in range(3):
        small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC).save(
            tmp_path / f"{index}.png"
        )
    return [str(tmp_path / f"{index}.png") for index in range(3)]


@pytest.fixture
def flat_paths(tmp_path):
    """A grey image of 16×16 pixels of level 51, and one of level 204."""
    for level in (51, 204):
        Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / f"{level}.png")
    return [str(tmp_path / "51.png"), str(tmp_path / "204.png")]


def completed(*calls, size=16):
    return complete(parse_all(calls), size=size, mean=MEAN, std=STD)


def settings(**data):
    return resolve({"data": data}).data


def row_of(sheet, name):
    return next(row for row in sheet.steps if row.call.startswith(name))


# ----------------------------------------------------------------------------------- as in training

LISTS = {
    "safe": tuple(map(str, default_transforms("safe", 16))),
    "natural": tuple(map(str, default_transforms("natural", 16))),
    "image by image, then floats": ("RandomRotation(20)", "ToTensor()", "RandomErasing(p=0.7)"),
    "in a container": ("RandomChoice([ColorJitter(0.5), RandomVerticalFlip(1.0)])",),
    "mixed": ("RandomHorizontalFlip()", "RandomChoice([MixUp(), CutMix()])"),
    "crops": ("RandomHorizontalFlip()", "FiveCrop(12)"),
}


@pytest.mark.parametrize("calls", LISTS.values(), ids=LISTS)
def test_draws_of_the_whole_list_are_those_of_the_epochs_of_a_training(paths, tmp_path, calls):
    write_list(tmp_path / "list.txt", [(path, 0) for path in paths])
    pipeline = Pipeline.of(completed(*calls))
    batches = Batches(read_list(tmp_path / "list.txt"), pipeline, Sampling(3, seed=5))
    trained = [denormalise(next(batches.epoch(epoch)).images, MEAN, STD) for epoch in (1, 2, 3)]
    batches.close()
    sheets = transform_sheets(paths, completed(*calls), num_draws=3, seed=5)
    shown = np.stack([sheet.whole.draws for sheet in sheets])
    count = pipeline.num_crops
    expected = (
        np.stack(trained).reshape(3, 3, count, *shown.shape[2:]).swapaxes(0, 1).reshape(shown.shape)
    )
    np.testing.assert_array_equal(shown, expected)


def test_a_step_alone_is_drawn_as_in_the_whole_list(paths):
    calls = completed("ColorJitter(0.5)", "RandomHorizontalFlip()", "RandomVerticalFlip()")
    sheet = transform_sheets(paths[:1], calls, num_draws=16)[0]
    bright, mirrored, turned = sheet.steps[1:]
    combinations = set(zip(mirrored.is_changed, turned.is_changed, strict=True))
    assert len(combinations) == 4
    for k in range(16):
        image = bright.draws[k][:, ::-1] if mirrored.is_changed[k] else bright.draws[k]
        np.testing.assert_array_equal(
            sheet.whole.draws[k], image[::-1] if turned.is_changed[k] else image
        )


def test_same_seed_gives_the_same_sheet_and_fewer_draws_are_its_first(paths):
    calls = completed("RandomResizedCrop(16)")
    first, again, other = (
        transform_sheets(paths, calls, num_draws=5, seed=seed)[1].whole for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)
    assert first.num_different == 5
    few = transform_sheets(paths, calls, num_draws=2, seed=3)[1].whole
    np.testing.assert_array_equal(few.draws, first.draws[:2])


def test_generators_that_others_draw_from_stay_where_they_are(paths):
    before = torch.get_rng_state()
    sheet = transform_sheets(paths[:1], completed("TrivialAugmentWide()"), num_draws=4)[0]
    assert sheet.whole.num_different > 1
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------- each step


def test_every_step_has_a_row_but_those_that_only_convert(paths):
    calls = completed(
        "ToPILImage()", "RandomGrayscale(0.5)", "ToTensor()", "RandomErasing()", "MixUp()"
    )
    sheet = transform_sheets(paths, calls)[0]
    assert [row.call for row in sheet.steps] == [
        "Resize((16, 16))",
        "RandomGrayscale(0.5)",
        "RandomErasing()",
        "MixUp()",
    ]
    assert [row.is_random for row in sheet.steps] == [False, True, True, True]
    assert [len(row.draws) for row in sheet.steps] == [1, 8, 8, 8]


def test_a_step_gets_the_file_at_the_size_that_it_has_in_the_list(paths):
    calls = completed(
        "Pad(2)", "RandomCrop(10)", "RandomHorizontalFlip()", "Grayscale(3)", "RandomVerticalFlip()"
    )
    sheet = transform_sheets(paths[:1], calls)[0]
    assert [row.before.shape[:2] for row in sheet.steps] == [
        (30, 40),
        (16, 16),
        (20, 20),
        (10, 10),
        (10, 10),
        (10, 10),
    ]
    assert sheet.whole.before.shape[:2] == (30, 40)
    # What is not random is done to what later steps get.
    assert np.ptp(row_of(sheet, "RandomVerticalFlip").before, axis=-1).max() == 0
    assert np.ptp(row_of(sheet, "RandomHorizontalFlip").before, axis=-1).max() > 0


def test_a_users_own_transform_does_not_hide_the_size(paths, tmp_path):
    (tmp_path / "own.py").write_text("def dark(image):\n    return image // 2\n")
    calls = completed(
        "RandomCrop(12)", f'Lambda("{tmp_path}/own.py:dark")', "RandomHorizontalFlip()"
    )
    sheet = transform_sheets(paths[:1], calls, num_draws=3)[0]
    dark = row_of(sheet, "Lambda")
    np.testing.assert_array_equal(dark.draws, [dark.before // 2] * 3)
    assert dark.num_different == 1
    assert row_of(sheet, "RandomHorizontalFlip").before.shape[:2] == (12, 12)


def test_what_stands_behind_normalize_is_shown_in_pixels(flat_paths):
    calls = ("ToTensor()", f"Normalize(mean={list(MEAN)}, std={list(STD)})", "RandomErasing(p=1.0)")
    row = transform_sheets(flat_paths[:1], parse_all(calls), num_draws=3)[0].steps[0]
    assert {tuple(color) for color in row.before.reshape(-1, 3).tolist()} == {(51, 51, 51)}
    # Erased with 0, which is the mean.
    colors = {tuple(color) for draw in row.draws for color in draw.reshape(-1, 3).tolist()}
    assert colors == {(51, 51, 51), (102, 128, 153)}


def test_values_beyond_the_ends_are_clipped_and_counted(flat_paths):
    calls = completed("ToTensor()", "RandomErasing(p=1.0, value=2.0)")
    row = row_of(transform_sheets(flat_paths[:1], calls, num_draws=3)[0], "RandomErasing")
    white = [(draw == 255).mean() for draw in row.draws]
    assert row.clipped == pytest.approx(white)
    assert min(white) > 0


def test_images_are_mixed_with_the_one_before_them(flat_paths):
    sheets = transform_sheets(flat_paths, completed("CutMix()"), num_draws=8)
    row = sheets[0].steps[-1]
    assert (row.partner, sheets[1].whole.partner) == (flat_paths[1], flat_paths[0])
    assert {level for draw in row.draws for level in draw.flatten().tolist()} == {51, 204}


def test_one_image_alone_is_not_mixed(flat_paths):
    sheet = transform_sheets(flat_paths[:1], completed("RandomHorizontalFlip()", "MixUp()"))[0]
    assert [row.call for row in sheet.steps] == ["Resize((16, 16))", "RandomHorizontalFlip()"]
    assert (sheet.whole.partner, sheet.whole.num_different) == ("", 1)


def test_crops_of_an_image_belong_together(paths):
    sheet = transform_sheets(paths[:1], completed("TenCrop(12)", "RandomGrayscale()"), num_draws=4)[
        0
    ]
    row = row_of(sheet, "TenCrop")
    image = torch.from_numpy(row.before).permute(2, 0, 1)
    crops = [crop.permute(1, 2, 0).numpy() for crop in F.ten_crop(image, [12, 12])]
    np.testing.assert_array_equal(row.draws, crops)
    assert (row.num_crops, row.is_random, len(sheet.whole.draws)) == (10, False, 40)


def test_whitened_values_are_stretched_around_grey(paths, tmp_path):
    matrix = np.diag(np.full(48, 100, np.float32))
    np.savez(
        tmp_path / "w.npz", transformation_matrix=matrix, mean_vector=np.full(48, 0.5, np.float32)
    )
    calls = completed(f'LinearTransformation("{tmp_path}/w.npz")', size=4)
    row = transform_sheets(paths[:1], calls)[0].steps[-1]
    assert row.is_stretched
    assert row.draws[0].mean() == pytest.approx(127.5, abs=1)
    assert row.draws[0].std() == pytest.approx(255 / 6, abs=1)
    assert np.corrcoef(row.before.flatten(), row.draws[0].flatten())[0, 1] > 0.99


def test_transforms_that_do_not_fit_are_an_error(paths):
    with pytest.raises(UsageError, match="RandomCrop of 50×50 from an image of"):
        transform_sheets(paths, completed("RandomCrop(50)"))
    with pytest.raises(DataError, match="different sizes"):
        transform_sheets(
            [paths[0], _rotated(paths[1])], completed("RandomGrayscale()", "Resize(8)", "MixUp()")
        )


def _rotated(path):
    Image.open(path).rotate(90, expand=True).save(path)
    return path


# -------------------------------------------------------------------------------- the list of calls


def test_calls_are_those_of_training_and_without_statistics_not_normalised(paths):
    assert calls_for(paths, settings()) == parse_all(
        ["Resize((30, 30))", "RandomCrop(30, padding=3)", "ToTensor()"]
    )
    assert calls_for(paths, settings(augment="none", size=8)) == parse_all(
        ["Resize((8, 8))", "ToTensor()"]
    )
    natural = calls_for(
        paths, settings(augment="natural", size=8, mean="0.5,0.5,0.5", std="0.1,0.1,0.1")
    )
    assert (natural[0], natural[-1]) == parse_all(
        ["RandomResizedCrop(8)", "Normalize(mean=[0.5, 0.5, 0.5], std=[0.1, 0.1, 0.1])"]
    )


def test_a_list_that_names_normalize_is_taken_as_it_is(paths):
    calls = ["ToTensor()", "Normalize([0.5, 0.5, 0.5], [0.1, 0.1, 0.1])"]
    assert calls_for(paths, settings(transforms=calls)) == parse_all(calls)
    # As the config.toml of a run with that list has it.
    assert calls_for(paths, settings(transforms=calls, mean=[0.5] * 3, std=[0.1] * 3)) == parse_all(
        calls
    )
    with pytest.raises(
        UsageError, match="the statistics are given twice: here and as mean and std"
    ):
        calls_for(paths, settings(transforms=calls, mean=[0.4] * 3, std=[0.1] * 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"transforms": ["Pad(1)"], "augment": "safe"}, "leave --augment out"),
        ({"mean": "0.5,0.5,0.5"}, "mean and std go together"),
        ({"mean": "0.5,0.5", "std": "0.5,0.5"}, "three numbers each"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(paths, data, message):
    with pytest.raises(UsageError, match=message):
        calls_for(paths, settings(**data))


# --------------------------------------------------------------------------------------- the figure


def step(
    heading="Pad(1)",
    *,
    num_draws=2,
    size=(16, 16),
    line="2 of 2 draws change it",
    columns=0,
    level=0,
):
    draws = [np.full((*size, 3), level + k, np.uint8) for k in range(num_draws)]
    captions = ["before", *(f"draw {k}" for k in range(num_draws))]
    return Step(heading, line, np.full((*size, 3), 99, np.uint8), draws, captions, columns)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def num_pixels(figure, level):
    """Return how many screen pixels have a level, which a tile has throughout."""
    return int((figure.images[0].get_array() == level).all(axis=-1).sum())


def test_figure_says_what_each_row_and_tile_is():
    figure = transform_figure(
        [step("Pad(1)")], step("All"), title="What? 3", notes=["a, b"], footer="n = 2"
    )
    assert texts(figure) == [
        "What? 3",
        "a, b",
        "n = 2",
        *("Pad(1)", "2 of 2 draws change it", "before", "draw 0", "draw 1"),
        *("All", "2 of 2 draws change it", "before", "draw 0", "draw 1"),
    ]


def test_small_images_show_their_pixels_and_large_ones_fill_the_tile():
    whole = step("All", num_draws=1, level=50)
    # Six screen pixels for a pixel.
    assert num_pixels(transform_figure([step(size=(16, 8))], whole, title=""), 0) == 16 * 6 * 8 * 6
    assert num_pixels(transform_figure([step(size=(300, 150))], whole, title=""), 0) == 102 * 51


def test_the_whole_list_is_drawn_larger_than_the_steps():
    figure = transform_figure([step(num_draws=8)], step("All", num_draws=8, level=50), title="")
    assert num_pixels(figure, 50) > 4 * num_pixels(figure, 0)


def test_many_draws_wrap_and_crops_stay_on_one_line():
    def height(one):
        return transform_figure([one], step("All"), title="").get_size_inches()[1]

    assert height(step(num_draws=9)) > height(step(num_draws=8)) + 1
    assert height(step(num_draws=10, columns=10)) < height(step(num_draws=8)) + 0.01


@pytest.mark.parametrize(
    ("size", "num_draws"), [((1, 1), 1), ((1, 500), 20), ((700, 2), 1), ((600, 400), 20)]
)
def test_images_of_any_size_and_number_are_drawn(size, num_draws):
    heading = "RandomApply([" + "ColorJitter(brightness=0.123456), " * 9 + "])"
    figure = transform_figure(
        [step(heading, num_draws=num_draws, size=size)], step(num_draws=num_draws), title="x"
    )
    assert texts(figure).count(f"draw {num_draws - 1}") == 2
    assert any("…" in text for text in texts(figure))
    assert figure.texts[-1].get_window_extent().y0 > 0
