"""Models by name: ours, torchvision's, timm's where it is installed, and a user's own factory."""

import functools
import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.models import packaged_weights, timm_models
from ptkit.core.models.channels import input_channels
from ptkit.core.models.hooks import evaluating, taking
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue
from ptkit.core.parts.part import Part
from ptkit.core.sizes import Sides, is_small, sides_of
from ptkit.core.wording import counted

_RUN_GIVES = frozenset({"num_classes"})
_SUMMARIES = {
    "lenet:lenet": "LeNet, 62,000 parameters at 32 pixels",
    "resnet:resnet8": "78,000 parameters, for small images",
    "resnet:resnet20": "0.27 million parameters, for small images",
    "resnet:resnet56": "0.86 million parameters, for small images",
    "whitenet:whitenet": "quick to train, first layer whitens; for small images",
    "resnet:resnet34_tutorial": "the course's ResNet-34, 47 million parameters",
    "efficientnet_lite:efficientnet_lite0": "4.7 million parameters, for photographs; has weights",
}
_OURS = Catalogue(
    "model",
    {
        place.partition(":")[2]: Part(f"ptkit.core.models.{place}", summary, _RUN_GIVES)
        for place, summary in _SUMMARIES.items()
    },
)
# What a model is looked at with where nobody says a size: most of ours are made for small images,
# torchvision's for ImageNet.
_OUR_SIZE, _USUAL_SIZE = 32, 224
_FOR_PHOTOS = packaged_weights.NAMES
# Arguments about weights; a model that is built here starts with fresh ones.
_WEIGHT_ARGUMENTS = ("weights", "progress", "pretrained", *timm_models.WEIGHT_ARGUMENTS)


@functools.cache
def models() -> Catalogue:
    """Return all models by name. A function, because the names of torchvision's cost its import,
    three seconds.
    """
    from ptkit.core.models import torchvision_models

    module = torchvision_models.__name__
    parts = {
        n: Part(f"{module}:{n}", torchvision_models.summary(n), _RUN_GIVES)
        for n in torchvision_models.names()
    }
    return Catalogue("model", {**_OURS.parts, **parts})


def default_model(size: int) -> str:
    """Return the call of the model that suits images of `size` pixels."""
    return "resnet8()" if is_small(size) else "resnet18()"


def with_zero_init(call: Call) -> Call:
    """Return the call of a model that is to be trained from scratch so that each of its blocks
    begins as the identity, where it has blocks that can and the call says nothing.

    The last norm of a block then starts at zero, without which a deep network may explode in its
    first steps (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1).
    """
    argument = "zero_init_residual"
    if argument in call.kwargs or not takes(call, argument):
        return call
    return call.updated({argument: True})


def origin(name: str) -> str:
    """Return where a model of the catalogue comes from: `ptkit` or `torchvision`."""
    return "ptkit" if name in _OURS.parts else "torchvision"


def usual_size(call: Call) -> int:
    """Return the pixels of a side that a model is made for: what its call says, or what its kind is
    used with.

    Raises:
        UsageError: a model of timm's that is not there.
    """
    for key in ("size", "image_size", "img_size", "input_size"):
        value = call.kwargs.get(key)
        side = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(side, int):
            return side
    if call.prefix == "timm":
        timm_models.check_name(call)
        return timm_models.usual_size(call)
    is_for_small = call.name in _OURS.parts and call.name not in _FOR_PHOTOS
    return _OUR_SIZE if is_for_small and not call.prefix else _USUAL_SIZE


def build_model(
    call: str | Call,
    *,
    num_classes: int,
    size: int | Sides | None,
    seed: int,
    channels: int | None = None,
) -> tuple[nn.Module, str]:
    """Build a model with fresh weights; return it and the text of the call that would build the
    same one again.

    size: pixels of a side, or height and width, channels: of the images; they settle what the call
        leaves open (the stem of a ResNet, a transformer's patches, in_channels); None leaves the
        model's own defaults. The text has what was settled, and no num_classes.
    seed: of the weights. The global random state is left as it was.

    Raises:
        UsageError: unknown name or argument, or num_classes in the call that is not that of the
            data.
    """
    call = _without_num_classes(parse(call) if isinstance(call, str) else call, num_classes)
    catalogue = _catalogue(call)
    if call.prefix == "timm":
        timm_models.check_name(call)
        # A tag names weights: the model is the same without.
        call = replace(call, tag="").updated(timm_models.settled(call, size, channels))
    else:
        call = _settled(call, catalogue.find(call), size, channels)
    # Not torch.manual_seed: that would reseed the GPU's generator as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if call.prefix == "timm":
            model = timm_models.create(call, num_classes=num_classes)
        else:
            model = catalogue.build(call, supplied={"num_classes": num_classes})
    if not isinstance(model, nn.Module):
        raise call.error(f"{call.name} must return a torch.nn.Module, found {type(model).__name__}")
    return model, str(call)


def check_forward(
    model: nn.Module, size: int | Sides, *, num_classes: int | None = None, channels: int = 3
) -> int:
    """Run one black image through the model, which stays as it was; return its number of scores.

    size: pixels of a side, or height and width. num_classes: the number of scores an image must
    give, if known. channels: of the image.

    Raises:
        UsageError: the model does not take such an image, or gives something else than
            (1, num_classes) scores.
    """
    like = next(model.parameters(), torch.zeros(()))
    height, width = sides_of(size)
    image = torch.zeros(1, channels, height, width, dtype=like.dtype, device=like.device)
    remedy = ": change --size, --model or the transforms"
    if (taken := input_channels(model)) != channels:
        remedy = (
            f": it takes {counted(taken, 'channel')} and the images have {channels}; add"
            f" Grayscale(num_output_channels={taken}) to the transforms, or change --model"
        )
    with taking(model, image, remedy=remedy), evaluating(model), torch.no_grad():
        scores = model(image)
    if not isinstance(scores, Tensor) or scores.shape != (1, num_classes or scores.shape[-1]):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UsageError(
            f"{type(model).__name__} must give (images, {num_classes or 'classes'}) scores, found"
            f" {found}"
        )
    return scores.shape[-1]


def takes(call: Call, argument: str) -> bool:
    """Say whether a model of the catalogue takes an argument; of a user's own nothing is known."""
    if call.prefix:
        return False
    return argument in inspect.signature(_catalogue(call).find(call).load()).parameters


def find_head(model: nn.Module, num_classes: int) -> str:
    """Return the name of the layer that classifies: the last linear or convolution with
    `num_classes` outputs.

    Raises:
        UsageError: there is none.
    """
    heads: list[str] = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes)
    ]
    if not heads:
        raise UsageError(
            f"{type(model).__name__} has no linear layer or convolution with {num_classes} outputs"
        )
    return heads[-1]


def _catalogue(call: Call) -> Catalogue:
    return _OURS if call.prefix or call.name in _OURS.parts else models()


def _without_num_classes(call: Call, num_classes: int) -> Call:
    """Return the call without what the run gives, having refused what contradicts it."""
    found = call.kwargs.get("num_classes", num_classes)
    if found != num_classes:
        raise call.error(
            f"the data has {num_classes} classes; leave num_classes out", "num_classes"
        )
    is_torchvisions = not call.prefix and call.name not in _OURS.parts
    # Those of a user's own model mean what the user says.
    has_pretrained = is_torchvisions or call.prefix == "timm"
    for key in _WEIGHT_ARGUMENTS:
        if has_pretrained and key in call.kwargs:
            raise call.error(
                f"{key} is not part of a model: ptkit finetune {call.full_name} starts from"
                " pretrained weights",
                key,
            )
    return call.without("num_classes")


def _settled(call: Call, part: Part, size: int | Sides | None, channels: int | None) -> Call:
    """Return the call with the arguments that follow from the images, where they are left out."""
    follows: dict[str, Any] = {"stem": "standard"}
    if size is not None:
        height, width = sides_of(size)
        stem = "small" if is_small(min(height, width)) else "standard"
        follows = {"stem": stem, "input_size": (height, width)}
        # Models that want one number take squares only.
        if height == width:
            follows |= {"size": height, "image_size": height}
    # Of a user's own model the other names may mean anything.
    if call.prefix:
        follows = {}
    if channels is not None:
        follows["in_channels"] = channels
    takes = inspect.signature(part.load()).parameters
    settled = {
        key: value
        for key, value in follows.items()
        if key in takes and call.kwargs.get(key) is None and value != takes[key].default
    }
    return call.updated(settled)
