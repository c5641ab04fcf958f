"""Which characters can be drawn on this system, and how wide a text is."""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

# Pixels per inch of every page that is laid out in pixels.
DPI = 100

_BASE_FAMILY = "DejaVu Sans"
_CJK_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Heiti SC", "STHeiti", "SimHei", "Songti SC", "SimSun",
    "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans CJK TC", "Noto Sans CJK JP",
    "Noto Sans CJK KR", "Source Han Sans", "AR PL UMing CN", "AR PL UKai CN",
)  # fmt: skip
_CJK_FILES = re.compile(r"cjk|wqy|han|hei|song|droid|uming|ukai|notosans(sc|tc|jp)", re.IGNORECASE)
_NO_GLYPH = "\N{WHITE SQUARE}"


@cache
def cjk_font() -> str | None:
    """Return the name of a font with Chinese characters that this system has, or None."""
    name = _known_cjk_font()
    if name is None:
        _add_new_fonts()
        name = _known_cjk_font()
    if name is not None:
        # Most of these fonts have no bold face, which matplotlib would log each time.
        logging.getLogger("matplotlib.font_manager").addFilter(
            lambda record: "font weight" not in record.getMessage()
        )
    return name


def font_families() -> list[str]:
    """Return the fonts to draw with, in the order in which they are tried for each character."""
    name = cjk_font()
    return [_BASE_FAMILY] if name is None else [_BASE_FAMILY, name]


def is_drawable(text: str) -> bool:
    """Return whether every character of `text` has a glyph in one of our fonts."""
    return all(any(ord(character) in glyphs for glyphs in _glyphs()) for character in text)


def drawable(text: str) -> str:
    """Return `text` on one line, with an empty square for each character that has no glyph."""
    line = text.replace("\n", " ").replace("\t", " ")
    return "".join(c if is_drawable(c) else _NO_GLYPH for c in line)


def class_labels(class_names: Sequence[str]) -> list[str]:
    """Return the label of each class: its name, or its index if the name is blank or undrawable."""
    named = enumerate(class_names)
    return [name if name.strip() and is_drawable(name) else str(k) for k, name in named]


@lru_cache(maxsize=4096)
def text_width(text: str, *, size: float, bold: bool = False) -> float:
    """Return the width in pixels at `DPI` of one line of text; size: points."""
    font = FontProperties(family=font_families(), size=size, weight="bold" if bold else "normal")
    width, _, _ = _renderer().get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def wrapped(text: str, *, width: float, size: float, bold: bool = False) -> list[str]:
    """Break `text` at blanks into lines of at most `width` pixels; longer words are shortened."""
    lines: list[str] = []
    for word in drawable(text).split():
        word = fitted(word, width=width, size=size, bold=bold)
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size=size, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def fitted(text: str, *, width: float, size: float, bold: bool = False) -> str:
    """Return a drawable `text`, with an ellipsis in its middle where it is wider than `width`."""
    text = drawable(text)
    if text_width(text, size=size, bold=bold) <= width:
        return text
    # The end of a path says more than its start, so more of it is kept.
    for kept in range(len(text) - 1, 1, -1):
        head = kept // 3
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if text_width(shorter, size=size, bold=bold) <= width:
            return shorter
    return "…"


def _known_cjk_font() -> str | None:
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((family for family in _CJK_FAMILIES if family in installed), None)


def _add_new_fonts() -> None:
    # matplotlib keeps its list of fonts between runs and misses those installed since.
    fonts = font_manager.fontManager
    known = {entry.fname for entry in fonts.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known and _CJK_FILES.search(Path(path).name):
            # A font file may be damaged.
            with suppress(OSError, RuntimeError):
                fonts.addfont(path)


@cache
def _glyphs() -> tuple[frozenset[int], ...]:
    files = [font_manager.findfont(FontProperties(family=family)) for family in font_families()]
    return tuple(frozenset(font_manager.get_font(file).get_charmap()) for file in files)


@cache
def _renderer() -> RendererAgg:
    return cast(RendererAgg, FigureCanvasAgg(Figure(dpi=DPI)).get_renderer())
