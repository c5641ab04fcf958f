"""Names in narrow places: what stands for each, and the key that tells the whole ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ptkit.plots.fonts import drawable, fitted, is_drawable, text_width

_UNDRAWABLE = "#n alone: line n of classes.txt, counted from 0; no font here can draw its name"


@dataclass(frozen=True)
class Labels:
    """texts: one for each name, no two alike; a shortened one has its number before it. full: by
    number the names that are not whole there, None where no font can draw them.
    """

    texts: list[str]
    full: dict[int, str | None]

    def key(self, numbers: Iterable[int] | None = None) -> list[str]:
        """Return lines for below a picture that shows these names, or all."""
        shown = range(len(self.texts)) if numbers is None else sorted(set(numbers))
        known = {number: self.full[number] for number in shown if number in self.full}
        lines = [f"#{number} {name}" for number, name in known.items() if name is not None]
        return lines + ([_UNDRAWABLE] if None in known.values() else [])


def labels_of(names: Sequence[str], *, width: float, size: float, bold: bool = False) -> Labels:
    """Return labels of at most `width` pixels; of a longer name the middle is shortened.

    A name that is blank or that no font can draw becomes its number, as in `#3`. size: points.
    """
    texts: list[str] = []
    full: dict[int, str | None] = {}
    for number, name in enumerate(names):
        text = name
        if not name.strip() or not is_drawable(name):
            text, full[number] = f"#{number}", None
        elif text_width(drawable(name), size=size, bold=bold) > width:
            sign = f"#{number} "
            room = width - text_width(sign, size=size, bold=bold)
            text = sign + fitted(name, width=max(room, 0), size=size, bold=bold)
            full[number] = name
        texts.append(text)
    return Labels(texts, full)
