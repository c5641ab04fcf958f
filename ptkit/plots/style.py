"""The style of all figures: fonts, colours, and a page in pixels with a title and a footer."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import IdentityTransform

from ptkit.plots.fonts import DPI, drawable, font_families, text_width, wrapped

INK, MUTED, FAINT, EMPTY = "#1f2328", "#656d76", "#d0d7de", "#e6e8eb"
BLUE, ORANGE, RED = "#1f6fb4", "#d9660a", "#d1242f"
MAGNITUDE, SIGNED = "viridis", "RdBu_r"
NOT_FINITE = "#ff00ff"
# How notes inside a picture are written.
SMALL: dict[str, Any] = {"size": 8, "color": MUTED}
# The same as pixels.
FRAME_RGB, FAINT_RGB = (176, 183, 191), (226, 229, 233)
BAR_RGB, RED_RGB, BLUE_RGB = (110, 118, 129), (209, 36, 47), (31, 111, 180)

_MARGIN = 18
_TITLE, _NOTE, _FOOTER = 12.0, 9.0, 8.0
_MIN_WIDTH = 440
# Of a logarithmic axis, the highest value over the lowest.
_WIDE, _NARROW = 1e4, 10.0


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with our fonts and line widths; matplotlib's own settings come back afterwards."""
    with matplotlib.rc_context(
        {
            "font.family": font_families(),
            "font.size": 9,
            # Class names and paths may hold dollar signs, which would start a formula.
            "text.parse_math": False,
            "text.color": INK,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
        }
    ):
        yield


@dataclass(frozen=True)
class Page:
    """A figure whose content is placed in pixels from the content's left upper corner.

    width: of the content; left, top: where it begins in the figure, in pixels.
    """

    figure: Figure
    width: int
    left: int
    top: int

    def inset(self, left: int, top: int) -> "Page":
        """Return the same page with its corner so many pixels further to the right and down."""
        return replace(self, left=self.left + left, top=self.top + top)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes that fill the given box."""
        total_width, total_height = self.figure.get_size_inches() * DPI
        x, y = self.left + left, total_height - self.top - top - height
        box = (x / total_width, y / total_height, width / total_width, height / total_height)
        return self.figure.add_axes(box)

    def image(self, pixels: np.ndarray, left: float, top: float) -> None:
        """Draw an image, one of its pixels to a pixel; pixels: uint8 (H, W, 3)."""
        total_height = self.figure.get_size_inches()[1] * DPI
        x, y = self.left + left, total_height - self.top - top - pixels.shape[0]
        # Not axes, whose ticks, spines and scales take far longer to make and draw; below them.
        self.figure.figimage(pixels, round(x), round(y), origin="upper", zorder=-1)

    def frame(
        self, left: float, top: float, width: float, height: float, *, color: str, linewidth: float
    ) -> None:
        """Draw the outline of a box."""
        total_height = self.figure.get_size_inches()[1] * DPI
        corner = (self.left + left, total_height - self.top - top - height)
        look: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": linewidth}
        self.figure.add_artist(
            Rectangle(corner, width, height, transform=IdentityTransform(), **look)
        )

    def text(self, text: str, left: float, top: float, **how: Any) -> Text:
        """Write a line at a place, which is its upper left corner unless `how` says otherwise."""
        total_width, total_height = self.figure.get_size_inches() * DPI
        x, y = (self.left + left) / total_width, 1 - (self.top + top) / total_height
        placed: dict[str, Any] = {"va": "top", "size": 9} | how
        return self.figure.text(x, y, drawable(text), **placed)

    def color_bar(
        self,
        left: float,
        top: float,
        *,
        colormap: str | Colormap,
        labels: Sequence[str],
        meaning: str,
        width: int = 150,
        gap: int = 12,
    ) -> None:
        """Draw a colormap as a bar with labels spread below it, and its meaning at the right.

        It needs 30 pixels of height. gap: between bar and meaning.
        """
        bar = matplotlib.colormaps.get_cmap(colormap)(np.linspace(0, 1, width))[None, :, :3]
        self.image(np.repeat((bar * 255).astype(np.uint8), 10, axis=0), left, top)
        for k, label in enumerate(labels):
            share = k / max(len(labels) - 1, 1)
            align = {0.0: "left", 1.0: "right"}.get(share, "center")
            self.text(label, left + share * width, top + 13, ha=align, **SMALL)
        self.text(meaning, left + width + gap, top - 2, **SMALL)

    def color_key(self, text: str, left: float, *, color: str) -> None:
        """Draw a short bar of a colour and its meaning, in a legend at the top."""
        rgb = np.rint(np.array(to_rgb(color)) * 255).astype(np.uint8)
        self.image(np.broadcast_to(rgb, (3, 22, 3)), left, 5)
        self.text(text, left + 28, 7, va="center")


def new_page(
    width: float,
    height: float,
    *,
    title: str,
    notes: Sequence[str] = (),
    footer: str = "",
    key: Sequence[str] = (),
) -> Page:
    """Make a figure with room for content, a title, notes below it, a key under it and a footer.

    Narrow content is at the left of a page wide enough for a readable title.
    """
    page_width = max(int(np.ceil(width)), _MIN_WIDTH)
    titles = wrapped(title, width=page_width, size=_TITLE, bold=True)
    lines = [line for note in notes for line in wrapped(note, width=page_width, size=_NOTE)]
    footers = wrapped(footer, width=page_width, size=_FOOTER)
    below = _MARGIN + 21 * len(titles)
    top = below + 16 * len(lines) + (12 if titles or lines else 0)
    keys = [line for entry in key for line in wrapped(entry, width=page_width, size=_FOOTER)]
    end = int(np.ceil(height)) + (8 if keys else 0)
    columns, pitch = _key_columns(keys, page_width)
    key_rows = -(-len(keys) // columns)
    below_key = end + 14 * key_rows
    total = top + below_key + (8 + 14 * len(footers) if footers else 0) + _MARGIN
    size = ((page_width + 2 * _MARGIN) / DPI, total / DPI)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    page = Page(figure, page_width, _MARGIN, top)
    for k, line in enumerate(titles):
        page.text(line, 0, _MARGIN + 21 * k - top, size=_TITLE, weight="bold")
    for k, line in enumerate(lines):
        page.text(line, 0, below + 3 + 16 * k - top, size=_NOTE, color=MUTED)
    for k, line in enumerate(keys):
        column, row = divmod(k, key_rows)
        page.text(line, column * pitch, end + 14 * row, size=_FOOTER)
    for k, line in enumerate(footers, -len(footers)):
        page.text(line, 0, total - _MARGIN + 14 * k - top, size=_FOOTER, color=MUTED)
    return page


def _key_columns(keys: Sequence[str], width: int) -> tuple[int, int]:
    """Return how many columns a key has, and how far apart they are."""
    widest = max((text_width(line, size=_FOOTER) for line in keys), default=0)
    pitch = int(widest) + 24
    return max(1, (width + 24) // pitch), pitch


def number_labels(axes: Axes, *, log: LogLocator | None = None) -> None:
    """Label the y axis with `number`; log: make it logarithmic with these ticks."""
    if log is not None:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        # Over many decades a locator of several numbers a decade shows none at all.
        is_wide, is_narrow = low > 0 and high / low > _WIDE, low > 0 and high / low < _NARROW
        wide = LogLocator(numticks=7) if is_wide else log
        # Within a decade plain steps have more to show.
        axes.yaxis.set_major_locator(MaxNLocator(5) if is_narrow else wide)
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: number(value))


def light_grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Draw faint lines behind the data, with short ticks."""
    axes.grid(axis=axis, color=FAINT, linewidth=0.6)
    axes.tick_params(labelsize=8, length=3)
    axes.set_axisbelow(True)


def contrasting(rgb: Sequence[float], *, dark: str = INK) -> str:
    """Return the text colour, white or `dark`, that reads better on a background; rgb: 0..1."""
    background, ink = luminance(rgb), luminance(to_rgb(dark))
    # Contrasts as in WCAG 2.1, "contrast ratio".
    return "white" if 1.05 / (background + 0.05) > (background + 0.05) / (ink + 0.05) else dark


def luminance(rgb: Sequence[float]) -> float:
    """Return the relative luminance, 0..1, of a colour (WCAG 2.1); rgb: 0..1."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def number(value: float) -> str:
    """Return a number with three significant digits and no needless zeros."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}").replace("-", "−")


def dead_text(what: str, is_dead: np.ndarray) -> str:
    """Return the question which ones are dead, with the answer."""
    return f"Which {what}? {f'{is_dead.sum():,}' if is_dead.any() else 'none'} of {len(is_dead):,}"


class _Percentages(Formatter):
    """Labels with as many decimals as their steps need, and none beyond 100 %."""

    def __init__(self) -> None:
        self._decimals = 0

    def __call__(self, value: float, pos: int | None = None) -> str:
        return f"{value:.{self._decimals}%}" if value < 1 + 1e-9 else ""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        shares = 100 * np.asarray(values)
        is_enough = (np.allclose(shares.round(n), shares, atol=1e-6, rtol=0) for n in range(4))
        self._decimals = next((n for n, enough in enumerate(is_enough) if enough), 4)
        return [self(value) for value in values]


def percent_labels(*axes: Axis) -> None:
    """Let shares of 0..1 read as percentages, no two ticks of an axis alike."""
    for axis in axes:
        axis.set_major_formatter(_Percentages())


def percent(share: float) -> str:
    """Return a share of 0..1 as a percentage; only an exact 0 or 1 is shown without decimals."""
    if share in (0, 1):
        return f"{share:.0%}"
    # Rounding must not turn a single mistake into 100 %.
    return f"{min(max(share, 0.001), 0.999):.1%}"
