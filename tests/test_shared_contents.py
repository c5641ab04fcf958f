import os
from pathlib import Path

import pytest
from tiny_data import make_lists, write_list

import ptkit
from ptkit.core.data.lists import read_list
from ptkit.core.data.splits.shared_contents import find_copies
from ptkit.core.errors import DataError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copies(one, other):
    """Write files (name -> bytes) in two folders with a list each, and return the copies."""
    for name, files in {"one": one, "other": other}.items():
        Path(name).mkdir()
        for file, content in files.items():
            Path(name, file).write_bytes(content)
        write_list(Path(name, "list.txt"), [(file, 0) for file in files])
    return find_copies(*(read_list(Path(name, "list.txt")) for name in ("one", "other")))


LONG = bytes(range(256)) * 200


def test_copies_are_found_under_any_name_and_files_of_equal_size_are_none(here):
    one = {"a.png": LONG, "b.png": b"12", "c.png": b"empty not"}
    other = {"x.png": b"21", "y.png": LONG, "z.png": LONG[:-1] + b"x", "v.png": b"12"}
    assert copies(one, other) == [("other/y.png", "one/a.png"), ("other/v.png", "one/b.png")]


def test_copies_inside_one_list_do_not_count(here):
    assert copies({"a.png": b"1", "b.png": b"1"}, {"x.png": b"2", "y.png": b"2"}) == []


def test_what_cannot_be_read_equals_nothing(here):
    one = {"a.png": b"12", "b.png": b""}
    Path("other").mkdir()
    os.mkfifo("other/pipe.png")
    Path("one").mkdir()
    for file, content in one.items():
        Path("one", file).write_bytes(content)
    write_list(Path("one/list.txt"), [(file, 0) for file in one])
    Path("other/empty.png").write_bytes(b"")
    write_list(Path("other/list.txt"), [("pipe.png", 0), ("empty.png", 0), ("gone.png", 0)])
    assert find_copies(read_list(Path("one/list.txt")), read_list(Path("other/list.txt"))) == []


def test_training_refuses_a_byte_copy_unless_it_is_allowed(here):
    make_lists(here)
    train, valid = Path("train.txt"), Path("valid.txt")
    lines = train.read_text().splitlines()
    for number in (0, 5):
        path, label = lines[number].rsplit(" ", 1)
        Path(f"copy{number}.png").write_bytes(Path(path).read_bytes())
        valid.write_text(f"{valid.read_text()}copy{number}.png {label}\n")
    first = lines[0].rsplit(" ", 1)[0]
    expected = (
        rf"^copy0.png in valid.txt has the bytes of {first} in train.txt, and 1 more are such"
        r" copies: accuracy would be inflated; split again, or pass --set data.allow_leak=true$"
    )
    with pytest.raises(DataError, match=expected):
        ptkit.train(epochs=1, tensorboard=False, pictures=False)
    result = ptkit.train(epochs=1, tensorboard=False, pictures=False, allow_leak=True)
    assert result.epochs == 1
