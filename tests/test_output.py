"""How commands speak when the screen or a file name is at fault."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.wording import table


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_standard_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ptkit", "list", "recipes"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        74,
        "ptkit: cannot write to standard output: No space left on device\n",
    )


def test_a_line_feed_in_a_name_forges_no_second_message(tmp_path):
    result = CliRunner().invoke(app, ["normstats", str(tmp_path / "a\nptkit: all is well")])
    lines = result.stderr.splitlines()
    assert len(lines) > 1
    assert [line.startswith("ptkit: ") for line in lines] == [True] + [False] * (len(lines) - 1)


def test_a_line_feed_in_a_cell_makes_no_row():
    assert table(["name", "count"], [["a\nb", 1]]) == "name  count\na\\nb      1"
