import matplotlib
import numpy as np
import pytest
import torch
from torchvision.utils import make_grid

from ptkit.plots.kernel_spectrum import singular_values, spectrum_rows
from ptkit.plots.kernel_stats import DEAD_SHARE, kernel_colors, kernel_rows, kernel_stats
from ptkit.plots.kernels import KernelLook, kernel_figure, output_mosaics, shows_spectrum
from ptkit.plots.saving import pixels
from ptkit.plots.tiles import Grid, enlarged


@pytest.fixture
def random_weight():
    return lambda *shape: np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def largest_image(figure):
    return max(
        (image.get_array() for image in figure.images),
        key=lambda image: image.size,
    )


def test_zero_and_tiny_kernels_are_dead_and_weak_ones_are_not(random_weight):
    weight = random_weight(9, 3, 3, 3)
    weight[2] = 0
    weight[5] *= 1e-4
    weight[7] *= 0.02
    assert np.flatnonzero(kernel_stats(weight).is_dead).tolist() == [2, 5]


def test_dead_means_below_a_thousandth_of_the_median_norm():
    weight = (
        np.ones((5, 1, 1, 1))
        * np.array([1, 2, 3, 2 * DEAD_SHARE * 0.999, 2 * DEAD_SHARE * 1.001])[:, None, None, None]
    )
    weight = np.concatenate([weight, np.full((2, 1, 1, 1), 2.0)])
    assert kernel_stats(weight).median_norm == 2
    assert np.flatnonzero(kernel_stats(weight).is_dead).tolist() == [3]


def test_statistics_are_those_of_each_output_channel(random_weight):
    weight = random_weight(4, 5, 3, 3)
    stats = kernel_stats(weight)
    flat = weight.reshape(4, -1).astype(np.float64)
    assert np.allclose(stats.norms, np.linalg.norm(flat, axis=1))
    assert np.array_equal(stats.minima, flat.min(axis=1))
    assert np.array_equal(stats.maxima, flat.max(axis=1))
    assert stats.limit == pytest.approx(np.percentile(np.abs(flat), 99.5))
    assert kernel_rows("conv", stats)[1] == (
        "conv",
        1,
        stats.norms[1],
        stats.minima[1],
        stats.maxima[1],
        False,
    )


def test_rgb_kernel_on_the_layers_scale_has_zero_at_mid_grey():
    kernels = np.zeros((1, 3, 1, 3))
    kernels[0, :, 0, 1], kernels[0, :, 0, 2] = 0.5, -0.5
    colors = kernel_colors(kernels, limit=0.5, scale="layer")
    assert colors[0, 0].tolist() == [[128] * 3, [255] * 3, [0] * 3]


def test_per_kernel_scale_stretches_weak_kernels_to_full_contrast():
    kernels = np.linspace(0, 1e-5, 12).reshape(1, 3, 2, 2)
    assert np.ptp(kernel_colors(kernels, limit=1, scale="layer")) == 0
    assert np.ptp(kernel_colors(kernels, limit=1, scale="kernel")) == 255
    assert np.unique(
        kernel_colors(np.full((1, 3, 2, 2), 7.0), limit=1, scale="kernel")
    ).tolist() == [128]


def test_signed_kernels_use_a_diverging_map_centred_on_zero():
    colors = kernel_colors(np.array([[[[-2.0, 0.0, 2.0]]]]), limit=2, scale="layer")[0, 0] / 255
    expected = matplotlib.colormaps["RdBu_r"]([0.0, 0.5, 1.0])[:, :3]
    assert np.abs(colors - expected).max() < 0.01


def test_weights_that_are_not_finite_are_counted_and_marked(random_weight):
    weight = random_weight(4, 2, 3, 3)
    weight[0], weight[1, 0, 0, 0] = np.nan, np.inf
    stats = kernel_stats(weight)
    assert stats.num_not_finite == 19
    assert not stats.is_dead.any()
    assert np.isfinite(stats.limit)
    figure = kernel_figure(weight, layer="conv")
    assert "19 weights are not finite" in texts(figure)
    assert (largest_image(figure) == (255, 0, 255)).all(axis=-1).any()


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((1, 3, 3, 3), "layer"),
        ((6, 3, 5, 5), "kernel"),
        ((8, 1, 3, 3), "layer"),
        ((4, 3, 1, 1), "layer"),
        ((20, 33, 1, 1), "layer"),
        ((3, 2, 1, 7), "layer"),
        ((40, 20, 3, 3), "kernel"),
        ((5, 1, 1, 1), "kernel"),
    ],
)
def test_every_shape_is_drawn_with_its_number_of_dead_kernels_in_the_title(
    random_weight, shape, scale
):
    figure = kernel_figure(
        random_weight(*shape),
        layer="body.conv",
        look=KernelLook(scale),
        footer="n = 1 · x.pkl · epoch 3",
    )
    assert f"none of {shape[0]}" in texts(figure)
    assert "epoch 3" in texts(figure)
    assert pixels(figure).std() > 0


@pytest.mark.parametrize("shape", [(3, 3, 3, 3), (3, 1, 3, 3), (3, 4, 3, 3), (3, 4, 1, 1)])
def test_a_layer_of_zeros_is_drawn_as_dead(shape):
    assert "3 of 3" in texts(kernel_figure(np.zeros(shape), layer="conv"))


def test_large_layers_show_their_strongest_kernels_and_say_so(random_weight):
    assert "256 of 32,768 shown" in texts(
        kernel_figure(random_weight(256, 128, 3, 3), layer="conv")
    )
    assert "256 of 300 shown" in texts(kernel_figure(random_weight(300, 3, 3, 3), layer="conv"))
    wide = random_weight(600, 3, 1, 1).repeat(400, axis=1)
    figure = kernel_figure(wide, layer="conv", look=KernelLook(view="channels"))
    assert "614,400 of 720,000 weights shown" in texts(figure)


def test_whole_layer_has_a_row_per_output_and_a_column_per_input():
    weight = np.zeros((3, 2, 3, 3))
    weight[1, 0] = 1.0
    picture = largest_image(kernel_figure(weight, layer="conv")).astype(int)
    is_red = (picture[..., 0] > picture[..., 2] + 40).nonzero()
    rows, columns = picture.shape[0] / 3, picture.shape[1] / 2
    assert rows * 1 <= is_red[0].min()
    assert is_red[0].max() < rows * 2
    assert is_red[1].max() < columns


def test_kernels_of_one_output_are_in_one_image_for_the_strongest_outputs(random_weight):
    weight = random_weight(20, 5, 3, 3)
    weight[::2] *= 3
    found = dict(output_mosaics(weight, num_outputs=10))
    assert list(found) == list(range(0, 20, 2))
    assert {image.shape for image in found.values()} == {(26, 5 * 25 + 1, 3)}


def test_the_channels_view_has_a_grey_tile_for_each_input_of_a_colour_layer():
    weight = np.zeros((2, 3, 3, 3))
    weight[1, 2] = 1.0
    picture = largest_image(kernel_figure(weight, layer="conv", look=KernelLook(view="channels")))
    assert (np.ptp(picture.astype(int), axis=-1) <= 15).all()
    is_white = (picture == 255).all(axis=-1).nonzero()
    rows, columns = picture.shape[0] / 2, picture.shape[1] / 3
    assert is_white[0].min() >= rows
    assert is_white[1].min() >= 2 * columns


def test_columns_and_gap_are_those_of_make_grid(random_weight):
    weight, grid = random_weight(2, 4, 3, 3), Grid(columns=4, gap=2, fill=(0, 0, 0))
    look = KernelLook(scale="kernel", view="channels", grid=grid)
    (_, first), _ = output_mosaics(weight, look=look)
    tiles = torch.from_numpy(enlarged(weight[0][..., None], 8)).movedim(-1, 1)
    expected = make_grid(tiles, nrow=4, normalize=True, scale_each=True, padding=2)
    assert np.abs(first.transpose(2, 0, 1) / 255 - expected.numpy()).max() < 1 / 255


def test_each_output_begins_a_line_of_its_own(random_weight):
    look = KernelLook(view="channels", grid=Grid(columns=2, gap=0, fill=(255, 0, 255)))
    picture = largest_image(kernel_figure(random_weight(4, 3, 3, 3), layer="conv", look=look))
    is_hole = (picture == (255, 0, 255)).all(axis=-1)
    holes = [[False, False], [False, True]] * 4
    size = picture.shape[1] // 2
    assert picture.shape[0] == 8 * size
    assert is_hole.reshape(8, size, 2, size).all(axis=(1, 3)).tolist() == holes


def test_of_a_layer_that_looks_like_static_the_singular_values_are_drawn(random_weight):
    weight = random_weight(256, 256, 3, 3)
    assert shows_spectrum(weight, KernelLook())
    assert not shows_spectrum(weight, KernelLook(view="channels"))
    assert not shows_spectrum(random_weight(64, 3, 7, 7), KernelLook())
    assert "Singular values" in texts(kernel_figure(weight, layer="conv"))


def test_singular_values_are_numpys_and_their_shares_end_at_all():
    weight = np.diag([3.0, 4.0, 0.0])[:, :, None, None]
    assert singular_values(weight).tolist() == [4, 3, 0]
    assert spectrum_rows("conv", singular_values(weight)) == [
        ("conv", 1, 4.0, 0.64),
        ("conv", 2, 3.0, 1.0),
        ("conv", 3, 0.0, 1.0),
    ]
