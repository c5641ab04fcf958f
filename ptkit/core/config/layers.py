"""Settings out of layers: defaults, a recipe, TOML files, keywords. Free of torch.

Later layers win, key by key; what depends on a value goes with it when another takes its place: a
rate with its optimizer, the size of a crop with that of the images. A layer is a mapping {section:
{key: value}}.
"""

import dataclasses
import difflib
import json
import math
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptkit.core.config.dependents import freed, has_max_lr, has_rate
from ptkit.core.config.fields import Form, Limits
from ptkit.core.config.settings import AUTO, FIELDS, KEYWORDS, Auto, Settings, keyword_of
from ptkit.core.errors import UsageError
from ptkit.core.run_folders import settings_file
from ptkit.core.wording import nearest

Layer = Mapping[str, Mapping[str, Any]]

# Ready settings by name: TOML files that anyone can read and copy.
_RECIPES = Path(__file__).parents[2] / "recipes"
# A value of more characters is not repeated in a message.
_LONGEST_SHOWN = 200
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def gather(
    keywords: Mapping[str, Any],
    *,
    base: Layer | None = None,
    recipe: str | None = None,
    over_recipe: Layer | None = None,
    resume: Path | None = None,
    config: Path | None = None,
) -> Settings:
    """Return the settings of a run: defaults < base < recipe or resumed run < config < keywords.

    over_recipe: a layer over the recipe, also where there is none.

    Raises:
        UsageError: a bad setting, a rate that is given twice, a recipe without effect, or a TOML
            file that cannot be read.
    """
    # Checked: a value may be of another type, or "none".
    _refuse_second_rate(resolve(layer_of(keywords)))
    of_recipe = {} if recipe is None else read_recipe(recipe)
    of_config = {} if config is None else read_toml(config)
    if of_recipe and all(
        key in of_config.get(section, {}) for section, keys in of_recipe.items() for key in keys
    ):
        raise UsageError(
            f"--recipe {recipe} has no effect beside --config {config}, which sets all that it"
            " sets: leave one of them out"
        )
    return resolve(
        base or {},
        of_recipe,
        over_recipe or {},
        {} if resume is None else read_toml(resume / "config.toml"),
        of_config,
        layer_of(keywords),
    )


def resolve(*layers: Layer) -> Settings:
    """Lay the layers over the defaults and check every value.

    Raises:
        UsageError: an unknown section or key, or a value of the wrong type or out of range.
    """
    sections: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Settings)}
    named: dict[str, Any] = {}
    for layer in layers:
        given: dict[str, Any] = {}
        for section, values in layer.items():
            if section not in FIELDS:
                hint = nearest(section, FIELDS)
                raise UsageError(f"no section [{section}]{hint}; sections: {', '.join(FIELDS)}")
            if not isinstance(values, Mapping):
                raise UsageError(
                    f"{section} must be a section, as in [{section}], found {values!r}"
                )
            given |= {f"{section}.{k}": _checked(section, k, v) for k, v in values.items()}
        named |= freed(named, given) | given
    for name, value in named.items():
        section, _, key = name.partition(".")
        sections[section] = dataclasses.replace(sections[section], **{key: value})
    return Settings(**sections)


def layer_of(keywords: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings given by their Python keywords as a layer; paths may be any path objects.

    Raises:
        UsageError: an unknown keyword.
    """
    layer: dict[str, dict[str, Any]] = {}
    for keyword, value in keywords.items():
        if keyword not in KEYWORDS:
            raise UsageError(f"no setting is called {keyword}{nearest(keyword, KEYWORDS)}")
        section, setting = KEYWORDS[keyword]
        if keyword == "model" and value is not None and not isinstance(value, str):
            raise UsageError(
                'model must be a call such as "resnet18()" or "my_net.py:Net()", found'
                f" {_shown(value)}; weights to start from go to ptkit.finetune"
            )
        is_path = setting.metadata["is_path"] and isinstance(value, os.PathLike)
        layer.setdefault(section, {})[setting.name] = os.fspath(value) if is_path else value
    return layer


def parse_assignments(texts: typing.Iterable[str]) -> dict[str, Any]:
    """Read lines `section.key=value` as keywords and values; later ones win.

    A value is TOML, or plain text where it is not.

    Raises:
        UsageError: not of that form, or no such setting.
    """
    found: dict[str, Any] = {}
    for text in texts:
        for section, values in parse_assignment(text).items():
            resolve({section: values})
            found |= {keyword_of(section, FIELDS[section][key]): v for key, v in values.items()}
    return found


def with_assignments(texts: typing.Iterable[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of lines `section.key=value` and of flags, which win.

    Raises:
        UsageError: as `parse_assignments`; or a bad value of a flag, with the flag's name.
    """
    check_flags(flags)
    return parse_assignments(texts) | dict(flags)


def check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse a bad value of a flag with the flag's name, which is what the user typed.

    Raises:
        UsageError: there is one.
    """
    for keyword in (keyword for keyword in flags if keyword in KEYWORDS):
        section, setting = KEYWORDS[keyword]
        value, flag = flags[keyword], setting.metadata["flag"]
        if flag and value is not None:
            plain = os.fspath(value) if isinstance(value, os.PathLike) else value
            _checked(section, setting.name, plain, flag=flag)


def parse_assignment(text: str) -> Layer:
    """Read `section.key=value`; the value is TOML, or plain text where it is not.

    Raises:
        UsageError: not of that form.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise UsageError(
            f"--set expects section.key=value, found {text!r}{_full_name(name.strip())}"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    return {section: {key: parsed}}


def read_toml(file: Path) -> Layer:
    """Return the settings of a TOML file, or of a run folder; paths in it are relative to its
    folder.

    Raises:
        UsageError: no such file, or not TOML; or a folder that is not that of a run.
    """
    file = settings_file(file)
    try:
        # Windows' editors put a BOM in front, which TOML forbids.
        layer = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    # Any number of more than 4,300 digits is a ValueError.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    return _with_paths(layer, lambda path: os.path.normpath(os.path.join(file.parent, path)))


def to_toml(settings: Settings, *, folder: Path) -> str:
    """Return the settings as TOML, without unset ones; paths are relative to `folder`."""
    layer = _with_paths(to_layer(settings), lambda path: os.path.relpath(path, folder))
    blocks = (
        f"[{section}]\n"
        + "".join(f"{key} = {_toml_value(v)}\n" for key, v in values.items() if v is not None)
        for section, values in layer.items()
    )
    return "\n".join(blocks)


def to_layer(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as plain containers."""
    return dataclasses.asdict(settings)


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(file.stem for file in _RECIPES.glob("*.toml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe's file.

    Raises:
        UsageError: no recipe of this name.
    """
    if name not in recipe_names():
        is_run = os.path.isfile(os.path.join(name, "config.toml"))
        hint = nearest(name, recipe_names())
        hint = f"; for the settings of this run: --config {name}" if is_run else hint
        raise UsageError(f"no recipe is called {name}, see `ptkit list recipes`{hint}")
    return (_RECIPES / f"{name}.toml").read_text(encoding="utf-8")


def read_recipe(name: str) -> Layer:
    """Return the settings of a recipe, or of the user's own file (a name that ends in .toml).

    Raises:
        UsageError: no recipe of this name, or no such file.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name))
    recipe_text(name)
    return read_toml(_RECIPES / f"{name}.toml")


def _refuse_second_rate(given: Settings) -> None:
    optimizer, schedule = given.optimizer, given.scheduler.call
    if not has_max_lr(schedule):
        return
    rate = None if optimizer.lr is None else f"--lr (optimizer.lr) is {optimizer.lr:g}"
    if has_rate(optimizer.call):
        rate = f"{optimizer.call} has lr"
    if rate is not None:
        raise UsageError(
            f"the rate is given twice: {schedule} has max_lr, and {rate}: leave one out"
        )


def _full_name(key: str) -> str:
    """Return a hint such as `; did you mean train.epochs?` for a name without its section, or with
    a wrong one.
    """
    known = {f"{section}.{name}": name for section, fields in FIELDS.items() for name in fields}
    # Only close matches: PyTorch's own names, such as momentum, are not misspelt settings.
    for wanted in (key, *difflib.get_close_matches(key, known.values(), n=1, cutoff=0.8)):
        meant = [full for full, name in known.items() if wanted == name or f"{wanted}.call" == full]
        if meant:
            return f"; did you mean {' or '.join(meant)}?"
    return ""


def _checked(section: str, key: str, value: Any, *, flag: str | None = None) -> Any:
    name, fields = flag or f"{section}.{key}", FIELDS[section]
    if key not in fields:
        hint = nearest(key, fields) or f"; it has: {', '.join(fields)}{_full_name(key)}"
        raise UsageError(f"[{section}] has no setting {key}{hint}")
    rules = fields[key].metadata
    if isinstance(rules["within"], Form):
        return _formed(name, value, rules["within"])
    value = _converted(name, value, fields[key].type)
    choices = rules["choices"]
    if choices and value not in choices:
        hint = nearest(str(value), choices)
        raise UsageError(f"{name} must be one of {', '.join(choices)}, found {value!r}{hint}")
    if rules["is_path"] and value is not None and (not value or "\0" in value):
        raise UsageError(f"{name} must name a file, found {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        # True is an int for Python.
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_range(name, number, rules["within"])
    return value


def _formed(name: str, value: Any, form: Form) -> int | str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not re.fullmatch(form.pattern, text):
        raise UsageError(f"{name} must be {form.words}, found {value!r}")
    return int(text) if text.isdecimal() else text


def _check_range(name: str, number: float, within: Limits) -> None:
    low, high, above = within
    breaks = {
        "a finite number": isinstance(number, float) and not math.isfinite(number),
        f"above {above}": above is not None and number <= above,
        f"at least {low}": low is not None and number < low,
        f"at most {high}": high is not None and number > high,
    }
    if broken := [rule for rule, is_broken in breaks.items() if is_broken]:
        raise UsageError(f"{name} must be {broken[0]}, found {number}")


def _converted(name: str, value: Any, wanted: Any) -> Any:
    """Return the value as the type of its field: T, T | None, T | Auto, or a tuple of T.

    "none" means None or an empty tuple.
    """
    is_union = typing.get_origin(wanted) in (types.UnionType, typing.Union)
    options = typing.get_args(wanted) if is_union else (wanted,)
    if type(None) in options and value in (None, "none"):
        return None
    if Auto in options and value == AUTO:
        return AUTO
    kind = options[0]
    if typing.get_origin(kind) is tuple:
        if value == "none":
            return ()
        item_kind = typing.get_args(kind)[0]
        return tuple(_converted(name, item, item_kind) for item in _items(value, item_kind))
    # TOML's 1 is an integer where 1.0 was meant; it may have any number of digits.
    if kind is float and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        word = f"{words[kind]}, or auto" if Auto in options else words[kind]
        raise UsageError(f"{name} must be {word}, found {_shown(value)}")
    if isinstance(value, str):
        _check_text(name, value)
    return value


def _shown(value: Any) -> str:
    """Return a value for a message; of a model, an image or another object its type alone."""
    if isinstance(value, os.PathLike):
        return f"the path {os.fspath(value)}"
    text = repr(value)
    is_short = len(text) <= _LONGEST_SHOWN and "\n" not in text
    return text if is_short else f"an object of the type {type(value).__name__}"


def _items(value: Any, kind: type) -> list[Any] | tuple[Any, ...]:
    """Return a list, or one value as a list; `0.1,0.2,0.3` is a list of numbers."""
    if isinstance(value, list | tuple):
        return value
    if kind is float and isinstance(value, str):
        return [
            float(part) if _NUMBER.fullmatch(part.strip()) else part for part in value.split(",")
        ]
    return [value]


def _check_text(name: str, value: str) -> None:
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(
            f"{name} must be UTF-8 text, found {value!a}: config.toml cannot hold it; rename it"
        )


def _with_paths(layer: Layer, change: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Return the layer with every path of a file changed; what is not a section stays."""
    # What is not a section is refused by resolve().
    changed: dict[str, Any] = {
        k: dict(v) if isinstance(v, Mapping) else v for k, v in layer.items()
    }
    for section, setting in KEYWORDS.values():
        values, key = changed.get(section), setting.name
        if not setting.metadata["is_path"] or not isinstance(values, dict):
            continue
        if isinstance(path := values.get(key), str):
            moved = change(path)
            # Weights may be the name of a torchvision model instead of a file.
            if key != "weights" or os.path.exists(path) or os.path.exists(moved):
                values[key] = moved
    return changed


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        _check_text("a path or text", value)
        # A JSON string is a TOML basic string, but for DEL, which TOML requires to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
