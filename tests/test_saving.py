import csv
import json
import logging

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ptkit.core.errors import UsageError
from ptkit.plots import fonts
from ptkit.plots.fonts import class_labels, drawable, fitted, text_width, wrapped
from ptkit.plots.saving import PictureFolder, file_names, pixels, save_figure
from ptkit.plots.style import new_page, percent_labels
from ptkit.plots.tiles import resized


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.text(0.5, 0.5, "x")
    return figure


def write(folder, *names, command="viz-weights"):
    with PictureFolder(folder, command=command) as pictures:
        for name in names:
            pictures.add_csv(name, ["a"], [[1]])


def found(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".ptkit-files.json")


def test_saved_figure_holds_the_pixels(tmp_path, figure):
    path = save_figure(figure, tmp_path / "deep" / "a.png")
    assert np.array_equal(np.asarray(Image.open(path)), pixels(figure))
    assert pixels(figure).shape == (50, 100, 3)


def test_same_figure_gives_the_same_bytes(tmp_path, figure):
    first = save_figure(figure, tmp_path / "a.png").read_bytes()
    assert save_figure(figure, tmp_path / "a.png").read_bytes() == first


def test_an_image_and_its_frame_are_at_their_place_pixel_by_pixel():
    page = new_page(440, 60, title="")
    image = np.random.default_rng(0).integers(0, 200, (20, 30, 3), dtype=np.uint8)
    page.image(image, 50, 7)
    page.frame(100, 7, 30, 20, color="#ff0000", linewidth=1)
    drawn = pixels(page.figure)[page.top :, page.left :]
    assert np.array_equal(drawn[7:27, 50:80], image)
    rows, columns = np.nonzero(drawn[..., 1] < 128)
    is_frame = columns >= 90
    corners = [f(of[is_frame]) for of in (rows, columns) for f in (np.min, np.max)]
    assert np.abs(np.array(corners) - [7, 27, 100, 130]).max() <= 1


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 0.2, 1], ["0%", "20%", "100%"]),
        ([0.975, 0.98, 1.0, 1.005], ["97.5%", "98.0%", "100.0%", ""]),
        ([0.9996, 0.99965], ["99.960%", "99.965%"]),
    ],
)
def test_percentages_of_an_axis_are_told_apart_and_end_at_100(ticks, texts):
    axes = new_page(300, 200, title="").axes(20, 20, 200, 100)
    percent_labels(axes.yaxis)
    axes.set_yticks(ticks)
    assert [label.get_text() for label in axes.get_yticklabels()] == texts


def test_second_run_removes_what_the_first_one_wrote_and_nothing_else(tmp_path):
    write(tmp_path, "a.csv", "b.csv")
    (tmp_path / "mine.csv").write_text("x")
    write(tmp_path, "b.csv", "c.csv")
    assert found(tmp_path) == ["b.csv", "c.csv", "mine.csv"]


def test_two_commands_in_one_folder_leave_each_others_files(tmp_path):
    write(tmp_path, "a.csv")
    write(tmp_path, "b.csv", command="confmat")
    write(tmp_path, "c.csv")
    assert found(tmp_path) == ["b.csv", "c.csv"]


def test_a_file_of_the_users_is_not_overwritten(tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"a\.csv exists and `ptkit viz-weights` did not write it"):
        write(tmp_path, "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_a_run_that_failed_half_way_is_cleaned_up_by_the_next(tmp_path):
    write(tmp_path, "old.csv")
    pictures = PictureFolder(tmp_path, command="viz-weights").__enter__()
    pictures.add_csv("half.csv", ["a"], [])
    pictures.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert found(tmp_path) == ["half.csv", "old.csv"]
    write(tmp_path, "new.csv")
    assert found(tmp_path) == ["new.csv"]


def test_a_forged_list_of_files_cannot_lead_out_of_the_folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "precious").write_text("x")
    (folder / ".ptkit-files.json").write_text(
        json.dumps({"viz-weights": ["../precious", str(tmp_path / "precious"), 5]})
    )
    write(folder, "a.csv")
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"viz-weights": 3}', "\0"])
def test_a_damaged_list_of_files_counts_as_none(tmp_path, content):
    (tmp_path / ".ptkit-files.json").write_text(content)
    write(tmp_path, "a.csv")
    assert found(tmp_path) == ["a.csv"]


def test_csv_cells_come_back_as_they_were_but_for_formulas(tmp_path):
    rows = [
        ["a,b", 'say "x"', "two\nlines", "猫", "bad\udcff"],
        ["", "=1", 0.1234567891234, 3, True],
    ]
    with PictureFolder(tmp_path, command="confmat") as pictures:
        pictures.add_csv("a.csv", list("vwxyz"), rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [
            list("vwxyz"),
            rows[0],
            ["", "'=1", "0.123456789", "3", "True"],
        ]


def test_file_names_are_plain_short_and_different():
    names = file_names("k-", ["layer1.0.conv1", "a/b", "a:b", "A_b", "x" * 500, ".."])
    assert names == ["k-layer1.0.conv1", "k-a_b", "k-a_b-2", "k-A_b-3", "k-" + "x" * 120, "k-"]


def test_names_that_cannot_be_drawn_become_their_index():
    assert class_labels(["cat", "\U0001f642", " ", "a\nb"]) == ["cat", "#1", "#2", "#3"]
    assert drawable("a\nb\U0001f642") == "a b…"


def test_chinese_names_are_drawn_where_a_font_has_them(monkeypatch):
    monkeypatch.setattr(fonts, "_glyphs", lambda: (frozenset(range(128)), frozenset({ord("猫")})))
    assert class_labels(["猫", "狗"]) == ["猫", "#1"]


def test_font_for_chinese_is_one_that_the_system_has_or_none():
    name = fonts.cjk_font()
    assert name is None or name in {entry.name for entry in fonts.font_manager.fontManager.ttflist}
    assert fonts.font_families() == ["DejaVu Sans", *([name] if name else [])]
    assert logging.getLogger("matplotlib.font_manager").level == logging.NOTSET


def test_long_text_is_cut_in_the_middle_and_broken_at_blanks():
    path = "data/a/very/long/path/to/some/image/000123.png"
    cut = fitted(path, width=120, size=8)
    assert text_width(cut, size=8) <= 120
    assert cut.startswith("data")
    assert cut.endswith("0123.png")
    lines = wrapped("one two three four five six seven", width=80, size=9)
    assert " ".join(lines) == "one two three four five six seven"
    assert all(text_width(line, size=9) <= 80 for line in lines)


def test_small_tiles_repeat_pixels_and_large_ones_average_them():
    small = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(resized(small, 5), small.repeat(2, axis=0).repeat(2, axis=1))
    large = np.arange(48.0).reshape(6, 8)
    assert np.allclose(resized(large, 4), large.reshape(3, 2, 4, 2).mean(axis=(1, 3)))
    assert resized(np.zeros((301, 7, 3), np.uint8), 80).shape == (76, 2, 3)
