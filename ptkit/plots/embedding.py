"""Features of a layer in two dimensions: which images does the network see as alike?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ptkit.plots.labels import labels_of
from ptkit.plots.style import FAINT, SMALL, Page, house_style, new_page, percent
from ptkit.plots.tiles import resized

# Colours that can be told apart; classes beyond them are grey.
COLORS = (
    "#1f6fb4", "#d9660a", "#2a9d5c", "#d1242f", "#8250c4",
    "#8c6239", "#d65aa5", "#5f6b7a", "#a8a12a", "#21a9bd",
)  # fmt: skip
MARKERS = ("o", "^")
MAX_CLASSES = len(COLORS) * len(MARKERS)

_SIDE, _LEGEND = 440, 150


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the first two principal components of features (n, D), (n, 2), and their shares.

    The shares are of the variance. A component points to where its largest weight is positive, so
    that the picture does not depend on the library.
    """
    centred = features.astype(np.float64) - features.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = np.pad(axes[:2], ((0, max(0, 2 - len(axes))), (0, 0)))
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    shares = np.pad(sizes**2, (0, 2))[:2] / max(float((sizes**2).sum()), 1e-300)
    points = centred @ (axes * np.where(signs == 0, 1, signs)[:, None]).T
    return points, (float(shares[0]), float(shares[1]))


def nearest_share(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose nearest other image has a label in common.

    features: (n, D). labels: int (n,) classes, or bool (n, K).
    """
    if len(features) < 2:
        return float("nan")
    features = features.astype(np.float64)
    squares = (features**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * features @ features.T
    np.fill_diagonal(distances, np.inf)
    nearest = labels[distances.argmin(axis=1)]
    same = nearest == labels if labels.ndim == 1 else (nearest & labels).any(axis=1)
    return float(same.mean())


@house_style()
def embedding_figure(
    features: np.ndarray,
    labels: np.ndarray,
    thumbnails: Sequence[np.ndarray],
    *,
    class_names: Sequence[str],
    layer: str,
    footer: str = "",
) -> Figure:
    """Draw the first two principal components of features, as points and as the images.

    features: (n, D). labels: int (n,) classes, or bool (n, K). thumbnails: uint8 (h, w, 3), one an
    image.
    """
    points, shares = principal_axes(features)
    notes = [
        f"{len(features):,} images, {features.shape[1]:,} features going into {layer};"
        f" {_shares_text(shares)} Neighbours by all features."
    ]
    alike, of_what = percent(nearest_share(features, labels)), "of their class"
    if labels.ndim > 1:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
        of_what = "with a class in common"
        notes.append("Colour: the first of an image's classes.")
    title = f"Do images of a class lie together? {alike} have a nearest neighbour {of_what}"
    right = _SIDE + _LEGEND + 32
    names = labels_of(class_names, width=_LEGEND - 24, size=8)
    shown, num_more = _most_frequent(labels)
    page = new_page(
        right + _SIDE,
        _SIDE + 20,
        title=title,
        notes=notes,
        footer=footer,
        key=names.key(shown),
    )
    low, high = points.min(axis=0), points.max(axis=0)
    places = (points - low) / np.where(high > low, high - low, 1) * 0.92 + 0.04
    axes = page.axes(0, 0, _SIDE, _SIDE)
    _draw_points(axes, places, labels, shown=shown)
    texts = [names.texts[label] if label >= 0 else "no class" for label in shown]
    _draw_legend(page, texts, num_more=num_more)
    sheet = page.axes(right, 0, _SIDE, _SIDE)
    sheet.imshow(_thumbnail_map(places, thumbnails), interpolation="nearest", aspect="auto")
    page.text("→ first component, ↑ second", 0, _SIDE + 4, **SMALL)
    page.text("the image nearest to the middle of each cell", right, _SIDE + 4, **SMALL)
    for panel in (axes, sheet):
        panel.spines[:].set(visible=True, color=FAINT)
        panel.set(xticks=[], yticks=[])
    return page.figure


def _draw_points(
    axes: Axes, places: np.ndarray, labels: np.ndarray, *, shown: Sequence[int]
) -> None:
    """Draw a point an image; these classes get a symbol."""
    x, y = places[~np.isin(labels, shown)].T
    axes.scatter(x, y, s=14, color=FAINT, linewidths=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for number, label in enumerate(shown):
        x, y = places[labels == label].T
        axes.scatter(x, y, s=20, alpha=0.8, **_symbol(number))


def _shares_text(shares: tuple[float, float]) -> str:
    """Return what the two components hold; a collapsed network has less than two."""
    if shares[0] < 1e-12:
        return "all images have the same features: the network has collapsed."
    # Of two classes a network may keep one direction; the second is then noise.
    if shares[1] < 1e-3:
        return "nearly all of their variance is in one direction, the second shows what is left."
    first, second = (percent(share) for share in shares)
    return f"two principal components with {first} and {second} of the variance."


def _most_frequent(labels: np.ndarray) -> tuple[list[int], int]:
    """Return the classes that get a symbol, in their order, and how many others there are."""
    classes, counts = np.unique(labels, return_counts=True)
    shown = sorted(classes[np.argsort(-counts, kind="stable")[:MAX_CLASSES]].tolist())
    return shown, len(classes) - len(shown)


def _symbol(number: int) -> dict[str, Any]:
    marker, color = MARKERS[number // len(COLORS)], COLORS[number % len(COLORS)]
    return {"color": color, "marker": marker, "linewidths": 0}


def _draw_legend(page: Page, texts: Sequence[str], *, num_more: int) -> None:
    legend = page.axes(_SIDE + 16, 0, _LEGEND, _SIDE)
    legend.set(xlim=(0, _LEGEND), ylim=(_SIDE, 0))
    legend.set_axis_off()
    for number, text in enumerate(texts):
        top = 10 + 19 * number
        legend.scatter([8], [top], s=26, **_symbol(number))
        legend.text(20, top, text, size=8, va="center")
    if num_more:
        rest = f"grey: {num_more:,} more classes"
        legend.text(2, 14 + 19 * len(texts), rest, va="center", **SMALL)


def _thumbnail_map(places: np.ndarray, thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Return a picture of cells, each with the image nearest to its middle."""
    # The fewer images, the larger: about as many cells again as images.
    count = int(np.clip(round(math.sqrt(2.2 * len(places))), 8, 20))
    size = _SIDE // count
    picture = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    cells = np.minimum((places * count).astype(int), count - 1)
    away = ((places * count - cells - 0.5) ** 2).sum(axis=1)
    order = np.argsort(away, kind="stable")
    _, firsts = np.unique(cells[order], axis=0, return_index=True)
    for index in order[firsts].tolist():
        column, row = cells[index].tolist()
        tile = resized(thumbnails[index], size - 2)
        top, left = (count - 1 - row) * size, column * size
        picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture
