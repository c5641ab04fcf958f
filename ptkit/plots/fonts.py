"""Which characters can be drawn on this system, and how wide a text is."""

import bisect
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import cast

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from ptkit.core.errors import UsageError
from ptkit.core.wording import counted, first_of, one_line

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
# Of other fonts, names and files that may have Chinese characters.
_CJK_NAMES = re.compile(
    r"cjk|wqy|wenquanyi|han|hei|song|ming|kai|gothic|mincho|droid|unifont|notosans ?(sc|tc|jp|kr)",
    re.IGNORECASE,
)
_COMMON = ord("\N{CJK UNIFIED IDEOGRAPH-4E2D}")
# The font of `using_font`, which comes first.
_chosen: list[str] = []


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


@contextmanager
def using_font(file: Path) -> Iterator[None]:
    """Draw with this font what ours lack.

    Raises:
        UsageError: not a font.
    """
    try:
        font_manager.fontManager.addfont(file)
        name = font_manager.get_font(file).family_name
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{file} is not a font: pass a .ttf, .otf or .ttc file") from error
    _chosen.append(name)
    _forget()
    try:
        yield
    finally:
        _chosen.pop()
        _forget()


def font_families() -> list[str]:
    """Return the fonts to draw with, in the order in which they are tried for each character."""
    name = cjk_font()
    return [_BASE_FAMILY, *_chosen, *([] if name is None else [name])]


def is_drawable(text: str) -> bool:
    """Return whether every character of `text` has a glyph in one of our fonts."""
    return all(any(ord(character) in glyphs for glyphs in _glyphs()) for character in text)


def drawable(text: str) -> str:
    """Return `text` on one line, with an ellipsis for characters that have no glyph."""
    line = text.replace("\n", " ").replace("\t", " ")
    groups = itertools.groupby(line, is_drawable)
    return "".join("".join(group) if known else "…" for known, group in groups)


def class_labels(class_names: Sequence[str]) -> list[str]:
    """Return each class as text has it: its name, or `#3` if that is blank or undrawable.

    In narrow places see `labels_of`.
    """
    named = enumerate(class_names)
    return [name if name.strip() and is_drawable(name) else f"#{k}" for k, name in named]


def missing_font_note(class_names: Sequence[str], *, remedy: str) -> str | None:
    """Return which numbers replace class names that no font here can draw, and how to get a font;
    None where there are none.

    remedy: how to name a font file.
    """
    missing = [
        f"#{k} = {one_line(name)}" for k, name in enumerate(class_names) if not is_drawable(name)
    ]
    if not missing:
        return None
    return (
        f"no font here has all characters of {counted(len(missing), 'class name')}; pictures have"
        f" their numbers: {first_of(missing, 20)} (install a font, such as the package"
        f" fonts-noto-cjk, or pass {remedy})"
    )


@lru_cache(maxsize=4096)
def text_width(text: str, *, size: float, bold: bool = False) -> float:
    """Return the width in pixels at `DPI` of one line of text; size: points."""
    font = FontProperties(family=font_families(), size=size, weight="bold" if bold else "normal")
    width, _, _ = _renderer().get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def wrapped(text: str, *, width: float, size: float, bold: bool = False) -> list[str]:
    """Break `text` at blanks into lines of at most `width` pixels, and longer words anywhere."""
    lines: list[str] = []
    words = drawable(text).split()
    for word in (part for w in words for part in _pieces(w, width=width, size=size, bold=bold)):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size=size, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _pieces(word: str, *, width: float, size: float, bold: bool) -> Iterator[str]:
    while text_width(word, size=size, bold=bold) > width and len(word) > 1:
        starts = [word[:k] for k in range(1, len(word))]
        measure = partial(text_width, size=size, bold=bold)
        end = max(1, bisect.bisect_right(starts, width, key=measure))
        yield word[:end]
        word = word[end:]
    yield word


def fitted(text: str, *, width: float, size: float, bold: bool = False) -> str:
    """Return a drawable `text`, with an ellipsis in its middle where it is wider than `width`."""
    text = drawable(text)
    if text_width(text, size=size, bold=bold) <= width:
        return text

    def shorter(kept: int) -> str:
        # The end of a path says more than its start, so more of it is kept.
        head = kept // 3
        return f"{text[:head]}…{text[len(text) - (kept - head) :]}"

    # The more is kept, the wider it is.
    most = bisect.bisect_right(
        range(2, len(text)),
        width,
        key=lambda kept: text_width(shorter(kept), size=size, bold=bold),
    )
    return shorter(most + 1) if most else "…"


def _known_cjk_font() -> str | None:
    files = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    known = next((family for family in _CJK_FAMILIES if family in files), None)
    if known is not None:
        return known
    others = (name for name in sorted(files) if _CJK_NAMES.search(name))
    return next((name for name in others if _has_common(files[name])), None)


def _has_common(file: str) -> bool:
    # A font file may be damaged.
    with suppress(OSError, RuntimeError):
        return _COMMON in font_manager.get_font(file).get_charmap()
    return False


def _add_new_fonts() -> None:
    # matplotlib keeps its list of fonts between runs and misses those installed since.
    fonts = font_manager.fontManager
    known = {entry.fname for entry in fonts.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known and _CJK_NAMES.search(Path(path).name):
            # A font file may be damaged.
            with suppress(OSError, RuntimeError):
                fonts.addfont(path)


@cache
def _glyphs() -> tuple[frozenset[int], ...]:
    files = [font_manager.findfont(FontProperties(family=family)) for family in font_families()]
    return tuple(frozenset(font_manager.get_font(file).get_charmap()) for file in files)


def _forget() -> None:
    """Forget what was measured with other fonts."""
    _glyphs.cache_clear()
    text_width.cache_clear()


@cache
def _renderer() -> RendererAgg:
    return cast(RendererAgg, FigureCanvasAgg(Figure(dpi=DPI)).get_renderer())
