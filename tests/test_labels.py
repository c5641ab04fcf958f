from pathlib import Path

import matplotlib
import pytest

from ptkit.core.errors import UsageError
from ptkit.core.wording import short_paths, table
from ptkit.plots.fonts import font_families, text_width, using_font, wrapped
from ptkit.plots.labels import labels_of
from ptkit.plots.style import new_page

LONG = [f"Acanthoscurria_geniculata_number_{k:02d}_of_the_northern_collection" for k in range(12)]
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"


def test_long_names_keep_apart_fit_and_are_whole_in_the_key():
    labels = labels_of(["cat", *LONG], width=90, size=8)
    assert labels.texts[0] == "cat"
    assert len(set(labels.texts)) == len(labels.texts)
    assert all(text_width(text, size=8) <= 90 for text in labels.texts)
    assert labels.key() == [f"#{k} {name}" for k, name in enumerate(LONG, 1)]
    assert labels.key([0, 3]) == [f"#3 {LONG[2]}"]


def test_a_name_without_a_font_is_its_number_and_never_an_empty_square():
    labels = labels_of(["0", "\U0001f642", " "], width=90, size=8)
    assert labels.texts == ["0", "#1", "#2"]
    (note,) = labels.key()
    assert note.startswith("#n alone: line n of classes.txt, counted from 0")


def test_the_key_is_below_the_picture_and_makes_room_for_itself():
    few, many = (new_page(500, 100, title="?", key=LONG[:count]) for count in (0, 12))
    assert [text.get_text() for text in many.figure.texts][-12:] == LONG
    heights = [page.figure.get_size_inches()[1] for page in (few, many)]
    assert heights[1] - heights[0] > 12 * 14 / 100 / 2


def test_a_word_without_blanks_is_wrapped_and_nothing_of_it_is_lost():
    lines = wrapped(LONG[0], width=90, size=8)
    assert "".join(lines) == LONG[0]
    assert all(text_width(line, size=8) <= 90 for line in lines)


def test_a_font_of_the_users_is_drawn_with_while_it_is_wanted():
    before = font_families()
    with using_font(FONT):
        assert font_families() == [before[0], "STIXGeneral", *before[1:]]
    assert font_families() == before


def test_what_is_no_font_is_refused(tmp_path):
    (tmp_path / "a.ttf").write_text("hello")
    for name in ("a.ttf", "nope.ttf"):
        with (
            pytest.raises(UsageError, match=r"is not a font: pass a \.ttf"),
            using_font(tmp_path / name),
        ):
            pass


def test_chinese_characters_take_two_columns_of_a_table():
    rows = table(["class", "n"], [("蚂蚁蚁", 3), ("bee", 12)])
    assert rows.splitlines() == ["class    n", "蚂蚁蚁   3", "bee     12"]


def test_file_names_that_repeat_have_their_folder():
    assert short_paths(["a/1.png", "b/2.png"]) == ["1.png", "2.png"]
    assert short_paths(["x/a/1.png", "x/b/1.png"]) == ["a/1.png", "b/1.png"]
    assert short_paths(["a/1.png", "a/1.png"]) == ["1.png", "1.png"]
