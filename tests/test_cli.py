"""What ends a command, whatever it is doing."""

import signal
import subprocess
import sys

import pytest

HANGS = """
import os, signal, sys, time
from ptkit import cli
cli._CLEANING_S = 0.1
number = int(sys.argv[1])
signal.signal(number, cli._stop)
try:
    os.kill(os.getpid(), number)
except BaseException:
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_even_where_clearing_up_hangs(number):
    ended = subprocess.run([sys.executable, "-c", HANGS, str(int(number))], timeout=30, check=False)
    assert ended.returncode == 128 + number
