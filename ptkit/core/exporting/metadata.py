"""What an exported file says of itself: one JSON object, the same in every format."""

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit import __version__
from ptkit.core.models.onnx_files import FORMAT, KEY

# Its name in files that hold files.
FILE = "ptkit.json"
# Found in every file; safetensors escapes the quotes.
_MARKS = (b'"source_sha256": ', rb"\"source_sha256\": ")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is told of an exported model.

    kind: of the task, as Task.kind. thresholds: class -> the probability from which on it is
    present, or, where an image has one class, answered. temperature: what the graph
    divides the outputs by. unknown_limit: an image whose strangeness is above it is unknown; None
    where the file does not tell it.
    preprocessing: whether the graph does it. pipeline: as checkpoints have it, without tensors.
    model: its call. source_sha256: of the file that the weights are from.
    """

    kind: str
    class_names: Sequence[str]
    thresholds: Mapping[str, float] | None
    temperature: float | None
    preprocessing: bool
    pipeline: Mapping[str, Any]
    model: str
    source_sha256: str
    precision: str
    unknown_limit: float | None = None

    def properties(self) -> dict[str, str]:
        """Return the metadata as texts: all of it, and the class names as other tools read them."""
        names = {str(number): name for number, name in enumerate(self.class_names)}
        return {KEY: self.as_json(), "names": json.dumps(names, ensure_ascii=False)}

    def as_json(self) -> str:
        """Return the object as text."""
        own = {**vars(self), "class_names": list(self.class_names)}
        return json.dumps(
            {"format": FORMAT, **own, "ptkit_version": __version__}, ensure_ascii=False
        )


def is_exported(path: Path) -> bool:
    """Say whether a file is one that ptkit exported, of any format; raises OSError."""
    # All of them hold the text as it is.
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(mark) >= 0 for mark in _MARKS)
