import errno
import hashlib
import os
import stat
import threading
import time

import pytest

from ptkit.core.errors import StorageError
from ptkit.core.files import (
    from_disk,
    make_folder,
    sha256,
    with_retries,
    write_atomically,
    write_csv,
)


@pytest.fixture
def old(tmp_path):
    """A file with old content."""
    (tmp_path / "file.txt").write_bytes(b"old")
    return tmp_path / "file.txt"


def assert_untouched(file):
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == [file.name]


def test_bytes_are_written_and_folders_made(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file.txt", b"new")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path / "a" / "b") == ["file.txt"]


def test_a_table_has_plain_line_ends_and_keeps_bytes_that_are_not_utf_8(tmp_path):
    write_csv(tmp_path / "a.csv", ["path", "n"], [[os.fsdecode(b"\xff,.png"), 1], ["é", None]])
    assert (tmp_path / "a.csv").read_bytes() == b'path,n\n"\xff,.png",1\n\xc3\xa9,\n'


def test_function_writes_to_the_file(old):
    write_atomically(old, lambda file: file.writelines([b"one", b"two"]))
    assert old.read_bytes() == b"onetwo"


def test_reader_that_has_the_old_file_open_keeps_it(old):
    with old.open("rb") as reader:
        write_atomically(old, b"new")
        assert reader.read() == b"old"
    assert old.read_bytes() == b"new"


def test_link_is_replaced_and_nothing_written_through_it(old):
    (old.parent / "link").symlink_to(old.name)
    write_atomically(old.parent / "link", b"new")
    assert old.read_bytes() == b"old"
    assert (old.parent / "link").read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_the_umask_and_leaves_it(tmp_path, umask, mode):
    before = os.umask(umask)
    write_atomically(tmp_path / "file.txt", b"new")
    assert os.umask(before) == umask
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == mode


def test_failed_write_leaves_the_old_file_and_no_other(old):
    def fill_the_disk(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageError,
        match=r"file\.txt: No space left on device; what was there before is untouched",
    ):
        write_atomically(old, fill_the_disk)
    assert_untouched(old)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_system_call_leaves_the_old_file_and_no_other(old, monkeypatch, call):
    def fail(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="Input/output error"):
        write_atomically(old, b"new")
    assert_untouched(old)


def test_file_is_on_the_disk_before_it_is_renamed(old, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real: (steps.append(name), real(*a))
        )
    write_atomically(old, b"new")
    assert steps == ["fsync", "replace", "fsync"]


def test_failed_check_leaves_the_old_file(old):
    def refuse(file):
        assert file.read_bytes() == b"new"
        raise OSError("the file that was written cannot be read back")

    with pytest.raises(StorageError, match="cannot be read back"):
        write_atomically(old, b"new", check=refuse)
    assert_untouched(old)


def test_error_of_the_writing_function_passes_and_leaves_the_old_file(old):
    with pytest.raises(ZeroDivisionError):
        write_atomically(old, lambda _file: 1 / 0)
    assert_untouched(old)


def test_file_where_a_folder_is_wanted_is_a_storage_error(old):
    with pytest.raises(StorageError, match=r"cannot write .*inner\.txt"):
        write_atomically(old / "inner.txt", b"new")
    with pytest.raises(StorageError, match=r"cannot make the folder .*inner"):
        make_folder(old / "inner")
    assert_untouched(old)


def test_folder_is_made_with_its_parents_and_may_be_there(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_sha256_is_hexadecimal():
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_disk_that_fails_for_a_moment_gets_three_tries():
    failures = [OSError(errno.EIO, "I/O error")] * 2

    def read(path):
        if failures:
            raise failures.pop()
        return path

    assert with_retries("a.png", read, "a.png") == "a.png"
    failures.extend([OSError(errno.ESTALE, "stale")] * 3)
    with pytest.raises(StorageError, match=r"cannot read a\.png after three tries: stale"):
        with_retries("a.png", read, "a.png")


def test_a_folder_that_cannot_be_read_takes_files_all_the_same(old, monkeypatch):
    real = os.open

    def denied(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)
    write_atomically(old, b"new")
    assert old.read_bytes() == b"new"


def test_a_file_whose_name_may_not_be_on_the_disk_is_not_called_untouched(old, monkeypatch):
    def fail(_folder):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ptkit.core.files.sync_folder", fail)
    with pytest.raises(StorageError, match=r"is new, and may be the old one again") as error:
        write_atomically(old, b"new")
    assert "untouched" not in str(error.value)
    assert old.read_bytes() == b"new"


class Readers:
    """Work for `from_disk` that counts how many of its threads are busy at once."""

    def __init__(self, seconds):
        self.seconds, self.lock = seconds, threading.Lock()
        self.busy = self.most = 0

    def __call__(self, part):
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        for number in part:
            time.sleep(self.seconds(number))
        with self.lock:
            self.busy -= 1
        return list(part)


@pytest.mark.parametrize("count", [0, 1, 5, 12, 13, 200])
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_each_file_is_asked_about_once_and_answers_come_in_order(count, at_once):
    later_first = Readers(lambda number: 0.001 * (number % 5 == 0))
    assert [n for part in from_disk(later_first, count, at_once=at_once) for n in part] == list(
        range(count)
    )


def test_many_threads_ask_a_slow_disk():
    slow = Readers(lambda _: 0.005)
    list(from_disk(slow, 400, at_once=4))
    assert slow.most > 8


def test_two_threads_ask_a_fast_disk(monkeypatch):
    # Whatever else the machine does.
    monkeypatch.setattr("ptkit.core.files._SLOW", 60)
    fast = Readers(lambda _: 0)
    list(from_disk(fast, 20_000, at_once=64))
    assert fast.most <= 2


def test_a_disk_that_becomes_fast_is_asked_by_two_threads_again(monkeypatch):
    monkeypatch.setattr("ptkit.core.files._SLOW", 0.05)
    # The first look, and what many threads then ask for.
    end, many = 4 + 64 * 4, 0
    readers = Readers(lambda number: 0.06 if number < 4 else 0.001 * (number < end))
    for part in from_disk(readers, 800, at_once=4):
        if part[0] == end:
            many, readers.most = readers.most, 0
    assert readers.most <= 2 < many


def test_a_disk_that_becomes_slow_gets_more_threads():
    readers = Readers(lambda number: 0.005 * (number > 200))
    list(from_disk(readers, 600, at_once=4))
    assert readers.most > 8


def test_an_error_of_the_disk_ends_the_pass():
    def work(part):
        if 100 in part:
            raise StorageError("the disk is gone")
        return list(part)

    seen = []
    with pytest.raises(StorageError, match="gone"):
        seen.extend(from_disk(work, 1000, at_once=8))
    found = [number for part in seen for number in part]
    assert found == list(range(len(found)))
