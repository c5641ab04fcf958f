"""The settings as a JSON Schema, by which editors complete and check TOML files. Free of torch."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ptkit.core.config.fields import Form, Limits
from ptkit.core.config.settings import AUTO, FIELDS, FLAGS, Auto, Field, keyword_of

# The line at the top of a TOML file that makes editors use a schema beside it.
EDITOR_LINE = "#:schema ./ptkit.schema.json"
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
_NUMBERS = r"^\s*[-+.\deE]+(\s*,\s*[-+.\deE]+)*\s*$"

Schema = dict[str, Any]


def settings_schema(calls: Mapping[str, Sequence[str]]) -> Schema:
    """Return the JSON Schema (draft 7) of a TOML file of settings.

    calls: for `optimizer.call` and the like what an editor may offer; any text is allowed.
    """
    sections = {
        section: {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                key: field_schema(section, field, calls=calls.get(f"{section}.{key}", ()))
                for key, field in fields.items()
            },
        }
        for section, fields in FIELDS.items()
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"Save as ptkit.schema.json; TOML files beside it begin with {EDITOR_LINE}",
        "title": "Settings of ptkit",
        "description": "Settings of a run: recipes, --config files and config.toml of run folders.",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def field_schema(section: str, field: Field, *, calls: Sequence[str] = ()) -> Schema:
    """Return the schema of one setting, with its meaning, flag and default."""
    flag = FLAGS.get(keyword_of(section, field))
    about: Schema = {
        "description": field.metadata["meaning"]
        + (f" On the command line: {flag}." if flag else "")
    }
    if field.default is not None:
        about["default"] = (
            list(field.default) if isinstance(field.default, tuple) else field.default
        )
    allowed = _allowed(field)
    if calls:
        # Any text is a call of somebody; these are offered.
        allowed.insert(0, {"enum": [f"{name}()" for name in calls]})
    return about | (allowed[0] if len(allowed) == 1 else {"anyOf": allowed})


def _allowed(field: Field) -> list[Schema]:
    """Return the kinds of value that a setting may have, as the settings themselves check them."""
    rules = field.metadata
    if isinstance(form := rules["within"], Form):
        return [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": f"^{form.pattern}$"},
        ]
    is_union = typing.get_origin(field.type) in (types.UnionType, typing.Union)
    options = typing.get_args(field.type) if is_union else (field.type,)
    kind = options[0]
    if typing.get_origin(kind) is tuple:
        return _lists(typing.get_args(kind)[0], rules["within"])
    found = [_single(kind, rules)]
    if Auto in options:
        found.append({"const": AUTO})
    # Of text "none" is a text.
    if type(None) in options and (kind is not str or rules["choices"]):
        found.append({"const": "none"})
    return found


def _lists(kind: type, within: Limits) -> list[Schema]:
    item = {"type": _TYPES[kind], **_range(within)}
    found = [{"type": "array", "items": item}, item]
    if kind is float:
        found += [{"type": "string", "pattern": _NUMBERS}, {"const": "none"}]
    return found


def _single(kind: type, rules: Mapping[str, Any]) -> Schema:
    if rules["choices"]:
        return {"enum": list(rules["choices"])}
    filled = {"minLength": 1} if rules["is_path"] else {}
    return {"type": _TYPES[kind], **_range(rules["within"]), **filled}


def _range(within: Limits) -> Schema:
    names = ("minimum", "maximum", "exclusiveMinimum")
    return {name: limit for name, limit in zip(names, within, strict=True) if limit is not None}
