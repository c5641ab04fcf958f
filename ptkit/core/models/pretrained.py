"""Which models have pretrained weights: for images of which size, how large, and whether their
files are here.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.models import (
    downloads,
    packaged_weights,
    timm_models,
    timm_weights,
    torchvision_models,
)
from ptkit.core.models.weightless import without_memory
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import parse
from ptkit.core.parts.catalogue import REFUSALS, STUMBLES
from ptkit.core.wording import fits_glob

# Counting the parameters of one of timm's models takes a tenth of a second.
MOST_COUNTED = 100


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights, by the name that commands take.

    size: height and width in pixels. parameters: None where they were not counted. num_bytes: of
    the file, None where nobody says. is_here: whether they need no network.
    """

    name: str
    origin: str
    size: tuple[int, int]
    parameters: int | None
    num_bytes: int | None
    is_here: bool


def pretrained_models(pattern: str = "*") -> list[Pretrained]:
    """Return the pretrained weights whose name fits a glob, with or without its tag.

    Parameters of timm's models are counted up to MOST_COUNTED models.
    """
    found = [*_packaged(), *_torchvisions()]
    return [row for row in found if fits_glob(row.name, pattern)] + list(_timms(pattern))


def _packaged() -> Iterator[Pretrained]:
    for name in packaged_weights.NAMES:
        with without_memory():
            model, _ = build_model(name, num_classes=1000, size=None, seed=0)
        count = sum(parameter.numel() for parameter in model.parameters())
        file = packaged_weights.file_of(name) if packaged_weights.is_installed() else None
        yield Pretrained(name, "ptkit", (224, 224), count, _size_of(file), is_here=file is not None)


def _torchvisions() -> Iterator[Pretrained]:
    for name in torchvision_models.names():
        weights = torchvision_models.default_weights(name)
        file = downloads.file_of_url(weights.url)
        # Megabytes in torchvision's sense.
        num_bytes = _size_of(file) or round(weights.meta["_file_size"] * 2**20)
        side, count = weights.transforms.keywords["crop_size"], weights.meta["num_params"]
        yield Pretrained(name, "torchvision", (side, side), count, num_bytes, is_here=file.exists())


def _timms(pattern: str) -> Iterator[Pretrained]:
    if not timm_models.is_installed():
        return
    names = [f"timm:{name}" for name in timm_models.tagged_names()]
    chosen = [
        name
        for name in names
        if fits_glob(name, pattern) or fits_glob(name.partition(".")[0], pattern)
    ]
    is_counted = len({name.partition(".")[0] for name in chosen}) <= MOST_COUNTED
    for name in chosen:
        call = parse(name)
        config = timm_models.config_of(call)
        file = timm_weights.file_here(call, config)
        count = _count(call.name, config.num_classes) if is_counted else None
        size = config.input_size[-2:]
        yield Pretrained(name, "timm", size, count, _size_of(file), is_here=file is not None)


@functools.cache
def _count(name: str, num_classes: int) -> int | None:
    """Return the parameters of one of timm's models; None of one that computes with its weights
    while it is built.
    """
    import timm

    try:
        with without_memory():
            model = timm.create_model(name, num_classes=num_classes)
    except (*REFUSALS, *STUMBLES):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def _size_of(file: Path | None) -> int | None:
    return file.stat().st_size if file is not None and file.exists() else None
