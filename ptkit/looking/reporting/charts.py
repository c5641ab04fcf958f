"""Curves over the epochs as SVG that takes its colours from the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ptkit.looking.reporting.markup import Html, joined, tag
from ptkit.plots.style import number

Row = Mapping[str, float]

# Units of the drawing; on a phone a unit is about a pixel.
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 34
# Of a logarithmic axis, the largest value over the smallest.
_WIDE = 50.0
_NUM_TICKS = 5
# With more points than this, one hides the next.
_MAX_POINTS = 60


@dataclass(frozen=True)
class Line:
    """name: in the legend. points: of epoch and value, finite. style: a class of report.css."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


@dataclass(frozen=True)
class _Axis:
    """From values to places in the drawing; start, end: where low and high are."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values on the axis."""
        if self.is_log:
            return self._log_ticks()
        step = _round_step((self.high - self.low) / _NUM_TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        within = [
            [tick for p in powers for f in factors if self._has(tick := f * 10.0**p)]
            for factors in ((1, 2, 5), (1,))
        ]
        ticks = within[len(within[0]) > 2 * _NUM_TICKS]
        return ticks[:: len(ticks) // (2 * _NUM_TICKS) + 1]

    def _has(self, value: float) -> bool:
        """Say whether a value is on the axis; metrics.csv has six digits of its ends."""
        return self.low * (1 - 1e-6) <= value <= self.high * (1 + 1e-6)


def lines_of(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> list[Line]:
    """Return a line for each column that has a finite value; columns: to name and style."""
    lines = []
    for column, (name, style) in columns.items():
        points = [
            (row["epoch"], row[column]) for row in rows if math.isfinite(row.get(column, math.nan))
        ]
        if points:
            lines.append(Line(name, points, style))
    return lines


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    baseline: tuple[str, float] | None = None,
    best_epoch: float | None = None,
    words: Callable[[float], str] = number,
) -> Html:
    """Return a figure of lines over the epochs.

    baseline: a name and a value that a dashed line marks. best_epoch: one that is marked. words:
    for the numbers of the axis.
    """
    x, y = _axes(lines, baseline)
    marks = [_grid(x, y, words)]
    if best_epoch is not None:
        at = _text(x.place(best_epoch))
        marks.append(tag("line", x1=at, x2=at, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="best"))
    if baseline is not None:
        at = _text(y.place(baseline[1]))
        marks.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_="baseline"))
    marks += [_drawn(line, x, y) for line in lines]
    view = f"0 0 {_WIDTH} {_HEIGHT}"
    drawing = tag("svg", *marks, viewBox=view, role="img", aria_label=_described(title, lines))
    keys = [tag("span", line.name, class_=f"key {line.style}") for line in lines]
    if baseline is not None:
        keys.append(tag("span", f"{baseline[0]}, {words(baseline[1])}", class_="key baseline"))
    if best_epoch is not None:
        keys.append(tag("span", f"best epoch, {best_epoch:g}", class_="key best"))
    caption = tag("figcaption", tag("strong", title), tag("span", *keys, class_="keys"))
    return tag("figure", caption, drawing, class_="chart")


def _axes(lines: Sequence[Line], baseline: tuple[str, float] | None) -> tuple[_Axis, _Axis]:
    epochs = [epoch for line in lines for epoch, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    values += [baseline[1]] if baseline else []
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > _WIDE
    margin = 0.0 if is_log else 0.04 * (high - low) or max(abs(high), 1e-9) * 0.04
    first, last = min(epochs), max(epochs)
    # A single epoch is in the middle.
    x = _Axis(first - (first == last), last + (first == last), _LEFT, _WIDTH - _RIGHT)
    return x, _Axis(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP, is_log)


def _grid(x: _Axis, y: _Axis, words: Callable[[float], str]) -> Html:
    marks = []
    for value in y.ticks():
        at = y.place(value)
        marks.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_text(at), y2=_text(at)))
        marks.append(tag("text", words(value), x=_LEFT - 6, y=_text(at + 4), text_anchor="end"))
    for epoch in (tick for tick in x.ticks() if tick == round(tick)):
        at, below = x.place(epoch), _HEIGHT - _BOTTOM + 16
        marks.append(tag("text", f"{epoch:.0f}", x=_text(at), y=below, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    marks.append(tag("text", "epoch", x=middle, y=_HEIGHT - 3, text_anchor="middle"))
    return tag("g", *marks, class_="grid")


def _drawn(line: Line, x: _Axis, y: _Axis) -> Html:
    places = [(_text(x.place(epoch)), _text(y.place(value))) for epoch, value in line.points]
    marks = [tag("polyline", points=" ".join(f"{a},{b}" for a, b in places))]
    if len(places) <= _MAX_POINTS:
        for (epoch, value), (a, b) in zip(line.points, places, strict=True):
            told = tag("title", f"{line.name}, epoch {epoch:g}: {value:.4g}")
            marks.append(tag("circle", told, cx=a, cy=b, r=3))
    return tag("g", *marks, class_=f"line {line.style}")


def _described(title: str, lines: Sequence[Line]) -> str:
    """Return what a screen reader says: from where to where each line goes."""
    return f"{title}: " + "; ".join(
        f"{line.name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in lines
    )


def _round_step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not less than `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _text(place: float) -> str:
    return f"{place:.1f}"


def as_row(charts: Sequence[Html]) -> Html:
    """Return charts side by side, or below one another where the page is narrow."""
    return tag("div", joined(charts), class_="charts")
