"""Our models as a script has them: the same weights under the same names, in fewer lines.

The body of a function becomes that of `build_model`, which draws the weights of the convolutions
unless they are read from a file. Their source is taken over, so they use nothing of ptkit. A script
is compared with the model of ptkit/core/models before it is written.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The width, number of blocks, kernel, stride and inner over outer width of each stage.
STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)


class SmallBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if width != width_in:
            self.shortcut.append(nn.Conv2d(width_in, width, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, width, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(inner + self.shortcut(maps))


def small_resnet(num_classes: int, num_blocks: int, in_channels: int) -> nn.Module:
    """Return 6n + 2 layers for small images (He et al. 2015, section 4.2)."""
    conv1, bn1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv1, bn1=bn1, relu=nn.ReLU())
    for number, (width_in, width, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)], 1):
        more = [SmallBlock(width, width) for _ in range(num_blocks - 1)]
        layers[f"layer{number}"] = nn.Sequential(SmallBlock(width_in, width, stride), *more)
    layers["avgpool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["fc"] = nn.Linear(64, num_classes)
    return nn.Sequential(layers)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: of an odd number one more on the right and below."""

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (n, out_channels, H / stride, W / stride), sides rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in images.shape[2:]
        )
        padding = [width // 2, width - width // 2, height // 2, height - height // 2]
        maps: Tensor = self._conv_forward(F.pad(images, padding), self.weight, self.bias)
        return maps


def convolution(
    width_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with its norm and activation."""
    # At stride 1 both sides are padded alike, which the convolution does itself.
    kind, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (SameConv2d, 0)
    return nn.Sequential(
        kind(width_in, width, kernel, stride, padding, groups=groups, bias=False),
        # TensorFlow's momentum of 0.99 and epsilon, in PyTorch's terms.
        nn.BatchNorm2d(width, momentum=0.01, eps=1e-3),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, one of each channel, and a 1×1 that narrows."""

    def __init__(
        self, width_in: int, width: int, kernel: int, stride: int, expand: int, drop_path: float
    ) -> None:
        super().__init__()
        inner = width_in * expand
        self.expand = convolution(width_in, inner, 1) if expand > 1 else nn.Identity()
        self.depthwise = convolution(inner, inner, kernel, stride=stride, groups=inner)
        # Without an activation: the narrow maps keep their sign.
        self.project = convolution(inner, width, 1)[:2]
        self.has_shortcut = stride == 1 and width_in == width
        self.drop_path = drop_path

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, width, H / stride, W / stride), sides rounded up."""
        inner: Tensor = self.project(self.depthwise(self.expand(maps)))
        if self.has_shortcut and self.training and self.drop_path:
            kept = torch.rand(len(inner), 1, 1, 1, device=inner.device) >= self.drop_path
            inner = inner * kept.to(inner.dtype) / (1 - self.drop_path)
        return maps + inner if self.has_shortcut else inner


def efficientnet_lite0(
    num_classes: int, dropout: float, drop_path: float, in_channels: int
) -> nn.Module:
    """Return EfficientNet-Lite0 (Tan and Le 2019, table 1, with ReLU6)."""
    blocks: list[nn.Module] = []
    width_in = 32
    for width, num_blocks, kernel, stride, expand in STAGES:
        for number in range(num_blocks):
            share = drop_path * len(blocks) / 16
            step = stride if number == 0 else 1
            blocks.append(InvertedResidual(width_in, width, kernel, step, expand, share))
            width_in = width
    layers = OrderedDict(
        stem=convolution(in_channels, 32, 3, stride=2),
        blocks=nn.Sequential(*blocks),
        last=convolution(320, 1280, 1),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        fc=nn.Linear(1280, num_classes),
    )
    return nn.Sequential(layers)
