"""A task that a network learns in a moment: squares, bars and crosses of 16×16 pixels, in class
folders and lists.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ptkit.core.data.lists import list_bytes

CLASS_NAMES = ("bar", "cross", "square")


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """Return one noisy picture of a class, uint8 (16, 16, 3)."""
    pixels = rng.integers(0, 60, (16, 16, 3))
    top, left = rng.integers(1, 5, 2)
    shape = np.zeros((10, 10), bool)
    match label:
        case 0:
            shape[:, 4:7] = True
        case 1:
            shape[4:6, :] = shape[:, 4:6] = True
        case _:
            shape[[0, 1, -2, -1], :] = shape[:, [0, 1, -2, -1]] = True
    pixels[top : top + 10, left : left + 10][shape] += 180
    return pixels.astype(np.uint8)


def make_lists(folder: Path, *, train: int = 48, valid: int = 21, test: int = 15) -> Path:
    """Write images, train.txt, valid.txt, test.txt and classes.txt into `folder` and return it."""
    rng = np.random.default_rng(7)
    for part, count in (("train", train), ("valid", valid), ("test", test)):
        lines = []
        for number in range(count):
            label = number % len(CLASS_NAMES)
            path = folder / "images" / CLASS_NAMES[label] / f"{part}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(label, rng)).save(path)
            lines.append(f"{path.relative_to(folder).as_posix()} {label}\n")
        (folder / f"{part}.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    return folder


def write_list(file: Path, rows: Iterable[tuple[str, int]]) -> None:
    """Write a list file of (path, label) rows."""
    file.write_bytes(list_bytes(rows))
