"""The check for strangers as a part of a graph."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from ptkit.core.calibration.strangers import TENSORS, Strangers


class StrangerCheck(nn.Module):
    """Tell how strange images are (n,), of outputs (n, K) and features (n, D).

    strangers: see there; its limit is not in the graph. probabilities: makes (n, K) of outputs,
    without temperature.
    """

    def __init__(
        self, strangers: Strangers, *, num_classes: int, probabilities: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.numbers, self.num_classes, self.probabilities = strangers, num_classes, probabilities
        # Not as constants, which torch.export would name by number.
        for name in TENSORS:
            self.register_buffer(name, getattr(strangers, name).clone())

    def forward(self, outputs: Tensor, features: Tensor) -> Tensor:
        own = replace(self.numbers, **{name: getattr(self, name) for name in TENSORS})
        return own.scores(self.probabilities(outputs), features)
