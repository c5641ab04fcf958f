"""Save figures and tables, one picture or the folder of a command."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ptkit.core.errors import StorageError, UsageError
from ptkit.core.files import make_folder, parse_json, write_atomically, write_csv
from ptkit.plots.style import house_style

_LIST = ".ptkit-files.json"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG and return its path.

    Raises:
        StorageError: the disk refused.
    """
    save_pixels(pixels(figure), path)
    return path


def pixels(figure: Figure) -> np.ndarray:
    """Return a figure as uint8 (H, W, 3)."""
    with house_style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def file_names(prefix: str, texts: Iterable[str]) -> list[str]:
    """Return a file name, without ending, for each text; all differ and suit any system."""
    # Keys in lower case: some file systems do not tell it from upper case.
    names: dict[str, str] = {}
    for text in texts:
        name = plain = prefix + re.sub(r"[^\w.-]+", "_", text)[:120].rstrip(".")
        number = 2
        while name.lower() in names:
            name = f"{plain}-{number}"
            number += 1
        names[name.lower()] = name
    return list(names.values())


class PictureFolder:
    """The folder of one command: files of its earlier run are replaced, all others stay.

    Used as `with`: at the end without an error, what was written earlier and not again is removed.
    `.ptkit-files.json` in the folder lists what each command wrote.
    """

    def __init__(self, folder: Path, *, command: str) -> None:
        self.folder, self.command = folder, command
        self.files: list[Path] = []
        self._lists = _read_lists(folder / _LIST)
        self._owned = set(self._lists.get(command, []))

    def __enter__(self) -> Self:
        make_folder(self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        written = {path.name for path in self.files}
        for path in (self.folder / name for name in self._owned - written):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                reason = error.strerror or error
                raise StorageError(f"cannot remove the old {path}: {reason}") from error
        self._owned = written
        self._save_list()

    def add_figure(self, name: str, figure: Figure) -> np.ndarray:
        """Save a figure under `name` and return its pixels, uint8 (H, W, 3)."""
        drawn = pixels(figure)
        save_pixels(drawn, self._claimed(name))
        return drawn

    def add_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Save a table; floats are written with nine significant digits."""
        write_csv(self._claimed(name), header, numbered(rows))

    def adopt(self, path: Path) -> None:
        """Count a file in this folder that another part of this command wrote as the command's."""
        self.files.append(path)
        # The list is on disk before the file, so that the next run knows all files of a killed one.
        if path.name not in self._owned:
            self._owned.add(path.name)
            self._save_list()

    def _claimed(self, name: str) -> Path:
        path = self.folder / name
        if name not in self._owned and path.exists():
            raise UsageError(
                f"{path} exists and `ptkit {self.command}` did not write it: move it away or pass"
                " another --out"
            )
        self.adopt(path)
        return path

    def _save_list(self) -> None:
        self._lists[self.command] = sorted(self._owned)
        text = json.dumps(self._lists, ensure_ascii=False, indent=1) + "\n"
        write_atomically(self.folder / _LIST, text.encode())


def save_pixels(drawn: np.ndarray, path: Path) -> None:
    """Write a picture, uint8 (H, W, 3), as a PNG.

    Raises:
        StorageError: the disk refused.
    """
    write_atomically(path, lambda file: Image.fromarray(drawn).save(file, "PNG", compress_level=4))


def numbered(rows: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
    """Yield rows of a table with floats written with nine significant digits."""
    for row in rows:
        yield [f"{cell:.9g}" if isinstance(cell, float | np.floating) else cell for cell in row]


def _read_lists(path: Path) -> dict[str, list[str]]:
    """Return command -> file names; names that could lead out of the folder are left out."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        command: [name for name in names if _is_plain(name)]
        for command, names in found.items()
        if isinstance(names, list)
    }


def _is_plain(name: object) -> bool:
    is_name = isinstance(name, str) and name == Path(name).name
    return is_name and name not in ("", "..") and "\0" not in str(name)
