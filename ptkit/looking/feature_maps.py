"""Image files as a model sees them, and what its layers make of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.device import channels_last
from ptkit.core.errors import UsageError
from ptkit.core.models.following import record_following
from ptkit.core.models.hooks import (
    Layer,
    default_layers,
    match_layers,
    record_activations,
    trace_layers,
)
from ptkit.core.wording import check_choice, short_paths
from ptkit.looking.pictures import add_events
from ptkit.looking.subject import Subject
from ptkit.plots.feature_maps import MAP_SCALES, MapLook, feature_map_figure, map_rows, map_stats
from ptkit.plots.saving import PictureFolder, file_names
from ptkit.plots.tiles import grid_of


@dataclass(frozen=True)
class Views:
    """Some images, n of them.

    tensors: float (n, C, H, W), what the model gets, on its device. pixels: the same de-normalised,
    uint8 (n, H, W, 3). names: files, with their folder where names repeat.
    """

    tensors: Tensor
    pixels: np.ndarray
    names: tuple[str, ...]


def load_images(
    subject: Subject, paths: Sequence[str], *, device: torch.device, is_optional: bool = False
) -> Views:
    """Read images through the subject's evaluation pipeline, onto a device.

    is_optional: without paths, one black image of the subject's size.

    Raises:
        DataError: an image that cannot be read, or sizes that do not agree.
        UsageError: no paths.
        CheckpointError: the saved pipeline names user code.
    """
    pipeline = subject.parse_pipeline()
    if paths:
        tensors = [_one_view(pipeline.read_image(path)) for path in paths]
    elif is_optional and (size := pipeline.size or subject.weights.size):
        tensors = [torch.zeros(pipeline.channels or 3, *np.broadcast_to(size, 2).tolist())]
    else:
        raise UsageError("no images: name at least one image file")
    same_shape([tuple(tensor.shape) for tensor in tensors], pipeline.calls)
    batch = channels_last(torch.stack(tensors))
    return Views(batch.to(device), subject.pixels(batch), tuple(short_paths(paths)))


def _one_view(image: Tensor) -> Tensor:
    """Return (C, H, W): of several crops that of the centre, of two views the first."""
    # The fifth of FiveCrop and TenCrop.
    return image if image.ndim == 3 else image[4 if len(image) > 4 else 0]


def find_layers(
    subject: Subject, views: Views, patterns: Sequence[str] | None
) -> tuple[list[Layer], list[str]]:
    """Return the layers that run, and the names of those to draw: that match names or globs, or
    the usual ones.

    Raises:
        UsageError: a pattern that matches nothing, or images of a size that it does not take.
    """
    layers = trace_layers(subject.model, views.tensors)
    return layers, match_layers(layers, patterns) if patterns else default_layers(layers)


def look_of(scale: str, *, columns: int | None, gap: int | None, gap_colour: str | None) -> MapLook:
    """Return how maps are to be shown.

    Raises:
        UsageError: no such scale or colour.
    """
    check_choice("--scale", scale, MAP_SCALES)
    return MapLook(scale, grid_of(columns, gap, gap_colour))


def record_maps(
    subject: Subject, views: Views, layers: Sequence[str], *, after: str | None = None
) -> dict[str, np.ndarray]:
    """Return what layers give, (n, C, H, W) by layer; after: or what this function makes of it.

    Raises:
        UsageError: the function does not follow a layer.
    """
    if after is None:
        return record_activations(subject.model, views.tensors, layers)
    found = record_following(subject.model, views.tensors, layers, function=after)
    return {f"{layer} after {after}": maps for layer, maps in found.items()}


def draw_feature_maps(
    maps: Mapping[str, np.ndarray],
    views: Views,
    pictures: PictureFolder,
    *,
    source: str,
    look: MapLook | None = None,
) -> list[str]:
    """Write a picture for each layer, the table of all channels, and TensorBoard images.

    maps: by layer, (n, C, H, W). Returns a line of text for each layer.
    """
    # The images side by side.
    drawn, rows, lines = {"input": np.concatenate(list(views.pixels), axis=1)}, [], []
    footer = f"n = {len(views.names)} · {source}"
    figures = layer_figures(maps, views.pixels, names=views.names, footer=footer, look=look)
    for layer, name, figure in figures:
        drawn[f"feature maps/{layer}"] = pictures.add_figure(f"features-{name}.png", figure)
        stats = map_stats(maps[layer])
        rows += map_rows(layer, stats)
        shape, num_dead = "×".join(map(str, maps[layer].shape[1:])), stats.is_dead.sum()
        lines.append(f"{layer}: {shape}, {num_dead:,} of {len(stats.is_dead):,} channels dead")
    header = ["layer", "channel", "min", "max", "mean_magnitude", "is_dead"]
    pictures.add_csv("feature_maps.csv", header, rows)
    add_events(pictures, drawn)
    return lines


def layer_figures(
    maps: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    *,
    names: Sequence[str],
    footer: str,
    look: MapLook | None = None,
) -> Iterator[tuple[str, str, Figure]]:
    """Yield each layer with a name for a file and its picture; names: of the images."""
    for layer, file_name in zip(maps, file_names("", maps), strict=True):
        figure = feature_map_figure(
            maps[layer], pixels, layer=layer, names=names, look=look, footer=footer
        )
        yield layer, file_name, figure
