"""torchvision's classifiers as functions with honest signatures.

torchvision's builders take `**kwargs`, fix some of them, and some classes swallow what they do not
know (MobileNetV3, ConvNeXt). Here each name, as in `torchvision_models.resnet18`, is a function
whose signature holds what takes effect.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

from ptkit.core.models import downloads
from ptkit.core.models.channels import take_one_channel
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import Weights, unwrap
from ptkit.core.parts.calls import Call

# What a user may set, by class. None means torchvision's own value, which differs by model.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "AlexNet": {"dropout": 0.5},
    "ConvNeXt": {"stochastic_depth_prob": None, "layer_scale": 1e-6},
    "DenseNet": {"bn_size": 4, "drop_rate": 0.0, "memory_efficient": False},
    "EfficientNet": {"dropout": None, "stochastic_depth_prob": 0.2},
    "GoogLeNet": {"transform_input": False, "dropout": 0.2},
    "Inception3": {"transform_input": False, "dropout": 0.5},
    "MaxVit": {"input_size": (224, 224), "mlp_dropout": 0.0, "attention_dropout": 0.0},
    "MNASNet": {"dropout": 0.2},
    "MobileNetV2": {"width_mult": 1.0, "round_nearest": 8, "dropout": 0.2},
    "MobileNetV3": {"width_mult": 1.0, "reduced_tail": False, "dilated": False, "dropout": 0.2},
    "ResNet": {
        "stem": None,
        "zero_init_residual": False,
        "groups": None,
        "width_per_group": None,
        "replace_stride_with_dilation": None,
    },
    "SqueezeNet": {"dropout": 0.5},
    "SwinTransformer": {"mlp_ratio": 4.0, "dropout": 0.0, "attention_dropout": 0.0},
    "VGG": {"dropout": 0.5},
    "VisionTransformer": {
        "image_size": 224,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "representation_size": None,
    },
}
# Auxiliary heads make the output a tuple in training; init_weights is warned about when it is left
# out.
_PLAIN_INCEPTION = {"aux_logits": False, "init_weights": True}
FIXED = {"GoogLeNet": _PLAIN_INCEPTION, "Inception3": _PLAIN_INCEPTION}


def names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return list(torchvision.models.list_models(module=torchvision.models))


def class_of(name: str) -> str:
    """Return the name of the class that a model is of."""
    builder = torchvision.models.get_model_builder(name)
    return str(typing.get_type_hints(builder)["return"].__name__)


def summary(name: str) -> str:
    """Return size and accuracy of a model as torchvision publishes them."""
    meta = default_weights(name).meta
    accuracy = meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return f"{meta['num_params'] / 1e6:.1f} million parameters, {accuracy:.1f} % on ImageNet-1K"


def default_weights(name: str) -> Any:
    """Return torchvision's description of the weights that it recommends for a model."""
    return torchvision.models.get_model_weights(name).DEFAULT


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"torchvision has no classification model {name!r}")
    return _builder(name)


@functools.cache
def _builder(name: str) -> Callable[..., nn.Module]:
    class_name = class_of(name)

    def build(*, num_classes: int, **arguments: Any) -> Any:
        given = {k: v for k, v in arguments.items() if v is not None} | FIXED.get(class_name, {})
        stem = given.pop("stem", "standard")
        if stem not in ("small", "standard"):
            raise ValueError(f"stem must be 'small' or 'standard', found {stem!r}")
        channels = given.pop("in_channels", 3)
        if channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3, found {channels!r}")
        if channels == 1 and given.get("transform_input"):
            raise ValueError(
                "transform_input takes three channels: leave it out with in_channels=1"
            )
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **given)
        if stem == "small":
            shrink_stem(model)
        if channels == 1:
            take_one_channel(model)
        return model

    own = _ARGUMENTS.get(class_name, {})
    arguments = {"num_classes": inspect.Parameter.empty, **own, "in_channels": 3}
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(k, kind, default=v) for k, v in arguments.items()]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


def shrink_stem(model: nn.Module) -> None:
    """Replace the 7×7 stride-2 convolution and the pooling of a ResNet by 3×3 at full size, in
    place.
    """
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


# DenseNet's published weights are older than its layer names; torchvision renames them like this.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


def pretrained_weights(name: str) -> Weights:
    """Return the weights that torchvision recommends for one of its models.

    They are downloaded unless they are in torch's cache. `call` fits them exactly.

    Raises:
        StorageError: the download failed.
        CheckpointError: the file in the cache is damaged.
    """
    weights = default_weights(name)
    file = downloads.from_url(weights.url, name=name)
    state_dict, _ = unwrap(read_weight_file(file), file)
    preset = weights.transforms()
    return Weights(
        state_dict={_OLD_DENSENET_NAME.sub(r"\1", key): t for key, t in state_dict.items()},
        path=file,
        source=str(weights),
        call=_call(name, weights),
        class_names=tuple(weights.meta["categories"]),
        pipeline=(
            f"Resize({preset.resize_size[0]}, InterpolationMode.{preset.interpolation.name})",
            f"CenterCrop({preset.crop_size[0]})",
            "ToTensor()",
            f"Normalize({preset.mean}, {preset.std})",
        ),
        size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _call(name: str, weights: Any) -> str:
    """Return the call that fits weights: what torchvision's builders settle when given them."""
    takes = _builder(name).__signature__.parameters  # type: ignore[attr-defined]
    size = weights.meta["min_size"]
    settled = {
        "stem": "standard",
        "transform_input": True,
        "image_size": size[0],
        "input_size": size,
    }
    kwargs = {k: v for k, v in settled.items() if k in takes and v != takes[k].default}
    return str(Call(name, kwargs=kwargs))
