"""Small images and large ones: where the defaults change."""

from ptkit.core.errors import UsageError

SMALL = 64
# Of training, where nobody names another.
USUAL_BATCH_SIZE = 64


# Height and width.
Sides = tuple[int, int]


def read_size(text: str) -> int | Sides:
    """Read pixels of a side, `224`, or height and width, `360x640`.

    Raises:
        UsageError: neither.
    """
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or len(sides) > 2:
        raise UsageError(
            f"--size must be pixels of a side, such as 224, or height and width, such as 360x640;"
            f" found {text!r}"
        )
    height, width = int(sides[0]), int(sides[-1])
    return height if height == width else (height, width)


def sides_of(size: int | Sides) -> Sides:
    """Return height and width."""
    return size if isinstance(size, tuple) else (size, size)


def is_small(size: int) -> bool:
    """Say whether images of `size` pixels a side are treated as small: looked at whole, by networks
    made for them.
    """
    return size <= SMALL


def evaluation_batch_size(size: int | None) -> int:
    """Return how many images are looked at together; None is an unknown size."""
    return 256 if size is not None and is_small(size) else 64
