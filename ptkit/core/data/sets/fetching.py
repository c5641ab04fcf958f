"""The files of torchvision's data sets: from the network, with a bar, or from where the user has
put them. torchvision compares their MD5 with its own in either case.
"""

import http.client
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torchvision.datasets import utils

from ptkit.core.counting import Counting
from ptkit.core.errors import DataError, PtkitError, StorageError
from ptkit.core.files import make_folder
from ptkit.core.wording import first_of, reason_of

# Seconds without a byte.
_TIMEOUT_S = 60.0
_CHUNK = 1 << 18
_MB = 1_000_000


@dataclass
class Fetch:
    """Puts a file of a set where torchvision looks for it.

    name: of the set. local: a file or folder of the user's; None for the network. kept: a folder
    for downloads, which stays when something else fails. urls: under which each file was asked for,
    by its name. url, error: of the file asked for last, and why it did not come.
    """

    name: str
    local: Path | None
    kept: Path
    counting: Counting
    url: str = ""
    urls: dict[str, list[str]] = field(default_factory=dict, init=False)
    error: OSError | None = field(default=None, init=False)

    def __call__(self, url: str, filename: str | Path, *_more: Any) -> None:
        """Put the file of a URL at a path in the scratch folder, in the place of torchvision's
        download; more than one URL of a file are mirrors.
        """
        # torchvision tries again without encryption; there is no other answer.
        if self.error is not None and url.partition(":")[2] == self.url.partition(":")[2]:
            raise self.error
        self.url, self.error = url, None
        urls = self.urls.setdefault(base_of(url), [])
        if urls and url not in urls and self.local is None:
            # What another mirror gave was refused.
            (self.kept / base_of(url)).unlink(missing_ok=True)
        urls.append(url)
        source = self._downloaded(url) if self.local is None else self._found(url, Path(filename))
        # What another mirror gave.
        Path(filename).unlink(missing_ok=True)
        try:
            os.symlink(os.path.abspath(source), filename)
        except OSError:
            # Where links are impossible.
            shutil.copyfile(source, filename)

    def _found(self, url: str, wanted: Path) -> Path:
        assert self.local is not None
        names = list(dict.fromkeys((base_of(url), wanted.name)))
        if self.local.is_dir():
            for name in names:
                if found := sorted(self.local.rglob(name)):
                    return self._the_one(found)
            raise DataError(f"{self.local} has no {names[0]}, which {self.name} needs; it is {url}")
        if self.local.name not in names:
            raise DataError(
                f"{self.local} is not {names[0]}, which {self.name} needs; it is {url} (of several"
                " files, put all into one folder and name that)"
            )
        return self.local

    def _the_one(self, found: Sequence[Path]) -> Path:
        if len(found) > 1:
            paths = first_of([str(path) for path in found], 2)
            raise DataError(
                f"{self.local} has several {found[0].name} ({paths}): name one folder with --from"
            )
        return found[0]

    def _downloaded(self, url: str) -> Path:
        file = make_folder(self.kept) / base_of(url)
        if file.exists():
            return file
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            self._download(url, part)
            part.replace(file)
        except http.client.HTTPException as error:
            self.error = urllib.error.URLError(reason_of(error))
            raise self.error from error
        except OSError as error:
            self.error = error
            raise
        finally:
            part.unlink(missing_ok=True)
        return file

    def _download(self, url: str, file: Path) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": utils.USER_AGENT})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response,
            file.open("wb") as stream,
        ):
            expected = int(response.headers.get("Content-Length") or 0)
            with self.counting(f"downloading {base_of(url)}, MB", expected // _MB) as on_mb:
                done = 0
                while chunk := response.read(_CHUNK):
                    stream.write(chunk)
                    on_mb((done + len(chunk)) // _MB - done // _MB)
                    done += len(chunk)
        if expected and done != expected:
            raise urllib.error.URLError(
                f"the connection ended after {done:,} of {expected:,} bytes"
            )

    def refusal(self, error: Exception) -> PtkitError:
        """Return what to say when torchvision could not get or read its files."""
        mirrors = " or ".join(dict.fromkeys(self.urls.get(base_of(self.url), [self.url])))
        by_hand = f"put {mirrors} into a folder on this machine and pass --from FOLDER"
        if self.error is not None:
            reason = reason_of(getattr(self.error, "reason", None) or self.error)
            why = re.sub(r"\[Errno -?\d+\] ", "", reason)
            return StorageError(f"cannot download {self.name} ({why}): {by_hand}")
        if isinstance(error, OSError):
            return StorageError(f"cannot unpack {self.name}: {error.strerror or error}")
        # What it says of a wrong checksum.
        is_other = isinstance(error, RuntimeError)
        why = "its MD5 is not the one that torchvision knows" if is_other else reason_of(error)
        file = base_of(self.url)
        if self.local is not None:
            return DataError(
                f"{file} in {self.local} is damaged or does not belong to {self.name}: {why}"
            )
        # Of no use to the next try.
        (self.kept / file).unlink(missing_ok=True)
        self.tidy()
        return StorageError(f"{file} arrived damaged ({why}): try again, or {by_hand}")

    def tidy(self) -> None:
        """Remove the folder of the downloads where it is empty."""
        with suppress(OSError):
            self.kept.rmdir()


def base_of(url: str) -> str:
    """Return the file name in a URL."""
    return os.path.basename(urlparse(url).path)


@contextmanager
def _inside_folders() -> Iterator[None]:
    """Let tar archives write nowhere but into their folder, as Python does by itself from 3.14 on:
    torchvision does not know the checksum of each.
    """
    # Python 3.11 has it from 3.11.4 on.
    if not hasattr(tarfile, "data_filter"):
        yield
        return
    before = vars(tarfile.TarFile).get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


@contextmanager
def fetching(fetch: Fetch) -> Iterator[None]:
    """Let torchvision's data sets get their files through `fetch`, and print nothing."""
    unpack = utils.extract_archive

    def unpack_with_bar(from_path: Any, *more: Any, **named: Any) -> Any:
        with fetch.counting(f"unpacking {os.path.basename(from_path)}", 1) as on_file:
            found = unpack(from_path, *more, **named)
            on_file(1)
        return found

    # All its sets download through the first; the second would ask the network for redirections.
    own = {
        "_urlretrieve": fetch,
        "_get_redirect_url": lambda url, max_hops=3: url,
        "extract_archive": unpack_with_bar,
    }
    before = {name: getattr(utils, name) for name in own}
    for name, value in own.items():
        setattr(utils, name, value)
    try:
        # It prints which mirror failed.
        with redirect_stdout(StringIO()), _inside_folders():
            yield
    finally:
        for name, value in before.items():
            setattr(utils, name, value)
        fetch.tidy()
