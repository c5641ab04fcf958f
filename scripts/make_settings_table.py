"""Write the table of all settings into docs/training.md, between its two markers.

    python scripts/make_settings_table.py [FILE]

The table comes from the fields in ptkit/core/config/settings.py; a test keeps the page equal to
them.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from ptkit.core.config.fields import Form
from ptkit.core.config.settings import AUTO, FIELDS, FLAGS, Auto, Field, keyword_of

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
    head = (
        "| setting | flag | in Python | default | values | meaning |\n|---|---|---|---|---|---|\n"
    )
    return "\n".join(
        f"### `[{section}]`\n\n{head}{''.join(_row(section, field) for field in fields.values())}"
        for section, fields in FIELDS.items()
    )


def _row(section: str, setting: Field) -> str:
    keyword = keyword_of(section, setting)
    cells = [
        f"`{setting.name}`",
        f"`{FLAGS[keyword]}`" if keyword in FLAGS else "",
        f"`{keyword}`" if keyword != setting.name else "",
        _default(setting.default),
        ", ".join(_values(setting)),
        setting.metadata["meaning"],
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _default(value: Any) -> str:
    if value in (None, ()):
        return ""
    return (
        f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else '`""`'
    )


def _values(setting: Field) -> Iterator[str]:
    kind, rules = inspect.formatannotation(_plain(setting.type)), setting.metadata
    if rules["choices"]:
        yield ", ".join(f"`{choice}`" for choice in rules["choices"])
        return
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` or `false`"}
    name = kind.removeprefix("tuple[").split(",")[0].split(" |")[0]
    word = "path" if rules["is_path"] else words[name]
    yield f"list of {word}s".replace("texts", "text") if kind.startswith("tuple") else word
    if isinstance(rules["within"], Form):
        yield "or text"
        return
    low, high, above = rules["within"]
    for text, limit in {"above": above, "at least": low, "at most": high}.items():
        # A limit that nobody reaches.
        if limit is not None and limit < 2**32:
            yield f"{text} {limit}"
    if Auto in get_args(setting.type):
        yield f"or `{AUTO}`"


def _plain(kind: Any) -> Any:
    """Return T for T | Auto, with None or without; any other type as it is."""
    return get_args(kind)[0] if Auto in get_args(kind) else kind


def main() -> None:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
