"""The names of a file's layers, read off its table of contents without torch: for shells."""

import json
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

# More than the contents of any list of weights.
_MOST_BYTES = 1 << 24
_ENDINGS = ("weight", "bias")


def layers_of_file(path: Path) -> list[str]:
    """Return the layers with weights in a checkpoint, run folder or weight file, and the blocks
    around them, in the file's order; none of what is no such file.
    """
    file = path / "ckpt.pkl" if path.is_dir() else path
    try:
        keys = _safetensors_keys(file) if file.suffix == ".safetensors" else _pickled_texts(file)
    except Exception:
        # On damaged files zipfile and json let any error through; a shell has no use for it.
        return []
    return list(dict.fromkeys(name for key in keys for name in _around(key)))


def _around(key: str) -> Iterable[str]:
    """Yield `layer1` and `layer1.conv` for `layer1.conv.weight`; nothing for other texts."""
    *modules, ending = key.split(".")
    if ending in _ENDINGS and all(part.isidentifier() or part.isdecimal() for part in modules):
        yield from (".".join(modules[: i + 1]) for i in range(len(modules)))


def _pickled_texts(file: Path) -> list[str]:
    """Return the texts of the pickle that lists the contents; nothing of it is run."""
    with zipfile.ZipFile(file) as archive:
        entry = next((e for e in archive.infolist() if e.filename.endswith("data.pkl")), None)
        if entry is None or entry.file_size > _MOST_BYTES:
            return []
        return [
            text for _, text, _ in pickletools.genops(archive.read(entry)) if isinstance(text, str)
        ]


def _safetensors_keys(file: Path) -> list[str]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return list(json.loads(stream.read(length))) if length <= _MOST_BYTES else []
