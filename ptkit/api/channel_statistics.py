"""`ptkit normstats` in Python."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.api.paths import StrPath, path_or_none
from ptkit.core.counting import Counting, uncounted
from ptkit.core.errors import UsageError
from ptkit.core.wording import check_at_least, check_choice

if TYPE_CHECKING:
    from ptkit.core.data.keyed import Indices
    from ptkit.core.data.lists import ImageList
    from ptkit.core.data.statistics import ChannelStatistics
    from ptkit.core.data.transforms.covariance import Whitening


@dataclass(frozen=True)
class NormstatsResult:
    """Statistics of images for Normalize, and the files that hold them.

    whitening: the matrix for LinearTransformation, where one was asked for. skipped: why images
    were left out. needs_white: whether `train` would by default put these images on white, while
    they were measured with transparency dropped.
    """

    statistics: "ChannelStatistics"
    file: Path
    whitening: "Whitening | None" = None
    whitening_file: Path | None = None
    skipped: tuple[str, ...] = ()
    needs_white: bool = False

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.statistics.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.statistics.std


def normstats(
    list_file: StrPath,
    *,
    num: int | None = None,
    size: int | None = None,
    whiten: str | None = None,
    seed: int = 0,
    workers: int = 0,
    on_bad: str = "stop",
    root: StrPath | None = None,
    alpha: str = "drop",
    out: StrPath | None = None,
    counting: Counting = uncounted,
) -> NormstatsResult:
    """Measure mean and standard deviation per channel, and save them where `train` finds them.

    num: take a random sample of this many images. size: resize them to size × size first.
    whiten: zca or pca for a whitening matrix too. out: a folder, that of the list by default.
    on_bad: `skip` leaves out images that cannot be read, see `skipped`. root: the folder of the
    images, where they were moved. alpha: `white` puts images on it. counting: for a progress bar.

    >>> found = ptkit.normstats("train.txt")
    >>> all(0 < value < 1 for value in found.mean)
    True

    Raises:
        DataError: no images, or, with `stop`, some cannot be read.
        UsageError: whitening images that differ or are too large. StorageError: the disk refused.
    """
    from ptkit.core.config.settings import ALPHA, ON_BAD
    from ptkit.core.data import images as decoder
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import check_image, read_list
    from ptkit.core.data.transparency import alpha_for
    from ptkit.core.machine import num_cores

    check_at_least(1, num=num, size=size)
    check_at_least(0, workers=workers)
    check_choice("--on-bad", on_bad, ON_BAD)
    check_choice("--alpha", alpha, ALPHA)
    images = read_list(Path(list_file), root=path_or_none(root))
    decode = functools.partial(decoder.decode, alpha=alpha)
    target = (Path(list_file).parent if out is None else Path(out)) / Path(list_file).name
    chosen = statistics.sample(images, num=num, seed=seed)
    skipped: list[str] = []
    if (bad := skipped if on_bad == "skip" else None) is None:
        check_image(images, int(chosen[0]))
    how: dict[str, Any] = {"size": size, "workers": workers or num_cores(), "bad": bad}
    whitening = None
    # First, since it may refuse before anything is decoded.
    if whiten is not None:
        whitening = _whitening(images, chosen, whiten, alpha=alpha, counting=counting, **how)
        skipped.clear()  # they come again
    with counting("measuring", len(chosen)) as advance:
        found = statistics.measure(images, chosen, decode=decode, on_images=advance, **how)
    file = statistics.save(replace(found, alpha=alpha), target)
    whitening_file = None if whitening is None else _saved(whitening, target)
    needs_white = alpha == "drop" and alpha_for(images) == "white"
    return NormstatsResult(found, file, whitening, whitening_file, tuple(skipped), needs_white)


def _whitening(
    images: "ImageList",
    chosen: "Indices",
    kind: str,
    *,
    alpha: str,
    counting: Counting,
    **how: Any,
) -> "Whitening":
    from ptkit.core.data.transforms import covariance
    from ptkit.core.data.transparency import alpha_for

    check_choice("--whiten", kind, covariance.KINDS)
    if alpha != "drop":
        raise UsageError("--whiten measures images without transparency: leave out --alpha")
    if alpha_for(images) == "white":
        raise UsageError(
            "--whiten measures images without transparency, and without it each of these is of one"
            " colour: save them on white first"
        )
    with counting("whitening", len(chosen)) as advance:
        return covariance.measure_whitening(images, chosen, kind=kind, on_images=advance, **how)


def _saved(whitening: "Whitening", target: Path) -> Path:
    # It needs torch.
    from ptkit.core.data.transforms.covariance import save

    return save(whitening, target)
