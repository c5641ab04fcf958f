"""What a machine offers, on systems of every kind, and what it says where something is missing."""

import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from ptkit.core.machine import free_bytes, num_cores


@pytest.fixture
def elsewhere(monkeypatch):
    """As on macOS and Windows, where os knows no affinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)


def test_cores_are_those_that_the_process_may_use(elsewhere, monkeypatch):
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda process: [0, 2, 3], raising=False)
    assert num_cores() == 3


def test_cores_are_all_where_no_process_is_restricted(elsewhere, monkeypatch):
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    assert num_cores() == os.cpu_count()


def test_memory_is_what_is_free_without_swapping(tmp_path, monkeypatch):
    monkeypatch.setattr("ptkit.core.machine._CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345))
    assert free_bytes() == 12345


def test_opencv_without_libgl_is_one_line_that_says_what_to_do(tmp_path):
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    (tmp_path / "train.txt").write_text("a.png 0\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "ptkit", "normstats", "train.txt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ptkit: OpenCV needs a library of the system: libGL.so.1: cannot open shared object file:"
        " No such file or directory; install it (libgl1 has libGL.so.1), or uninstall opencv-python"
        " and then install opencv-python-headless\n"
    )


@pytest.mark.parametrize(
    ("limit", "used", "stat", "free"),
    [
        ("20000", "19000", "anon 4000\ninactive_file 14000\nactive_file 1000", 12_345),
        ("20000", "19000", "anon 12000\ninactive_file 6000\nactive_file 1000", 7_000),
        ("20000", "25000", "inactive_file 1000", 0),
        ("max", "19000", "inactive_file 0", 12_345),
    ],
)
def test_files_in_memory_that_nobody_needs_are_free_in_a_container(
    limit, used, stat, free, tmp_path, monkeypatch
):
    for name, text in {"memory.max": limit, "memory.current": used, "memory.stat": stat}.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr("ptkit.core.machine._CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345))
    assert free_bytes() == free


_FREED = """
import ctypes, json, resource
import psutil
from ptkit.core.machine import give_freed_memory_back, keep_freed_memory

libc, size, process = ctypes.CDLL(None), 100 << 20, psutil.Process()
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = libc.malloc(size)
    libc.memset(memory, 1, size)
    libc.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
keep_freed_memory()
faults()
kept, held = faults(), process.memory_info().rss
give_freed_memory_back()
print(json.dumps([usual, kept, held - process.memory_info().rss]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_large_tensors_free_is_kept_and_then_given_back():
    done = subprocess.run([sys.executable, "-c", _FREED], capture_output=True, check=True)
    usual, kept, given_back = json.loads(done.stdout)
    # Of 100 MiB each page anew, and none.
    assert kept < usual / 10
    assert given_back > 90 << 20
