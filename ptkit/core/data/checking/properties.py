"""What one decode of each image tells: a row of numbers, with which all checks work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.data.complaints import capturing_stderr
from ptkit.core.data.fingerprints import fingerprints
from ptkit.core.data.formats import jpeg_has_metadata, sniff
from ptkit.core.data.images import Pixels, cv2, is_upright
from ptkit.core.data.lists import list_of
from ptkit.core.data.loading.decoding import decoded_image, in_threads
from ptkit.core.data.loading.reading import PendingFiles, checked
from ptkit.core.data.transparency import is_of_one_colour, where_visible
from ptkit.core.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WebP", "TIFF", "AVIF", "HEIC")
# See `where_visible`.
VISIBLE = (None, "drop", "white", "nowhere")
SIDE = 32
# Sharpness and contrast are measured on images of at most so many pixels a side: those of two
# cameras compare, and a photograph costs a fraction of its decoding.
_MEASURED_SIDE = 256
# Images of one task, see decoding.py.
_CHUNK = 128

# content: fingerprint of the file. thumbnail: grey, all images of one size. color: means of red,
# green and blue, 0..1. contrast: standard deviation of the grey image, 0..1. detail: that of its
# Laplacian, divided by the contrast. height, width: as shown. format: index into FORMATS.
# is_turned: whether EXIF turns the stored pixels. is_constant: whether all pixels are equal.
# visible: of an image of one colour, where it is not so, index into VISIBLE.
_ROW = np.dtype(
    [
        ("is_readable", np.bool_),
        ("content", np.int64),
        ("thumbnail", np.uint8, (SIDE, SIDE)),
        ("color", np.float32, 3),
        ("contrast", np.float32),
        ("detail", np.float32),
        ("height", np.int32),
        ("width", np.int32),
        ("num_bytes", np.int64),
        ("format", np.uint8),
        ("is_turned", np.bool_),
        ("is_constant", np.bool_),
        ("visible", np.uint8),
    ]
)


@dataclass(frozen=True, eq=False)
class Properties:
    """The properties of some images.

    rows: a structured array (N,), zeros where an image cannot be read. errors: why, by index.
    """

    rows: npt.NDArray[np.void]
    errors: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.rows[name]


def measure(
    paths: Sequence[str],
    *,
    alpha: str = "drop",
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Properties:
    """Decode each image once, in threads, and return what it tells: 1.1 kB an image.

    alpha: see `images.read`. workers: threads, 0 for all cores. on_images: called with how many
    more are done.

    Raises:
        StorageError: the disk failed three times.
    """
    images = list_of(paths, ())
    rows = np.zeros(len(paths), _ROW)
    errors: dict[int, str] = {}

    def work(indices: range, files: PendingFiles) -> None:
        contents = files.contents()
        rows["content"][indices.start : indices.stop] = fingerprints(contents)
        with capturing_stderr:
            for index, content in zip(indices, contents, strict=True):
                try:
                    pixels = decoded_image(images, index, content, alpha=alpha)
                # Not StorageError: a disk that fails says nothing about an image.
                except DataError as error:
                    errors[index] = str(error)
                    continue
                # Without a lock: each row is written once, by one thread.
                rows[index] = (True, rows["content"][index], *_measured(checked(content), pixels))

    for _ in in_threads(work, images, _CHUNK, workers=workers, on_images=on_images):
        pass
    return Properties(rows, dict(sorted(errors.items())))


def _measured(data: bytes, pixels: Pixels) -> tuple[object, ...]:
    """Return the row of an image, but its first two fields."""
    height, width = pixels.shape[:2]
    factor = min(_MEASURED_SIDE / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    # INTER_AREA gives means over areas: a resized copy and its original look alike.
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if factor < 1 else pixels
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    # INTER_AREA enlarges by repeating pixels, at other places in a resized copy.
    kind_of = cv2.INTER_LINEAR if min(size) < SIDE else cv2.INTER_AREA
    # A reduced copy of a small image lacks the finest detail; so it does not count.
    thumbnail = cv2.GaussianBlur(cv2.resize(grey, (SIDE, SIDE), interpolation=kind_of), (3, 3), 0)
    contrast = cv2.meanStdDev(grey)[1].item()
    edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1].item()
    kind = sniff(data)
    is_turned = kind == "JPEG" and jpeg_has_metadata(data) and not is_upright(data)
    is_constant = contrast < 1 and is_of_one_colour(pixels)
    return (
        thumbnail,
        np.divide(cv2.mean(small)[:3], 255),
        contrast / 255,
        edges / contrast if contrast else 0,
        height,
        width,
        len(data),
        FORMATS.index(kind),
        is_turned,
        is_constant,
        VISIBLE.index(where_visible(data)) if is_constant else 0,
    )
