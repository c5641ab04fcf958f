"""Whether the lists of a run are still those that it was trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DataError

TRAINING, VALIDATION = "training", "validation"
# Where a checkpoint's `data` has the SHA-256 of each, corrections of labels included.
_KEYS = {TRAINING: "list_sha256", VALIDATION: "valid_sha256"}


def changed_lists(
    checkpoint: Mapping[str, Any] | None, lists: Mapping[str, ImageList]
) -> tuple[str, ...]:
    """Return which of the lists (TRAINING, VALIDATION) are not those of a checkpoint.

    A list whose hash the checkpoint does not hold, as with weights of other programs, counts as
    unchanged.
    """
    saved = (checkpoint or {}).get("data", {})
    return tuple(
        part
        for part, images in lists.items()
        if saved.get(_KEYS[part], images.sha256) != images.sha256
    )


def check_same_lists(
    checkpoint: Mapping[str, Any] | None,
    lists: Mapping[str, ImageList],
    source: Path | str,
    *,
    relabel: str | None,
    advice: str,
) -> None:
    """Refuse other lists than those of a checkpoint, which the message calls `source`; see
    `changed_lists` for one that does not say.

    relabel: the file of corrections that the run has, if any. advice: what to do.

    Raises:
        DataError: see above.
    """
    for part in changed_lists(checkpoint, lists):
        corrections = f", or corrected by {relabel} in another way" if relabel else ""
        raise DataError(
            f"{lists[part].file} is not the list that {source} was trained with{corrections}:"
            f" {advice}"
        )


def told_as_changed(parts: Sequence[str], *, relabel: str | None) -> str:
    """Return a clause that says which lists were changed; relabel: as in `check_same_lists`."""
    what = f"{' and '.join(parts)} list" + "s" * (len(parts) > 1)
    corrections = " or the corrections" if relabel else ""
    was = "were" if corrections or len(parts) > 1 else "was"
    return f"the {what}{corrections} {was} changed after the run"
