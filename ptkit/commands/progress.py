"""A progress bar on standard error, only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


@contextmanager
def bar(what: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields the function that moves it on."""
    if quiet or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with live_line(MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def live_line(*columns: "ProgressColumn") -> "Progress":
    """Return a description, a bar and these columns, to be drawn on standard error and removed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    begin = TextColumn("{task.description}", markup=False), BarColumn()
    return Progress(*begin, *columns, console=Console(stderr=True), transient=True)
