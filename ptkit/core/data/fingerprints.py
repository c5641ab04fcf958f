"""Eight bytes that stand for the bytes of an image file, so that a model's training images are
recognised.
"""

import functools
import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import GOLDEN, MASK
from ptkit.core.data.lists import ImageList
from ptkit.core.errors import PtkitError
from ptkit.core.files import from_disk

# (N,): one for each image; 0 where a file could not be read.
Hashes = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_BLOCK = 4096
_SHIFT = np.uint64(29)
_FILES_AT_ONCE = 64


def fingerprints(contents: Sequence[Any]) -> Hashes:
    """Return 8 bytes for the content of each file, 0 for an empty one and what is not bytes.

    A content is words w of 64 bits, little-endian, the last one filled up with zeros. It gets the
    sum of w ^ (w >> 29), each times a key of its own, and of its length times 0x9E3779B97F4A7C15,
    modulo 2^64. Above 4,096 words each block of so many has a sum, and these and the word that is
    not whole are the digits of a number to that base. (Multilinear hashing: Lemire and Kaser,
    "Strongly universal string hashing is fast", 2014. Not a defence against forgery.)
    """
    data = [content if isinstance(content, bytes) else b"" for content in contents]
    lengths = np.fromiter(map(len, data), np.uint64, len(data))
    width = -(-int(lengths.max(initial=0)) // 8)
    if width > _BLOCK:
        sums = np.array([_sum_of_file(content) for content in data], np.uint64)
    else:
        sums = _sums_of_short(data, width)
    return (sums + lengths * np.uint64(GOLDEN)).view(np.int64)


def hash_files(images: ImageList, indices: npt.NDArray[np.int64]) -> Hashes:
    """Return the fingerprints of the files of some images, 0 for unreadable ones."""

    def some(part: Sequence[int]) -> Hashes:
        return fingerprints([_content(images.image_path(int(indices[k]))) for k in part])

    found = from_disk(some, len(indices), at_once=_FILES_AT_ONCE)
    return np.fromiter(chain.from_iterable(found), np.int64, len(indices))


def _content(path: str) -> bytes | None:
    try:
        return decoder.read_bytes(path)
    except PtkitError:
        return None


def _sums_of_short(data: Sequence[bytes], width: int) -> Words:
    """Return the sums of contents of at most `width` words, all at once: a call for each, to any
    hash, takes a thirtieth of the time of decoding a small image.
    """
    joined = b"".join([content.ljust(8 * width, b"\0") for content in data])
    return _sums(np.frombuffer(joined, "<u8").reshape(len(data), width))


def _sum_of_file(data: bytes) -> int:
    if len(data) <= 8 * _BLOCK:
        return int(_sums_of_short([data], _BLOCK)[0])
    num_words, total = len(data) >> 3, 0
    words = np.frombuffer(data, "<u8", num_words)
    for start in range(0, num_words, _BLOCK):
        total = (total * GOLDEN + int(_sums(words[start : start + _BLOCK]))) & MASK
    last = int.from_bytes(data[8 * num_words :], "little")
    return (total * GOLDEN + last) & MASK


def _sums(words: Words) -> Words:
    # A product's low bits know nothing of a word's high ones, so these are moved down, too.
    mixed = words >> _SHIFT
    np.bitwise_xor(mixed, words, out=mixed)
    sums: Words = np.dot(mixed, _keys()[: words.shape[-1]])
    return sums


@functools.cache
def _keys() -> Words:
    numbers = hashlib.shake_128(b"ptkit").digest(8 * _BLOCK)
    return np.frombuffer(numbers, "<u8") | np.uint64(1)
