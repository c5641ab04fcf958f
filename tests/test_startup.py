import json
import subprocess
import sys

import pytest

# What takes long to import. Neither help nor split needs any of it.
HEAVY = {"torch", "torchvision", "numpy", "cv2", "matplotlib", "rich", "PIL", "tensorboardX", "pydantic"}
RUN_AND_TELL = """
import json, sys
from ptkit.cli import app
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
        [sys.executable, "-c", RUN_AND_TELL, json.dumps(args)], cwd=cwd, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [["--help"], ["split", "--help"], ["split", "."]])
def test_help_and_split_load_nothing_heavy(images, args):
    loaded = modules_after(*args, cwd=images)
    assert "ptkit" in loaded
    assert loaded & HEAVY == set()


def test_importing_ptkit_loads_nothing_heavy(tmp_path):
    code = "import sys, ptkit; print(sorted({'torch', 'numpy', 'cv2', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
