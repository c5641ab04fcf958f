"""The link that says which checkpoint is the newest one."""

import os
import secrets
from pathlib import Path


def link_checkpoint(checkpoint: Path, link: Path) -> str | None:
    """Make `link` a relative symlink to a checkpoint; return why not if that fails.

    The new link is renamed over the old one, and nothing is ever written through it.
    """
    where = f"the checkpoint is {checkpoint}"
    # exists() follows links: one whose target is gone is not there, and is replaced.
    if link.exists() and not link.is_symlink():
        return f"{link} is a regular file and was left alone; {where}"
    # Beside the link: a rename stays within one file system. Its own name each time: a killed
    # process may have left one.
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    try:
        # Relative: it still holds when link and runs are moved together.
        os.symlink(os.path.relpath(checkpoint, link.parent), temporary)
        os.replace(temporary, link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        return f"{link} cannot be linked here ({error.strerror}); {where}"
    return None
