"""The images of a list by their size, for models that take decoded images of any size."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.reading import sizes_of
from ptkit.core.sizes import evaluation_batch_size

# A batch of large photographs would take gigabytes.
_BYTES_A_BATCH = 1 << 24
# Fewer of one size go one by one: preparing a batch costs as much as some images.
_LEAST = 8

Part = tuple[npt.NDArray[np.int64], int]


def same_sizes(images: ImageList) -> Iterator[Part]:
    """Yield places in a list with how many of them go together, each place once.

    Raises:
        DataError: a path that is not there.
    """
    sizes = sizes_of(images, range(len(images)))
    places: dict[tuple[int, int], list[int]] = {}
    alone: list[int] = []
    for place, size in enumerate(sizes):
        # An unreadable image gets the size of another one.
        if size is None:
            alone.append(place)
        else:
            places.setdefault(size, []).append(place)
    for (height, width), some in places.items():
        together = min(
            _BYTES_A_BATCH // (height * width * 3), evaluation_batch_size(max(height, width))
        )
        if len(some) < _LEAST or together < 2:
            alone.extend(some)
        else:
            yield np.array(some), together
    if alone:
        yield np.array(sorted(alone)), 1
