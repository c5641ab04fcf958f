"""The pictures of `ptkit viz-transforms`: a sheet an image, and the table beside them."""

from pathlib import Path

from ptkit.core.data.images import Pixels
from ptkit.core.parts.calls import joined
from ptkit.core.wording import counted
from ptkit.looking.transforms import Row, Sheet, Shown
from ptkit.plots.saving import PictureFolder, file_names
from ptkit.plots.style import percent
from ptkit.plots.transform_sheet import Step, transform_figure

_PREFIX = "transforms-"
_HEADER = (
    "image", "step", "call", "draw", "crop", "height", "width", "is_changed", "mean_change",
    "clipped",
)  # fmt: skip


def draw_sheets(shown: Shown, pictures: PictureFolder) -> dict[str, Pixels]:
    """Write a picture per image and the table of all draws; return the pictures by their tags."""
    drawn, rows = {}, []
    names = file_names(_PREFIX, [Path(sheet.path).stem for sheet in shown.sheets])
    for sheet, name in zip(shown.sheets, names, strict=True):
        count = counted(sheet.whole.num_draws, "draw")
        footer = f"n = {count} · seed {shown.seed} · {sheet.path}"
        title, notes = _title(sheet), [joined(shown.calls), *shown.notes]
        steps = [_step(row, row.call) for row in sheet.steps]
        whole = _step(sheet.whole, "The whole list, as the model sees it")
        figure = transform_figure(steps, whole, title=title, notes=notes, footer=footer)
        tag = f"transforms/{name.removeprefix(_PREFIX)}"
        drawn[tag] = pictures.add_figure(f"{name}.png", figure)
        for place, row in enumerate((*sheet.steps, sheet.whole), start=1):
            rows += _table(sheet.path, place, row)
    pictures.add_csv("transforms.csv", _HEADER, rows)
    return drawn


def _step(row: Row, heading: str) -> Step:
    """Say in words what a row shows; draws that are all the same are shown once."""
    count = row.num_crops
    draws = row.draws[:count] if row.num_different == 1 else row.draws
    captions = [_caption(row, k) for k in range(len(draws))]
    # The crops of one draw share a line.
    columns = count if count > 1 else 0
    return Step(heading, _line(row), row.before, draws, [_size(row.before), *captions], columns)


def _caption(row: Row, k: int) -> str:
    draw, crop = divmod(k, row.num_crops)
    crops = f"crop {crop + 1}" if row.num_crops > 1 else ""
    if not row.is_random:
        return crops
    number = f"{draw + 1}" if row.is_changed[k] else f"{draw + 1}, unchanged"
    return f"draw {number}, {crops}" if crops else number


def _line(row: Row) -> str:
    num_draws, num_changed = row.num_draws, sum(row.is_changed)
    sizes = {_size(draw) for draw in row.draws}
    parts = []
    if sizes != {_size(row.before)}:
        parts.append(f"{_size(row.before)} → {' or '.join(sorted(sizes)[:2])}")
    if row.num_crops > 1:
        parts.append(f"{row.num_crops} crops")
    if row.partner:
        parts.append(f"mixed with {Path(row.partner).name}")
    if not row.is_random:
        parts.append("always the same" if num_changed else "changes nothing here")
    elif row.call and row.num_crops == 1:
        parts.append(f"{num_changed} of {num_draws} draws change it")
    if row.is_random and row.num_different == 1 and num_draws > 1:
        parts.append(f"all {num_draws} draws are the same")
    if row.is_stretched:
        parts.append("grey is the mean, black and white ±3 standard deviations")
    elif any(row.clipped):
        share = percent(sum(row.clipped) / len(row.clipped))
        parts.append(f"{share} of the values are outside 0..255 and are clipped")
    return ", ".join(parts)


def _title(sheet: Sheet) -> str:
    row = sheet.whole
    crops = f"{row.num_crops} crops" if row.num_crops > 1 else ""
    one = f"different set of {crops}" if crops else "different image"
    several = f"different sets of {crops}" if crops else ""
    answer = f"{counted(row.num_different, one, several)} in {counted(row.num_draws, 'draw')}"
    if not row.is_random:
        answer = f"Always the same {crops or 'image'}"
    return f"What does the model see of {Path(sheet.path).name}? {answer}"


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[0]}×{pixels.shape[1]}"


def _table(path: str, place: int, row: Row) -> list[tuple[object, ...]]:
    """Return a line of the table for each picture of a row; the change is in levels of 0..255."""
    rows: list[tuple[object, ...]] = []
    draws = zip(row.draws, row.is_changed, row.clipped, strict=True)
    for k, (draw, is_changed, clipped) in enumerate(draws):
        number, crop = divmod(k, row.num_crops)
        is_same_size = draw.shape == row.before.shape
        change = float(abs(draw.astype(int) - row.before).mean()) if is_same_size else ""
        which = (path, place, row.call or "all", number + 1, crop + 1)
        rows.append((*which, *draw.shape[:2], is_changed, change, clipped))
    return rows
