"""Weights with what came with them; state dicts as other people nest and name them."""

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptkit.core.errors import CheckpointError
from ptkit.core.parts.calls import parse
from ptkit.core.wording import first_of

# Where training scripts put the weights; the order counts when a file has several.
_NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights",
    "params", "module", "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
# A file can nest a dictionary in itself.
_DEEPEST = 6
# Put before names by DataParallel, torch.compile, Lightning and classes that wrap a model.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
# What is not shown, and the share of all names that must have it: most, or all.
_PREFIXES = {
    **dict.fromkeys(WRAPPERS, 0.51),
    **dict.fromkeys(("backbone.", "encoder."), 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights, and what came with them; what did not is None or empty.

    path: of the file they were read from. source: what messages call them. notes: what was
    unwrapped, a sentence each. checkpoint: all of it, if they are a ptkit checkpoint's.
    call: the model that they fit. pipeline: the calls that turn an image file into what the model
    takes, with their `tensors`. alpha: what becomes of transparency, see `images.read`. size:
    pixels of a side. mean, std: of Normalize, 0..1.
    """

    state_dict: Mapping[str, Tensor]
    path: Path
    source: str
    notes: tuple[str, ...] = ()
    checkpoint: Mapping[str, Any] | None = None
    call: str | None = None
    class_names: tuple[str, ...] | None = None
    pipeline: tuple[str, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    alpha: str = "drop"
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    epoch: int | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def pipeline_record(self) -> dict[str, Any]:
        """What a checkpoint holds as `pipeline`: with the user's own steps as they were named again
        last.
        """
        own = {
            "calls": list(self.pipeline),
            "tensors": dict(self.tensors),
            "size": self.size,
            "alpha": self.alpha,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
        }
        channels = {} if self.mean is None else {"channels": len(self.mean)}
        return {**channels, **(self.checkpoint or {}).get("pipeline", {}), **own}

    @property
    def image_hashes(self) -> npt.NDArray[np.int64] | None:
        """Hashes of the images that they were trained on, where a checkpoint has them."""
        return image_hashes(self.checkpoint or {})

    @property
    def lines(self) -> tuple[str, ...]:
        """The notes, each with what it is about."""
        return tuple(f"weights of {self.source}: {note}" for note in self.notes)

    @property
    def is_whitened(self) -> bool:
        """Whether they were trained on whitened images."""
        return any(parse(call).name == "LinearTransformation" for call in self.pipeline)

    @property
    def run(self) -> Path | None:
        """The run folder that the file is in (seen through links), if any."""
        folder = self.path.resolve().parent
        return _short(folder) if (folder / "config.toml").is_file() else None

    @property
    def described(self) -> str:
        """The file and its epoch, for the footer of a figure: `runs/1/ckpt.pkl · epoch 12`."""
        shown = self.shown_path
        return str(shown) if self.epoch is None else f"{shown} · epoch {self.epoch}"

    @property
    def shown_path(self) -> Path:
        """The file itself where `path` is a link, relative to the working directory if inside."""
        return _short(self.path.resolve()) if self.path.is_symlink() else self.path


def image_hashes(checkpoint: Mapping[str, Any]) -> npt.NDArray[np.int64] | None:
    """Return the hashes of the images that a checkpoint was trained on, where it has them."""
    hashes = checkpoint.get("data", {}).get("image_hashes")
    if not isinstance(hashes, Tensor) or hashes.dtype != torch.int64:
        return None
    # 0 stands for an image that could not be read.
    found: npt.NDArray[np.int64] = hashes[hashes != 0].numpy()
    return found


def unwrap(contents: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict in what a file holds, and a note for each thing done to get it.

    Raises:
        CheckpointError: there is none.
    """
    nested, notes = _unnested(contents, path)
    state_dict = {k: v for k, v in nested.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not state_dict or any(isinstance(value, Mapping) for value in nested.values()):
        keys = first_of(list(map(str, nested)), 8) or "an empty dictionary"
        raise CheckpointError(f"{path} holds no state dict: found {keys}")
    if len(state_dict) < len(nested):
        notes.append(f"left out {len(nested) - len(state_dict)} entries that are not tensors")
    return state_dict, tuple(notes)


def plain_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes of wrappers, where no model says what its names are."""
    found = dict(state_dict)
    # Of a backbone or an encoder only where nothing lies beside it: it may be a part of a model.
    while prefix := next((p for p, share in _PREFIXES.items() if _share(found, p) >= share), ""):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _share(names: Collection[str], prefix: str) -> float:
    return sum(name.startswith(prefix) for name in names) / len(names)


def _unnested(contents: Any, path: Path) -> tuple[Mapping[Any, Any], list[str]]:
    notes: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(contents, Mapping):
            break
        nests = [key for key in _NESTS if isinstance(contents.get(key), Mapping) and contents[key]]
        if not nests:
            return contents, notes
        also = f" (not those under {', '.join(nests[1:])})" if nests[1:] else ""
        notes.append(f"took the weights under {nests[0]}{also}")
        contents = contents[nests[0]]
    raise CheckpointError(f"{path} holds no state dict: found a {type(contents).__name__}")


def _short(path: Path) -> Path:
    """Return a path relative to the working directory where it is inside."""
    here = Path(os.path.realpath("."))
    return path.relative_to(here) if path.is_relative_to(here) else path
