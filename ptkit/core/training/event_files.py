"""TensorBoard's event files: written at once, and cut back when a run is resumed."""

import contextlib
import io
import itertools
import os
import platform
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptkit.core.errors import StorageError

PREFIX = "events.out.tfevents."


class EventFile:
    """A new event file in a folder; each event is handed to the system at once.

    tensorboardX's own has a queue and a thread that ends at the first error of the disk without a
    word; whoever writes then waits for good.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._folder = folder
        with refused(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _new_file(folder, suffix)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        """Write a record: length, its checksum, the event, its checksum (TFRecord)."""
        from tensorboardX.record_writer import masked_crc32c

        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        rest = memoryview(b"".join((length, sums[0], data, sums[1])))
        with refused(self._folder):
            while rest:
                rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        with refused(self._folder):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _new_file(folder: Path, suffix: str) -> io.FileIO:
    # In the order of their names, which is that in which TensorBoard reads them.
    stem = f"{PREFIX}{int(time.time())}.{platform.node()}"
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            return open(folder / f"{stem}.{number}{suffix}", "xb", buffering=0)
    raise AssertionError


def event_files(folder: Path) -> list[Path]:
    """Return the event files of a run. A link is none of its own files, and is left alone."""
    if folder.is_symlink():
        return []
    found = sorted(folder.glob(f"**/{PREFIX}*"))
    return [file for file in found if not _passes_link(file, folder)]


def _passes_link(file: Path, folder: Path) -> bool:
    return any(path.is_symlink() for path in (file, *file.parents) if folder in path.parents)


def cut_back(folder: Path, lengths: Mapping[str, int]) -> None:
    """Cut event files back to these lengths, and remove those that came later."""
    for file in event_files(folder):
        length = lengths.get(file.relative_to(folder).as_posix())
        if length is None:
            file.unlink()
        elif file.stat().st_size > length:
            os.truncate(file, length)


@contextlib.contextmanager
def refused(folder: Path) -> Iterator[None]:
    """Say of what the disk refuses that it is events."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write TensorBoard events into {folder}: {error.strerror or error}"
        ) from error
