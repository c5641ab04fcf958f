"""What a file of weights may hold: checked before anything of it is used."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Deeper than any state of an optimizer; Python's own limit is a thousand.
_DEEPEST = 64
# A larger number fits into no tensor and no file: it would fail wherever it is used.
_LARGEST = 1 << 63
_CONTAINERS = (dict, list, tuple, set)


def fault_of(contents: Any, *, num_bytes: int) -> str | None:
    """Say what of a file's contents is neither a plain container nor a plain tensor, if anything.

    Tensors are dense, on the CPU and no larger than their bytes in the file: a view may repeat a
    single number a billion times, and copying it would fill the memory.

    num_bytes: of the file. Older versions of torch read beyond a record that is too short.
    """
    storages: dict[int, int] = {}
    # Place, value, and the containers around it.
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", contents, ())]
    seen: set[int] = set()
    while waiting:
        name, value, around = waiting.pop()
        if isinstance(value, Tensor):
            fault = _fault_of_tensor(value)
            if fault is None:
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            fault = "is a number of more than 64 bits"
        elif isinstance(value, _CONTAINERS):
            # One that is there twice is looked at once: else a small file could take for ever.
            if id(value) in around:
                return f"{name or 'it'} contains itself"
            if len(around) == _DEEPEST:
                return f"{name[:80]}... is nested more than {_DEEPEST} deep"
            if id(value) not in seen:
                seen.add(id(value))
                inner = (*around, id(value))
                waiting.extend((f"{name}{key}", part, inner) for key, part in _parts(value))
            continue
        else:
            continue
        if fault is not None:
            return f"{name or 'it'} {fault}"
    claimed = sum(storages.values())
    return None if claimed <= num_bytes else f"its tensors claim {claimed:,} bytes of {num_bytes:,}"


def _parts(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, Mapping):
        yield from ((f".{str(key)[:80]}", part) for key, part in container.items())
    else:
        yield from ((f"[{number}]", part) for number, part in enumerate(container))


def _fault_of_tensor(tensor: Tensor) -> str | None:
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else "sparse"
        return f"is a {kind} tensor; only dense ones are read"
    if tensor.device.type != "cpu":
        return f"is a tensor without numbers (device {tensor.device.type})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        shape = "×".join(map(str, tensor.shape))
        return f"claims {shape} numbers, more than the file holds"
    return None


def overlap_in(data: bytes) -> str | None:
    """Name a tensor of a .safetensors file that has numbers of another one, if any.

    The package, which finds all else that is wrong, would read them as often as they are named.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (ValueError, RecursionError):
        return None
    places = []
    for name, entry in header.items() if isinstance(header, dict) else ():
        match entry:
            case {"data_offsets": [int(first), int(last)]}:
                places.append((first, last, name))
    end = 0
    for first, last, name in sorted(places):
        if 0 <= first < end:
            return str(name)
        end = max(last, end)
    return None
