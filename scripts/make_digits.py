"""Write data/0..9/*.png: the handwritten digits of UCI, from scikit-learn's copy.

    python scripts/make_digits.py [FOLDER]

Needs scikit-learn, which nothing else here does. The same bytes come out on every machine.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

DATA = Path(__file__).resolve().parent.parent / "data"


def write_digits(folder: Path) -> int:
    """Write folder/LABEL/INDEX.png for each digit of the data set, return the count."""
    digits = load_digits()
    # Values are counts of ink, 0..16.
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    for index, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(grey_png(image))
    return len(pixels)


def grey_png(image: np.ndarray) -> bytes:
    """Return a PNG of uint8 (H, W), stored uncompressed: zlib's output differs by version."""
    height, width = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    print(f"wrote {write_digits(target):,} images to {target}")
