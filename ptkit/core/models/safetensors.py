"""Reading `.safetensors`: a length, a JSON header, raw tensors (format 0.4, by Hugging Face)."""

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ptkit.core.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def looks_like_safetensors(head: bytes, num_bytes: int) -> bool:
    """Tell whether a file of `num_bytes` bytes that begins with `head` (9 bytes or more) has this
    format.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= num_bytes - 8


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        CheckpointError: the header is not what the format says, or points outside the file.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is a damaged .safetensors file: its header is not JSON"
            ) from error
        start = 8 + length
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {
            name: _tensor(path, file, name, entry, start, num_bytes)
            for name, entry in entries.items()
        }


def _tensor(
    path: Path, file: BinaryIO, name: str, entry: Any, start: int, num_bytes: int
) -> Tensor:
    try:
        dtype, shape, (begin, end) = (
            _DTYPES[entry["dtype"]],
            [int(n) for n in entry["shape"]],
            entry["data_offsets"],
        )
        fits = 0 <= begin <= end <= num_bytes - start and min(shape, default=0) >= 0
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a .safetensors file whose entry {name} cannot be read: {entry}"
        ) from error
    if not fits:
        raise CheckpointError(
            f"{path} is a .safetensors file without the end of {name}: it was cut off"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} is a damaged .safetensors file: {name} has {end - begin} bytes, shape {shape}"
        )
    if begin == end:
        return torch.zeros(shape, dtype=dtype)
    file.seek(start + begin)
    # bytearray: torch warns about memory that it may not write to.
    return torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype).reshape(shape)
