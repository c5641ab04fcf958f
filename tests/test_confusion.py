import numpy as np
import pytest

from ptkit.plots.confusion import confusion_figure, similar_blocks
from ptkit.plots.saving import pixels
from ptkit.plots.style import INK, contrasting

EMPTY = (230, 232, 235)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def matrix_image(figure):
    return max(
        (image.get_array() for image in figure.images),
        key=lambda image: image.size,
    )


def mostly_right(num_classes, right=9):
    return np.eye(num_classes, dtype=np.int64) * right + np.roll(
        np.eye(num_classes, dtype=np.int64), 1, axis=1
    )


def test_cells_hold_counts_and_margins_hold_recall_and_precision():
    found = texts(
        confusion_figure(np.array([[7, 3], [0, 1234]]), ["cat", "dog"], footer="test.txt · epoch 3")
    )
    assert {"7", "3", "1,234", "70.0%", "100%", "99.8%", "10", "test.txt · epoch 3"} <= set(found)
    assert "0" not in found[: found.index("cat")]


def test_title_names_the_most_confused_pair_and_note_the_accuracy():
    found = " ".join(texts(confusion_figure(np.array([[7, 3], [1, 9]]), ["cat", "dog"])))
    assert "Which classes are confused? “cat” taken for “dog” most, 3 of 4 mistakes" in found
    assert "Accuracy 80.0% (58.4 to 91.9%), 16 of 20 images." in found


def test_title_without_mistakes_says_so():
    assert "none, all 5 images are right" in " ".join(
        texts(confusion_figure(np.diag([2, 3]), ["cat", "dog"]))
    )


def test_class_without_images_is_grey_and_has_no_rate():
    figure = confusion_figure(np.array([[5, 2, 0], [0, 0, 0], [1, 0, 9]]), ["a", "b", "c"])
    assert "–" in texts(figure)
    assert "nan" not in " ".join(texts(figure))
    picture = matrix_image(figure)
    cell = len(picture) // 3
    is_empty = (picture == EMPTY).all(axis=-1)
    assert is_empty[cell : 2 * cell].all()
    assert not is_empty[:cell].any()
    assert not is_empty[2 * cell :].any()


def test_no_images_at_all_is_still_a_picture():
    assert pixels(confusion_figure(np.zeros((3, 3), int), ["a", "b", "c"])).std() > 0


@pytest.mark.parametrize(("num_classes", "has_counts"), [(30, True), (31, False), (100, False)])
def test_every_class_is_named_up_to_a_hundred_and_counts_are_written_up_to_thirty(
    num_classes, has_counts
):
    names = [f"class {k}" for k in range(num_classes)]
    found = texts(confusion_figure(mostly_right(num_classes), names))
    assert [found.count(name) for name in names] == [2] * num_classes
    assert ("9" in found) == has_counts


@pytest.mark.parametrize("num_classes", [2, 30, 31, 101, 333])
def test_every_class_has_its_row_and_column_of_pixels(num_classes):
    picture = matrix_image(
        confusion_figure(mostly_right(num_classes), [f"c{k}" for k in range(num_classes)])
    )
    assert picture.shape[0] == picture.shape[1]
    assert picture.shape[0] % num_classes == 0


@pytest.mark.slow
def test_mistakes_outside_the_blocks_stay_visible_among_thousands_of_classes():
    matrix = np.eye(1700, dtype=np.int64) * 3
    matrix[3, 100:200] = 1
    picture = matrix_image(confusion_figure(matrix, [str(k) for k in range(1700)]))
    assert len(picture) == 850
    # 100 mistakes in one row; at most 40 of them are in its block, and two columns share a pixel.
    assert (picture != picture[0, -1]).any(axis=-1).sum() >= 850 + 30


@pytest.mark.slow
def test_a_pixel_of_several_classes_has_the_colour_of_the_largest_count_among_them():
    matrix = np.eye(1700, dtype=np.int64) * 3
    # Class 0 shares its pixel with class 1, which has images; class 10 with class 11, which has
    # none either.
    matrix[[0, 10, 11], [0, 10, 11]] = 0
    picture = matrix_image(confusion_figure(matrix, [str(k) for k in range(1700)]))
    assert picture[0, 0].tolist() == picture[20, 20].tolist()
    assert (picture == EMPTY).all(axis=-1).all(axis=1).nonzero()[0].tolist() == [5]


def test_blocks_hold_every_class_exactly_once():
    matrix = np.random.default_rng(0).integers(0, 2, (150, 150))
    blocks = similar_blocks(matrix)
    assert sorted(k for block in blocks for k in block) == list(range(150))
    assert max(map(len, blocks)) <= 12


def test_blocks_hold_classes_that_are_confused_with_each_other():
    matrix = np.eye(120, dtype=np.int64) * 20
    groups = np.arange(120) % 20
    matrix[groups[:, None] == groups] += 2
    blocks = similar_blocks(matrix)
    assert sorted(map(sorted, blocks)) == [list(range(k, 120, 20)) for k in range(20)]


def test_classes_without_mistakes_come_last_in_their_own_order():
    matrix = np.eye(9, dtype=np.int64)
    matrix[7, 2] = 1
    assert similar_blocks(matrix) == [[2, 7], [0], [1], [3], [4], [5], [6], [8]]


def test_text_on_any_colour_is_readable():
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    inks = {"white": 1.0, INK: luminance([int(INK[k : k + 2], 16) / 255 for k in (1, 3, 5)])}
    for color in np.random.default_rng(0).random((200, 3)):
        pair = sorted([luminance(color), inks[contrasting(color)]])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 3.8


def test_names_with_dollars_newlines_and_missing_glyphs_are_drawn():
    figure = confusion_figure(
        np.array([[5, 2, 1], [3, 4, 0], [0, 1, 9]]), ["$a$ and $", "two\nlines", "\U0001f642"]
    )
    assert pixels(figure).std() > 0
    found = texts(figure)
    assert "$a$ and $" in found
    assert "1" in found
    assert "2" in found
