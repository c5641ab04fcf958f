"""Batches from torch's DataLoader: transforms that draw from global generators cannot share a
process.
"""

import functools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ptkit.core.data.keyed import Selection
from ptkit.core.data.loading.streaming import BatchMaker, HostBatch, Unreadable
from ptkit.core.data.pixel_limits import max_pixels, set_max_pixels
from ptkit.core.errors import ImageError, PtkitError

# What torch says of it.
_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


class WorkerProcesses:
    """Processes that make whole batches; they start with the first epoch and stay.

    selections: gives those of an epoch, from a batch on.
    """

    def __init__(
        self,
        maker: BatchMaker,
        selections: Callable[[int, int], Iterator[Selection]],
        *,
        workers: int,
    ) -> None:
        self._maker, self._workers = maker, workers
        self._requests = _Requests(selections)
        self._loader: DataLoader[Any] | None = None

    def made(
        self, epoch: int, first: int = 0, *, bad: Unreadable | None = None
    ) -> Iterator[HostBatch]:
        """Yield the batches of an epoch, from the batch `first` on; `bad`: see BatchMaker.

        Raises:
            PtkitError: what an image or a transform gave, or a process that died; the processes end
                with it.
        """
        for made in self._unless_one_dies(epoch, first):
            if isinstance(made, PtkitError):
                self.close()
                raise made
            batch, unreadable = made
            if bad is None and unreadable:
                self.close()
                raise ImageError(next(iter(unreadable.values())))
            if bad is not None:
                bad |= unreadable
            yield batch

    def close(self) -> None:
        """End the processes; the next epoch starts others."""
        # If the garbage collector has to end them, it waits 5 seconds for each.
        self._loader = None

    def _unless_one_dies(self, epoch: int, first: int) -> Iterator[Any]:
        try:
            yield from self._requested(epoch, first)
        except RuntimeError as error:
            if not (found := _DIED.match(str(error))):
                raise
            self.close()
            raise PtkitError(
                f"a process that makes batches died (pid {found[1]}), as those do that the system"
                " ends where memory is short: pass fewer --workers"
            ) from error

    def _requested(self, epoch: int, first: int) -> Iterator[Any]:
        with warnings.catch_warnings():
            # More workers than cores are the user's choice.
            warnings.simplefilter("ignore", UserWarning)
            if self._loader is None:
                self._loader = DataLoader(
                    _InWorkers(self._maker),
                    batch_sampler=self._requests,  # type: ignore[arg-type]
                    num_workers=self._workers,
                    # No lambda: where processes are spawned it could not be pickled.
                    collate_fn=_as_it_is,
                    # Else every epoch would start them anew.
                    persistent_workers=True,
                    # A process that is spawned knows nothing of the command line.
                    worker_init_fn=functools.partial(_begin, max_pixels()),
                    # Else it takes a number from the global one.
                    generator=torch.Generator(),
                )
            # Before `iter`, which takes the first requests at once.
            self._requests.epoch, self._requests.first = epoch, first
            return iter(self._loader)


@dataclass
class _Requests:
    """What DataLoader takes as its batch sampler: whole batches with their draws, for the epoch set
    last.
    """

    selections: Callable[[int, int], Iterator[Selection]]
    epoch: int = 0
    first: int = 0

    def __iter__(self) -> Iterator[Selection]:
        return self.selections(self.epoch, self.first)


@dataclass(frozen=True)
class _InWorkers(Dataset[Any]):
    """What DataLoader hands to its worker processes: one request is one batch."""

    maker: BatchMaker

    # DataLoader prefers it to __getitem__, and hands over a request as a whole.
    def __getitems__(self, selection: Selection) -> tuple[HostBatch, Unreadable] | PtkitError:
        """Return the batch and what of it cannot be read, or the error: DataLoader would put a
        traceback into the message of one that is raised.
        """
        unreadable: Unreadable = {}
        try:
            pixels = replace(self.maker, bad=unreadable).make(selection)
            return (selection, pixels), unreadable
        except PtkitError as error:
            return error


def _begin(most_pixels: int | None, _worker: int) -> None:
    set_max_pixels(most_pixels)


def _as_it_is(batch: Any) -> Any:
    return batch
