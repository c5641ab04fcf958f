"""Code that settings would run: whoever starts a run may name it, files may not. Free of torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptkit.core.config.layers import Layer, gather, layer_of
from ptkit.core.config.settings import FIELDS, Settings
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.parts.calls import names_code, parse

# Settings that hold calls; one of `init` follows a selector.
_CALLS = {
    "data": ("transforms", "eval_transforms"),
    "model": ("call", "init"),
    "loss": ("call",),
    "optimizer": ("call",),
    "scheduler": ("call",),
}
_AFTER_SELECTOR = "model.init"


def gather_trusted(
    keywords: Mapping[str, Any],
    *,
    base: Layer | None = None,
    recipe: str | None = None,
    over_recipe: Layer | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    trust: bool = False,
) -> Settings:
    """Return what `gather` does, if no code would run but what this very call names.

    A run folder, a TOML file and a recipe may come from anybody. trust: they may name code too.

    Raises:
        UsageError: see `gather`; or trust where there is no file.
        CheckpointError: a file names code that no keyword names; nothing of it was imported.
    """
    settings = gather(
        keywords, base=base, recipe=recipe, over_recipe=over_recipe, resume=resume, config=config
    )
    own_recipe = recipe if recipe is not None and recipe.endswith(".toml") else None
    files = [str(file) for file in (own_recipe, resume, config) if file is not None]
    if trust and not files:
        raise UsageError("--trust is for the code that a file names: none is given")
    if not trust:
        _refuse_code(settings, layer_of(keywords), " or ".join(files) or "the model")
    return settings


def _refuse_code(settings: Settings, given: Layer, where: str) -> None:
    for section, key in ((section, key) for section, keys in _CALLS.items() for key in keys):
        name = f"{section}.{key}"
        named_again = set(_texts(given.get(section, {}).get(key)))
        for text in _texts(getattr(getattr(settings, section), key)):
            if text not in named_again and _runs_code(name, text):
                flag = FIELDS[section][key].metadata["flag"]
                how = f"{flag} {text!r}" if flag else f"--set {name}={text!r}"
                raise CheckpointError(
                    f"{where} names code of its own ({name} = {text}); nothing was run: if you"
                    f" trust it, name it again ({how}) or pass --trust"
                )


def _texts(value: str | Sequence[str] | None) -> Sequence[str]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _runs_code(name: str, text: str) -> bool:
    return any(names_code(call) for call in _calls_of(name, text))


def _calls_of(name: str, text: str) -> Iterator[Any]:
    """Yield what a text may be read as; what cannot be read is refused where it is used."""
    parts = text.split("=") if name == _AFTER_SELECTOR else [text]
    for first in range(len(parts)):
        try:
            call = parse("=".join(parts[first:]))
        except UsageError:
            continue
        # timm's models are looked up in its table; nothing else of it is a model.
        is_timms = name == "model.call" and call.prefix == "timm"
        yield replace(call, prefix="") if is_timms else call
