"""The random generators that a user's code draws from: the global ones of torch, numpy and Python,
and those that it holds itself.
"""

import functools
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class _Kind:
    """How one kind of generator is seeded, saved, put back, and drawn from."""

    seed: Callable[[Any, int], object]
    state: Callable[[Any], Any]
    put_back: Callable[[Any, Any], object]
    draw: Callable[[Any], float]


def _seed_numpy(generator: np.random.Generator, seed: int) -> None:
    # A Generator cannot be seeded again, but can take the state of a seeded one.
    bits: Any = generator.bit_generator
    bits.state = type(bits)(seed).state


def _draw_torch(generator: torch.Generator) -> float:
    return torch.rand(1, generator=generator, device=generator.device).item()


_KINDS = {
    torch.Generator: _Kind(
        torch.Generator.manual_seed,
        torch.Generator.get_state,
        torch.Generator.set_state,
        _draw_torch,
    ),
    np.random.Generator: _Kind(
        _seed_numpy,
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
        lambda g: float(g.random()),
    ),
    np.random.RandomState: _Kind(
        # 32 bits are all it takes.
        lambda g, seed: g.seed(seed % (1 << 32)),
        lambda g: g.get_state(),
        lambda g, state: g.set_state(state),
        lambda g: float(g.random_sample()),
    ),
    random.Random: _Kind(
        random.Random.seed, random.Random.getstate, random.Random.setstate, random.Random.random
    ),
}
# The generator behind the functions of numpy.random and of random.
_GLOBAL: tuple[Any, ...] = (
    torch.default_generator,
    getattr(np.random.get_state, "__self__"),  # noqa: B009  # unknown to its stub
    getattr(random.seed, "__self__"),  # noqa: B009
)
# As many as a step is tried with, so that worker processes start with what is found there.
_EARLY_RUNS = 64


def seed_all(code: Any, key: int) -> None:
    """Seed the global generators, and all that some code can reach.

    key: 53 bits.
    """
    for generator in _GLOBAL:
        _kind_of(generator).seed(generator, key)
    # Each its own number: two generators of one seed would draw the same.
    for seed, generator in enumerate(reachable(code), key + 1):
        _kind_of(generator).seed(generator, seed)


@contextmanager
def all_kept(codes: Iterable[Any]) -> Iterator[None]:
    """Put the global generators, and all that some code can reach, back to where they were."""
    generators = [*_GLOBAL, *(one for code in codes for one in reachable(code))]
    states = [_kind_of(generator).state(generator) for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            _kind_of(generator).put_back(generator, state)


def next_draws(code: Any) -> list[float]:
    """Return the next number of every generator: another one if something was drawn before."""
    return [_kind_of(one).draw(one) for one in (*_GLOBAL, *reachable(code))]


def reachable(code: Any) -> tuple[Any, ...]:
    """Return the generators that a function or an object holds, without the global ones.

    They are looked for in attributes, closures, default arguments, lists and dicts, and in the
    globals of the modules that the code is in or imports, but not in installed libraries.
    """
    return _reach_of(_Identity(code)).generators


def is_search_due(code: Any) -> bool:
    """Count a run of some code, and say whether it should be followed by `finds_others`.

    It should after each of the first runs, and then ever more rarely.
    """
    reach = _reach_of(_Identity(code))
    reach.num_runs = count = reach.num_runs + 1
    # Powers of two: in an epoch of any length the searches take no time that counts.
    return count <= _EARLY_RUNS or count & (count - 1) == 0


def finds_others(code: Any) -> bool:
    """Look for generators again, and say whether there are some that were not reachable before, as
    those that code makes when it first needs them.
    """
    reach = _reach_of(_Identity(code))
    found, known = _searched(code), set(map(id, reach.generators))
    reach.generators = found
    return not known.issuperset(map(id, found))


@dataclass(frozen=True, eq=False)
class _Identity:
    """A key for what may have no hash, such as a dataclass."""

    code: Any

    def __hash__(self) -> int:
        return id(self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.code is other.code


@dataclass(eq=False)
class _Reach:
    """The generators that some code was found to hold, and how often it has run."""

    generators: tuple[Any, ...]
    num_runs: int = 0


# Kept for each transform: a search takes 70 times as long as seeding.
@functools.lru_cache(maxsize=64)
def _reach_of(root: _Identity) -> _Reach:
    return _Reach(_searched(root.code))


def _searched(code: Any) -> tuple[Any, ...]:
    home = _package(getattr(code, "__module__", ""))
    found: list[Any] = []
    seen, waiting = set(map(id, _GLOBAL)), [code]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, str | bytes | int | float | None):
            continue
        seen.add(id(one))
        # Its seed is not ours to set: it draws from the machine.
        if isinstance(one, tuple(_KINDS)) and not isinstance(one, random.SystemRandom):
            found.append(one)
        else:
            # Backwards, so that they are found in the order in which they are written.
            waiting.extend(reversed(list(_inside(one, home))))
    return tuple(found)


def _inside(one: Any, home: str) -> Iterator[Any]:
    """Yield what an object refers to; home: the package that counts as the user's in any case."""
    match one:
        case ModuleType():
            yield from vars(one).values() if _is_users(one.__name__, home) else ()
        case FunctionType():
            yield from (cell.cell_contents for cell in one.__closure__ or () if _is_full(cell))
            yield from (*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values())
            yield from one.__globals__.values() if _is_users(one.__module__, home) else ()
        case MethodType():
            yield from (one.__self__, one.__func__)
        case BuiltinMethodType():
            yield one.__self__
        case staticmethod() | classmethod():
            yield one.__func__
        case property():
            yield one.fget
        case functools.partial():
            yield from (one.func, *one.args, *one.keywords.values())
        case list() | tuple():
            yield from one
        case dict():
            yield from one.values()
        case type():
            yield from vars(one).values() if _is_users(one.__module__, home) else ()
        case _:
            yield from getattr(one, "__dict__", {}).values()
            slots = (name for cls in type(one).__mro__ for name in vars(cls).get("__slots__", ()))
            yield from (getattr(one, name) for name in slots if hasattr(one, name))
            yield from type(one).__mro__


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_users(module: str | None, home: str) -> bool:
    """Say whether a module is the user's own and no library."""
    package = _package(module)
    # Thousands of objects, and no generator of theirs is not global.
    if package in ("ptkit", "torch", "torchvision"):
        return False
    if package == home:
        return True
    file = getattr(sys.modules.get(package), "__file__", None)
    is_installed = {"site-packages", "dist-packages"} & set(Path(file or "").parts)
    return not (is_installed or package in sys.stdlib_module_names)


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _kind_of(generator: Any) -> _Kind:
    return next(kind for cls, kind in _KINDS.items() if isinstance(generator, cls))
