import matplotlib
import numpy as np
import pytest

from ptkit.plots.feature_maps import MapLook, feature_map_figure, map_rows, map_stats
from ptkit.plots.tiles import Grid

GAP_COLOR = 255


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def draw(maps, images, layer="conv"):
    return feature_map_figure(
        maps, images, layer=layer, names=[f"{k}.png" for k in range(len(maps))], footer="epoch 3"
    )


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def channel_image(figure):
    return figure.images[2].get_array()


def test_channels_come_by_their_largest_maximum():
    maps = np.zeros((2, 4, 3, 3))
    maps[0, 2, 1, 1], maps[1, 0, 0, 0], maps[0, 3, 2, 2] = 5, 3, 1
    assert map_stats(maps).strongest.tolist() == [2, 0, 3, 1]


def test_a_channel_is_dead_if_it_is_constant_over_all_images_and_positions():
    maps = np.random.default_rng(0).random((2, 5, 3, 3))
    maps[:, 1], maps[:, 3] = 0, 6
    maps[0, 4] = 0
    assert map_stats(maps).is_dead.tolist() == [False, True, False, True, False]


def test_a_single_value_is_dead_only_if_it_is_zero():
    assert map_stats(np.array([[[[2.0]], [[0.0]], [[-1.0]]]])).is_dead.tolist() == [
        False,
        True,
        False,
    ]


def test_title_and_note_state_dead_channels_share_and_range(images):
    maps = np.random.default_rng(0).random((2, 20, 4, 4)) * 3
    maps[:, :5] = 0
    maps[1, 9, 2, 2] = 4.5
    drawn = texts(draw(maps, images))
    assert "Which channels of conv are dead on these 2 images? 5 of 20" in drawn
    assert (
        "20 channels, 4×4, the 16 with the largest maximum shown. Values 0 to 4.5. 25.0% dead."
        in drawn
    )
    assert "epoch 3" in drawn


def test_all_channels_of_a_layer_share_one_scale(images):
    maps = np.zeros((2, 2, 4, 4))
    maps[0, 0, 0, 0], maps[1, 1, 3, 3] = 10, 1
    picture = channel_image(draw(maps, images)).reshape(-1, 3)
    viridis = (matplotlib.colormaps["viridis"]([0.1, 1.0])[:, :3] * 255).round()
    assert (picture == viridis[0]).all(axis=1).any()
    assert (picture == viridis[1]).all(axis=1).sum() == 20 * 20


def test_layers_with_negative_values_use_the_diverging_map(images):
    maps = np.zeros((2, 1, 4, 4))
    maps[0, 0, 0, 0], maps[0, 0, 0, 1] = -2, 1
    picture = channel_image(draw(maps, images)).reshape(-1, 3)
    lowest = (np.array(matplotlib.colormaps["RdBu_r"](0.0)[:3]) * 255).round()
    assert (picture == lowest).all(axis=1).any()


def test_each_image_has_a_row_and_its_input_is_enlarged_without_smoothing(images):
    figure = draw(np.random.default_rng(0).random((2, 3, 4, 4)), images)
    inputs = figure.images[0].get_array()
    assert {tuple(color) for color in inputs.reshape(-1, 3).tolist()} == {
        *(tuple(color) for color in images.reshape(-1, 3).tolist()),
        (GAP_COLOR,) * 3,
    }
    assert "0.png" in texts(figure)
    assert "1.png" in texts(figure)


@pytest.mark.parametrize(
    "shape", [(1, 6, 28, 28), (1, 40, 1, 1), (3, 2, 1, 50), (1, 1, 300, 200), (2, 17, 7, 5)]
)
def test_maps_of_any_size_are_drawn(shape):
    images = np.zeros((shape[0], 30, 20, 3), np.uint8)
    maps = np.random.default_rng(0).normal(size=shape)
    assert f"none of {shape[1]}" in texts(draw(maps, images))


def test_values_that_are_not_finite_do_not_spoil_the_scale(images):
    maps = np.ones((2, 2, 4, 4))
    maps[0, 0, 0, 0], maps[0, 0, 1, 1], maps[0, 0, 2, 2] = np.nan, np.inf, 3
    assert map_stats(maps).limit == 3
    assert (channel_image(draw(maps, images)) == (255, 0, 255)).all(axis=-1).any()


def test_table_has_a_row_per_channel():
    maps = np.arange(16.0).reshape(1, 2, 2, 4) - 4
    assert map_rows("conv", map_stats(maps)) == [
        ("conv", 0, -4.0, 3.0, 2.0, False),
        ("conv", 1, 4.0, 11.0, 7.5, False),
    ]


def test_channels_are_laid_out_in_lines_of_so_many_columns(images):
    maps = np.random.default_rng(0).random((2, 5, 4, 4)) + 1
    look = MapLook("map", Grid(columns=2, gap=3, fill=(0, 0, 0)))
    names = ["a", "b"]
    figure = feature_map_figure(maps, images, layer="conv", names=names, look=look)
    picture = channel_image(figure)
    # Two images of three lines each: tiles of 80 pixels with gaps of 3 around them.
    assert picture.shape == (6 * 83 + 3, 2 * 83 + 3, 3)
    assert (picture[:3] == 0).all()
    is_hole = (picture[2 * 83 + 3 : 3 * 83, 83 + 3 : 2 * 83] == 0).all()
    assert is_hole
    assert "line by line: " in texts(figure)


def test_each_map_has_its_own_scale_if_wanted(images):
    maps = np.ones((1, 2, 2, 2))
    maps[0, 0, 0, 0], maps[0, 1, 0, 0] = 0, 0.999
    look = MapLook("map", Grid(gap=0))
    figure = feature_map_figure(maps, images[:1], layer="conv", names=["a"], look=look)
    assert np.unique(channel_image(figure)).tolist() == [0, 255]
