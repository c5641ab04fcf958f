"""Weights out of pickles that hold more than weights: whole modules, training states with objects.

Nothing that a file names is imported or called. Each class and function becomes a stand-in that
keeps what it was given, except those that describe a tensor, which become a record of where its
numbers are. The tensors are then taken out by their places: `_parameters`, `_buffers`, `_modules`.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ptkit.core.errors import CheckpointError
from ptkit.core.models.first_bytes import first_bytes
from ptkit.core.models.plain_contents import fault_of
from ptkit.core.models.weight_files import (
    LEGACY_MAGIC,
    check_pickles,
    check_zip,
    foreign_globals,
    read_weight_file,
)
from ptkit.core.wording import first_of, reason_of

# A pickle without its tensors: what a model with a million parameters' names would take.
_LARGEST_PICKLE = 1 << 28
_DEEPEST = 64
# A module in a module in a module, each there twice, has more names than any disk has bytes.
_MOST_NAMES = 100_000
_DTYPES = {
    **{f"{name}Storage": getattr(torch, name.lower()) for name in (
        "Double", "Float", "Half", "Long", "Int", "Short", "Bool", "BFloat16",
    )},
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
}  # fmt: skip


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_numbers: int


class _Stored(NamedTuple):
    """A tensor, by the place of its numbers."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: Any = None


class _StandIn:
    """An object of a class that is not looked for; `name` is that of its class."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    # What pickles put into dictionaries and lists of other classes is left out.
    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


def read_weights_alone(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return what `read_weight_file` returns, and of pickles that ask for code their tensors in
    plain containers; and a note of that.

    Raises:
        CheckpointError: see `read_weight_file`; or a tensor that cannot be taken out.
    """
    try:
        return read_weight_file(path), ()
    except CheckpointError as error:
        head = first_bytes(path)
        is_torch = head.startswith(b"PK\3\4") or LEGACY_MAGIC in head[:32]
        names = foreign_globals(path) if is_torch else []
        if not names:
            raise
        refusal = error
    if head.startswith(b"PK\3\4"):
        # Damage comes before what the file asks for.
        check_zip(path)
    check_pickles(path)
    try:
        contents, storages = _from_zip(path) if head.startswith(b"PK") else _from_legacy(path)
        found = _Walk(storages, num_bytes=path.stat().st_size).plain(contents)
    except _UntakenError as reason:
        raise CheckpointError(f"{path} cannot be converted: {reason}; nothing was run") from refusal
    except Exception as error:
        # A hostile pickle may break the reader anywhere.
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason_of(error)[:100]}): it is damaged; nothing"
            " was run"
        ) from error
    if fault := fault_of(found, num_bytes=path.stat().st_size):
        raise CheckpointError(f"{path} cannot be used: {fault.removeprefix('.')}")
    note = f"took the tensors out of a pickle with {first_of(names, 3)}, of which nothing was run"
    return found, (note,)


class _UntakenError(Exception):
    """What cannot be taken out, in words."""


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, in Python: the one in C makes room for a memo of any size at once."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    # What Python's own has, and mypy does not know of.
    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._num_left = file.getbuffer().nbytes

    def find_class(self, module: str, name: str) -> Any:
        return _DESCRIBING.get((module, name)) or _stand_in(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("module", type() as kind, *_):
                return kind
            case ("storage", kind, str(key), str(), int(count)) | (
                "storage", kind, str(key), str(), int(count), None
            ) if count >= 0:  # fmt: skip
                return self.storages.setdefault(key, _storage(kind, key, count))
        raise _UntakenError("its tensors are stored in an unknown way")

    def get_extension(self, code: int) -> Any:
        raise _UntakenError("it uses the extension registry of pickle")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        _, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        self.append(self._called(kind, arguments))

    def _called(self, kind: Any, arguments: Any) -> Any:
        if kind in _COPYING and arguments:
            self._num_left -= len(arguments[0])
            if self._num_left < 0:
                raise _UntakenError("it holds more copies than it has bytes")
        return _checked(kind)(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        # Of all else, such as the versions of a state dict, it is left out.
        if isinstance(self.stack[-1], _StandIn):
            self.stack[-1].state = state

    def load_bytearray8(self) -> None:
        # Python makes room for as many bytes as it claims.
        raise _UntakenError("it holds a bytearray")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _checked(kind: Any) -> Callable[..., Any]:
    """Return what a pickle calls, if it is a stand-in or one of the functions below."""
    if isinstance(kind, type) and issubclass(kind, _StandIn):
        return kind
    if not any(kind is known for known in _DESCRIBING.values()):
        raise _UntakenError("it calls something that is not a class")
    return kind  # type: ignore[no-any-return]


def _stand_in(name: str) -> type[_StandIn]:
    return type("_StandIn", (_StandIn,), {"name": name})


def _storage(kind: Any, key: str, count: int) -> _Storage:
    name = getattr(kind, "name", "").rpartition(".")[2]
    if name not in _DTYPES:
        raise _UntakenError(f"its tensors are of the kind {name[:80] or type(kind).__name__}")
    return _Storage(key, _DTYPES[name], count)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Stored:
    return _Stored(storage, offset, size, stride)


def _tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> _Stored:
    # Not getattr, with which torch imports some of its modules.
    named = vars(torch).get(getattr(dtype, "name", "").removeprefix("torch."))
    if not isinstance(named, torch.dtype):
        raise _UntakenError("its tensors are of an unknown type")
    return _Stored(storage, offset, size, stride, named)


def _first(data: Any, *rest: Any) -> Any:
    return data


def _of_subclass(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    if rebuild in _COPYING:
        raise _UntakenError("its tensors are stored in an unknown way")
    return _checked(rebuild)(*arguments)


# These make something as large as their argument, which a few bytes may ask for again and again.
_COPYING = (tuple, dict, set)
_DESCRIBING: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


# What the bytes of a storage are.
Storages = Callable[[_Storage], bytes]


def _from_zip(path: Path) -> tuple[Any, Storages]:
    archive = zipfile.ZipFile(path)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        # A few bytes may become a terabyte.
        raise _UntakenError("its records are compressed, which torch.save never does")
    names = set(archive.namelist())
    inside = next(name for name in names if name.rpartition("/")[2].casefold() == "data.pkl")
    folder = inside[: -len("data.pkl")]
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise _UntakenError("its numbers are those of a big-endian machine")
    if archive.getinfo(inside).file_size > _LARGEST_PICKLE:
        raise _UntakenError("its pickle is larger than any model's")

    def content(storage: _Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        if name not in names:
            raise _UntakenError(f"the record {storage.key[:80]} is missing")
        return archive.read(name)

    return _Unpickler(io.BytesIO(archive.read(inside))).load(), content


def _from_legacy(path: Path) -> tuple[Any, Storages]:
    """Read a file from before torch 1.6: five pickles in a row, then the storages."""
    file = io.BytesIO(path.read_bytes())
    readers = [_Unpickler(file) for _ in range(5)]
    _, _, system, contents, keys = (reader.load() for reader in readers)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise _UntakenError("its numbers are those of a big-endian machine")
    if not (isinstance(keys, list) and all(type(key) is str for key in keys)):
        raise _UntakenError("it does not name its tensors")
    kinds, data, places, at = readers[3].storages, file.getbuffer(), {}, file.tell()
    for key in keys:
        # Of one that nothing uses the type is not known.
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        size = max(count, 0) * kinds[key].dtype.itemsize if key in kinds else len(data)
        at += 8
        if at + size > len(data):
            raise _UntakenError(f"the numbers of the tensor {key[:80]} are missing: it was cut off")
        places[key] = at, size
        at += size

    def content(storage: _Storage) -> bytes:
        start, size = places.get(storage.key, (0, 0))
        return bytes(data[start : start + size])

    return contents, content


class _Walk:
    """Takes the tensors out of what an unpickler made; storages: gives the bytes of one."""

    def __init__(self, storages: Storages, *, num_bytes: int) -> None:
        self._storages, self._num_bytes = storages, num_bytes
        self._read: dict[str, bytearray] = {}
        self._tensors: dict[Any, Tensor] = {}
        self._num_taken = self._num_names = 0
        self._done: dict[int, Any] = {}

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return containers, numbers and tensors; of modules their state dicts; of all else None.

        Raises:
            _UntakenError: nested too deeply, or a tensor that is not in the file.
        """
        if depth > _DEEPEST:
            raise _UntakenError(f"it is nested more than {_DEEPEST} deep, or contains itself")
        if isinstance(value, _Stored):
            return self._tensor(value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        # What is there several times is looked at once: a small file could take for ever.
        if id(value) not in self._done:
            self._done[id(value)] = self._plain_container(value, depth)
        return self._done[id(value)]

    def _plain_container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            keys = (key for key in value if type(key) in (str, int))
            return {key: self.plain(value[key], depth + 1) for key in keys}
        if isinstance(value, list | tuple | set):
            return [self.plain(part, depth + 1) for part in value]
        return dict(self._weights(value, "", 0)) if _parts_of(value) else None

    def _weights(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """Yield what the module's `state_dict()` would have."""
        parts = _parts_of(module)
        if parts is None or depth > _DEEPEST:
            raise _UntakenError(f"{prefix[:80] or 'it'} is not a module, or nested too deeply")
        passing = parts.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, value in _named(parts, kind):
                if value is None or (kind == "_buffers" and name in passing):
                    continue
                if not isinstance(value, _Stored):
                    raise _UntakenError(f"{prefix[:80]}{name[:80]} is not a plain tensor")
                self._count()
                yield prefix + name, self._tensor(value)
        for name, inner in _named(parts, "_modules"):
            self._count()
            if inner is not None:
                yield from self._weights(inner, f"{prefix}{name}.", depth + 1)

    def _count(self) -> None:
        self._num_names += 1
        if self._num_names > _MOST_NAMES:
            raise _UntakenError("it names more tensors than any model has")

    def _tensor(self, stored: _Stored) -> Tensor:
        storage, offset, size, stride, dtype = stored
        numbers = [offset, *size, *stride]
        if not (isinstance(storage, _Storage) and all(type(n) is int and n >= 0 for n in numbers)):
            raise _UntakenError("one of its tensors is not described as torch does it")
        key = storage.key, dtype, offset, tuple(size), tuple(stride)
        if key not in self._tensors:
            self._tensors[key] = self._taken(storage, dtype or storage.dtype, *key[2:])
        return self._tensors[key]

    def _taken(
        self, storage: _Storage, dtype: torch.dtype, offset: int, size: Any, stride: Any
    ) -> Tensor:
        if storage.key not in self._read:
            self._read[storage.key] = bytearray(self._storages(storage))
        data, count = self._read[storage.key], math.prod(size)
        if not count:
            return torch.empty(size, dtype=dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self._num_taken += count * dtype.itemsize
        # A view may repeat a number a billion times, and many may look into one storage.
        if max(last + 1, count) * dtype.itemsize > len(data) or self._num_taken > self._num_bytes:
            shape = "×".join(map(str, size))
            raise _UntakenError(f"a tensor claims {shape[:80]} numbers, more than the file holds")
        whole = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
        return whole.as_strided(size, stride, offset)


def _parts_of(module: Any) -> Mapping[str, Any] | None:
    """Return the attributes of a stand-in, if they are those of a module."""
    state = module.state if isinstance(module, _StandIn) else None
    is_module = isinstance(state, dict) and "_parameters" in state and "_modules" in state
    return state if is_module else None


def _named(parts: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    found = parts.get(kind) or {}
    if not isinstance(found, dict) or not all(type(name) is str for name in found):
        raise _UntakenError(f"its {kind} have no names")
    return list(found.items())
