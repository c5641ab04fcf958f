"""Transforms that draw from generators of torch, numpy and Python: torchvision's policies and a
user's own.

The generators are seeded anew for each image, by that image's draw.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from ptkit.core.data.transforms.generators import finds_others, is_search_due, seed_all
from ptkit.core.data.transforms.spec import (
    FEW_MODES,
    FILL,
    NEEDS_0_TO_1,
    ROTATION_MODES,
    Draws,
    Spec,
    interpolation,
    kept_channels,
)
from ptkit.core.parts.argument_rules import (
    ABOVE_0,
    COUNT,
    Together,
    either,
    flag,
    member_of,
    one_of,
    text,
    whole,
)
from ptkit.core.parts.catalogue import load_function


class Lambda(nn.Module):
    """Apply a user's function, named as "module:function" or "file.py:function", to the image."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = load_function(function)

    def forward(self, image: Any) -> Any:
        return self.function(image)


def apply_foreign(transform: Any, image: Any, draws: Draws) -> Any:
    """Apply a transform after seeding all generators for this one image."""
    code = code_of(transform)
    seed_for(transform, draws)
    is_search = is_search_due(code)
    # Copies: what works in place must not change an image that is kept for the next epoch, or that
    # is needed again below.
    if isinstance(image, Tensor):
        result = transform(image.clone())
    else:
        result = transform(image.copy() if is_search else image)
    # What this very run made could not be seeded before it drew.
    if is_search and finds_others(code):
        return apply_foreign(transform, image, draws)
    if not isinstance(result, Tensor | Image):
        raise TypeError(f"it must return a tensor or a PIL image, found {type(result).__name__}")
    return result


def seed_for(transform: Any, draws: Draws) -> None:
    """Seed all generators for the image that has this draw, (1,)."""
    # It has 53 random bits.
    seed_all(code_of(transform), int(draws[0] * (1 << 53)))


def code_of(transform: Any) -> Any:
    """Return what of a transform is the user's code, from which generators are looked for."""
    return transform.function if isinstance(transform, Lambda) else transform


# What the rows share.
_foreign = partial(
    Spec,
    draws=1,
    apply=apply_foreign,
    size=lambda _t, _size: None,
    # A user's own code may give any number of them.
    channels=lambda _t, _channels: None,
    is_foreign=True,
)
_policy = partial(_foreign, channels=kept_channels, refuses=NEEDS_0_TO_1, tensor_modes=FEW_MODES)
_OF_POLICIES = {"interpolation": ROTATION_MODES, "fill": FILL}
# The row of what is not in the catalogue; for all we know it mirrors.
USERS_OWN = _foreign(object, "a transform of the user's own", mirrors=True, is_own=True)

_FUNCTION = text("text that names a function, as in 'module:function' or 'file.py:function'")
_BINS = whole(2, 1000)
SPECS = (
    _foreign(
        Lambda,
        'a function of your own: Lambda("module:function")',
        arguments={"function": _FUNCTION},
        example='"augment.py:invert"',
        is_own=True,
    ),
    _policy(
        v2.AutoAugment,
        "learned policies (Cubuk et al. 2019)",
        arguments=_OF_POLICIES
        | {"policy": member_of("AutoAugmentPolicy", "IMAGENET", "CIFAR10", "SVHN")},
    ),
    _policy(
        v2.RandAugment,
        "n random operations of one strength (Cubuk et al. 2020)",
        arguments=_OF_POLICIES
        | {"num_ops": COUNT, "magnitude": whole(0, 999), "num_magnitude_bins": _BINS},
        together=Together(
            lambda given: given["magnitude"] < given["num_magnitude_bins"],
            "magnitude must be below num_magnitude_bins",
        ),
    ),
    _policy(
        v2.TrivialAugmentWide,
        "one random operation (Müller and Hutter 2021)",
        arguments=_OF_POLICIES | {"num_magnitude_bins": _BINS},
    ),
    _policy(
        v2.AugMix,
        "mixed chains of operations (Hendrycks et al. 2020)",
        arguments=_OF_POLICIES
        | {
            "severity": whole(1, 10),
            "mixture_width": COUNT,
            "chain_depth": either(
                one_of(-1), COUNT, words="-1 (1 to 3, drawn) or a whole number of at least 1"
            ),
            # torch draws from a tensor of this number, and cannot for whole ones.
            "alpha": replace(ABOVE_0, meaning=float),
            "all_ops": flag(),
            # It turns PIL images into tensors.
            "interpolation": interpolation(*FEW_MODES),
        },
    ),
)
