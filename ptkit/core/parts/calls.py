"""The call notation: parts are named as PyTorch writes them, `RandomCrop(32, padding=4)`.

Grammar: `[prefix:]name[(args)]`. The call part goes to Python's `ast` and nothing is evaluated:
only literals, lists, nested calls and `InterpolationMode.X` are read. A prefix names a user's own
module or file, or another library. timm's names may have a tag, `timm:name.tag`, which says which
pretrained weights are meant.
"""

import ast
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ptkit.core.errors import UsageError

# What people used to other notations write for a value, and how it is written here.
_OTHER_SPELLINGS = {"true": "True", "false": "False", "none": "None", "null": "None"}
_FORM = re.compile(
    r"\s*(?:(?P<prefix>[^\s()'\"=][^()'\"=]*?):)?"
    r"(?P<call>[A-Za-z_]\w*(?P<tag>\.\w+)?\s*(?:\(.*\)?)?)\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Symbol:
    """A member of an enumeration, such as `InterpolationMode.BILINEAR`."""

    owner: str
    member: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.member}"


@dataclass(frozen=True)
class Call:
    """A parsed call. Values are literals, lists, tuples, `Symbol` or nested `Call`.

    prefix: "" for a built-in part, else `timm`, `module.path` or `path/to/file.py`. tag: "", or
    which of its pretrained weights a model of timm's is meant with.
    source, spots: the text it came from and where in it the name ("") and each argument are, for
    error messages.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    tag: str = ""
    source: str = field(default="", compare=False, repr=False)
    spots: Mapping[str | int, int] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        parts = [_text(value) for value in self.args] + [
            f"{key}={_text(value)}" for key, value in self.kwargs.items()
        ]
        return f"{self.full_name}({', '.join(parts)})"

    @property
    def full_name(self) -> str:
        """All before the arguments: `timm:resnet18.a1_in1k`."""
        prefix, tag = self.prefix and f"{self.prefix}:", self.tag and f".{self.tag}"
        return f"{prefix}{self.name}{tag}"

    def argument(self, place: int, key: str) -> Any:
        """Return the argument that has a place or a name; None where it is left out."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(key)

    def updated(self, kwargs: Mapping[str, Any]) -> "Call":
        """Return the call with more arguments by name, or others."""
        return replace(self, kwargs={**self.kwargs, **kwargs})

    def without(self, *keys: str) -> "Call":
        """Return the call without some of its arguments by name."""
        return replace(self, kwargs={k: v for k, v in self.kwargs.items() if k not in keys})

    def error(self, message: str, spot: str | int = "") -> UsageError:
        """Return an error whose message shows the source with a caret under the argument `spot` (or
        the name).
        """
        return UsageError(
            f"{message}\n{_pointed(self.source or str(self), self.spots.get(spot, 0))}"
        )


def parse(text: str) -> Call:
    """Read one call.

    Raises:
        UsageError: not of the form `[prefix:]name[(args)]`, or an argument that is not a literal.
    """
    if not isinstance(text, str):
        raise UsageError(f"expected a call such as Name(key=1), found {type(text).__name__}")
    # Python ends lines at all three; places are counted with one.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    form = _FORM.fullmatch(text)
    if form is None or (form["tag"] and form["prefix"] != "timm"):
        module, dot, name = text.strip().partition("(")[0].rpartition(".")
        hint = f"; write {name} without {module}." if dot and name.isidentifier() else ""
        raise UsageError(
            f"expected a name or a call such as Name(key=1){hint}, found\n{_pointed(text, 0)}"
        )
    offset, tag, call_text = form.start("call"), form["tag"] or "", form["call"]
    # Blanks in its place: a tag may begin with a digit, and places in the text stay as they are.
    call_text = call_text.replace(tag, " " * len(tag), 1)
    try:
        # A backslash that means nothing in a string is a warning to Python; here it is what the
        # user wrote.
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(call_text.rstrip(), mode="eval")
    except SyntaxError as error:
        lines = call_text.split("\n")[: max((error.lineno or 1) - 1, 0)]
        column = offset + sum(len(line) + 1 for line in lines) + max((error.offset or 1) - 1, 0)
        raise UsageError(f"{error.msg}\n{_pointed(text, min(column, len(text)))}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"cannot read this call: {error}\n{_pointed(text, 0)}") from None
    found = _Reader(text, offset, call_text).call(tree.body, prefix=form["prefix"] or "")
    return replace(found, tag=tag.removeprefix("."))


def parse_all(texts: Iterable[str]) -> tuple[Call, ...]:
    """Read several calls; see `parse`."""
    return tuple(map(parse, texts))


def joined(calls: Iterable[Call]) -> str:
    """Return several calls as one text, to show."""
    return ", ".join(map(str, calls))


def split_selector(text: str, separator: str) -> tuple[str, str]:
    """Split `SELECTOR=rest` or `SELECTOR: rest` at the first separator; both sides are stripped.

    Raises:
        UsageError: no separator, or nothing on one side of it.
    """
    selector, found, rest = text.partition(separator)
    if not found or not selector.strip() or not rest.strip():
        raise UsageError(
            f"expected SELECTOR{separator}VALUE, found\n{_pointed(text, len(selector))}"
        )
    return selector.strip(), rest.strip()


class _Reader:
    """Turns the syntax tree of one call into values, and knows where in the source each node is."""

    def __init__(self, source: str, offset: int, call_text: str) -> None:
        self.source, self.offset, self.lines = source, offset, call_text.split("\n")

    def call(self, node: ast.expr, *, prefix: str = "") -> Call:
        if isinstance(node, ast.Name):
            return Call(node.id, prefix=prefix, source=self.source, spots={"": self.column(node)})
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise self.error(node, "expected a name or a call such as Name(key=1)")
        spots: dict[str | int, int] = {k: self.column(value) for k, value in enumerate(node.args)}
        spots[""] = self.column(node)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.error(keyword.value, "** is not part of the notation")
            if keyword.arg in kwargs:
                raise self.error(keyword, f"{keyword.arg} is given twice")
            spots[keyword.arg] = self.column(keyword)
            kwargs[keyword.arg] = self.value(keyword.value)
        args = tuple(self.value(value) for value in node.args)
        return Call(node.func.id, args, kwargs, prefix, source=self.source, spots=spots)

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as constant):
                return constant
            case ast.UnaryOp(operand=ast.Constant(value=bool())):
                raise self.error(node, "True and False have no sign")
            case ast.UnaryOp(
                op=ast.USub() | ast.UAdd() as sign,
                operand=ast.Constant(value=int() | float() as number),
            ):
                return -number if isinstance(sign, ast.USub) else number
            case ast.List(elts=elements):
                return [self.value(element) for element in elements]
            case ast.Tuple(elts=elements):
                return tuple(self.value(element) for element in elements)
            case ast.Attribute(value=ast.Name(id=owner), attr=member):
                return Symbol(owner, member)
            # Of transforms.InterpolationMode.X only the last two names count.
            case ast.Attribute(value=ast.Attribute(attr=owner), attr=member) if owner[0].isupper():
                return Symbol(owner, member)
            case ast.Call():
                return self.call(node)
            case ast.Name(id=name) if name in _OTHER_SPELLINGS:
                raise self.error(node, f"{name} is written {_OTHER_SPELLINGS[name]} here")
            case ast.Name(id=name):
                raise self.error(node, f'{name} is not a value; text needs quotes: "{name}"')
        raise self.error(node, "only numbers, strings, lists and nested calls can be arguments")

    def column(self, node: ast.expr | ast.keyword) -> int:
        """Return the place of a node in the source, in characters (ast counts bytes, by line)."""
        before = sum(len(line) + 1 for line in self.lines[: node.lineno - 1])
        here = self.lines[node.lineno - 1].encode()[: node.col_offset]
        return self.offset + before + len(here.decode(errors="replace"))

    def error(self, node: ast.expr | ast.keyword, message: str) -> UsageError:
        return UsageError(f"{message}\n{_pointed(self.source, self.column(node))}")


def _pointed(source: str, column: int) -> str:
    """Return the source line that holds `column` with a caret below that column, as a terminal
    shows it.
    """
    start = source.rfind("\n", 0, column) + 1
    # Tabs and control characters would move the caret.
    line = "".join(c if c.isprintable() else " " for c in source[start:].split("\n", 1)[0])
    return f"    {line}\n    {' ' * sum(map(_width, line[: column - start]))}^"


def _width(character: str) -> int:
    """Return how many columns a terminal gives a character: two to Chinese ones, none to combining
    marks.
    """
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, tuple):
        inner = ", ".join(map(_text, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, float) and math.isinf(value):
        # repr says inf, which is a name.
        return "1e999" if value > 0 else "-1e999"
    return str(value) if isinstance(value, Call | Symbol) else repr(value)


def names_code(value: Any) -> bool:
    """Say whether a call, or a value in one, would import code."""
    if isinstance(value, Call):
        return bool(value.prefix) or names_code([*value.args, *value.kwargs.values()])
    if isinstance(value, list | tuple):
        return any(map(names_code, value))
    return isinstance(value, str) and ":" in value
