"""A model with all that stands before and after it: from images to probabilities or numbers, and
how strange the images are.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.exporting.stranger_check import StrangerCheck
from ptkit.core.models.features import seeing_features

# In the graph of an image: what stands before the model; names of its nodes and weights have it.
PREPROCESSING = "preprocessing"

# The outputs: one of the first two, and the third where strangers are told.
PROBABILITIES, NUMBERS, STRANGENESS = "probabilities", "numbers", "strangeness"

# What runs a file: images as its graph takes them to its outputs.
Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]
# What a module gives: the only output as it is, or several.
Given = Tensor | tuple[Tensor, ...]


class Answering(nn.Module):
    """Give probabilities (n, K), or numbers (n, D), of images as `preprocessing` takes them, or as
    the model does; and how strange they are, (n,), with `strangers`.

    read: outputs (n, num_outputs) to the result. is_half: whether the model computes in float16.
    """

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[Tensor], Tensor],
        *,
        preprocessing: nn.Module | None = None,
        strangers: StrangerCheck | None = None,
        is_half: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing, self.strangers = preprocessing, strangers
        # A copy: the caller's stays in float32.
        self.model = copy.deepcopy(model).half() if is_half else model
        self.read, self.is_half = read, is_half
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Given:
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        if self.is_half:
            images = images.half()
        if self.strangers is None:
            return self.read(self.model(images).float())
        with seeing_features(self.model, num_classes=self.strangers.num_classes) as seen:
            outputs = self.model(images).float()
            return self.read(outputs), self.strangers(outputs, seen())


def several(given: Given) -> tuple[Tensor, ...]:
    """Return the outputs, however many there are."""
    return (given,) if isinstance(given, Tensor) else tuple(given)


@dataclass(frozen=True)
class Interface:
    """What goes into a graph and comes out.

    example: two images. outputs: the names of the results. is_any_size: whether images may have any
    height and width; they are (n, H, W, 3) then, and the number of images is free anyway.
    """

    example: Tensor
    outputs: tuple[str, ...]
    is_any_size: bool

    @property
    def axes(self) -> dict[int, str]:
        """The dimensions that are free, with their names."""
        sides = {1: "height", 2: "width"} if self.is_any_size else {}
        return {0: "batch", **sides}

    @property
    def dimensions(self) -> dict[int, "torch.export.Dim"]:
        """The same for torch.export."""
        return {axis: torch.export.Dim(name, min=1) for axis, name in self.axes.items()}

    def trials(self) -> list[Tensor]:
        """Return inputs of other numbers of images, and where they are free of other sizes."""
        one, three = self.example[:1], self.example[[0, 1, 0]]
        return [one, three[:, : three.shape[1] * 2 // 3]] if self.is_any_size else [one, three]
