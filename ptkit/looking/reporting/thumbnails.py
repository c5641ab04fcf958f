"""Pictures inside a page, as data, within a number of bytes."""

import base64
from pathlib import Path

import cv2

from ptkit.core.data import images as decoder
from ptkit.core.errors import DataError

_SIDE, _QUALITY = 72, 80


class Budget:
    """Counts the bytes that pictures take in a page, and says no when there are too many."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def picture(self, file: Path) -> str | None:
        """Return a PNG file as the address of an image, None where it does not fit."""
        try:
            data = file.read_bytes()
        except OSError:
            return None
        return self._address(data, "image/png")

    def thumbnail(self, file: str) -> str | None:
        """Return an image as a small JPEG; None where it cannot be read, or does not fit."""
        try:
            pixels = decoder.read(file)
        except DataError:
            return None
        scale = _SIDE / max(pixels.shape[:2])
        # Small images by repeating pixels, as they are.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how)
        is_done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        return self._address(data.tobytes(), "image/jpeg") if is_done else None

    def _address(self, data: bytes, kind: str) -> str | None:
        text = base64.b64encode(data).decode()
        if len(text) > self._left:
            return None
        self._left -= len(text)
        return f"data:{kind};base64,{text}"
