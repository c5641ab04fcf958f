"""Write the table of all settings into docs/training.md, between its two markers.

    python scripts/make_settings_table.py [FILE]

The table comes from ptkit/core/config.py and from the flags of `ptkit train`; a test keeps the page
true to them.
"""

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from ptkit.cli import app
from ptkit.commands import training_flags
from ptkit.core.config import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
BEGIN = "<!-- settings: written by scripts/make_settings_table.py -->"
END = "<!-- end of settings -->"


def with_table(page: str) -> str:
    """Return the text of a page with the table between its markers renewed."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"the page needs the lines {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """Return a Markdown table for each section of the settings."""
    flags = _flags()
    blocks = []
    for section in dataclasses.fields(Settings):
        rows = [
            _row(section.name, setting, flags) for setting in dataclasses.fields(section.default)
        ]  # type: ignore[arg-type]
        head = (
            f"### `[{section.name}]`\n\n| setting | flag | default | values | meaning"
            " |\n|---|---|---|---|---|\n"
        )
        blocks.append(head + "".join(rows))
    return "\n".join(blocks)


def _row(section: str, setting: dataclasses.Field[Any], flags: dict[tuple[str, str], str]) -> str:
    cells = [
        f"`{setting.name}`",
        f"`{flags[section, setting.name]}`" if (section, setting.name) in flags else "",
        _default(setting.default),
        ", ".join(_values(setting)),
        setting.metadata["meaning"],
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _flags() -> dict[tuple[str, str], str]:
    """Return the flag of `ptkit train` for each setting that has one."""
    options = {option.name: option.opts[0] for option in get_command(app).commands["train"].params}  # type: ignore[attr-defined]
    return {setting: options[name] for name, setting in training_flags._SETTINGS.items()}


def _default(value: Any) -> str:
    if value in (None, ()):
        return ""
    return (
        f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else '`""`'
    )


def _values(setting: dataclasses.Field[Any]) -> Iterator[str]:
    kind, rules = inspect.formatannotation(setting.type), setting.metadata
    if rules["choices"]:
        yield ", ".join(f"`{choice}`" for choice in rules["choices"])
        return
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` or `false`"}
    name = kind.removeprefix("tuple[").split(",")[0].split(" |")[0]
    word = "path" if rules["is_path"] else words[name]
    yield f"list of {word}s".replace("texts", "text") if kind.startswith("tuple") else word
    limits = {"above": "above", "low": "at least", "high": "at most"}
    for rule, text in limits.items():
        # No limit that anybody meets.
        if rules[rule] is not None and rules[rule] < 2**32:
            yield f"{text} {rules[rule]}"


def main() -> None:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
