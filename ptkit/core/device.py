"""Where and in which precision the model runs, and how data gets there."""

import contextlib
import functools
import gc
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.errors import UsageError
from ptkit.core.machine import (
    DEVICES,
    decoding_threads,
    give_freed_memory_back,
    keep_freed_memory,
    num_cores,
)
from ptkit.core.wording import check_choice

T = TypeVar("T")
Values = tuple[Tensor | npt.NDArray[Any], ...]

# How errors other than torch.OutOfMemoryError say it: torch's allocator on CPUs; CUDA (contexts,
# pinned memory) and MPS; cuBLAS and cuDNN.
_FULL = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
# What torch says where none of cuDNN's plans for a convolution got its memory, or none supports it.
_NO_PLAN = "was unable to find an engine"
# Of a device's memory, the share that is free where a plan has not got its own.
_NEARLY_FULL = 0.1
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `mps` means here.

    Raises:
        UsageError: none of these, or that device is not there.
    """
    check_choice("--device", name, DEVICES)
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
    if name == "auto":
        name = next((known for known, backend in backends.items() if backend.is_available()), "cpu")
    if name != "cpu" and not backends[name].is_available():
        raise UsageError(f"no {name.upper()} device is available here; use --device cpu or auto")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return autocast's dtype, None for float32.

    `auto` is bf16 on CUDA devices that compute in it, fp16 on older ones, float32 elsewhere.
    """
    if precision == "auto" and device.type == "cuda":
        # Older ones emulate it, slowly.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp16"
    return _DTYPES.get(precision)


def precision_of(dtype: torch.dtype | None) -> str:
    """Return `fp32`, `bf16` or `fp16`: what `--precision` calls autocast's dtype."""
    return next((name for name, known in _DTYPES.items() if known is dtype), "fp32")


def prepare_device(device: torch.device, *, deterministic: bool) -> int:
    """Set thread count, unless the user did, and kernel choice for a run; return the number of
    torch's threads.
    """
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cores())
    if device.type == "cuda":
        # The loop lets them be tried out for the one shape of full batches, where that pays.
        let_try_kernels(is_on=False)
        torch.backends.cudnn.deterministic = deterministic
        if deterministic:
            # cuBLAS reads it when it is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Of an earlier run of this process too. warn_only: some kernels have no deterministic form.
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        # Nothing reads memory that nothing wrote. Filling it is queued on the device: it could come
        # after a decoder has written to it.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision("highest" if deterministic else "high")
    return torch.get_num_threads()


@contextmanager
def leaving_torch_as_it_was() -> Iterator[None]:
    """Restore, after a block or function, torch's settings for the whole process that
    `prepare_device` changes, and give memory back.
    """
    cudnn, fills = torch.backends.cudnn, torch.utils.deterministic
    threads, precision = torch.get_num_threads(), _matmul_precision()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.benchmark, cudnn.deterministic, fills.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        # Set where it changed alone: it also resets what the user set for one backend.
        if precision is not None and _matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)
        cudnn.benchmark, cudnn.deterministic, fills.fill_uninitialized_memory = before  # type: ignore[attr-defined]
        give_freed_memory_back()


def _matmul_precision() -> str | None:
    """Return torch's setting for all backends; None where one has its own, and torch tells none."""
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None


@contextmanager
def loading_kernels(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Load the device's libraries while the block runs, as decoding images on the CPU.

    dtype: of autocast, None for float32. On a CPU there is nothing to load.
    """
    if device.type == "cpu":
        yield
        return
    loading = threading.Thread(target=run_first_kernel, args=(device, dtype), daemon=True)
    loading.start()
    try:
        yield
    finally:
        # Neither may worker processes be forked off nor the program end while another thread loads
        # libraries.
        loading.join()


def run_first_kernel(device: torch.device, dtype: torch.dtype | None) -> None:
    """Run a convolution and a matrix product, forward and backward; no random number is drawn."""
    # What is wrong with the device the run itself will meet, and report.
    with contextlib.suppress(RuntimeError), autocast(device, dtype):
        kernels = torch.ones(8, 8, 3, 3, device=device, requires_grad=True)
        images = channels_last(torch.ones(8, 8, 16, 16, device=device))
        maps = torch.nn.functional.conv2d(images, kernels)
        (maps.flatten(1) @ maps.flatten(1).T).sum().backward()
        wait_for(device)


def let_try_kernels(*, is_on: bool) -> None:
    """Let cuDNN try out kernels for each shape that it meets for the first time, or not."""
    torch.backends.cudnn.benchmark = is_on


@contextmanager
def trying_kernels(*, is_on: bool) -> Iterator[None]:
    """Let cuDNN try out kernels, or not, in the block; afterwards it does not."""
    let_try_kernels(is_on=is_on)
    try:
        yield
    finally:
        let_try_kernels(is_on=False)


@contextmanager
def passing_look() -> Iterator[None]:
    """Let a look at the model, before the first epoch, choose no kernels for the run.

    cuDNN's choice for a shape stays, tried out or not (benchmark_cache in torch's Conv_v8.cpp), and
    deterministic kernels have choices of their own.
    """
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Let matrix products in the block be without TF32, whatever the run has chosen."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seed_device(device: torch.device, key: int) -> None:
    """Seed the device's own generator: torch.manual_seed takes a hundred times longer."""
    match device.type:
        case "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        case "mps":
            torch.mps.manual_seed(key)
        case _:
            torch.default_generator.manual_seed(key)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all work that was given to it."""
    module = torch.get_device_module(device)
    # Without a name CUDA takes the device of the thread, of which there may be several.
    module.synchronize(device) if device.type == "cuda" else module.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is used up, on a GPU or on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # OpenCV's StsNoMem.
    if type(error).__module__ == "cv2" and getattr(error, "code", None) == -4:
        return True
    text = str(error)
    if not isinstance(error, RuntimeError):
        return False
    return any(word in text for word in _FULL) or (_NO_PLAN in text and _is_nearly_full())


def is_of_device(error: BaseException) -> bool:
    """Say whether an error of a GPU was reported late: of work that was queued before."""
    # Of its own kind since torch 2.8.
    kind = getattr(torch, "AcceleratorError", None)
    return (kind is not None and isinstance(error, kind)) or "CUDA error" in str(error)


def free_gpu_bytes(device: torch.device | None = None) -> int:
    """Return the memory of a CUDA device, or of the current one, that is free, for this process or
    for any.
    """
    # What torch's allocator keeps for itself counts as taken for the driver.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _is_nearly_full() -> bool:
    if not torch.cuda.is_initialized():
        return False
    return free_gpu_bytes() < _NEARLY_FULL * torch.cuda.mem_get_info()[1]


def release_memory(error: BaseException) -> None:
    """Free what the frames of an error hold, such as a graph that did not fit."""
    traceback.clear_frames(error.__traceback__)
    empty_cache()


def empty_cache() -> None:
    """Give back what nothing refers to any more, on GPUs too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def sent(values: Tensor | npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy to a device; on CUDA from pinned memory and without waiting. What is there already, as
    all is on a CPU, is not copied.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def copied(
    items: Iterable[tuple[T, Values]], device: torch.device
) -> Iterator[tuple[T, tuple[Tensor, ...]]]:
    """Yield each item with its tensors and arrays on a device.

    On CUDA the next item is copied in a separate stream while the model works on the one before.
    """
    if device.type != "cuda":
        for name, values in items:
            yield name, tuple(sent(value, device) for value in values)
        return
    stream = _copying_stream(device)
    under_way: deque[tuple[T, tuple[Tensor, ...], torch.cuda.Event]] = deque()
    for name, values in items:
        with torch.cuda.stream(stream):
            tensors = tuple(sent(value, device) for value in values)
            under_way.append((name, tensors, stream.record_event()))
        # One ahead is enough to hide the copy; more would only take memory.
        if len(under_way) > 1:
            yield _arrived(*under_way.popleft())
    while under_way:
        yield _arrived(*under_way.popleft())


@functools.lru_cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all epochs: torch's allocator keeps what was freed for the stream that used it.
    return torch.cuda.Stream(device)


def _arrived(
    name: T, tensors: tuple[Tensor, ...], done: torch.cuda.Event
) -> tuple[T, tuple[Tensor, ...]]:
    """Return the tensors; the device's next work waits for them, the program does not."""
    here = torch.cuda.current_stream(tensors[0].device)
    here.wait_event(done)
    for tensor in tensors:
        # Else the copying stream may get the memory again while this one still reads it.
        tensor.record_stream(here)
    return name, tensors


def begin_copy(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, of the same strides; one of a GPU arrives later: `when_copied`."""
    if tensor.device.type == "cpu":
        return tensor.detach().clone()
    # To pinned memory: the device copies when it comes to it, and the program goes on. Others than
    # CUDA have no events for it.
    return tensor.detach().to("cpu", non_blocking=tensor.is_cuda)


def when_copied(device: torch.device) -> Callable[[], None]:
    """Return what waits, in any thread, for all copies from a device that were begun until now."""
    if device.type != "cuda":
        return lambda: None
    done = torch.cuda.current_stream(device).record_event()
    # Waiting lets other threads run.
    return lambda: done.synchronize()


def channels_last(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) in the memory format channels_last; what has it is not copied."""
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    # Of one channel both formats are the same bytes, and torch goes by the strides: with those of
    # planes a model would run in the other format, with other last digits.
    return images[:, 0].contiguous().unsqueeze(-1).permute(0, 3, 1, 2)


def constant(values: Any, device: torch.device, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers as a tensor (n,) that is copied to the device once in a run; it must not be
    changed.
    """
    return _constant(tuple(np.ravel(values).tolist()), device, dtype)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(device)


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch's kernels on one core each."""
    return decoding_threads(threads, initializer=torch.set_num_threads, initargs=(1,))


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the context in which the model runs: autocast to `dtype`, or none."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
