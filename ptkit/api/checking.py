"""`ptkit check` in Python."""

from pathlib import Path
from typing import TYPE_CHECKING

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.counting import Counting, uncounted
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from ptkit.looking.checking import CheckUp


def check(
    *sources: StrPath,
    root: StrPath | None = None,
    alpha: str = "auto",
    workers: int = 0,
    counting: Counting = uncounted,
) -> "CheckUp":
    """Check data before training does: what `ptkit check` prints, without its pictures.

    sources: lists of the parts of one data set, or a folder of classes; none are the lists in the
    working directory. root: the folder of a list's images, where they were moved. alpha: `drop` the
    transparency of images, or put them on `white`; auto as training does it. workers: decoding
    threads, 0 for all cores. counting: for a progress bar.

    >>> found = ptkit.check("data")
    >>> found.count("FAIL")
    0

    Raises:
        DataError: a list or folder that cannot be used; images that cannot be read are a finding.
        UsageError: sources that do not go together.
    """
    from ptkit.core.config.settings import ALPHA, AUTO
    from ptkit.looking.checking import check_up

    check_at_least(0, workers=workers)
    check_choice("--alpha", alpha, (AUTO, *ALPHA))
    return check_up(
        list(map(Path, sources)),
        root=path_or_none(root),
        alpha=alpha,
        workers=workers,
        counting=counting,
    )
