"""What ends a command, whatever it is doing."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from ptkit import cli
from ptkit.core.training.signals import stop_on_signals

STARTS_SLOWLY = """
import os, signal, sys, time
from importlib.abc import MetaPathFinder

class Slow(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from ptkit.cli import main
main()
"""
HANGS = """
import os, signal, sys, time
from ptkit import cli
cli._CLEANING_S = 0.1
number = int(sys.argv[1])
signal.signal(number, cli._Stop())
try:
    os.kill(os.getpid(), number)
except BaseException:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGINT, "ptkit: interrupted\n"), (signal.SIGTERM, "ptkit: terminated\n")],
)
@pytest.mark.parametrize("imported", ["typer", "ptkit.commands.app"])
def test_a_signal_while_the_commands_are_imported_ends_in_one_line(number, line, imported):
    command = [sys.executable, "-c", STARTS_SLOWLY, str(int(number)), imported]
    ended = subprocess.run(command, timeout=30, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_even_where_clearing_up_hangs(number):
    ended = subprocess.run([sys.executable, "-c", HANGS, str(int(number))], timeout=30, check=False)
    assert ended.returncode == 128 + number


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_run_at_once(first):
    child = os.fork()
    if child == 0:
        # Whatever happens here, the copy of the tests goes no further.
        with contextlib.ExitStack() as stack:
            stack.callback(os._exit, 2)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, cli._Stop())
            flag = stack.enter_context(stop_on_signals())
            os.kill(os.getpid(), first)
            assert flag.signal_number == first
            os.kill(os.getpid(), signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT


def test_a_program_that_calls_ptkit_keeps_its_own_handlers():
    heard = []

    def own(number, _frame):
        heard.append(number)

    before = signal.signal(signal.SIGINT, own)
    try:
        with stop_on_signals() as flag:
            os.kill(os.getpid(), signal.SIGINT)
            assert (flag.signal_number, heard) == (signal.SIGINT, [])
            os.kill(os.getpid(), signal.SIGINT)
            assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


# The clock is read before the commands are imported, which takes half a second.
BEGINS = """
import atexit, sys, time
from importlib.abc import MetaPathFinder

class Marking(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "ptkit.commands.app":
            sys.imported_at = time.perf_counter()

before = time.perf_counter()
sys.meta_path.insert(0, Marking())
from ptkit.cli import main
atexit.register(lambda: print(before < process_began.get() < sys.imported_at))
sys.argv = ["ptkit", "--version"]
from ptkit.commands.output import process_began
main()
"""


def test_the_time_of_a_command_counts_from_the_start_of_its_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BEGINS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "True"
