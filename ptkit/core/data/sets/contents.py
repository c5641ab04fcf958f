"""What a data set gives, wherever it comes from: parts with images, and what to say of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class SetImage:
    """One image. label: its class. stem: its file name without suffix. content: the bytes of its
    file, or its pixels.
    """

    label: str
    stem: str
    content: bytes | Image.Image


@dataclass(frozen=True)
class Part:
    """A part of a set. name: train, val, test, or "" where the set has no parts. images: read while
    they are taken.
    """

    name: str
    num_images: int
    images: Iterable[SetImage]


@dataclass(frozen=True)
class About:
    """Where a set comes from. notes: what was left out of it, a line each."""

    source: str
    licence: str
    citation: str
    notes: tuple[str, ...] = ()
