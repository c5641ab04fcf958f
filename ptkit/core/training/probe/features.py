"""The features of a list: computed once, and kept on disk for the next run."""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.data.keyed import Indices
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.entries import (
    PIXELS,
    EntryWriter,
    entry_name,
    find_entry,
    is_whole,
)
from ptkit.core.data.loading.keeping import list_key
from ptkit.core.device import autocast
from ptkit.core.distributed import in_list_order
from ptkit.core.errors import UsageError
from ptkit.core.machine import keep_freed_memory
from ptkit.core.models.features import features
from ptkit.core.training.probe.linear_head import Head, fit_head


@dataclass(frozen=True)
class Features:
    """views: float32 features (n, D) of the images and, if they are used, of their mirror images.
    labels: (n,) classes.
    """

    views: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Any) -> "Features":
        """Return the features of some images."""
        return Features(tuple(view[rows] for view in self.views), self.labels[rows])

    def fitted(self, *, num_classes: int, penalty: float) -> Head:
        """Return the head that fits all views."""
        return fit_head(
            torch.cat(self.views),
            self.labels.repeat(len(self.views)),
            num_classes=num_classes,
            penalty=penalty,
        )


def features_of(
    batches: Batches,
    model: nn.Module,
    *,
    is_mirrored: bool,
    dtype: torch.dtype | None,
    advance: Callable[[int], None],
) -> Features:
    """Run the images of a list through a model; the features are on the CPU, in the list's order.

    is_mirrored: of the mirror images too. dtype: of autocast, None for float32.
    """
    of = features(model, num_classes=batches.images.num_classes)
    views: tuple[list[Tensor], list[Tensor]] = [], []
    places: list[Indices] = []
    keep_freed_memory()
    model.eval()
    with torch.inference_mode():
        for batch in batches.epoch():
            seen = (batch.images, batch.images.flip(-1)) if is_mirrored else (batch.images,)
            kept = 0 if batch.is_stand_in else len(batch.labels)
            places.append(batch.indices[:kept])
            for view, images in zip(views, seen, strict=False):
                with autocast(images.device, dtype):
                    found = of(images)
                # The head is linear: the mean over crops commutes with it.
                each = found.unflatten(0, (-1, batch.num_crops)).mean(dim=1)
                view.append(each[:kept].cpu())
            advance(batch.whole_size)
    order = np.concatenate(places)
    # Out of inference mode, in which nothing can be fitted.
    found_views = tuple(in_list_order(torch.cat(view), order).clone() for view in views if view)
    if not all(bool(view.isfinite().all()) for view in found_views):
        is_half = dtype is torch.float16
        remedy = "pass --precision fp32" if is_half else "look at its weights and the transforms"
        raise UsageError(f"some features of the model are NaN or infinite: {remedy}")
    return Features(found_views, torch.from_numpy(batches.images.labels))


def features_key(images: ImageList, parts: Iterable[Any], weights: dict[str, Tensor]) -> str:
    """Return the hexadecimal key of a list's features, which changes when anything about them does.

    It covers path, size and time of every file and the bytes of the weights; parts: the rest.
    """
    total = hashlib.sha256()
    for name, tensor in weights.items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        # As bytes: numpy has no bfloat16.
        plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        total.update(plain.numpy().tobytes())
    return list_key(images, ("features", total.hexdigest(), *parts))


def kept_features(images: ImageList, key: str, *, num_views: int) -> Features | None:
    """Return the features that an earlier run kept on disk under a key; None if it kept none."""
    entry = find_entry(entry_name(images.file, key), key=key)
    if entry is None:
        return None
    try:
        if not is_whole(entry):
            return None
        values = np.fromfile(entry.folder / PIXELS, np.float32).reshape(num_views, len(images), -1)
    except (OSError, ValueError):  # removed or damaged since it was found
        return None
    return Features(tuple(torch.from_numpy(values)), torch.from_numpy(images.labels))


def keep_features(found: Features, images: ImageList, key: str) -> None:
    """Keep the features of a list on disk under a key.

    Raises:
        StorageError: the disk refused; nothing is left of what was written.
    """
    facts = {
        "key": key,
        "kind": "features",
        "list": str(images.file.absolute()),
        "num_images": len(images),
        "size": None,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    values = torch.stack(found.views).numpy()
    with EntryWriter(entry_name(images.file, key), facts) as writer:
        writer.write(values)
        told = {"nbytes": values.nbytes, "sizes_nbytes": 0, "hashes_nbytes": 0}
        writer.finish(told, hashes=b"")
