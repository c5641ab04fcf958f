import json
import subprocess
import sys

import pytest

# What takes long to import. Neither help nor split needs any of it.
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "cv2",
    "matplotlib",
    "rich",
    "PIL",
    "tensorboardX",
    "pydantic",
}
RUN_AND_TELL = """
import json, sys
from ptkit.commands.app import app
try:
    app(json.loads(sys.argv[1]), prog_name="ptkit")
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture
def images(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}.png").write_text(f"{label}{number}")
    return tmp_path


def modules_after(*args, cwd):
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL, json.dumps(args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [["--help"], ["split", "--help"], ["split", "."]])
def test_help_and_split_load_nothing_heavy(images, args):
    loaded = modules_after(*args, cwd=images)
    assert "ptkit" in loaded
    assert loaded & HEAVY == set()


def test_importing_ptkit_loads_nothing_heavy(tmp_path):
    code = "import sys, ptkit; print(sorted({'torch', 'numpy', 'cv2', 'typer'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# As if the command had loaded torch, which is what the quick end is for.
MAIN = """
import atexit, sys
sys.modules["torch"] = sys
sys.argv = ["ptkit", *sys.argv[1:]]
import ptkit.cli, ptkit.commands.app
from ptkit.core import machine
{change}
machine.prepare_environment = lambda: atexit.register(print, "cleaned up")
ptkit.cli.main()
"""


@pytest.mark.parametrize(
    ("change", "args", "status", "told"),
    [
        ("", ["--version"], 0, "ptkit 0"),
        ("", ["split", "nowhere"], 3, "cleaned up"),
        ("ptkit.commands.app.Commands.main = lambda *_, **__: 1 / 0", [], 1, "cleaned up"),
    ],
)
def test_the_quick_end_keeps_status_output_and_clean_up(change, args, status, told):
    command = [sys.executable, "-c", MAIN.format(change=change), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, told in done.stdout) == (status, True)
    assert ("ZeroDivisionError" in done.stderr) == (status == 1)
