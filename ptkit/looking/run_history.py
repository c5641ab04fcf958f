"""What happened to a run's layers from epoch to epoch, read from its files: pictures and tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptkit.core.run_files import floats, sound_layers
from ptkit.core.training.distributions import KINDS, PERCENTILES, Distributions, read_distributions
from ptkit.plots.distributions import distribution_figure
from ptkit.plots.gradient_flow import flow_figure
from ptkit.plots.output_bias import bias_figure


@dataclass(frozen=True)
class HistoryPicture:
    """A figure with the numbers behind it; name: of both files, without an ending."""

    name: str
    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def history_pictures(
    run: Path, *, class_names: Sequence[str], footer: str
) -> Iterator[HistoryPicture]:
    """Yield what the files of a run have: distributions, gradient flow, the bias of the outputs."""
    distributions = read_distributions(run)
    if distributions is not None:
        yield _distributions(distributions, footer)
    lines = sound_layers(run)
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    start = next((line for line in lines if line.get("kind") == "start"), {})
    if any(line["weights"] for line in epochs):
        yield _flow(epochs, start, footer=footer)
    if epochs and all(line.get("output_bias") for line in epochs):
        yield _bias(epochs, class_names=class_names, footer=footer)


def _distributions(found: Distributions, footer: str) -> HistoryPicture:
    figure = distribution_figure(
        found.epochs,
        found.layers,
        KINDS,
        percentiles=found.percentiles,
        counts=found.counts,
        footer=footer,
    )
    rows = [
        (epoch, layer, kind, *found.percentiles[e, place, k].tolist())
        for e, epoch in enumerate(found.epochs)
        for place, layer in enumerate(found.layers)
        for k, kind in enumerate(KINDS)
        if np.isfinite(found.percentiles[e, place, k]).all()
    ]
    header = ["epoch", "layer", "of", *(f"p{p}" for p in PERCENTILES)]
    return HistoryPicture("distributions", figure, header, rows)


def _flow(
    epochs: Sequence[dict[str, Any]], start: Mapping[str, Any], *, footer: str
) -> HistoryPicture:
    """Draw the layers that are trained, each from its first epoch on."""
    weights = start.get("weights", {})
    names = [k for k in epochs[-1]["weights"] if weights.get(k, {}).get("trained", True)]
    first = {name: weights.get(name, {}).get("from_epoch", 1) for name in names}
    ratios: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows = []
    for line in epochs:
        for name in names:
            norms = line["weights"].get(name, {})
            weight, update = (floats(norms.get(key, [])) for key in ("weight", "update"))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = update / weight
            if line["epoch"] < first[name]:
                ratio = np.full_like(ratio, np.nan)
            ratios[name].append(ratio)
            known = ratio[np.isfinite(ratio)]
            median = float(np.median(known)) if known.size else None
            rows.append((line["epoch"], name, median))
    joined = {name: np.concatenate(parts) for name, parts in ratios.items()}
    norms = np.concatenate([floats(line["grad_norm"]) for line in epochs])
    clip = start.get("clip_grad")
    figure = flow_figure(joined, norms, num_epochs=len(epochs), clip=clip, footer=footer)
    return HistoryPicture("gradient_flow", figure, ["epoch", "layer", "median_ratio"], rows)


def _bias(
    epochs: Sequence[dict[str, Any]], *, class_names: Sequence[str], footer: str
) -> HistoryPicture:
    numbers = [line["epoch"] for line in epochs]
    biases = np.stack([floats(line["output_bias"]) for line in epochs])
    num_outputs = biases.shape[1]
    # A loss may want other outputs than one a class.
    names = class_names if len(class_names) == num_outputs else list(map(str, range(num_outputs)))
    figure = bias_figure(numbers, biases, class_names=names, footer=footer)
    rows = [
        (epoch, name, float(value))
        for epoch, values in zip(numbers, biases, strict=True)
        for name, value in zip(names, values, strict=True)
    ]
    return HistoryPicture("output_bias", figure, ["epoch", "class", "bias"], rows)
