"""A model with all that stands before and after it: from images to probabilities or numbers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

# In the graph of an image: what stands before the model; names of its nodes and weights have it.
PREPROCESSING = "preprocessing"

# What runs a file: images as its graph takes them to probabilities or numbers.
Run = Callable[[np.ndarray], np.ndarray]


class Answering(nn.Module):
    """Give probabilities (n, K), or numbers (n, D), of images as `preprocessing` takes them, or as
    the model does.

    read: outputs (n, num_outputs) to the result. is_half: whether the model computes in float16.
    """

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[Tensor], Tensor],
        *,
        preprocessing: nn.Module | None = None,
        is_half: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        # A copy: the caller's stays in float32.
        self.model = copy.deepcopy(model).half() if is_half else model
        self.read, self.is_half = read, is_half
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        outputs: Tensor = self.model(images.half() if self.is_half else images)
        return self.read(outputs.float())


@dataclass(frozen=True)
class Interface:
    """What goes into a graph and comes out.

    example: two images. output: the name of the result. is_any_size: whether images may have any
    height and width; they are (n, H, W, 3) then, and the number of images is free anyway.
    """

    example: Tensor
    output: str
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
