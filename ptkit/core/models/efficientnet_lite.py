"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, table 1) with ReLU6 for Swish and without
squeeze-and-excitation.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stage(NamedTuple):
    """Blocks of one width; the first one has the stride. expand: inner width over outer width."""

    num_blocks: int
    kernel: int
    stride: int
    expand: int
    width: int


_STEM, _LAST = 32, 1280
_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# TensorFlow's momentum of 0.99 and epsilon, in PyTorch's terms.
_MOMENTUM, _EPSILON = 0.01, 1e-3


def efficientnet_lite0(
    *, num_classes: int, dropout: float = 0.2, drop_path: float = 0.2, in_channels: int = 3
) -> nn.Module:
    """Build EfficientNet-Lite0: 4.7 million parameters, for images of 224 pixels.

    dropout: before the head. drop_path: how often the last block is left out for an image in
    training, 0..1; earlier ones less often (Huang et al., "Deep networks with stochastic depth",
    2016, section 3).
    """
    return EfficientNetLite(
        num_classes, dropout=dropout, drop_path=drop_path, in_channels=in_channels
    )


class EfficientNetLite(nn.Module):
    """A stem at half size, 16 inverted residual blocks, a last convolution, and the head."""

    def __init__(
        self, num_classes: int, *, dropout: float, drop_path: float, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = _convolution(in_channels, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        width = _STEM
        total = sum(stage.num_blocks for stage in _STAGES)
        for stage in _STAGES:
            for number in range(stage.num_blocks):
                stride = stage.stride if number == 0 else 1
                share = drop_path * len(blocks) / total
                blocks.append(InvertedResidual(width, stage, stride=stride, drop_path=share))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.last = _convolution(width, _LAST, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(_LAST, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, in_channels, H, W) of any size."""
        maps = self.last(self.blocks(self.stem(images)))
        scores: Tensor = self.fc(self.dropout(self.pool(maps).flatten(1)))
        return scores


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, one of each channel, and a 1×1 that narrows (Sandler et al.,
    "MobileNetV2", 2018, section 3.4); around it a shortcut where the shape stays.
    """

    def __init__(self, width_in: int, stage: Stage, *, stride: int, drop_path: float) -> None:
        super().__init__()
        inner = width_in * stage.expand
        self.expand = _convolution(width_in, inner, 1) if stage.expand > 1 else nn.Identity()
        self.depthwise = _convolution(inner, inner, stage.kernel, stride=stride, groups=inner)
        # Without an activation: the narrow maps keep their sign.
        self.project = _convolution(inner, stage.width, 1)[:2]
        self.has_shortcut = stride == 1 and width_in == stage.width
        self.drop_path = drop_path

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, width, H / stride, W / stride), sides rounded up."""
        inner: Tensor = self.project(self.depthwise(self.expand(maps)))
        if not self.has_shortcut:
            return inner
        if self.training and self.drop_path:
            kept = torch.rand(len(inner), 1, 1, 1, device=inner.device) >= self.drop_path
            inner = inner * kept.to(inner.dtype) / (1 - self.drop_path)
        return maps + inner


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "SAME": as many outputs as inputs over the stride,
    rounded up, and of an odd number of columns to pad one more on the right and below.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (n, out_channels, H / stride, W / stride), sides rounded up."""
        height, width = (self._padding(side) for side in images.shape[2:])
        padded = F.pad(images, [width // 2, width - width // 2, height // 2, height - height // 2])
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)

    def _padding(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


def _convolution(
    width_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    # At stride 1 both sides are padded alike, which the convolution does itself.
    kind, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (SameConv2d, 0)
    return nn.Sequential(
        kind(width_in, width, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(width, momentum=_MOMENTUM, eps=_EPSILON),
        nn.ReLU6(inplace=True),
    )
