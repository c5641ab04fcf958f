"""Whether the lists of a run are still those that it was trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptkit.core.data.lists import ImageList
from ptkit.core.errors import DataError

TRAINING, VALIDATION = "training", "validation"
# Where a checkpoint's `data` has the SHA-256 of each.
_KEYS = {TRAINING: "list_sha256", VALIDATION: "valid_sha256"}


def changed_lists(
    checkpoint: Mapping[str, Any] | None, lists: Mapping[str, ImageList]
) -> list[str]:
    """Return which of the lists (TRAINING, VALIDATION) are not those of a checkpoint.

    Weights of other programs do not say what they were trained on: none of theirs is another one.
    """
    saved = (checkpoint or {}).get("data", {})
    return [
        part
        for part, images in lists.items()
        if saved.get(_KEYS[part]) not in (None, images.sha256)
    ]


def check_same_lists(
    checkpoint: Mapping[str, Any] | None,
    lists: Mapping[str, ImageList],
    source: Path | str,
    *,
    advice: str = "",
) -> None:
    """Refuse other lists than those of a checkpoint, which the message calls `source`.

    Raises:
        DataError: see above.
    """
    for part in changed_lists(checkpoint, lists):
        images = lists[part]
        corrected = " with its corrections" if images.file_sha256 else ""
        fault = f"{images.file}{corrected} is not the list that {source} was trained with"
        raise DataError(f"{fault}: {advice}" if advice else fault)


def told_as_changed(parts: Sequence[str], lists: Mapping[str, ImageList]) -> str:
    """Return a clause that says which lists were changed since the run."""
    corrected = any(lists[part].file_sha256 for part in parts)
    what = f"{' and '.join(parts)} list" + "s" * (len(parts) > 1)
    was = "were" if corrected or len(parts) > 1 else "was"
    return f"the {what}{' or the corrections' if corrected else ''} {was} changed after the run"
