"""Words that messages, tables and pictures share."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return `1 kernel`, `2,048 kernels`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def amount(nbytes: int) -> str:
    """Return `36.9 kB`, `1.2 MB`, `12,300.0 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:,.1f} {name}"
    return f"{nbytes} bytes"
