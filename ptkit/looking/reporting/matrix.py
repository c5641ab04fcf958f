"""The confusion matrix as a table in which each cell is a button."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb

from ptkit.looking.evaluation import ConfusedPair
from ptkit.looking.reporting.markup import Html, isolated, joined, tag
from ptkit.plots.style import contrasting, percent

# A cell's colour has so many shades, by its share of the row.
NUM_SHADES = 10
# With more classes print takes a smaller type.
_FEW = 12
# Background and the colours of right and wrong answers, as in report.css.
THEMES = {
    "light": {"page": "#ffffff", "right": "#1f6fb4", "wrong": "#c2410c"},
    "dark": {"page": "#161b22", "right": "#58a6ff", "wrong": "#f0883e"},
}


def matrix_table(matrix: np.ndarray, names: Sequence[str], *, is_clickable: bool) -> Html:
    """Return the table: rows true, columns answered; recall at the right, precision below.

    matrix: counts, int64 (K, K). is_clickable: whether cells are buttons that show their images.
    """
    with np.errstate(invalid="ignore"):
        shares = matrix / matrix.sum(axis=1, keepdims=True)
        precision = np.diag(matrix) / matrix.sum(axis=0)
    heads = [tag("th", isolated(name), scope="col", class_="name") for name in names]
    corner = tag("th", "true ↓ answered →", class_="corner")
    head = tag("tr", corner, *heads, tag("th", "recall", scope="col"))
    rows = []
    for k, name in enumerate(names):
        cells = [
            _cell(int(matrix[k, j]), shares[k, j], (k, j), names if is_clickable else ())
            for j in range(len(names))
        ]
        label = tag("th", isolated(name), scope="row", class_="name")
        rows.append(tag("tr", label, *cells, tag("td", _rate(shares[k, k]), class_="rate")))
    last = [tag("td", _rate(value), class_="rate") for value in precision]
    foot = tag("tr", tag("th", "precision", scope="row"), *last, tag("td"))
    parts = tag("thead", head), tag("tbody", *rows), tag("tfoot", foot)
    style = "matrix many" if len(names) > _FEW else "matrix"
    return tag("div", tag("table", *parts, class_=style), class_="wide")


def pair_list(pairs: Sequence[ConfusedPair], names: Sequence[str], *, is_clickable: bool) -> Html:
    """Return the most confused pairs, each with its share of the true class."""
    items = []
    for pair in pairs:
        true, answer = names[pair.true], names[pair.predicted]
        words = joined([isolated(true), " taken for ", isolated(answer)])
        if is_clickable:
            target = _target((pair.true, pair.predicted), pair.count, names)
            words = tag("button", words, type="button", **target)
        told = f": {pair.count:,}, {percent(pair.share)} of "
        items.append(tag("li", words, told, isolated(true)))
    return tag("ol", *items, class_="pairs")


def shade_rules() -> str:
    """Return the style sheet's colours of cells, for light and dark pages, with readable text."""
    light, dark = (_shades(theme) for theme in THEMES)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"


def shade(share: float, *, is_right: bool) -> str:
    """Return the class of report.css for a cell; share: of its row, 0..1."""
    # The smallest share is not as white as none.
    level = int(np.ceil(share * NUM_SHADES))
    return f"{'right' if is_right else 'wrong'}-{level}"


def _cell(count: int, share: float, place: tuple[int, int], names: Sequence[str]) -> Html:
    if not count:
        return tag("td", "0", class_="none")
    text: str = f"{count:,}"
    if names:
        told = f"{names[place[0]]} taken for {names[place[1]]}: {count:,}, {percent(share)}"
        target = _target(place, count, names)
        text = tag("button", text, type="button", title=told, **target)
    return tag("td", text, class_=shade(share, is_right=place[0] == place[1]))


def _target(cell: tuple[int, int], count: int, names: Sequence[str]) -> dict[str, str]:
    """Return what report.js reads of a button: the images to show, and the words above them."""
    true, answer = cell
    words = f"{names[true]} taken for {names[answer]}"
    if true == answer:
        words = f"{names[true]}, right"
    return {"data_cell": f"{true}-{answer}", "data_count": str(count), "data_words": words}


def _rate(value: float) -> str:
    return "–" if np.isnan(value) else percent(float(value))


def _shades(theme: str) -> str:
    page = np.array(to_rgb(THEMES[theme]["page"]))
    lines = []
    for kind in ("right", "wrong"):
        full = np.array(to_rgb(THEMES[theme][kind]))
        for level in range(1, NUM_SHADES + 1):
            # Already the first shade is told from the page.
            weight = 0.1 + 0.9 * level / NUM_SHADES
            rgb = page + weight * (full - page)
            ink = contrasting(rgb.tolist(), dark="#000000")
            color = "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
            lines.append(f".{kind}-{level} {{ background: {color}; color: {ink} }}")
    return "\n".join(lines)
