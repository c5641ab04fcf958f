"""State dicts as other people save them: nested, prefixed, with extras; brought to one plain form."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ptkit.core.errors import CheckpointError

# Where training scripts put the weights; the order counts when a file has several.
_NESTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
)
# A file can nest a dictionary in itself.
_DEEPEST = 6
# Put in front of every name by DataParallel, torch.compile, Lightning and classes that wrap a
# model.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")


@dataclass(frozen=True)
class Weights:
    """Weights out of a file.

    checkpoint: everything else, if the file is a ptkit checkpoint.
    notes: what was unwrapped, a sentence each.
    """

    state_dict: dict[str, Tensor]
    checkpoint: dict[str, Any] | None
    notes: tuple[str, ...]
    path: Path


def unwrap(contents: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict in what a file holds, and a note for each thing done to get it.

    Raises:
        CheckpointError: there is none.
    """
    nested, notes = _unnested(contents, path)
    state_dict = {
        key: value
        for key, value in nested.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state_dict or any(isinstance(value, Mapping) for value in nested.values()):
        raise CheckpointError(f"{path} holds no state dict: found {_described(nested)}")
    if len(state_dict) < len(nested):
        notes.append(f"left out {len(nested) - len(state_dict)} entries that are not tensors")
    while prefix := _common_prefix(state_dict):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        notes.append(f"removed the prefix {prefix} from every name")
    return state_dict, tuple(notes)


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


def _common_prefix(state_dict: Mapping[str, Tensor]) -> str:
    return next(
        (prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state_dict)), ""
    )


def _described(contents: Mapping[Any, Any]) -> str:
    keys = [str(key) for key in contents]
    return (
        f"{', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
        if keys
        else "an empty dictionary"
    )
