"""Mutated images of every format: each gives an image or a DataError, nothing else.

python benchmarks/faults/fuzz_images.py [NUM]    100,000 by default
"""

import io
import sys
import time
from collections import Counter

import numpy as np
from PIL import Image, features

from ptkit.core.data import images
from ptkit.core.data.complaints import capturing_stderr
from ptkit.core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")


def seeds() -> dict[str, bytes]:
    """Return small images by name: every format, with what differs inside it."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    other = picture.transpose(Image.Transpose.ROTATE_180)
    tags = Image.Exif()
    tags[0x0112] = 6
    options = {
        "": {},
        "turned": {"exif": tags.tobytes()},
        "progressive": {"progressive": True},
        "lossless": {"lossless": True},
        "animated": {"save_all": True, "append_images": [other]},
        "compressed": {"compression": "tiff_lzw"},
    }
    found: dict[str, bytes] = {}
    for kind in FORMATS:
        if kind == "AVIF" and not features.check("avif"):
            continue
        for mode in ("RGB", "L", "P", "1"):
            for name, more in options.items():
                file = io.BytesIO()
                try:
                    picture.convert(mode).save(file, kind, **more)
                except (OSError, ValueError, TypeError, KeyError):  # a mode that it does not have
                    continue
                found[f"{kind} {mode} {name}"] = file.getvalue()
    # Options that a format ignores give the same bytes again.
    return {name: data for data, name in {data: name for name, data in found.items()}.items()}


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Return bytes with some of them changed, removed or repeated, or cut off."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 6)):
        place = int(random.integers(len(changed) + 1))
        match random.integers(4):
            case 0 if place < len(changed):
                changed[place] ^= 1 << int(random.integers(8))
            case 1 if place < len(changed):
                changed[place] = int(random.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 2:
                del changed[place : place + int(random.integers(1, 9))]
            case 3:
                changed[place:place] = random.bytes(int(random.integers(1, 9)))
    return bytes(
        changed[: int(random.integers(len(changed) + 1))] if random.random() < 0.1 else changed
    )


def main(count: int) -> None:
    random, begin = np.random.default_rng(1), time.perf_counter()
    originals = list(seeds().values())
    outcomes: Counter[str] = Counter()
    with capturing_stderr:
        for number in range(count):
            data = mutated(originals[number % len(originals)], random)
            try:
                pixels = images.decode(data)
                is_image = pixels.dtype == np.uint8 and pixels.ndim == 3 and min(pixels.shape) > 0
                outcomes["images" if is_image else "wrong"] += 1
            except DataError:
                outcomes["refused"] += 1
            except Exception as error:  # what is looked for
                outcomes["wrong"] += 1
                print(f"{type(error).__name__}: {error}: {data.hex()}")
    verdict = "FAILED" if outcomes["wrong"] else "passed"
    print(
        f"{verdict}: {count:,} mutated images of {len(originals)} kinds:"
        f" {outcomes['images']:,} images, {outcomes['refused']:,} refused,"
        f" {outcomes['wrong']:,} anything else ({time.perf_counter() - begin:.0f} s)"
    )
    sys.exit(bool(outcomes["wrong"]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
