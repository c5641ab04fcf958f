"""torchvision's classifiers as functions with honest signatures.

torchvision's builders take `**kwargs`, fix some of them, and some classes swallow what they do not
know (MobileNetV3, ConvNeXt). Here each name, as in `torchvision_models.resnet18`, is a function
whose signature holds what takes effect.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import torchvision
from torch import nn

# What a user may set, by class. None stands for torchvision's own value, which differs from model
# to model.
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
_FIXED: dict[str, dict[str, Any]] = {
    "GoogLeNet": {"aux_logits": False, "init_weights": True},
    "Inception3": {"aux_logits": False, "init_weights": True},
}


def names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def summary(name: str) -> str:
    """Return size and accuracy of a model as torchvision publishes them."""
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    accuracy = meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return f"{meta['num_params'] / 1e6:.1f} million parameters, {accuracy:.1f} % on ImageNet-1K"


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"torchvision has no classification model {name!r}")
    return _builder(name)


@functools.cache
def _builder(name: str) -> Callable[..., nn.Module]:
    class_name = typing.get_type_hints(torchvision.models.get_model_builder(name))[
        "return"
    ].__name__

    def build(*, num_classes: int, **arguments: Any) -> nn.Module:
        given = {key: value for key, value in arguments.items() if value is not None} | _FIXED.get(
            class_name, {}
        )
        stem = given.pop("stem", "standard")
        if stem not in ("small", "standard"):
            raise ValueError(f"stem must be 'small' or 'standard', found {stem!r}")
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **given)
        if stem == "small":
            _shrink_stem(model)
        return model

    arguments = {"num_classes": inspect.Parameter.empty, **_ARGUMENTS.get(class_name, {})}
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, kind, default=default) for key, default in arguments.items()
    ]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


def _shrink_stem(model: nn.Module) -> None:
    """Replace the 7×7 stride-2 convolution and the pooling of a ResNet by 3×3 at full size, in
    place.
    """
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
