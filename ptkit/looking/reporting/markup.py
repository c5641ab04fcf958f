"""HTML in which every text is escaped, unless it is markup already."""

import html
from collections.abc import Iterable

from ptkit.core.wording import one_line

_WITHOUT_END = {"img", "line", "polyline", "rect", "circle"}


class Html(str):
    """Markup. Any other text is escaped before it becomes part of it."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return a text as markup: as it is where it is Html, else escaped.

    Line ends, control characters and marks that turn the direction of writing become visible
    escapes: a file name changes neither the page nor the text around it.
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(one_line(text)))


def joined(parts: Iterable[str]) -> Html:
    """Return parts, escaped where needed, one after the other."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, *children: str, **attributes: str | float | bool | None) -> Html:
    """Return an element. Attributes: `class_` is class, `data_cell` data-cell; True stands alone,
    None and False are left out.
    """
    words = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _WITHOUT_END and not children:
        return Html(f"<{name}{words}>" if name == "img" else f"<{name}{words}/>")
    return Html(f"<{name}{words}>{joined(children)}</{name}>")


def isolated(text: str) -> Html:
    """Return a name or path whose direction of writing is its own: Arabic, Hebrew."""
    return tag("bdi", text)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
