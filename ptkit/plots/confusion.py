"""The confusion matrix as a picture that is readable from two classes to thousands."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ptkit.core.shares import share_text
from ptkit.core.wording import counted
from ptkit.plots import style
from ptkit.plots.fonts import class_labels, text_width
from ptkit.plots.labels import Labels, labels_of
from ptkit.plots.tiles import as_pixels, enlarged

# The most classes for which cells hold counts, and rows class names.
MAX_ANNOTATED = 30
MAX_NAMED = 100

# Colours of shares of 0..1; nan is a share of nothing.
_COLORS = matplotlib.colormaps[style.MAGNITUDE].with_extremes(bad=style.EMPTY)
_MAX_SIDE = 1600
_LABEL_WIDTH = 190


@style.house_style()
def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], *, title: str | None = None, footer: str = ""
) -> Figure:
    """Draw a confusion matrix: rows true, columns predicted, colour the share of the row.

    matrix: counts (K, K). Rows without images are grey. Up to 30 classes the cells hold their
    counts; above 100 classes are in blocks of similar ones. title: instead of the question and
    its answer.
    """
    matrix = np.asarray(matrix)
    small = _annotated if len(matrix) <= MAX_ANNOTATED else _named
    draw = small if len(matrix) <= MAX_NAMED else _in_blocks
    title = title or _title(matrix, class_labels(class_names))
    return draw(matrix, class_names, notes=_notes(matrix), title=title, footer=footer)


def similar_blocks(matrix: np.ndarray) -> list[list[int]]:
    """Group classes confused with each other into blocks of at most the root of their number.

    matrix: counts (K, K). Every class is in exactly one block; blocks that share mistakes are side
    by side, and classes without any come last, in their own order. Pairs are joined from the most
    confused one down, as in single-linkage clustering, which needs no K³ steps.
    """
    pairs = _pairs_by_confusion(matrix)
    largest = max(2, math.isqrt(len(matrix)))
    blocks = _joined([[k] for k in range(len(matrix))], pairs, limit=largest)
    where = {k: number for number, block in enumerate(blocks) for k in block}
    between = [(where[a], where[b]) for a, b in pairs]
    order = _joined([[k] for k in range(len(blocks))], between, limit=len(blocks))
    order.sort(key=lambda group: (len(group) == 1 and len(blocks[group[0]]) == 1, -len(group)))
    return [blocks[number] for group in order for number in group]


def _pairs_by_confusion(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of classes with mistakes between them, the most confused first.

    Confusion: the sum of the shares that the mistakes in both directions have of their rows.
    """
    # 10,000 classes make 100 million cells, nearly all empty: only the others are used.
    true, predicted = np.nonzero(matrix)
    shares = matrix[true, predicted] / np.maximum(matrix.sum(axis=1), 1)[true]
    is_mistake = true != predicted
    ends = np.sort(np.stack([true, predicted])[:, is_mistake], axis=0)
    cells, where = np.unique(ends[0] * len(matrix) + ends[1], return_inverse=True)
    mutual = np.bincount(where, weights=shares[is_mistake], minlength=len(cells))
    first, second = np.divmod(cells, len(matrix))
    by_share = np.argsort(-mutual, kind="stable")
    return list(zip(first[by_share].tolist(), second[by_share].tolist(), strict=True))


def _joined(
    groups: list[list[int]], pairs: list[tuple[int, int]], *, limit: int
) -> list[list[int]]:
    """Join the groups of each pair in turn while the result has at most `limit` members."""
    group_of = {member: group for group in groups for member in group}
    for a, b in pairs:
        first, second = group_of[a], group_of[b]
        if first is second or len(first) + len(second) > limit:
            continue
        # Reverse the groups where that brings the two classes of the pair nearer to each other.
        if first.index(a) < len(first) // 2:
            first.reverse()
        if second.index(b) > len(second) // 2:
            second.reverse()
        first.extend(second)
        for member in second:
            group_of[member] = first
    return sorted({id(group): group for group in group_of.values()}.values(), key=min)


def _annotated(matrix: np.ndarray, names: Sequence[str], **words: Any) -> Figure:
    """Draw cells with counts, recall and number of images at the right, precision below."""
    labels = labels_of(names, width=_LABEL_WIDTH - 12, size=9)
    cell = max(30, min(64, 520 // len(matrix)), round(text_width(f"{matrix.max():,}", size=8)) + 8)
    side, (left, head) = cell * len(matrix), _corner(labels.texts, cell)
    foot = 52 if _is_turned(["99.9%"], cell, 8) else 34
    width, height = left + max(side + 140, 350), head + side + foot + 34
    page = style.new_page(width, height, key=labels.key(), **words)
    grid = page.inset(left, head)
    colors = _colors(matrix, np.arange(len(matrix)), step=1, gamma=1.0)
    grid.image(enlarged(as_pixels(colors), cell), 0, 0)
    _draw_labels(grid, labels.texts, cell)
    size = min(9.0, 8 + cell / 64)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        x, y, ink = column + 0.5, row + 0.5, style.contrasting(colors[row, column])
        how = {"ha": "center", "va": "center", "size": size, "color": ink}
        grid.text(f"{matrix[row, column]:,}", x * cell, y * cell, **how)
    _draw_margins(grid, matrix, cell)
    _draw_scale(grid, side + foot, gamma=1.0)
    return page.figure


def _named(matrix: np.ndarray, names: Sequence[str], **words: Any) -> Figure:
    """Draw cells without counts but with every class's name; recall and precision are strips."""
    labels, cell = _small_labels(names), max(10, min(20, 900 // len(matrix)))
    left, head = _corner(labels.texts, cell, 6.5)
    order, words = np.arange(len(matrix)), {**words, "key": labels.key()}
    grid = _strip_grid(matrix, order, cell=cell, left=left, head=head, **words)
    _draw_labels(grid, labels.texts, cell, 6.5)
    return grid.figure


def _in_blocks(
    matrix: np.ndarray, names: Sequence[str], *, notes: Sequence[str], **words: Any
) -> Figure:
    """Draw all classes in blocks of similar ones, which are framed and named."""
    blocks = similar_blocks(matrix)
    cell = max(1, 1000 // len(matrix))
    pooled = -(-len(matrix) // _MAX_SIDE)
    inside = sum(_num_mistakes(matrix[np.ix_(b, b)]) for b in blocks if len(b) > 1)
    share = style.percent(inside / max(_num_mistakes(matrix), 1))
    accuracy, reading = notes
    found = (
        f"{len(blocks):,} blocks of classes confused with each other hold {share} of the mistakes;"
        " a block is named after its first class."
    )
    if pooled > 1:
        reading += f" A pixel is the largest of {pooled}×{pooled} cells."
    labels = _small_labels(names)
    texts = [labels.texts[b[0]] + (f" +{len(b) - 1}" if len(b) > 1 else "") for b in blocks]
    left, order = _corner(texts, cell, 6.5)[0], np.concatenate(blocks)
    # Of hundreds of classes only some are named.
    key = labels.key(blocks[k][0] for k in _named_blocks(blocks, cell / pooled))
    words |= {"notes": [accuracy, found, reading], "key": key}
    grid = _strip_grid(matrix, order, cell=cell, left=left, head=24, **words)
    _draw_blocks(grid, blocks, texts, cell / pooled)
    return grid.figure


def _named_blocks(blocks: list[list[int]], scale: float) -> dict[int, float]:
    """Return the blocks that have room for a line of text, by number, with their middles."""
    found, start, free_from = {}, 0.0, -24.0
    for number, block in enumerate(blocks):
        middle = start + len(block) * scale / 2
        if middle - 5 >= free_from:
            found[number], free_from = middle, middle + 5
        start += len(block) * scale
    return found


def _draw_blocks(grid: style.Page, blocks: list[list[int]], texts: list[str], scale: float) -> None:
    """Frame each block of two classes or more, and name those that have room."""
    start = 0.0
    for block in blocks:
        length = len(block) * scale
        if len(block) > 1 and length >= 4:
            grid.frame(start, start, length, length, color="white", linewidth=0.6)
        start += length
    for number, middle in _named_blocks(blocks, scale).items():
        grid.text(texts[number], -6, middle, ha="right", va="center", size=6.5)


def _strip_grid(
    matrix: np.ndarray, order: np.ndarray, *, cell: int, left: int, head: int, **words: Any
) -> style.Page:
    """Draw a matrix without counts, with strips of recall and precision; return its corner."""
    step = -(-len(matrix) // _MAX_SIDE)
    picture = enlarged(as_pixels(_colors(matrix, order, step=step, gamma=0.5)), cell)
    side, width = len(picture), max(12, cell)
    beside = side + width + 60
    grid = style.new_page(left + beside, head + beside, **words).inset(left, head)
    grid.image(picture, 0, 0)
    recall, precision = (
        as_pixels(_COLORS(rates[order])[::step, :3]).repeat(cell, axis=0)[:side]
        for rates in _rates(matrix)
    )
    grid.image(recall[:, None].repeat(width, axis=1), side + 6, 0)
    grid.image(precision[None].repeat(width, axis=0), 0, side + 6)
    grid.text("recall", side + width + 10, 0, **style.SMALL)
    grid.text("precision", -6, side + 6 + width / 2, ha="right", va="center", **style.SMALL)
    _draw_scale(grid, side + width + 22, gamma=0.5)
    return grid


def _draw_labels(grid: style.Page, labels: list[str], cell: int, size: float = 9) -> None:
    turned = 90 if _is_turned(labels, cell, size) else 0
    for k, label in enumerate(labels):
        middle = (k + 0.5) * cell
        grid.text(label, -6, middle, ha="right", va="center", size=size)
        grid.text(label, middle, -5, ha="center", va="bottom", rotation=turned, size=size)


def _draw_margins(grid: style.Page, matrix: np.ndarray, cell: int) -> None:
    """Write recall and number of images right of each row and precision below each column."""
    side, turned = cell * len(matrix), _is_turned(["99.9%"], cell, 8)
    right, below = side + 60, side + (6 if turned else 14)
    grid.text("recall", right, -5, ha="right", va="bottom", **style.SMALL)
    grid.text("images", right + 52, -5, ha="right", va="bottom", **style.SMALL)
    name_top = below + 16 if turned else below
    grid.text("precision", -6, name_top, ha="right", va="center", **style.SMALL)
    beside = {"ha": "right", "va": "center"}
    under = {"ha": "center", **({"va": "top", "rotation": 90} if turned else {"va": "center"})}
    for k, (recall, precision) in enumerate(zip(*_rates(matrix), strict=True)):
        middle = (k + 0.5) * cell
        grid.text(f"{matrix[k].sum():,}", right + 52, middle, **beside, **style.SMALL)
        for rate, x, y, how in ((recall, right, middle, beside), (precision, middle, below, under)):
            text = "–" if np.isnan(rate) else style.percent(rate)
            ink = style.RED if rate < 0.5 else style.INK
            grid.text(text, x, y, size=8, color=ink, **how)


def _draw_scale(grid: style.Page, top: float, *, gamma: float) -> None:
    labels = ["0", "25%", "50%", "75%", "100%"] if gamma == 1 else ["0", "6%", "25%", "56%", "100%"]
    how = {"colormap": style.MAGNITUDE, "meaning": "share of the row"}
    grid.color_bar(0, top, labels=labels, width=240, gap=14, **how)


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


def _rates(matrix: np.ndarray) -> list[np.ndarray]:
    """Return recall and precision (K,); nan where there is nothing to divide by."""
    totals = (matrix.sum(axis=1), matrix.sum(axis=0))
    return [np.diag(matrix) / np.where(total > 0, total, np.nan) for total in totals]


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


def _notes(matrix: np.ndarray) -> list[str]:
    """Return the accuracy in words, and how to read the picture."""
    total, right = int(matrix.sum()), int(np.trace(matrix))
    found = f"{share_text(right, total)}, {right:,} of" if total else "unknown:"
    grey = "" if matrix.sum(axis=1).all() else " Grey: no images of the class."
    return [
        f"Accuracy {found} {counted(total, 'image')}.",
        f"Rows: true class. Columns: predicted class. Colour: share of the row.{grey}",
    ]


def _small_labels(names: Sequence[str]) -> Labels:
    return labels_of(names, width=_LABEL_WIDTH - 12, size=6.5)


def _corner(labels: list[str], cell: int, size: float = 9) -> tuple[int, int]:
    """Return the room that labels need at the left of the cells and above them."""
    widest = _widest(labels, size)
    left = int(max(widest, text_width("precision", size=8))) + 12
    return left, int(widest) + 10 if _is_turned(labels, cell, size) else 24


def _is_turned(labels: list[str], cell: int, size: float) -> bool:
    return _widest(labels, size) > cell - 3


def _widest(labels: list[str], size: float) -> float:
    return max(text_width(label, size=size) for label in labels)
