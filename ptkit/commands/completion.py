"""What a shell offers after Tab: the values of flags and arguments, found without torch.

Names of parts are in completion_names.json, written by scripts/make_completion_names.py; a test
holds it against the catalogues.
"""

import copy
import functools
import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, get_args

import typer

from ptkit.core.config.settings import FIELDS, Field

# Returns all values that may come next, or those that begin as the text does.
Completer = Callable[[typer.Context, str], Iterable[str]]

# The shell's scripts set it to ask for completions.
COMPLETE = "_PTKIT_COMPLETE"
# The kind of part that `section.call` names.
CALLS = {
    "model": "models",
    "loss": "losses",
    "optimizer": "optimizers",
    "scheduler": "schedulers",
}
_NAMES = Path(__file__).with_name("completion_names.json")
_WORD = re.compile(r"[a-z0-9-]+")
# Bash takes a word apart at these.
_BREAKS = ":="
# The layers that most models have, on the left of --init.
_CLASSES = ("Conv2d", "Linear", "BatchNorm2d", "LayerNorm")


def completed(command: Callable[..., None]) -> Callable[..., None]:
    """Give the flags and arguments of a command the values that the shell offers."""
    signature = inspect.signature(command)
    parameters = [_with_values(parameter) for parameter in signature.parameters.values()]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


@contextmanager
def words_of_bash(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Let `timm:resnet` and `train.epochs=` be completed in bash, which takes words apart at colons
    and equals signs: they are joined again, and of what is printed the part after the last sign is
    left, which is all that bash replaces. Without bash's COMP_WORDS nothing changes.
    """
    if "COMP_WORDS" not in environment:
        yield
        return
    words, current = _joined(
        environment["COMP_WORDS"].split("\n"), int(environment.get("COMP_CWORD") or 0)
    )
    environment.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(current))
    word = words[current] if current < len(words) else ""
    # A word that begins with a quote stays whole.
    start = 0 if word[:1] in ("'", '"') else max(word.rfind(sign) for sign in _BREAKS) + 1
    # Of --model=res only the value is printed.
    if word.startswith("--"):
        start -= word.find("=") + 1
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        sys.stdout.write(
            "".join(f"{line[max(start, 0) :]}\n" for line in printed.getvalue().splitlines())
        )


def _joined(words: list[str], current: int) -> tuple[list[str], int]:
    joined: list[str] = []
    place = current
    for i, word in enumerate(words):
        is_sign = [bool(w) and set(w) <= set(_BREAKS) for w in (word, words[i - 1])]
        if joined and any(is_sign):
            joined[-1] += word
        else:
            joined.append(word)
        if i == current:
            place = len(joined) - 1
    return joined, place


def _with_values(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, *rest = get_args(parameter.annotation) or (parameter.annotation,)
    if not rest or not hasattr(rest[0], "autocompletion"):
        return parameter
    completer = _completer(parameter.name, rest[0].metavar or "")
    if completer is None or rest[0].autocompletion is not None:
        return parameter
    # Commands share these objects.
    described = copy.copy(rest[0])
    described.autocompletion = _for_typer(completer)
    return parameter.replace(annotation=Annotated[kind, described])


def _completer(name: str, metavar: str) -> Completer | None:
    if name in _COMPLETERS:
        return _COMPLETERS[name]
    # A number may be among the words: <int>|auto.
    words = [word for word in metavar.split("|") if not word.startswith("<")]
    if "|" in metavar and all(map(_WORD.fullmatch, words)):
        return lambda _ctx, _text: words
    return None


def _for_typer(completer: Completer) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [value for value in completer(ctx, incomplete) if value.startswith(incomplete)]

    return complete


@functools.cache
def names() -> Mapping[str, list[str]]:
    """Return the names of each kind of part."""
    found: dict[str, list[str]] = json.loads(_NAMES.read_text(encoding="utf-8"))
    return found


def _of_kind(kind: str) -> Completer:
    return lambda _ctx, _text: names()[kind]


def _data_sets(_ctx: typer.Context, _text: str) -> list[str]:
    from ptkit.core.data.sets.known import KNOWN_SETS

    return [*KNOWN_SETS, "hf:"]


def _models(_ctx: typer.Context, text: str) -> list[str]:
    # timm has more than all others together.
    return [*names()["models"], *(_timms() if text.startswith("timm") else ["timm:"])]


def _timms() -> list[str]:
    """Return the names of timm's models, read off its source: importing it imports torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    found = (
        re.findall(r"^@register_model\s+def (\w+)", file.read_text(encoding="utf-8"), re.M)
        for file in files
    )
    return sorted(f"timm:{name}" for names_of_file in found for name in names_of_file)


def _weights(ctx: typer.Context, text: str) -> list[str]:
    # Files come first; a name is one that has begun.
    return [] if not text or os.path.exists(text) else _models(ctx, text)


def _recipes(_ctx: typer.Context, _text: str) -> list[str]:
    from ptkit.core.config.layers import recipe_names

    return recipe_names()


def _layers(ctx: typer.Context, _text: str) -> list[str]:
    from ptkit.core.models.layer_names import layers_of_file

    given = ctx.params.get("ckpt") or ctx.params.get("weights")
    return layers_of_file(Path(str(given))) if given else []


def _groups(ctx: typer.Context, text: str) -> list[str]:
    return [f"{name}: " for name in _layers(ctx, text)]


def _inits(_ctx: typer.Context, text: str) -> list[str]:
    selector, equals, _ = text.partition("=")
    if not equals:
        return ["tutorial", *(f"{name}=" for name in _CLASSES)]
    return [f"{selector}={name}" for name in names()["inits"]]


def _of_asked_kind(ctx: typer.Context, text: str) -> list[str]:
    kind = str(ctx.params.get("kind"))
    if kind == "recipes":
        return _recipes(ctx, text)
    if kind == "data":
        return _data_sets(ctx, text)[:-1]
    return _models(ctx, text) if kind == "models" else names().get(kind, [])


def _entries(_ctx: typer.Context, _text: str) -> list[str]:
    from ptkit.core.data.loading.entries import list_entries

    return ["all", *(entry.name for entry in list_entries())]


def _assignments(_ctx: typer.Context, text: str) -> list[str]:
    settings = {
        f"{s}.{key}": field for s, fields in FIELDS.items() for key, field in fields.items()
    }
    name = text.partition("=")[0]
    if name in settings:
        return [f"{name}={value}" for value in _values(name, settings[name])] or [f"{name}="]
    return [f"{key}=" for key in settings]


def _values(name: str, field: Field) -> list[str]:
    """Return the values that a setting has by name; none for numbers and text."""
    section, _, key = name.partition(".")
    if key == "call":
        return names()[CALLS[section]]
    if field.type is bool:
        return ["true", "false"]
    return list(field.metadata["choices"])


# By the name of a parameter, in whichever command.
_COMPLETERS: dict[str, Completer] = {
    "data_set": _data_sets,
    "model": _models,
    "weights": _weights,
    "file": _weights,
    "subject": _weights,
    "loss": _of_kind("losses"),
    "optimizer": _of_kind("optimizers"),
    "scheduler": _of_kind("schedulers"),
    "plot": _of_kind("schedulers"),
    "transforms": _of_kind("transforms"),
    "init": _inits,
    "recipe": _recipes,
    "groups": _groups,
    "layers": _layers,
    "assignments": _assignments,
    "explain": _of_kind("rules"),
    "kind": _of_kind("kinds"),
    "pattern": _of_asked_kind,
    "names": _entries,
}
