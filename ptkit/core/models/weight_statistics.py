"""How the weights of a model are spread, by layer, compared with what their fan-in suggests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptkit.core.wording import table


@dataclass(frozen=True)
class WeightStatistics:
    """One parameter.

    std: over all values, not of a sample. expected_std: None unless it is the weight of a layer.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    min: float
    max: float
    expected_std: float | None


@torch.no_grad()
def weight_statistics(model: nn.Module) -> list[WeightStatistics]:
    """Return a row for each parameter, in the model's order.

    expected_std is sqrt(2 / fan_in), which keeps the variance through rectifiers (He et al. 2015,
    equation 10).
    """
    return [_row(name, p) for name, p in model.named_parameters() if p.numel()]


def as_text(rows: Sequence[WeightStatistics]) -> str:
    """Return the rows as a table in aligned columns."""
    header = ["parameter", "shape", "mean", "std", "min", "max", "std for ReLU"]
    cells = [
        (
            row.name,
            "×".join(map(str, row.shape)) or "1",
            *(f"{value:.4g}" for value in (row.mean, row.std, row.min, row.max)),
            "-" if row.expected_std is None else f"{row.expected_std:.4g}",
        )
        for row in rows
    ]
    return table(header, cells)


def _row(name: str, parameter: Tensor) -> WeightStatistics:
    values = parameter.detach().float()
    # One read from the device for all four.
    mean, std, low, high = torch.stack(
        [values.mean(), values.std(correction=0), values.min(), values.max()]
    ).tolist()
    expected = None
    # Tokens and tables of positions have none.
    if parameter.ndim >= 2 and name.rpartition(".")[2].endswith("weight"):
        expected = math.sqrt(2 / nn.init._calculate_fan_in_and_fan_out(parameter)[0])
    return WeightStatistics(name, tuple(parameter.shape), mean, std, low, high, expected)
