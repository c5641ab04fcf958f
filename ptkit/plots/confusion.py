"""The confusion matrix as a picture that is readable from two classes to thousands."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ptkit.core.wording import counted
from ptkit.plots.class_order import similar_blocks
from ptkit.plots.fonts import class_labels, fitted, text_width
from ptkit.plots.style import (
    EMPTY,
    INK,
    MAGNITUDE,
    RED,
    SMALL,
    Page,
    contrasting,
    house_style,
    new_page,
    percent,
)
from ptkit.plots.tiles import as_pixels, enlarged

# The most classes for which cells hold counts, and rows class names.
MAX_ANNOTATED = 30
MAX_NAMED = 100

# Colours of shares of 0..1; nan is a share of nothing.
_COLORS = matplotlib.colormaps[MAGNITUDE].with_extremes(bad=EMPTY)
_MAX_SIDE = 1600
_LABEL_WIDTH = 190


@house_style()
def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], *, title: str | None = None, footer: str = ""
) -> Figure:
    """Draw a confusion matrix: rows true, columns predicted, colour the share of the row.

    matrix: counts (K, K). Rows without images are grey. Up to 30 classes the cells hold their
    counts; above 100 classes are in blocks of similar ones. title: instead of the question and
    its answer.
    """
    matrix = np.asarray(matrix)
    labels = class_labels(class_names)
    small = _annotated if len(matrix) <= MAX_ANNOTATED else _named
    draw = small if len(matrix) <= MAX_NAMED else _in_blocks
    return draw(matrix, labels, title=title or _title(matrix, labels), footer=footer)


def _annotated(matrix: np.ndarray, labels: list[str], **words: str) -> Figure:
    """Draw cells with counts, recall and number of images at the right, precision below."""
    cell = max(30, min(64, 520 // len(matrix)), round(text_width(f"{matrix.max():,}", size=8)) + 8)
    side, left, head = cell * len(matrix), _label_width(labels), _head(labels, cell)
    foot = 52 if _is_turned(["99.9%"], cell, 8) else 34
    page = new_page(
        left + max(side + 140, 350),
        head + side + foot + 34,
        notes=[_accuracy_text(matrix), _reading_text(matrix)],
        **words,
    )
    colors = _colors(matrix, np.arange(len(matrix)), step=1, gamma=1.0)
    page.image(enlarged(as_pixels(colors), cell), left, head)
    _draw_labels(page, labels, left=left, head=head, cell=cell)
    size = min(9.0, 8 + cell / 64)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        x, y = left + (column + 0.5) * cell, head + (row + 0.5) * cell
        ink = contrasting(colors[row, column])
        page.text(f"{matrix[row, column]:,}", x, y, ha="center", va="center", size=size, color=ink)
    _draw_margins(page, matrix, left=left, head=head, cell=cell)
    _draw_scale(page, left, head + side + foot, gamma=1.0)
    return page.figure


def _named(matrix: np.ndarray, labels: list[str], **words: str) -> Figure:
    """Draw cells without counts but with every class's name; recall and precision are strips."""
    cell = max(10, min(20, 900 // len(matrix)))
    left, head = _label_width(labels, size=6.5), _head(labels, cell, size=6.5)
    order, notes = np.arange(len(matrix)), [_reading_text(matrix)]
    page = _strip_page(matrix, order, cell=cell, left=left, head=head, notes=notes, **words)
    _draw_labels(page, labels, left=left, head=head, cell=cell, size=6.5)
    return page.figure


def _in_blocks(matrix: np.ndarray, labels: list[str], **words: str) -> Figure:
    """Draw all classes in blocks of similar ones, which are framed and named."""
    blocks = similar_blocks(matrix)
    order = np.concatenate(blocks)
    cell = max(1, 1000 // len(matrix))
    pooled = -(-len(matrix) // _MAX_SIDE)
    inside = sum(_num_mistakes(matrix[np.ix_(b, b)]) for b in blocks if len(b) > 1)
    share = percent(inside / max(_num_mistakes(matrix), 1))
    reading = _reading_text(matrix)
    notes = [
        f"{len(blocks):,} blocks of classes confused with each other hold {share} of the mistakes;"
        " a block is named after its first class.",
        f"{reading} A pixel is the largest of {pooled}×{pooled} cells." if pooled > 1 else reading,
    ]
    names = [
        labels[block[0]] + (f" +{len(block) - 1}" if len(block) > 1 else "") for block in blocks
    ]
    names = [fitted(name, width=_LABEL_WIDTH - 12, size=6.5) for name in names]
    left, head = _label_width(names, size=6.5), 24
    page = _strip_page(matrix, order, cell=cell, left=left, head=head, notes=notes, **words)
    _draw_blocks(page, blocks, names, left=left, head=head, scale=cell / pooled)
    return page.figure


def _draw_blocks(
    page: Page, blocks: list[list[int]], names: list[str], *, left: int, head: int, scale: float
) -> None:
    """Frame each block of two classes or more, and name those that have room for a line of text."""
    start, free_from = float(head), 0.0
    for block, name in zip(blocks, names, strict=True):
        length = len(block) * scale
        if len(block) > 1 and length >= 4:
            axes = page.axes(left + start - head, start, length, length)
            axes.patch.set_visible(False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="white", linewidth=0.6)
        middle = start + length / 2
        if middle - 5 >= free_from:
            page.text(name, left - 6, middle, ha="right", va="center", size=6.5)
            free_from = middle + 5
        start += length


def _strip_page(
    matrix: np.ndarray,
    order: np.ndarray,
    *,
    cell: int,
    left: int,
    head: int,
    notes: list[str],
    **words: str,
) -> Page:
    """Make the page of a matrix without counts, with strips of recall and precision."""
    step = -(-len(matrix) // _MAX_SIDE)
    picture = enlarged(as_pixels(_colors(matrix, order, step=step, gamma=0.5)), cell)
    side, width = len(picture), max(12, cell)
    notes, beside = [_accuracy_text(matrix), *notes], side + width + 60
    page = new_page(left + beside, head + beside, notes=notes, **words)
    page.image(picture, left, head)
    recall, precision = (
        as_pixels(_COLORS(rates[order])[::step, :3]).repeat(cell, axis=0)[:side]
        for rates in _rates(matrix)
    )
    page.image(recall[:, None].repeat(width, axis=1), left + side + 6, head)
    page.image(precision[None].repeat(width, axis=0), left, head + side + 6)
    page.text("recall", left + side + width + 10, head, **SMALL)
    below = head + side + 6 + width / 2
    page.text("precision", left - 6, below, ha="right", va="center", **SMALL)
    _draw_scale(page, left, head + side + width + 22, gamma=0.5)
    return page


def _draw_labels(
    page: Page, labels: list[str], *, left: int, head: int, cell: int, size: float = 9
) -> None:
    turned = _is_turned(labels, cell, size)
    for k, label in enumerate(labels):
        text = fitted(label, width=_LABEL_WIDTH - 12, size=size)
        middle = (k + 0.5) * cell
        page.text(text, left - 6, head + middle, ha="right", va="center", size=size)
        how = {"ha": "center", "va": "bottom", "rotation": 90 if turned else 0, "size": size}
        page.text(text, left + middle, head - 5, **how)


def _draw_margins(page: Page, matrix: np.ndarray, *, left: int, head: int, cell: int) -> None:
    """Write recall and number of images right of each row and precision below each column."""
    side = cell * len(matrix)
    recall, precision = _rates(matrix)
    turned = _is_turned(["99.9%"], cell, 8)
    right, below = left + side + 60, head + side + (6 if turned else 14)
    page.text("recall", right, head - 5, ha="right", va="bottom", **SMALL)
    page.text("images", right + 52, head - 5, ha="right", va="bottom", **SMALL)
    name_top = below + 16 if turned else below
    page.text("precision", left - 6, name_top, ha="right", va="center", **SMALL)
    how = {"ha": "center", **({"va": "top", "rotation": 90} if turned else {"va": "center"})}
    for k, (r, p) in enumerate(zip(recall, precision, strict=True)):
        middle = (k + 0.5) * cell
        page.text(_rate_text(r), right, head + middle, ha="right", va="center", **_rate_ink(r))
        page.text(
            f"{matrix[k].sum():,}", right + 52, head + middle, ha="right", va="center", **SMALL
        )
        page.text(_rate_text(p), left + middle, below, **_rate_ink(p), **how)


def _draw_scale(page: Page, left: float, top: float, *, gamma: float) -> None:
    labels = ["0", "25%", "50%", "75%", "100%"] if gamma == 1 else ["0", "6%", "25%", "56%", "100%"]
    meaning = "share of the row"
    page.color_bar(left, top, colormap=MAGNITUDE, labels=labels, meaning=meaning, width=240, gap=14)


def _colors(matrix: np.ndarray, order: np.ndarray, *, step: int, gamma: float) -> np.ndarray:
    """Return the colours, 0..1, of the cells in `order`; gamma below 1 lifts small shares.

    Each step × step cells become the one with the largest count, so no class can vanish.
    """
    side, totals = -(-len(matrix) // step), matrix.sum(axis=1)
    colors = np.empty((side, side, 3))
    # Row by row: the shares of 10,000 classes would take gigabytes.
    for number in range(side):
        rows = order[number * step : (number + 1) * step]
        counts = np.full((len(rows), side * step), -1, matrix.dtype)
        counts[:, : len(matrix)] = matrix[rows][:, order]
        by_block = counts.reshape(len(rows), side, step).transpose(1, 0, 2).reshape(side, -1)
        best = by_block.argmax(axis=1)
        total = totals[rows[best // step]]
        shares = by_block[np.arange(side), best] / np.where(total > 0, total, np.nan)
        colors[number] = _COLORS(shares**gamma)[..., :3]
    return colors


def _rates(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision (K,); nan where there is nothing to divide by."""
    hits, true, predicted = np.diag(matrix).astype(float), matrix.sum(axis=1), matrix.sum(axis=0)
    recall = np.divide(hits, true, out=np.full(len(matrix), np.nan), where=true > 0)
    return recall, np.divide(hits, predicted, out=np.full(len(matrix), np.nan), where=predicted > 0)


def _rate_text(rate: float) -> str:
    return "–" if np.isnan(rate) else percent(rate)


def _rate_ink(rate: float) -> dict[str, Any]:
    return SMALL | {"color": RED if rate < 0.5 else INK}


def _num_mistakes(matrix: np.ndarray) -> int:
    return int(matrix.sum() - np.trace(matrix))


def _title(matrix: np.ndarray, labels: list[str]) -> str:
    wrong = _num_mistakes(matrix)
    if wrong == 0:
        return f"Which classes are confused? none, all {matrix.sum():,} images are right"
    rows, columns = np.nonzero(matrix)
    counts = np.where(rows == columns, 0, matrix[rows, columns])
    most = counts.argmax()
    pair = f"“{labels[rows[most]]}” taken for “{labels[columns[most]]}” most"
    return f"Which classes are confused? {pair}, {counts[most]:,} of {wrong:,} mistakes"


def _reading_text(matrix: np.ndarray) -> str:
    grey = "" if matrix.sum(axis=1).all() else " Grey: no images of the class."
    return f"Rows: true class. Columns: predicted class. Colour: share of the row.{grey}"


def _accuracy_text(matrix: np.ndarray) -> str:
    total, right = int(matrix.sum()), int(np.trace(matrix))
    share = right / max(total, 1)
    error = (share * (1 - share) / max(total, 1)) ** 0.5
    found = f"{percent(share)} ± {error:.1%} (standard error), {right:,} of"
    return f"Accuracy {found} {counted(total, 'image')}."


def _label_width(labels: list[str], size: float = 9) -> int:
    widest = min(_widest(labels, size), _LABEL_WIDTH - 12)
    return int(max(widest, text_width("precision", size=8))) + 12


def _head(labels: list[str], cell: int, size: float = 9) -> int:
    widest = min(_widest(labels, size), _LABEL_WIDTH - 12)
    return int(widest) + 10 if _is_turned(labels, cell, size) else 24


def _is_turned(labels: list[str], cell: int, size: float) -> bool:
    return _widest(labels, size) > cell - 3


def _widest(labels: list[str], size: float) -> float:
    return max(text_width(label, size=size) for label in labels)
