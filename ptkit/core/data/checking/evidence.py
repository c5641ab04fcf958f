"""What the checks work on: the images, what each of them tells, and which look alike."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ptkit.core.data.checking.duplicates import exact_duplicates, look_alikes, near_duplicates
from ptkit.core.data.checking.properties import Properties, measure

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Listing:
    """The images to check, in the order of their lists or class folders.

    names: as a list or folder has them. paths: the same, to open. labels: a number for each, (N,);
    where images have several labels, one for each combination. class_names: empty there.
    parts: an index into part_names for each, (N,). training: the part that is trained on; None
    where only others are checked.
    """

    names: Sequence[str]
    paths: Sequence[str]
    labels: Indices
    class_names: tuple[str, ...]
    parts: Indices
    part_names: tuple[str, ...]
    training: int | None = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def held_out(self) -> list[int]:
        """The parts that are compared with the training part."""
        numbers = range(len(self.part_names))
        return [] if self.training is None else [k for k in numbers if k != self.training]

    def label_name(self, index: int) -> str:
        """Return the class of an image, or nothing where it has several labels."""
        return self.class_names[self.labels[index]] if self.class_names else ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one decode of each image brought.

    exact: groups of images with equal bytes. alike: groups of near-duplicates with all their
    copies; a group has two different files at least. Each group is ascending. is_ignored: images
    that are no issue, (N,).
    """

    listing: Listing
    properties: Properties
    exact: list[list[int]]
    alike: list[list[int]]
    is_ignored: Mask

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.properties[name]

    @property
    def is_readable(self) -> Mask:
        """Which images could be decoded, (N,)."""
        is_readable: Mask = self["is_readable"]
        return is_readable

    @property
    def is_varied(self) -> Mask:
        """Which of them have more than one colour, (N,)."""
        is_varied: Mask = self.is_readable & ~self["is_constant"]
        return is_varied

    def without(self, rows: Collection[int]) -> "Evidence":
        """Return the evidence where these images are ignored."""
        if not rows:
            return self
        is_ignored = self.is_ignored.copy()
        is_ignored[list(rows)] = True
        exact, alike = (
            [rest for group in groups if len(rest := [k for k in group if k not in rows]) > 1]
            for groups in (self.exact, self.alike)
        )
        return replace(self, exact=exact, alike=alike, is_ignored=is_ignored)


@dataclass(frozen=True)
class Found:
    """What a rule found.

    text: what is wrong, with its number. groups: the images concerned, those that belong together
    in one group; none where the whole data set is meant. reasons: of single images. is_grave: FAIL
    where the rule would say WARN.
    """

    text: str
    groups: Sequence[Sequence[int]] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    is_grave: bool = False

    @property
    def images(self) -> list[int]:
        """All images concerned."""
        return [index for group in self.groups for index in group]


def gather(
    listing: Listing,
    *,
    alpha: str = "drop",
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Evidence:
    """Decode every image once and find those that look alike. alpha: see `images.read`."""
    properties = measure(listing.paths, alpha=alpha, workers=workers, on_images=on_images)
    exact = exact_duplicates(properties)
    near = near_duplicates(properties, listing.labels)
    is_ignored = np.zeros(len(listing), bool)
    return Evidence(listing, properties, exact, look_alikes(exact, near), is_ignored)
