"""What reading a pickle would cost, found out without reading it.

A tuple that holds the same tuple twice, which holds the same tuple twice, takes a few bytes a
level, and twice the time a level where it is hashed: as a key, fifty levels take years. torch's own
reader and ours would both wait for it.
"""

import pickletools
from collections.abc import Iterable
from typing import Any, BinaryIO

# Items that may be hashed and copied in all: about a second, and more than any model has.
_MOST_WORK = 50_000_000
# Python hashes a tuple in a tuple on the stack of the process, which has an end.
_DEEPEST = 1000
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
_GROWING = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None, "ADDITEMS": None}
_CALLING = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
_NEW = ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT")
_MARK = object()


class _Item:
    """A tuple, a container or a long number.

    count: of what is in it. work: with what is in that, and so on. depth: of tuples in tuples.
    """

    def __init__(self, parts: Iterable[Any] = (), *, work: int = 0) -> None:
        self.count, self.work, self.depth = 0, work, 0
        # What may grow after it was put in.
        self.held: list[_Item] = []
        self.is_list = False
        self.take(parts)

    def take(self, parts: Iterable[Any]) -> None:
        """Put parts in."""
        for part in parts:
            self.count += 1
            self.work += 1
            if isinstance(part, _Item):
                self.work += part.work
                self.depth = max(self.depth, part.depth + 1)
                self.held.append(part)


def fault_of_pickle(file: BinaryIO) -> str | None:
    """Say why the next pickle in a file is not read, if it would take for ever; else leave the file
    behind it.

    A damaged pickle has no fault of this kind: its reader says so.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode, argument)
            if machine.fault:
                break
    # What is damaged may break the reader anywhere.
    except Exception:
        return machine.fault
    return machine.fault


class _Machine:
    """Follows a pickle's stack, with tuples and containers by their sizes and all else by None."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def step(self, opcode: Any, argument: Any) -> None:
        """Follow one operation; `fault` is then set if it is one too many."""
        name = opcode.name
        if name in _PUTS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name == "DUP":
            self._stack.append(self._stack[-1])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name in _GROWING:
            self._grow(name, self._popped(_GROWING[name]))
        elif name == "BUILD":
            (state,) = self._popped(1)
            self._add(state.count if isinstance(state, _Item) else 0)
        elif name in _CALLING:
            function, *arguments = self._popped(_CALLING[name])
            if function is not None:
                # torch would print it, at any length.
                self.fault = "it calls something that is not a function"
            self._stack.append(self._called(arguments))
        else:
            self._stack += self._made(name, opcode, argument)

    def _grow(self, name: str, items: list[Any]) -> None:
        hashed = {"SETITEM": items[:1], "SETITEMS": items[::2], "ADDITEMS": items}
        self._hash(hashed.get(name, ()))
        if isinstance(self._stack[-1], _Item):
            self._stack[-1].take(items)

    def _made(self, name: str, opcode: Any, argument: Any) -> list[Any]:
        before = opcode.stack_before
        items = self._popped(None if pickletools.markobject in before else len(before))
        if name in ("OBJ", "INST"):
            return [self._called(items)]
        # A file from before torch 1.6 ends in a list of keys.
        if name in ("DICT", "FROZENSET") or (
            name == "STOP" and getattr(items[0], "is_list", False)
        ):
            self._hash(items)
        if name in _TUPLES or name in _NEW:
            made = _Item(items)
            made.is_list = name in ("LIST", "EMPTY_LIST")
            return [made]
        if name.startswith("LONG") and isinstance(argument, int):
            return [_Item(work=argument.bit_length() // 64)]
        return [None] * len(opcode.stack_after)

    def _called(self, arguments: list[Any]) -> _Item:
        """Return what a call makes, which may be a tuple or a dictionary of what it gets."""
        self._hash(arguments)
        made = _Item(arguments)
        made.work += sum(inner.work for given in made.held for inner in given.held)
        return made

    def _hash(self, items: Iterable[Any]) -> None:
        """Count what hashing these, and what they hold themselves, takes."""
        for item in items:
            if isinstance(item, _Item):
                self._add(item.work + sum(held.work for held in item.held))
                if item.depth > _DEEPEST:
                    self.fault = f"its tuples are nested more than {_DEEPEST:,} deep"

    def _popped(self, count: int | None) -> list[Any]:
        """Take so many from the stack, or all down to the mark."""
        start = len(self._stack) - 1 if count is None else len(self._stack) - count
        while count is None and self._stack[start] is not _MARK:
            start -= 1
        items = self._stack[start:] if count is not None else self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def _add(self, work: int) -> None:
        self._work += work
        if self._work > _MOST_WORK:
            self.fault = "it asks for one thing more often than could be read"
