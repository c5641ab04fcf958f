"""Small images and large ones: where the defaults change."""

SMALL = 64


def is_small(size: int) -> bool:
    """Say whether images of `size` pixels a side are treated as small: looked at whole, by networks
    made for them.
    """
    return size <= SMALL


def evaluation_batch_size(size: int | None) -> int:
    """Return how many images are looked at together; None is an unknown size."""
    return 256 if size is not None and is_small(size) else 64
