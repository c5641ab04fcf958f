"""Where in images a model looked, for any layer and class: pictures, and a table of boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptkit.core.data.keyed import Sampling, spread
from ptkit.core.data.labels import REGRESSION
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.streaming import Unreadable
from ptkit.core.errors import DataError, UsageError
from ptkit.core.models.gradcam import explained_layer, gradcam, top_region
from ptkit.core.models.hooks import match_layers, trace_layers
from ptkit.core.sizes import evaluation_batch_size
from ptkit.core.training.tasks.task import EMBEDDING
from ptkit.core.wording import nearest
from ptkit.looking.pictures import add_events
from ptkit.looking.subject import Subject
from ptkit.plots.gradcam import Explained, gradcam_figure
from ptkit.plots.saving import PictureFolder, file_names

# All layers of so many images are kept for backward.
_IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class Region:
    """What speaks for one class in one image, in one layer.

    image: as the network sees it, uint8 (H, W, 3). heat: float32 (H, W), 0..1. value: the class's
    probability, or the number. box: of the hottest region, x1, y1, x2, y2 in pixels of `image`,
    ends exclusive; None where nothing speaks for the class.
    """

    path: str
    layer: str
    class_name: str
    value: float
    image: npt.NDArray[np.uint8]
    heat: npt.NDArray[np.float32]
    box: tuple[int, int, int, int] | None

    @property
    def box_share(self) -> float | None:
        """The box's share of the image."""
        if self.box is None:
            return None
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1) / self.heat.size


def find_classes(subject: Subject, names: Sequence[str]) -> list[int]:
    """Return the columns of the outputs that belong to classes.

    Raises:
        UsageError: no such class, or a model without a score for each class.
    """
    known = subject.class_names
    if subject.task.kind == EMBEDDING:
        raise UsageError(
            f"{subject.weights.source} compares images and has no score a class, which Grad-CAM"
            " needs"
        )
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; there are {len(known):,}, {known[0]} the first"
            raise UsageError(f"--class {name} is no class of {subject.weights.source}{hint}")
    return [known.index(name) for name in names]


def find_regions(
    subject: Subject,
    images: ImageList,
    *,
    layers: Sequence[str] | None = None,
    classes: Sequence[int] = (),
    device: torch.device,
    workers: int = 0,
    bad: Unreadable | None = None,
) -> Iterator[Region]:
    """Yield the regions of each image, by layer and class, in the order of the list.

    layers: names or globs; by default that of `explained_layer`. classes: columns of the outputs;
    by default the most probable class of each image, or the first number. bad: gets the images that
    cannot be read, which have no regions; without it they are an error.

    Raises:
        DataError: an image that cannot be read, or with `bad` none that can.
        UsageError: a pattern that matches no layer, or a layer without maps.
        CheckpointError: the saved pipeline names user code.
    """
    model = subject.model.to(device)
    sampling = Sampling(evaluation_batch_size(subject.weights.size))
    pipeline = subject.parse_pipeline()
    batches = Batches(images, pipeline, sampling, device=device, workers=workers)
    chosen: list[str] = []
    for made in batches.epoch(bad=bad):
        good = [k for k, index in enumerate(made.indices.tolist()) if index not in (bad or ())]
        if not good:
            continue
        # Of several crops the first.
        batch = made.images[:: made.num_crops][good]
        values = _values(subject, batch)
        columns = [[k] * len(batch) for k in classes] or [_explained(subject, values)]
        if not chosen and layers:
            chosen = match_layers(trace_layers(model, batch), layers)
        # One layer for all images: that of the first batch.
        first = slice(_IMAGES_AT_ONCE)
        chosen = chosen or [
            explained_layer(model, batch[first], columns[0][first], sign=_sign(subject))
        ]
        heats = {
            (layer, place): _heats(model, batch, column, layer=layer, sign=_sign(subject))
            for layer in chosen
            for place, column in enumerate(columns)
        }
        shown = subject.pixels(batch)
        for row, index in enumerate(made.indices[good].tolist()):
            path = images.listed_path(index)
            for (layer, place), heat in heats.items():
                k = columns[place][row]
                name, value = subject.class_names[k], float(values[row, k])
                box = top_region(heat[row])
                yield Region(path, layer, name, value, shown[row], heat[row], box)
    if bad and len(bad) == len(images):
        raise DataError(f"no image can be read; the first: {bad[0]}")


def _heats(
    model: nn.Module, batch: Tensor, column: Sequence[int], *, layer: str, sign: float
) -> npt.NDArray[np.float32]:
    """Return `gradcam` of a batch, a few images at a time."""
    parts = [
        slice(start, start + _IMAGES_AT_ONCE) for start in range(0, len(batch), _IMAGES_AT_ONCE)
    ]
    return np.concatenate(
        [gradcam(model, batch[part], column[part], layer=layer, sign=sign) for part in parts]
    )


def draw_regions(
    regions: Iterator[Region],
    images: ImageList,
    pictures: PictureFolder,
    *,
    num_images: int,
    classes: Sequence[str],
    source: str,
) -> list[dict[str, Any]]:
    """Write a picture for each layer, the table of all boxes, and TensorBoard images; return the
    rows of the table.

    num_images: in the pictures, spread over the list. classes: the explained ones, none for those
    predicted.
    """
    drawn_paths = {images.listed_path(k) for k in spread(range(len(images)), num_images)}
    shown: dict[str, list[Explained]] = {}
    rows = []
    for region in regions:
        height, width = region.heat.shape
        edges = region.box or (None,) * 4
        box = dict(zip(("x1", "y1", "x2", "y2"), edges, strict=True))
        rows.append({
            "path": region.path, "layer": region.layer, "class": region.class_name,
            "value": region.value, **box, "share": region.box_share,
            "width": width, "height": height,
        })  # fmt: skip
        if region.path in drawn_paths:
            lines = [region.path, f"{region.class_name}: {region.value:.3g}"]
            explained = Explained(region.image, region.heat, region.box, lines)
            shown.setdefault(region.layer, []).append(explained)
    drawn = {}
    of = " and ".join(classes) or "what it answered"
    paths = {row["path"] for row in rows}
    footer = f"n = {len(drawn_paths & paths):,} of {len(paths):,} images · {source}"
    for layer, name in zip(shown, file_names("", shown), strict=True):
        figure = gradcam_figure(shown[layer], layer=layer, of=of, footer=footer)
        drawn[f"gradcam/{layer}"] = pictures.add_figure(f"gradcam-{name}.png", figure)
    pictures.add_csv("gradcam.csv", list(rows[0]), [list(row.values()) for row in rows])
    add_events(pictures, drawn)
    return rows


def _values(subject: Subject, images: Tensor) -> npt.NDArray[np.float32]:
    subject.model.eval()
    with torch.inference_mode():
        outputs = subject.model(images)
    return subject.task.on(images.device).values(outputs).cpu().numpy()


def _explained(subject: Subject, values: npt.NDArray[np.float32]) -> list[int]:
    if subject.task.kind == REGRESSION:
        return [0] * len(values)
    return [int(k) for k in values.argmax(axis=1)]


def _sign(subject: Subject) -> float:
    """Return -1 where the lowest output wins."""
    return -1.0 if subject.task.activation == "negative" else 1.0
