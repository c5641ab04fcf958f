import json
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import write_list

from ptkit.core.data.lists import (
    check_image,
    classes_bytes,
    list_bytes,
    read_classes,
    read_list,
)
from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import quoted

# What a file system can hold: any bytes but zero, as Python shows them.
PATHS = st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
STRANGE_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
ROWS = st.lists(
    st.tuples(PATHS | STRANGE_TEXT, st.integers(0, 30)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[0],
)


@pytest.fixture
def list_file(tmp_path):
    return tmp_path / "train.txt"


def rows_of(images):
    return [(images.listed_path(index), int(images.labels[index])) for index in range(len(images))]


# No fixture: benchmarks/faults/properties.py calls these too.
@contextmanager
def in_new_folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "train.txt")


@settings(max_examples=examples(80), deadline=None)
@given(rows=ROWS)
def test_every_path_comes_back_as_it_was_written(rows):
    with in_new_folder() as file:
        write_list(file, rows)
        assert rows_of(read_list(file)) == rows


@settings(max_examples=examples(100), deadline=None)
@given(names=st.lists(PATHS | STRANGE_TEXT, min_size=1, max_size=6, unique=True))
def test_every_class_name_comes_back_as_it_was_written(names):
    with in_new_folder() as file:
        file.write_bytes(classes_bytes(names))
        assert read_classes(file) == tuple(names)


# Lines that are nearly those of a list, and what is none at all.
NEARLY = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["a.png", "b c.png", '"d\\n.png"', '"', "\ufeff", "", "a.png"]),
        st.sampled_from([" ", "\t", "  ", "\xa0", ""]),
        st.sampled_from(["0", "1", "-1", "0,2", ",", "0.5", "nan", "cat", '"a b"', "7" * 30, ""]),
        st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""]),
    ),
    max_size=5,
).map("".join)
# Nothing in these is wrong in one line.
OF_ALL_LINES = ("names no images", "every line has an empty list of classes")


@settings(max_examples=examples(100), deadline=None)
@given(content=NEARLY.map(str.encode) | st.text(max_size=40).map(str.encode) | st.binary())
def test_any_bytes_are_a_list_or_a_data_error_with_a_line(content):
    with in_new_folder() as file:
        file.write_bytes(content)
        try:
            found = read_list(file)
        except DataError as error:
            text = str(error)
            number = re.search(r"\bline (\d+)", text)
            assert text.startswith(str(file))
            assert number or any(words in text for words in OF_ALL_LINES), text
            assert number is None or int(number[1]) <= content.count(b"\n") + 1
        else:
            assert len(found) > 0


def test_plain_paths_are_written_without_quotes():
    rows = [
        ("a b/c,d.png", 0),
        ("-x.png", 1),
        ("猫/ü '1'.png", 2),
        (" lead.png", 3),
        ("👨‍👩‍👧.png", 4),
    ]
    assert (
        list_bytes(rows).decode()
        == "a b/c,d.png 0\n-x.png 1\n猫/ü '1'.png 2\n lead.png 3\n👨‍👩‍👧.png 4\n"
    )


@pytest.mark.parametrize(
    "path",
    [
        '"q.png',
        "end ",
        "end\t",
        "two\nlines.png",
        "cr\r.png",
        "\udcff.png",
        "\ufeff.png",
        "\x1b[31m",
    ],
)
def test_paths_that_would_not_come_back_are_written_as_json(path):
    assert quoted(path).startswith('"')


def test_crlf_bom_blank_lines_tabs_and_blanks_at_the_end_are_read(list_file):
    list_file.write_bytes(b"\xef\xbb\xbfa b.png 0\r\n\r\n  \nc.png\t1  \nd.png   2")
    assert rows_of(read_list(list_file)) == [("a b.png", 0), ("c.png", 1), ("d.png", 2)]


def test_labels_are_int64_and_paths_are_two_arrays(list_file):
    write_list(list_file, [("a.png", 0), ("bc.png", 1)])
    images = read_list(list_file)
    assert images.labels.dtype == np.int64
    assert (bytes(images.path_bytes), images.path_ends.tolist()) == (b"a.pngbc.png", [5, 11])


def test_class_names_come_from_classes_txt_beside_the_list(list_file):
    write_list(list_file, [("a.png", 1)])
    (list_file.parent / "classes.txt").write_text("cat\ndog\nowl\n")
    assert read_list(list_file).class_names == ("cat", "dog", "owl")


def test_class_names_are_numbers_without_classes_txt(list_file):
    write_list(list_file, [("a.png", 2)])
    assert read_list(list_file).class_names == ("0", "1", "2")


def test_a_path_is_relative_to_the_lists_folder_and_then_to_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for name in ("lists/beside.png", "here.png", "both.png", "lists/both.png"):
        (tmp_path / name).touch()
    write_list(
        Path("lists/train.txt"),
        [("beside.png", 0), ("here.png", 0), ("both.png", 0), ("/abs.png", 0), ("no.png", 0)],
    )
    images = read_list(Path("lists/train.txt"))
    found = [images.image_path(index) for index in range(5)]
    assert found == ["lists/beside.png", "here.png", "lists/both.png", "/abs.png", "lists/no.png"]


def test_a_subset_keeps_order_classes_and_hash(list_file):
    write_list(list_file, [("a.png", 0), ("b.png", 1), ("c.png", 2)])
    images = read_list(list_file)
    subset = images.subset([2, 0])
    assert rows_of(subset) == [("c.png", 2), ("a.png", 0)]
    assert (subset.num_classes, subset.sha256) == (3, images.sha256)


def test_lines_that_stand_twice_are_kept_and_counted(list_file):
    list_file.write_text("a.png 0\nb.png 1\na.png 0\na.png 0\n")
    images = read_list(list_file)
    assert (len(images), images.num_repeated) == (4, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.png 0\nb.png\n", "line 2: no label"),
        (b"a.png 0\nb.png cat\n", "mixes numbers and names .* 0 in line 1 and cat in line 2"),
        (b"a.png 1.5\nb.png cat\n", "line 2: label 'cat' is not a number, as the other labels"),
        (b"a.png cat,dog\n", "line 1: the label cat,dog has a comma: quote it"),
        (b'a.png "cat\n', 'line 1: "cat starts with a quote but is not a JSON string'),
        (b"a.png -1\n", "line 1: label '-1' is negative"),
        (b"a.png 1,2\nb.png 1;2\n", "mixes numbers and names .* 1,2 in line 1 and 1;2 in line 2"),
        (b"a.png ,\n", "has no labels"),
        (b"a.png 0.5\nb.png 0.5,1\n", "line 2: 2 numbers, but line 1 has 1"),
        (b"a.png 0.5\nb.png 1e999\n", "line 2: label '1e999' is too large"),
        (
            b"a.png 0.5,1\nb.png ,\n",
            "line 2: label ',' does not fit the other lines, which have numbers",
        ),
        (
            b"a.png 0\n\nb.png 99999999999999999999\n",
            "line 3: label 99999999999999999999 is beyond the last class",
        ),
        ("a.png 0\n".encode("utf-16"), "line 1: this is UTF-16"),
        (b"a.png 0\n\x00\x01\x02 3\n", "line 2: a zero byte"),
        (b"a.png 0\n\xff.png 0\n", "line 2: not UTF-8"),
        (b'"a.png 0\n', "line 1: .* is not a JSON string"),
        (b'"a\\u0000.png" 0\n', "line 1: .* cannot be a path"),
        (b'"\\ud800.png" 0\n', "line 1: .* is not a JSON string"),
        (b"a.png 0\na.png 1\n", "gives a.png two labels, 0 in line 1 and 1 in line 2"),
        (b"\n\n", "names no images"),
        (b"", "names no images"),
    ],
)
def test_a_wrong_list_is_a_data_error_that_says_where(list_file, content, message):
    list_file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_list(list_file)


def test_a_label_beyond_classes_txt_is_a_data_error(list_file):
    list_file.write_text("a.png 0\nb.png 2\n")
    (list_file.parent / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"line 2: label 2 is beyond the last class, 1"):
        read_list(list_file)


def test_a_missing_list_a_folder_and_a_pipe_are_data_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="ptkit split"):
        read_list(tmp_path / "train.txt")
    with pytest.raises(DataError, match=r"is a folder; expected a list$"):
        read_list(tmp_path)
    (tmp_path / "class").mkdir()
    with pytest.raises(DataError, match=r"expected a list \(`ptkit split .*` writes lists of a "):
        read_list(tmp_path)
    with pytest.raises(DataError, match="neither file nor folder"):
        read_list(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n\nb\n", "line 2: empty"),
        ("a\nb\na\n", "line 3: 'a' repeats line 1"),
        ("", "no classes"),
    ],
)
def test_wrong_class_names_are_a_data_error(tmp_path, content, message):
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_commas_make_lists_of_classes(list_file):
    list_file.write_text("a.png 0,2\nb.png 1\nc.png ,\nd.png 2,\n")
    images = read_list(list_file)
    assert images.label_kind == "multi-label"
    assert images.labels.tolist() == [
        [True, False, True],
        [False, True, False],
        [False] * 3,
        [False, False, True],
    ]


def test_a_decimal_point_makes_numbers(list_file):
    list_file.write_text("a.png 3.25,-1\nb.png 1e-1,2\n")
    images = read_list(list_file)
    assert (images.label_kind, images.class_names) == ("regression", ("value 0", "value 1"))
    assert images.labels.tolist() == [[3.25, -1.0], [pytest.approx(0.1), 2.0]]


def test_numbers_take_their_names_from_classes_txt(list_file):
    list_file.write_text("a.png 3.25\n")
    (list_file.parent / "classes.txt").write_text("age\n")
    assert read_list(list_file).class_names == ("age",)


def test_a_stray_decimal_among_classes_is_told_with_its_line(list_file):
    list_file.write_text("a.png 0\nb.png 1.5\n")
    (list_file.parent / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"line 2: 1 number, but classes\.txt names 2 classes"):
        read_list(list_file)


def test_a_list_of_single_classes_serves_as_one_of_several(list_file):
    list_file.write_text("a.png 1\nb.png 0\n")
    assert read_list(list_file, kind="multi-label").labels.tolist() == [
        [False, True],
        [True, False],
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(("1,2", "-3,4"), [[1, 2], [-3, 4]]), (("-1", "20"), [[-1], [20]])],
)
def test_whole_numbers_serve_as_numbers_where_those_are_expected(list_file, labels, expected):
    list_file.write_text("".join(f"{k}.png {label}\n" for k, label in enumerate(labels)))
    images = read_list(list_file, kind="regression")
    assert (images.label_kind, images.labels.tolist()) == ("regression", expected)


@pytest.mark.parametrize("label", ["1,", ","])
def test_a_list_of_several_classes_does_not_serve_as_one_of_numbers(list_file, label):
    list_file.write_text(f"a.png {label}\n")
    with pytest.raises(DataError, match="has several classes an image, expected numbers"):
        read_list(list_file, kind="regression")


def test_labels_may_be_names_with_blanks_in_quotes(list_file):
    list_file.write_text(
        'cat.jpg cat\nimg 1.jpg "golden retriever"\n"a b.jpg" "golden retriever" \n'
        'b.jpg "cat"\n"c\\u00e4.jpg"\tz\u00fc"\nd.jpg "golden\\u0020retriever"\n'
    )
    images = read_list(list_file)
    assert images.class_names == ("cat", "golden retriever", 'z\u00fc"')
    assert rows_of(images) == [
        ("cat.jpg", 0), ("img 1.jpg", 1), ("a b.jpg", 1), ("b.jpg", 0), ("c\u00e4.jpg", 2),
        ("d.jpg", 1),
    ]  # fmt: skip
    assert images.has_named_labels


@settings(max_examples=examples(100), deadline=None)
@given(rows=st.lists(st.tuples(PATHS, STRANGE_TEXT), min_size=1, unique_by=lambda row: row[0]))
def test_every_name_of_a_class_comes_back_in_quotes(rows):
    with in_new_folder() as file:
        file.write_text("".join(f"{quoted(path)} {json.dumps(name)}\n" for path, name in rows))
        images = read_list(file)
    assert images.class_names == tuple(sorted({name for _, name in rows}))
    found = [(path, images.class_names[label]) for path, label in rows_of(images)]
    assert found == rows


def test_names_mean_the_lines_of_classes_txt(list_file):
    list_file.write_text("a.png dog\nb.png owl\n")
    (list_file.parent / "classes.txt").write_text("owl\ncat\ndog\n")
    images = read_list(list_file, known=("dog", "owl"))
    assert (images.labels.tolist(), images.class_names) == ([2, 0], ("owl", "cat", "dog"))


def test_names_mean_known_classes_where_no_file_has_any(list_file):
    list_file.write_text("a.png dog\n")
    images = read_list(list_file, known=("owl", "dog"))
    assert (images.labels.tolist(), images.class_names) == ([1], ("owl", "dog"))
    with pytest.raises(
        DataError, match=r"line 1: dog is none of the classes dogs; did you mean dogs"
    ):
        read_list(list_file, known=("dogs",))


@pytest.mark.parametrize("kind", [None, "single-label", "multi-label"])
def test_a_quoted_name_may_have_a_comma_whatever_kind_is_known(list_file, kind):
    list_file.write_text('a.png "fox, red"\nb.png cat\n')
    images = read_list(list_file, kind=kind, known=("cat", "fox, red"))
    assert images.class_names == ("cat", "fox, red")
    expected = [[False, True], [True, False]] if kind == "multi-label" else [1, 0]
    assert images.labels.tolist() == expected


def test_named_classes_serve_as_several_and_not_as_numbers(list_file):
    list_file.write_text("a.png dog\nb.png cat\n")
    assert read_list(list_file, kind="multi-label").labels.tolist() == [
        [False, True],
        [True, False],
    ]
    with pytest.raises(DataError, match="has names of classes, expected numbers"):
        read_list(list_file, kind="regression")


@pytest.mark.parametrize(
    "lines",
    [
        ["cat/1.png 0", "dog/2.png 1"],
        ["../old/cat/1.png 0", "../old/dog/2.png 1"],
        ["/gone/old/cat/9.png 0", "/gone/old/cat/1.png 0", "/gone/old/dog/2.png 1"],
        ["old/cat/1.png 0", "/gone/dog/2.png 1"],
    ],
)
def test_images_that_were_moved_are_found_below_the_root(tmp_path, lines):
    for name in ("new/cat/1.png", "new/dog/2.png", "lists"):
        (tmp_path / name).mkdir(parents=True)
    file = tmp_path / "lists/train.txt"
    file.write_text("\n".join(lines))
    images = read_list(file, root=tmp_path / "new")
    found = [images.image_path(row) for row in range(len(images))][-2:]
    assert found == [f"{tmp_path}/new/cat/1.png", f"{tmp_path}/new/dog/2.png"]
    assert images.subset([len(images) - 1]).image_path(0) == found[1]


def test_a_root_without_the_images_and_one_that_is_no_folder_are_errors(list_file):
    list_file.write_text("\n/old/cat/1.png 0\n")
    with pytest.raises(DataError, match=r"no image of .* is below --root .*: not /old/cat/1\.png"):
        read_list(list_file, root=list_file.parent)
    with pytest.raises(UsageError, match="is not a folder"):
        read_list(list_file, root=list_file.parent / "none")
    with pytest.raises(
        DataError, match=r"train\.txt, line 2: no image /old/cat/1\.png; .* --root DIR"
    ):
        check_image(read_list(list_file), 0)


def test_images_above_the_folder_of_a_list_are_named_without_the_detour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/1").mkdir(parents=True)
    Path("runs/1/train.txt").write_text("../../odd/a.png 0\n../b.png 1\n../../../c/d.png 0\n")
    for path in ("odd/a.png", "runs/b.png", "../c/d.png"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    found = read_list(Path("runs/1/train.txt"))
    assert [found.image_path(row) for row in range(3)] == ["odd/a.png", "runs/b.png", "../c/d.png"]
    found = read_list(tmp_path / "runs/1/train.txt")
    assert found.image_path(0) == str(tmp_path / "odd/a.png")


def test_images_above_a_linked_folder_are_where_the_system_finds_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("disk/runs", "disk/odd", "here/odd"):
        Path(folder).mkdir(parents=True)
        Path(folder, "a.png").write_text(folder)
    Path("here/runs").symlink_to("../disk/runs")
    Path("here/runs/train.txt").write_text("../odd/a.png 0\n")
    path = read_list(Path("here/runs/train.txt")).image_path(0)
    assert Path(path).read_text() == "disk/odd"
