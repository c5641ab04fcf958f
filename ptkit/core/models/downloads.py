"""Files of weights from the network: those already here come first, and where there is no network
one line says which file to put where.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch

from ptkit.core.errors import CheckpointError, StorageError
from ptkit.core.files import make_folder
from ptkit.core.wording import reason_of


def from_url(url: str, *, name: str) -> Path:
    """Return the file of a URL in torch's cache; a new download is checked against the hash in its
    name.

    name: of the model, for messages.

    Raises:
        StorageError: the download failed.
    """
    file = file_of_url(url)
    if file.exists():
        return file
    make_folder(file.parent)
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        # Not get_state_dict: that prints, and loads with weights_only=False.
        torch.hub.download_url_to_file(url, str(file), match[1] if match else None, progress=False)
    except (OSError, RuntimeError) as error:
        raise _not_downloaded(name, error, url=url, file=file) from error
    return file


def from_hub(repository: str, filenames: Sequence[str], *, name: str) -> Path:
    """Return the first of some files that a repository of the Hugging Face Hub has: one put into
    torch's cache as `NAME.TAG.safetensors`, one in the Hub's cache, or a new download.

    The Hub's own client keeps its environment: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.

    name: of the model with its tag, `timm:NAME.TAG`. filenames: the best one first.

    Raises:
        StorageError: the download failed, or the Hub is switched off.
        CheckpointError: its licence must be accepted first, or the repository has none of the
            files.
    """
    if found := in_cache(repository, filenames, name=name):
        return found
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    url, file = hf_hub_url(repository, filenames[0]), _by_hand(name)
    for filename in filenames:
        try:
            with _silenced():
                # The download alone would try for half a minute to reach a Hub.
                get_hf_file_metadata(hf_hub_url(repository, filename))
                return Path(hf_hub_download(repository, filename))
        except GatedRepoError as error:
            page = url.partition("/resolve/")[0]
            raise CheckpointError(
                f"the weights of {name} have a licence to accept: do so at {page}, log in with"
                " `hf auth login` (or set HF_TOKEN), and run this again"
            ) from error
        except LocalEntryNotFoundError as error:
            # The first cause says more.
            raise _not_downloaded(name, error.__cause__ or error, url=url, file=file) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            # The client has changed its HTTP library twice, and lets errors of each through.
            raise _not_downloaded(name, error, url=url, file=file) from error
    raise CheckpointError(
        f"{url.partition('/resolve/')[0]} has no weights of {name}: found none of"
        f" {', '.join(filenames)}"
    )


def in_cache(repository: str, filenames: Sequence[str], *, name: str) -> Path | None:
    """Return the file that `from_hub` would take without the network, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    if (file := _by_hand(name)).exists():
        return file
    found = (try_to_load_from_cache(repository, filename) for filename in filenames)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def file_of_url(url: str) -> Path:
    """Return where the file of a URL is in torch's cache, once it is downloaded."""
    return _torch_cache(os.path.basename(urlparse(url).path))


def _by_hand(name: str) -> Path:
    return _torch_cache(f"{name.rpartition(':')[2]}.safetensors")


def _torch_cache(filename: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / filename


def _not_downloaded(name: str, error: BaseException, *, url: str, file: Path) -> StorageError:
    reason = reason_of(getattr(error, "reason", None) or error).partition(". (Request ID")[0]
    reason = re.sub(r"\[Errno -?\d+\] ", "", reason).rstrip(".")
    return StorageError(
        f"cannot download the weights of {name} ({reason}): put {url} at {file} by hand, or give a"
        " file of weights"
    )


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the Hub's client from writing bars and advice to the terminal."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger, was_disabled = logging.getLogger("huggingface_hub"), are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not was_disabled:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not was_disabled:
            enable_progress_bars()
