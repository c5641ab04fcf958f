"""Tiny images, and a scale for memory, that several tests share."""

import functools
import gc
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

# Tiny networks and matrices: handing work to a second thread costs more than it saves. numpy reads
# it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_list
from tiny_scans import CATS_AND_DOGS, make_tree

# Before anything else imports cv2, which reads its settings when it is imported.
from ptkit.core.data import images  # noqa: F401
from ptkit.core.data.lists import read_list
from ptkit.core.machine import prepare_environment

# As the command does, before anything imports torch: threads that wait by spinning starve tests
# that run beside.
prepare_environment()

# The process's own peak: `ru_maxrss` would count what the tests' process had before the program was
# started.
_PEAK = """
import sys
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
"""


def pytest_collection_finish():
    """Leave what importing and collecting made out of every later search for cyclic garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    # What stays frozen at the end is taken for a leak by extension modules.
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def quick_disk():
    """Let files reach the disk when the system likes: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what is kept on disk out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """Hide GPUs from tests that do not ask for one: their numbers are those of a CPU."""
    if "gpu" in request.keywords:
        return
    # Programs that a test starts.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "torch" not in sys.modules:
        return
    import torch

    for backend in (torch.cuda, torch.backends.mps):
        # torch._dynamo, imported meanwhile, looks for what torch's own function wraps.
        hidden = functools.wraps(backend.is_available)(lambda: False)
        monkeypatch.setattr(backend, "is_available", hidden)


@contextmanager
def _nothing_waits():
    import torch

    with warnings.catch_warnings():
        # torch says once that this mode is a prototype.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def nothing_waits():
    """A context in which waiting for the GPU is an error."""
    return _nothing_waits


@pytest.fixture
def called_of_torch():
    """A context that gives the names of torch's functions in the order in which they are called."""
    from torch.overrides import TorchFunctionMode

    class Names(TorchFunctionMode):
        def __enter__(self):
            super().__enter__()
            self.found = []
            return self.found

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.found.append(function.__name__)
            return function(*args, **(kwargs or {}))

    return Names


@pytest.fixture
def late_copies(monkeypatch):
    """Return a function that lets copies in a module arrive as those of a GPU do: at the wait."""

    def set_in(module):
        under_way = []

        def begin_copy(tensor):
            copy = tensor.detach().clone()
            under_way.append((copy, copy.clone()))
            return copy.fill_(-1)

        def when_copied(_device):
            some = list(under_way)
            return lambda: [copy.copy_(values) for copy, values in some]

        monkeypatch.setattr(module, "begin_copy", begin_copy)
        monkeypatch.setattr(module, "when_copied", when_copied)

    return set_in


@pytest.fixture
def blank_pictures(monkeypatch):
    """Leave every picture white, for tests that ask which files there are, not what is drawn in
    them.
    """
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: None)


@pytest.fixture
def megabytes():
    """A function that runs lines of Python in a process of its own and returns how much its memory
    grew at most.

    setup: lines that run before the measuring. The arguments are in `sys.argv`. Nothing may come on
    standard error.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's peak memory")

    def measured(setup, work, *arguments):
        program = f"{_PEAK}\n{setup}\nbefore = peak()\n{work}\nprint((peak() - before) // 1024)"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return int(done.stdout)

    return measured


@pytest.fixture
def class_folders(tmp_path):
    """Three folders of four 8×8 PNGs: red, green and blue ones, a shade each."""
    for channel, name in enumerate(("blue", "green", "red")):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for shade in range(4):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[:, :, 2 - channel] = 255 - 40 * shade
            Image.fromarray(pixels).save(folder / f"{shade}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def noise_list(tmp_path_factory):
    """A list file of 23 PNGs of 8×8 random pixels in three classes; only to be read."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for index in range(23):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    write_list(folder / "list.txt", [(f"{index}.png", index % 3) for index in range(23)])
    return folder / "list.txt"


@pytest.fixture
def noise_images(noise_list):
    return read_list(noise_list)


@pytest.fixture
def cats_and_dogs(tmp_path, monkeypatch):
    """A working directory with images/cat and images/dog of ten different files each."""
    make_tree(tmp_path / "images", CATS_AND_DOGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
