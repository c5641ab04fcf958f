import numpy as np
import pytest
from sklearn.decomposition import PCA

from ptkit.plots.embedding import MAX_CLASSES, embedding_figure, nearest_share, principal_axes


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(40, 6)) * [5, 1, 1, 3, 1, 1]


def draw(features, labels, class_names):
    thumbnails = [np.full((8, 8, 3), k, np.uint8) for k in range(len(features))]
    return embedding_figure(
        features, labels, thumbnails, class_names=class_names, layer="fc", footer="epoch 3"
    )


def texts(figure):
    return " ".join(text.get_text() for holder in (figure, *figure.axes) for text in holder.texts)


def test_components_are_those_of_scikit_learn(features):
    points, shares = principal_axes(features)
    reference = PCA(2).fit(features)
    np.testing.assert_allclose(np.abs(points), np.abs(reference.transform(features)), atol=1e-9)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_)


def test_components_do_not_flip_with_the_order_of_the_images(features):
    points, _ = principal_axes(features)
    np.testing.assert_allclose(principal_axes(features[::-1])[0], points[::-1], atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (3, 2)])
def test_few_images_or_features_have_two_components_all_the_same(shape):
    points, _ = principal_axes(np.arange(np.prod(shape), dtype=float).reshape(shape))
    assert points.shape == (shape[0], 2)


def test_neighbours_count_as_alike_when_they_share_a_class():
    features = np.array([[0.0], [1.0], [10.0], [11.5], [30.0]])
    assert nearest_share(features, np.array([0, 0, 1, 2, 2])) == 0.6
    several = np.array([[1, 0], [1, 1], [0, 1], [1, 0], [0, 0]], bool)
    assert nearest_share(features, several) == 0.4


def test_the_figure_states_the_share_of_alike_neighbours_and_the_variance(features):
    labels = (features[:, 0] > 0).astype(int)
    drawn = texts(draw(features, labels, ["left", "right"]))
    assert f"{nearest_share(features, labels):.1%} have a nearest neighbour of their class" in drawn
    assert "40 images, 6 features going into fc" in drawn
    assert {"left", "right"} <= set(drawn.split())


def test_classes_beyond_the_colours_are_grey_and_counted(features):
    drawn = texts(draw(features, np.arange(40) % 25, [f"c{k}" for k in range(25)]))
    assert f"grey: {25 - MAX_CLASSES} more classes" in drawn


def test_every_cell_shows_one_image(features):
    figure = draw(features, np.zeros(40, int), ["all"])
    sheet = figure.axes[-1].images[0].get_array()
    shown = {int(value) for value in np.unique(sheet) if value < 40}
    assert 10 < len(shown) <= 40
    assert all((sheet[..., 0] == value).sum() % (40 * 40) == 0 for value in shown)


def test_a_collapsed_network_is_called_so():
    thumbnails = [np.zeros((4, 4, 3), np.uint8)] * 6
    labels, names = np.array([0, 1] * 3), ["a", "b"]
    notes = []
    for features in (np.ones((6, 4)), np.outer(np.arange(6.0), np.ones(4))):
        figure = embedding_figure(features, labels, thumbnails, class_names=names, layer="fc")
        notes.append(" ".join(text.get_text() for text in figure.texts))
    assert "the network has collapsed" in notes[0]
    assert "nearly all of their variance is in one direction" in notes[1]
