"""Several processes that train one model, or pass one list: who waits, and what is added up.

torch.distributed does the work. Every function here does nothing, or returns what it got, in a
process that is alone.
"""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ptkit.core.device import is_out_of_memory
from ptkit.core.errors import InterruptedRunError, PtkitError, StorageError, UsageError
from ptkit.core.ranks import being, here, rank_of_environment

T = TypeVar("T")

# How long a rank waits for the others, in seconds. Of the machines, so no setting of a run.
_TIMEOUT = "PTKIT_RANK_TIMEOUT"
_USUAL_TIMEOUT_S = 600
# The first rank may decode a large data set while the others wait.
_PATIENCE = timedelta(days=7)
# All ranks count alike, as they run the same.
_blocks = itertools.count()
# How long a rank that fails waits for the first one to say the same.
_TELLING_S = 2.0
_SAID, _CLAIMED = "said", "claimed"
# The time for gloo's threads to let go of the tensors that they have sent.
_LETTING_GO_S = 0.1
# What NCCL and its watchdog say of a connection to another process.
_LOST_TO_NCCL = ("remote", "aborted", "timed out", "timeout", "closed", "reset by peer")


class LostRankError(StorageError):
    """Another process of the job is gone, or did not answer in time."""


@contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes of the job, if there are any, in a block.

    An error that several have is said by one: the others raise it without a message.

    Raises:
        UsageError: its environment is not complete. LostRankError: the others cannot be reached.
    """
    rank = rank_of_environment()
    if rank.is_alone or not here().is_alone:
        with being(rank) if here().is_alone else nullcontext():
            yield
        return
    _begin(rank.local)
    try:
        with being(rank), _said_once():
            yield
    except BaseException:
        _leave(others_wait=False)
        raise
    _leave(others_wait=True)


def own_device(device: torch.device) -> torch.device:
    """Return the device of this rank: each has a GPU of its own.

    Raises:
        UsageError: the machine has fewer GPUs than ranks.
    """
    if here().is_alone or device.type != "cuda":
        return device
    if here().local >= torch.cuda.device_count():
        raise UsageError(
            f"this machine has {torch.cuda.device_count()} GPUs, fewer than processes: lower"
            " --nproc-per-node, or use --device cpu"
        )
    return torch.device("cuda", here().local)


def from_main(make: Callable[[], T]) -> T:
    """Return what `make` gives in the first rank, to all: a plain value."""
    if here().is_alone:
        return make()
    found = [make() if here().is_main else None]
    with talking():
        dist.broadcast_object_list(found, src=0, group=_control())
    return cast(T, found[0])


@contextmanager
def first_of_machine() -> Iterator[None]:
    """Run a block in the first rank of each machine, and then in its others, which find on the disk
    what it made there.
    """
    rank = here()
    if rank.is_alone:
        yield
        return
    key = f"block {next(_blocks)} of {rank.number - rank.local}"
    if rank.local:
        _wait_for(key)
    yield
    if not rank.local:
        _store().set(key, "")


def wait_for_main() -> None:
    """Wait until the first rank comes here, however long that takes."""
    if here().is_alone:
        return
    key = f"block {next(_blocks)}"
    if here().is_main:
        _store().set(key, "")
    else:
        _wait_for(key)


def _wait_for(key: str) -> None:
    with talking():
        _store().wait([key], _PATIENCE)


def summed(values: Mapping[str, float]) -> dict[str, float]:
    """Return sums over all ranks; whole numbers below 2^53 are exact."""
    if here().is_alone:
        return dict(values)
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    with talking():
        dist.all_reduce(numbers, group=_control())
    kinds = map(type, values.values())
    return {k: kind(n) for k, kind, n in zip(values, kinds, numbers.tolist(), strict=True)}


def summed_on_device(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks; nothing waits for a GPU."""
    if here().is_alone:
        return value
    total = value.detach().clone()
    with talking():
        dist.all_reduce(total)
    return total


def gathered(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of all ranks, those of the first one first, on the same device."""
    if here().is_alone:
        return rows
    plain = rows.detach().cpu().contiguous()
    # As bytes: gloo knows few types.
    width = plain[:1].numel() * plain.element_size() if len(plain) else 0
    counts = [{"rows": 0, "width": 0}] * here().num_ranks
    with talking():
        dist.all_gather_object(counts, {"rows": len(plain), "width": width}, group=_control())
        most = max(each["rows"] for each in counts)
        width = max(each["width"] for each in counts)
        mine = torch.zeros(most, width, dtype=torch.uint8)
        if len(plain):
            mine[: len(plain)] = plain.view(len(plain), -1).view(torch.uint8)
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine, group=_control())
    together = torch.cat([part[: each["rows"]] for part, each in zip(parts, counts, strict=True)])
    return together.view(plain.dtype).view(-1, *plain.shape[1:]).to(rows.device)


def in_list_order(rows: Tensor, indices: npt.NDArray[np.int64]) -> Tensor:
    """Return the rows of all ranks, which belong to the given places of a list, in its order."""
    if here().is_alone:
        return rows
    order = gathered(torch.from_numpy(np.ascontiguousarray(indices))).to(rows.device)
    return gathered(rows)[order.argsort()]


def merged(found: Mapping[int, str]) -> dict[int, str]:
    """Return what all ranks have found, by its place in a list."""
    if here().is_alone:
        return dict(found)
    several: list[dict[int, str]] = [{}] * here().num_ranks
    with talking():
        dist.all_gather_object(several, dict(found), group=_control())
    return {place: text for part in several for place, text in part.items()}


def share_buffers(model: nn.Module) -> None:
    """Put the first rank's buffers, such as BatchNorm's statistics, into the model, in place."""
    if here().is_alone:
        return
    with talking(), torch.no_grad():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def share_hashes(known: npt.NDArray[np.int64]) -> None:
    """Let each rank know the fingerprints of the files that the others have read, in place; 0 is
    unknown.
    """
    if here().is_alone:
        return
    high, low = torch.from_numpy(known.copy()), torch.from_numpy(known.copy())
    with talking():
        # All who know one know the same, and the others have 0; it may be negative.
        dist.all_reduce(high, dist.ReduceOp.MAX, group=_control())
        dist.all_reduce(low, dist.ReduceOp.MIN, group=_control())
    if not known.all():
        known[:] = torch.where(high != 0, high, low).numpy()


class Votes:
    """Answers after each step what any rank wants, the same in all of them.

    The answer is that of the step before: so no step waits for a slower rank.
    """

    def __init__(self) -> None:
        self._asked: tuple[dist.Work, Tensor] | None = None

    def largest(self, *mine: int) -> tuple[int, ...]:
        """Return the largest of each number over the ranks; 0 at first."""
        if here().is_alone:
            return mine
        numbers = torch.tensor(mine)
        with talking():
            work = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_control(), async_op=True)
            before, self._asked = self._asked, (work, numbers)
            if before is None:
                return (0,) * len(mine)
            before[0].wait()
        return tuple(map(int, before[1]))


@contextmanager
def talking() -> Iterator[None]:
    """Raise what a lost connection raises as LostRankError."""
    try:
        yield
    except RuntimeError as error:
        raise lost(error) or error from error


def lost(error: BaseException) -> LostRankError | None:
    """Return what an error of torch means, if it is that another rank does not answer."""
    text = str(error)
    if is_out_of_memory(error):
        return None
    if isinstance(error, dist.DistBackendError) or "NCCL" in text:
        # It also says what is wrong here, such as two processes on one GPU.
        is_lost = any(word in text.lower() for word in _LOST_TO_NCCL)
    else:
        words = ("gloo", "Connection closed by peer", "Connection reset by peer")
        is_lost = isinstance(error, dist.DistError) or any(word in text for word in words)
    if not is_lost:
        return None
    return LostRankError("another process of the job has ended, or does not answer")


def _begin(local: int) -> None:
    backend = "gloo"
    if _has_nccl():
        backend = "cpu:gloo,cuda:nccl"
        # NCCL talks from the current device.
        torch.cuda.set_device(local % torch.cuda.device_count())
    with talking():
        dist.init_process_group(backend, timeout=_timeout())
    _control()


def _leave(*, others_wait: bool) -> None:
    """Leave the job; others_wait: the others do the same, as they do not after an error of this
    one.
    """
    _control.cache_clear()
    if others_wait or not _has_nccl():
        # A thread of gloo may still have to free a tensor of the last exchange. torch 2.6 joins it
        # and holds Python's lock, which freeing needs: both would wait for ever.
        time.sleep(_LETTING_GO_S)
        dist.destroy_process_group()
        return
    # That would wait for them, for what they were to send, and keep the error from being said.
    with suppress(RuntimeError):
        dist.distributed_c10d._abort_process_group()


def _has_nccl() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()


def _timeout() -> timedelta:
    value = os.environ.get(_TIMEOUT, "")
    if value and not (value.isdecimal() and int(value)):
        raise UsageError(f"{_TIMEOUT} must be a number of seconds, found {value!r}")
    return timedelta(seconds=int(value or _USUAL_TIMEOUT_S))


@functools.cache
def _control() -> dist.ProcessGroup:
    """Return the group in which plain values are exchanged, beside the gradients."""
    group = dist.new_group(backend="gloo", timeout=_timeout())
    assert isinstance(group, dist.ProcessGroup)
    return group


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


@contextmanager
def _said_once() -> Iterator[None]:
    try:
        yield
    except PtkitError as error:
        if here().is_main:
            with suppress(RuntimeError):
                _store().set(_SAID, "")
        # The first rank says the same of these.
        elif isinstance(error, LostRankError | InterruptedRunError) or _is_said():
            error.args = ("",)
        else:
            error.args = (f"rank {here().number}: {error}",)
        raise


def _is_said() -> bool:
    """Whether another rank has said what is wrong, or does so soon: what all find, the first one
    says.
    """
    store, until = _store(), time.monotonic() + _TELLING_S
    with suppress(RuntimeError):
        while time.monotonic() < until:
            if store.check([_SAID]):
                return True
            time.sleep(_TELLING_S / 20)
        return bool(store.add(_CLAIMED, 1) > 1)
    # The first rank, which has the store where torchrun does not, has ended by itself.
    return True
