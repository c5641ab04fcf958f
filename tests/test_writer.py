"""The writer's thread: in order, one behind at most, and no error is lost."""

import threading

import pytest

from ptkit.core.errors import StorageError
from ptkit.core.training.writer import Writer


@pytest.fixture
def writer():
    found = Writer()
    yield found
    found.close()


@pytest.fixture
def gate():
    """Holds a job back until it is set; a test that fails does not hang."""
    found = threading.Event()
    yield found
    found.set()


def fail():
    raise StorageError("the disk is full")


def test_jobs_run_in_order_in_one_other_thread(writer):
    done = []
    for number in range(5):
        writer.begin(lambda number=number: done.append((number, threading.get_ident())))
    writer.wait()
    (thread,) = {ident for _, ident in done}
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    assert thread != threading.get_ident()


def test_a_job_waits_for_the_one_before_and_the_loop_with_it(writer, gate):
    done = []
    writer.begin(lambda: (gate.wait(10), done.append("first")))
    # While it is under way the loop goes on.
    writer.check()
    assert done == []
    threading.Timer(0.05, gate.set).start()
    writer.begin(lambda: done.append(f"after {done[0]}"))
    writer.wait()
    assert done == ["first", "after first"]


def test_closing_waits_for_what_is_under_way(gate):
    done, writer = [], Writer()
    writer.begin(lambda: (gate.wait(10), done.append(1)))
    threading.Timer(0.05, gate.set).start()
    writer.close()
    assert done == [1]


@pytest.mark.parametrize("method", ["check", "wait", "begin"])
def test_an_error_is_raised_by_what_is_called_next_and_ends_all_writing(writer, method):
    writer.begin(fail)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.wait()
    done = []
    arguments = (lambda: done.append(1),) if method == "begin" else ()
    with pytest.raises(StorageError, match="the disk is full"):
        getattr(writer, method)(*arguments)
    writer.close()
    assert done == []
