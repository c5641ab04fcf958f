"""What a run asks of its device."""

import threading

import pytest
import torch

from ptkit.core.device import loading_kernels, prepare_device, run_first_kernel
from ptkit.core.machine import num_cores


@pytest.fixture
def threads():
    """Set torch's threads to a number that nothing here would choose, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores() + 1)
    yield num_cores() + 1
    torch.set_num_threads(before)


def test_a_run_uses_every_core(monkeypatch, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert prepare_device(torch.device("cpu"), deterministic=False) == num_cores()


def test_a_number_of_threads_that_the_user_set_stays(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert prepare_device(torch.device("cpu"), deterministic=False) == threads


def test_the_first_kernel_draws_no_number_and_leaves_no_gradient_behind():
    before = torch.get_rng_state()
    run_first_kernel(torch.device("cpu"), torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)


def test_kernels_are_loaded_in_a_thread_that_ends_with_the_block(monkeypatch):
    seen = []

    def kernel(device, dtype):
        seen.append((device.type, dtype, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr("ptkit.core.device.run_first_kernel", kernel)
    with loading_kernels(torch.device("cpu"), None), loading_kernels(torch.device("cuda"), None):
        pass
    assert seen == [("cuda", None, False)]


def test_a_device_that_refuses_is_left_to_the_run_to_report():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device that is there refuses nothing")
    with loading_kernels(torch.device("cuda"), None):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_ready_when_the_images_are_decoded():
    with loading_kernels(torch.device("cuda"), torch.bfloat16):
        pass
    assert torch.cuda.is_initialized()
