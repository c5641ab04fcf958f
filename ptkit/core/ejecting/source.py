"""Source text for a script: definitions taken from modules, imports for the names that are used,
and calls broken to the length of a line.
"""

import ast
import builtins
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ptkit.core.parts.calls import Symbol

WIDTH = 100

# Of code, each of them one or more.
Lines = list[str]

# What a script may import, in the order of its lines; the name that each line brings. Groups are
# parted by an empty line.
_IMPORTS = (
    (
        ("copy", "import copy"),
        ("hashlib", "import hashlib"),
        ("json", "import json"),
        ("math", "import math"),
        ("re", "import re"),
        ("zlib", "import zlib"),
        ("OrderedDict", "from collections import OrderedDict"),
        ("Callable", "from collections.abc import Callable"),
        ("Sequence", "from collections.abc import Sequence"),
        ("resources", "from importlib import resources"),
        ("islice", "from itertools import islice"),
        ("Path", "from pathlib import Path"),
        ("NamedTuple", "from typing import NamedTuple"),
    ),
    (
        ("cv2", "import cv2"),
        ("np", "import numpy as np"),
        ("timm", "import timm"),
        ("torch", "import torch"),
        ("torchvision", "import torchvision"),
        ("Tensor", "from torch import Tensor"),
        ("nn", "from torch import nn"),
        ("F", "from torch.nn import functional as F"),
        ("lr_scheduler", "from torch.optim import lr_scheduler"),
        ("DataLoader", "from torch.utils.data import DataLoader"),
        ("Dataset", "from torch.utils.data import Dataset"),
        ("v2", "from torchvision.transforms import v2"),
        ("TF", "from torchvision.transforms.v2 import functional as TF"),
    ),
)
_FROM = re.compile(r"from (\S+) import (\w+)$")


def definitions(module: ModuleType, names: Iterable[str]) -> list[str]:
    """Return the source of top-level names of a module and of all that these use of it, in the
    module's order.

    Docstrings keep their first paragraph, those of `forward` go; private names lose their
    underscore.
    """
    text = inspect.getsource(module)
    tree, lines = ast.parse(text), text.splitlines()
    nodes = {name: node for node in tree.body for name in _defined(node)}
    wanted, waiting = set[str](), set(names)
    while waiting:
        wanted |= waiting
        waiting = set().union(*(_used(nodes[name]) & nodes.keys() for name in waiting)) - wanted
    chosen = [node for node in tree.body if wanted & set(_defined(node))]
    private = {name for name in wanted if name.startswith("_")}
    return [_public(_text_of(node, lines), private) for node in chosen]


def body_of(module: ModuleType, name: str, values: Mapping[str, str]) -> Lines:
    """Return the lines of a function without its head, in which values stand for its arguments and
    `model = ` for its last `return`.
    """
    [text] = [text for text in definitions(module, [name]) if f"def {name}(" in text]
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    lines = text.splitlines()[function.body[1].lineno - 1 :]
    body = textwrap.dedent("\n".join(lines))
    for argument, value in values.items():
        # Not where it names an argument of another call.
        body = re.sub(rf"\b{argument}\b(?!=)", value, body)
    return re.sub(r"^return ", "model = ", body, flags=re.MULTILINE).splitlines()


def called_in(module: ModuleType, lines: Lines) -> set[str]:
    """Return the names that a module defines of those that lines read."""
    tree = ast.parse(inspect.getsource(module))
    return _used(ast.parse("\n".join(lines))) & {n for node in tree.body for n in _defined(node)}


def imports_for(code: str) -> list[str]:
    """Return the lines that import what a script's code uses.

    Raises:
        AssertionError: a name that nothing defines.
    """
    tree = ast.parse(code)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines: list[str] = []
    for group in _IMPORTS:
        found = [line for name, line in group if name in used]
        lines += ["", *_joined(found)] if found else []
    known = {name for group in _IMPORTS for name, _ in group} | set(dir(builtins))
    strange = used - known - _bound(tree)
    assert not strange, f"the script uses {sorted(strange)}, which nothing defines"
    return lines[1:]


def call_text(
    function: str, arguments: Sequence[str], *, before: str = "", after: str = "", depth: int = 1
) -> str:
    """Return a call as code, on one line where it fits, else as ruff breaks it.

    before, after: what stands on its line, such as `loss = `. depth: how deep it will be indented.
    """
    width, joined = WIDTH - 4 * depth, ", ".join(arguments)
    line = f"{before}{function}({joined}){after}"
    if len(line) <= width:
        return line
    if len(joined) + 4 <= width:
        return f"{before}{function}(\n    {joined}\n){after}"
    listed = "".join(f"    {argument},\n" for argument in arguments)
    return f"{before}{function}(\n{listed}){after}"


def literal(value: Any) -> str:
    """Return a value as code, with double quotes as ruff has them."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return f"v2.{value}" if isinstance(value, Symbol) else repr(value)


def indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    """Return lines of code, each of which may be several, so much deeper."""
    return [textwrap.indent(line, "    " * depth) for line in lines]


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _is_stored(n)]
    return []


def _used(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not _is_stored(n)}


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _bound(tree: ast.AST) -> set[str]:
    """Return all names that a script binds anywhere."""
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _is_stored(n)}
    names |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    return names | {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def _text_of(node: ast.stmt, lines: Sequence[str]) -> str:
    """Return a definition's lines with the comment above it, and short docstrings."""
    assert node.end_lineno is not None
    start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]) - 1
    while start and lines[start - 1].startswith("#"):
        start -= 1
    own = {number: lines[number] for number in range(start, node.end_lineno)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef):
            _shorten_docstring(inner, own)
    text = "\n".join(own[number] for number in sorted(own))
    # The name is for the type alone.
    return re.sub(r"(\w+): Tensor = (.*)\n( *)return \1$", r"return \2", text, flags=re.MULTILINE)


def _shorten_docstring(node: ast.FunctionDef | ast.ClassDef, lines: dict[int, str]) -> None:
    """Leave a docstring's first paragraph, in place."""
    doc, first = ast.get_docstring(node), node.body[0]
    if doc is None or ("\n\n" not in doc and node.name != "forward"):
        return
    assert first.end_lineno is not None
    paragraph = doc.partition("\n\n")[0].splitlines()
    indent = " " * first.col_offset
    text = [f'{indent}"""{paragraph[0]}', *(indent + line for line in paragraph[1:])]
    if len(text) == 1:
        text[0] += '"""'
    else:
        text.append(f'{indent}"""')
    start = first.lineno - 1
    for number in range(start, first.end_lineno):
        del lines[number]
    for number, line in enumerate(text if node.name != "forward" else (), start=start):
        lines[number] = line


def _public(text: str, private: Iterable[str]) -> str:
    for name in private:
        text = re.sub(rf"\b{name}\b", name.lstrip("_"), text)
    return text


def _joined(lines: Sequence[str]) -> list[str]:
    """Return import lines with those from one module in one, and plain imports first."""
    plain = [line for line in lines if line.startswith("import ")]
    by_module: dict[str, list[str]] = {}
    rest = []
    for line in lines:
        if match := _FROM.match(line):
            if match[1] not in by_module:
                rest.append(match[1])
            by_module.setdefault(match[1], []).append(match[2])
        elif line not in plain:
            rest.append(line)
    return plain + [
        f"from {one} import {', '.join(by_module[one])}" if one in by_module else one
        for one in rest
    ]
