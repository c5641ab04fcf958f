"""Kernels: the convolutions in a state dict, found by the shape of their weights alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ptkit.core.errors import CheckpointError
from ptkit.core.models.hooks import match_names
from ptkit.looking.pictures import add_events
from ptkit.plots.kernel_spectrum import singular_values, spectrum_rows
from ptkit.plots.kernel_stats import kernel_rows, kernel_stats
from ptkit.plots.kernels import KernelLook, kernel_figure, output_mosaics, shows_spectrum
from ptkit.plots.saving import PictureFolder, file_names


def find_kernels(
    state_dict: Mapping[str, Tensor], patterns: Sequence[str] | None, *, path: Path
) -> dict[str, np.ndarray]:
    """Return layer -> float32 (outputs, inputs, height, width), in the state dict's order.

    patterns: names or globs of layers, with or without their `.weight`; None means all. path: for
    the error message.

    Raises:
        CheckpointError: no four-dimensional weights.
        UsageError: a pattern that matches none of them.
    """
    found = {
        name.removesuffix(".weight"): tensor
        for name, tensor in state_dict.items()
        if tensor.ndim == 4 and tensor.is_floating_point() and tensor.numel()
    }
    if not found:
        raise CheckpointError(
            f"{path} has no convolution kernels: none of its {len(state_dict):,} tensors is 4-D"
        )
    chosen = list(found)
    if patterns:
        named = [pattern.removesuffix(".weight") for pattern in patterns]
        chosen = match_names(chosen, named, what="convolution")
    return {name: found[name].detach().float().cpu().numpy() for name in chosen}


def draw_kernels(
    kernels: Mapping[str, np.ndarray],
    pictures: PictureFolder,
    *,
    source: str,
    look: KernelLook | None = None,
) -> list[str]:
    """Write a picture for each layer, tables of all output channels and of the singular values, and
    TensorBoard images.

    kernels: of `find_kernels`. Returns a line of text for each layer.
    """
    look = look or KernelLook()
    drawn: dict[str, np.ndarray] = {}
    rows, values, lines = [], [], []
    for layer, name, figure in kernel_figures(kernels, source=source, look=look):
        weight, stats = kernels[layer], kernel_stats(kernels[layer])
        drawn[f"{layer}/kernels"] = pictures.add_figure(f"kernels-{name}.png", figure)
        for channel, image in output_mosaics(weight, look=look):
            drawn[f"{layer}/output {channel}"] = image
        rows += kernel_rows(layer, stats)
        if shows_spectrum(weight, look):
            values += spectrum_rows(layer, singular_values(weight))
        shape = "×".join(map(str, weight.shape))
        lines.append(f"{layer}: {shape}, {stats.num_dead:,} of {len(weight):,} dead")
    header = ["layer", "output_channel", "norm", "min", "max", "is_dead"]
    pictures.add_csv("kernels.csv", header, rows)
    if values:
        header = ["layer", "rank", "singular_value", "share_of_squared_norm"]
        pictures.add_csv("spectra.csv", header, values)
    add_events(pictures, drawn)
    return lines


def kernel_figures(
    kernels: Mapping[str, np.ndarray], *, source: str, look: KernelLook | None = None
) -> Iterator[tuple[str, str, Figure]]:
    """Yield each layer with a name for a file and its picture."""
    for layer, file_name in zip(kernels, file_names("", kernels), strict=True):
        weight, footer = kernels[layer], f"n = {len(kernels[layer]):,} output channels · {source}"
        figure = kernel_figure(weight, layer=layer, look=look, footer=footer)
        yield layer, file_name, figure
