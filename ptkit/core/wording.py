"""Words that messages, tables and pictures share."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return `1 kernel`, `2,048 kernels`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
