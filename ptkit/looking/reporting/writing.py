"""`ptkit report`: a run, or a folder of runs, as one HTML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptkit.core.errors import DataError, UsageError
from ptkit.core.files import check_no_link, write_atomically
from ptkit.looking.reporting.gather import gather_run
from ptkit.looking.reporting.page import GENERATOR, run_page
from ptkit.looking.reporting.runs_table import REPORT, gather_runs, runs_page

_MARK = f'content="{GENERATOR} '.encode()


@dataclass(frozen=True)
class Written:
    """A page that was written.

    left_out: its missing sections, with the reasons. num_runs: in its table. changed_lists: see
    `Reported`. note: what its results are of where lists were changed, else "".
    """

    file: Path
    num_bytes: int
    num_runs: int
    left_out: dict[str, str] = field(default_factory=dict)
    changed_lists: tuple[str, ...] | None = None
    note: str = ""


def write_report(
    place: Path,
    *,
    out: Path | None = None,
    with_images: bool = True,
    check: bool | None = None,
    root: Path | None = None,
    **how: Any,
) -> Written:
    """Write the page of a run folder, or the table of a folder of runs, to report.html in it, or to
    the file `out`.

    with_images: False leaves pictures and paths of the data out. check, root, how: of the page of
    a run, see `gather_run`.

    Raises:
        DataError: not a folder with runs, or a file of a run that cannot be read.
        UsageError: a file of that name is not such a page; `check` or `root` with a folder of runs.
        StorageError: the disk refused.
    """
    if not place.is_dir():
        what = "is not a folder" if place.exists() else "does not exist"
        raise DataError(
            f"{place} {what}; expected a run folder such as runs/1, or a folder of runs"
        )
    file = _target(place, out)
    if (place / "config.toml").is_file():
        report = gather_run(place, with_images=with_images, check=check, root=root, **how)
        text, left_out = run_page(report)
        count, changed, note = 1, report.changed_lists, report.told_changes
    elif check is not None or root is not None:
        flag = "--root" if check is None else "--check" if check else "--no-check"
        raise UsageError(f"{flag} is for the page of one run, and {place} is a folder of runs")
    else:
        runs = gather_runs(place)
        text, left_out = runs_page(runs, beside=file.parent, with_paths=with_images), {}
        count, changed, note = len(runs.runs), None, ""
    data = text.encode()
    write_atomically(file, data)
    return Written(file, len(data), count, left_out, changed, note)


def _target(place: Path, out: Path | None) -> Path:
    """Return the file to write, which may be there only as an earlier page."""
    file = place / REPORT if out is None else out
    if out is None:
        check_no_link(file, inside=place)
    if file.is_dir():
        raise UsageError(f"--out {file} is a folder; name a file in it")
    try:
        with file.open("rb") as old:
            is_ours = _MARK in old.read(1_000)
    except FileNotFoundError:
        return file
    except OSError as error:
        raise UsageError(f"cannot look at {file}: {error.strerror}") from None
    if not is_ours:
        raise UsageError(f"{file} exists and is no report: move it away or pass another --out")
    return file
