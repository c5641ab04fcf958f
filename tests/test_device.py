"""What a run asks of its device."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
import torch

from ptkit.core.device import (
    begin_copy,
    exact_products,
    is_out_of_memory,
    leaving_torch_as_it_was,
    loading_kernels,
    prepare_device,
    run_first_kernel,
    sent,
    wait_for,
    when_copied,
)
from ptkit.core.machine import num_cores
from ptkit.core.models.checkpoints import copy_contents
from ptkit.core.training.histograms import parameter_copies


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


def test_a_copy_on_the_cpu_stays_as_it_was_with_its_strides():
    images = torch.rand(2, 3, 4, 5, requires_grad=True).to(memory_format=torch.channels_last)
    before = images.tolist()
    copy = begin_copy(images)
    when_copied(torch.device("cpu"))()
    with torch.no_grad():
        images.zero_()
    assert copy.tolist() == before
    assert (copy.stride(), copy.requires_grad) == (images.stride(), False)


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


def test_kernels_are_not_left_loading_where_the_block_fails(monkeypatch):
    begun, seen = threading.Event(), []

    def kernel(device, dtype):
        begun.wait(10)
        seen.append(device)

    @loading_kernels(torch.device("cuda"), None)
    def fail():
        begun.set()
        raise ValueError("no list")

    monkeypatch.setattr("ptkit.core.device.run_first_kernel", kernel)
    with pytest.raises(ValueError, match="no list"):
        fail()
    assert seen == [torch.device("cuda")]


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 8.9 GB, max allowed: 9.1 GB)",
    ],
)
def test_memory_that_is_used_up_is_known_by_its_words(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize(("free", "expected"), [(1 << 30, True), (40 << 30, False)])
def test_a_convolution_without_a_plan_lacked_memory_where_little_is_free(
    monkeypatch, free, expected
):
    total = 80 << 30
    for name, value in {
        "is_initialized": True,
        "mem_get_info": (free - (1 << 28), total),
        # What torch keeps for itself is free too.
        "memory_reserved": 1 << 28,
        "memory_allocated": 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    error = RuntimeError("FIND was unable to find an engine to execute this computation")
    assert is_out_of_memory(error) is expected


def test_opencv_says_it_by_a_number():
    error = cv2.error("Failed to allocate 9000000000 bytes")
    error.code = -4
    assert is_out_of_memory(error)
    error.code = -215
    assert not is_out_of_memory(error)


def test_other_errors_are_no_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_run_that_is_not_deterministic_follows_one_that_was(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda")
    try:
        prepare_device(device, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        # A decoder writes at once, and the filling would come after it.
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        prepare_device(device, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_products_of_pixels_are_exact_and_those_of_the_model_as_before():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with contextlib.suppress(ValueError), exact_products(torch.device("cuda")):
            inside = torch.get_float32_matmul_precision()
            raise ValueError("shapes")
        assert inside == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_device_that_is_waited_for_is_the_one_that_is_named(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    wait_for(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]


def test_what_is_on_a_device_already_is_not_pinned(monkeypatch):
    # As of a GPU, the memory of this one cannot be pinned.
    there = torch.empty(2, device="meta")
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    assert sent(there, torch.device("cuda")) is there


def test_a_device_that_refuses_is_left_to_the_run_to_report():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device that is there refuses nothing")
    with loading_kernels(torch.device("cuda"), None):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_copy_from_a_gpu_arrives_in_another_thread_though_the_tensor_changes(nothing_waits):
    weights = torch.ones(1 << 24, device="cuda")
    ahead = torch.rand(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with nothing_waits():
        # So much work is queued that the copy cannot have begun.
        for _ in range(20):
            ahead = ahead @ ahead
        copy = begin_copy(weights)
        arrived = when_copied(weights.device)
        weights.zero_()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(arrived).result()
    assert copy.device.type == "cpu"
    assert bool((copy == 1).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_a_checkpoint_holds_is_copied_without_waiting_for_the_gpu(nothing_waits):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.rand(2, 3, 8, 8, device="cuda")).sum().backward()
    optimizer.step()
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    with nothing_waits():
        contents = {"weights": model.state_dict(), "optimizer": optimizer.state_dict()}
        copies, gradients = copy_contents(contents), parameter_copies(model)
        arrived = when_copied(torch.device("cuda"))
    arrived()
    assert all(torch.equal(copies["weights"][name], weights[name]) for name in weights)
    assert all(
        torch.equal(gradients[f"gradients/{name}"], parameter.grad.cpu())
        for name, parameter in model.named_parameters()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_ready_when_the_images_are_decoded():
    with loading_kernels(torch.device("cuda"), torch.bfloat16):
        pass
    assert torch.cuda.is_initialized()


def test_a_run_leaves_torchs_settings_as_they_were():
    @leaving_torch_as_it_was()
    def work():
        torch.set_num_threads(before[0] + 1)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = not before[4]
        torch.backends.cudnn.deterministic = not before[5]
        torch.utils.deterministic.fill_uninitialized_memory = not before[6]
        raise KeyboardInterrupt

    def found():
        return (
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    before = found()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert found() == before


def test_a_precision_of_one_backend_stays_the_users():
    # In a process of its own: torch does not take it back.
    code = """
import torch
from ptkit.core.device import leaving_torch_as_it_was
matmul = torch.backends.cuda.matmul
if hasattr(matmul, "fp32_precision"):
    matmul.fp32_precision = "tf32"
    with leaving_torch_as_it_was():
        pass
    assert matmul.fp32_precision == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
