"""Which model a state dict was trained in, for messages about weights that do not fit."""

from collections.abc import Mapping

from torch import Tensor

from ptkit.core.models.matching import fits
from ptkit.core.models.weightless import without_memory
from ptkit.core.models.weights import plain_names
from ptkit.core.models.zoo import build_model, models

# A head for other classes, and a stem for images of another size.
MAY_DIFFER = 3
# As many tensors as LeNet has.
_FEWEST = 10


def recognised(given: Mapping[str, Tensor]) -> str:
    """Return `; they look like those of NAME`, or nothing where no model of ours or of
    torchvision's has these names and shapes. Takes up to three seconds.
    """
    named = plain_names(given)
    if len(named) < _FEWEST:
        return ""
    for name in models().parts:
        with without_memory():
            model, _ = build_model(name, num_classes=2, size=None, seed=0)
        own = model.state_dict()
        num_alike = sum(fits(own, *item) for item in named.items())
        # None of too many, nor of too few: a ResNet-18 is a part of a ResNet-34.
        if max(len(own), len(named)) - num_alike <= MAY_DIFFER and 2 * num_alike > len(own):
            return f"; they look like those of {name}"
    return ""
