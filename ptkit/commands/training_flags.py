"""The flags of settings: a command gets them from the fields of core/config.py."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from ptkit.core.config import KEYWORDS, Field

Command = Callable[..., None]


def with_setting_flags(*keywords: str) -> Callable[[Command], Command]:
    """Give a command the flags of these settings, or of all that have one.

    They take the place of the command's **settings, which gets what the user gave, by keyword.
    """

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command).parameters.values())[:-1]
        flags = [_parameter(keyword) for keyword in keywords or all_flags()]

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:
            given = {flag.name: values.pop(flag.name) for flag in flags}
            command(**values, **{k: v for k, v in given.items() if v is not None and v != []})

        # Typer reads the flags off the signature and the annotations, the help off the docstring.
        arguments = [p for p in own if _is_argument(p)]
        others = [p for p in own if not _is_argument(p)]
        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*arguments, *flags, *others)
        ]
        with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
        with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_flags

    return decorate


def all_flags() -> list[str]:
    """Return the keywords of all settings that have a flag."""
    return [name for name, (_, setting) in KEYWORDS.items() if setting.metadata["flag"]]


def _parameter(keyword: str) -> inspect.Parameter:
    """Return a setting as a parameter for Typer; the settings check the range, for all doors."""
    _, setting = KEYWORDS[keyword]
    rules, kind = setting.metadata, _kind(setting)
    help_text = rules["meaning"] + (" May be repeated." if get_origin(kind) is list else "")
    option = typer.Option(rules["flag"], help=help_text, metavar="|".join(rules["choices"]) or None)
    return inspect.Parameter(
        keyword,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _kind(setting: Field) -> Any:
    """Return what Typer reads for a field of type T, T | None, or a tuple of T."""
    kind: Any = setting.type
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    if setting.metadata["is_path"]:
        return Path
    return next((part for part in get_args(kind) if part is not type(None)), kind)


def _is_argument(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation.__metadata__[0], typer.models.ArgumentInfo)
