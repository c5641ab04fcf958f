"""Residual networks of our own: the CIFAR family, and the course's ResNet-34."""

from torch import Tensor, nn
from torch.nn import functional as F


def resnet8(*, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build the CIFAR family's 8 layers: 78,000 parameters."""
    return SmallResNet(num_classes, num_blocks=1, in_channels=in_channels)


def resnet20(*, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build the CIFAR family's 20 layers: 0.27 million parameters."""
    return SmallResNet(num_classes, num_blocks=3, in_channels=in_channels)


def resnet56(*, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build the CIFAR family's 56 layers: 0.86 million parameters."""
    return SmallResNet(num_classes, num_blocks=9, in_channels=in_channels)


def resnet34_tutorial(*, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build the course's ResNet-34, whose stages are wider than torchvision's resnet34."""
    return TutorialResNet(num_classes, in_channels=in_channels)


class SmallResNet(nn.Module):
    """6n + 2 layers for small images (He et al. 2015, section 4.2).

    A 3×3 stem without pooling, three stages of `num_blocks` blocks and widths 16, 32, 64, global
    average pooling. Shortcuts are projections where the shape changes.
    """

    def __init__(self, num_classes: int, *, num_blocks: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(SmallBlock, 16, 16, num_blocks)
        self.layer2 = _stage(SmallBlock, 16, 32, num_blocks, stride=2)
        self.layer3 = _stage(SmallBlock, 32, 64, num_blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, in_channels, H, W) of any size."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        scores: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return scores


class SmallBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, width_in: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _projection(width_in, width, stride) or nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, width, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        outputs: Tensor = self.relu(inner + self.shortcut(maps))
        return outputs


class TutorialResNet(nn.Module):
    """The course's ResNet-34: stages of 3, 4, 6, 3 blocks and widths 128, 256, 512, 512.

    The course pools with a window of 7, which fits 224 pixels only; adaptive pooling equals it
    there.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3) -> None:
        super().__init__()
        self.pre = nn.Sequential(
            nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            # In this order a quarter of the values is rectified, with the same outcome.
            nn.MaxPool2d(3, 2, 1),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _stage(TutorialBlock, 64, 128, 3)
        self.layer2 = _stage(TutorialBlock, 128, 256, 4, stride=2)
        self.layer3 = _stage(TutorialBlock, 256, 512, 6, stride=2)
        self.layer4 = _stage(TutorialBlock, 512, 512, 3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, in_channels, H, W) of any size."""
        maps = self.layer2(self.layer1(self.pre(images)))
        maps = self.layer4(self.layer3(maps))
        scores: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return scores


class TutorialBlock(nn.Module):
    """The course's residual block: `left` has the convolutions, `right` is the shortcut or None."""

    def __init__(self, width_in: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        # Made before `left` and listed after it: the same seed gives the same weights as ever.
        shortcut = _projection(width_in, width, stride)
        self.left = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.right = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (n, width, H / stride, W / stride)."""
        residual = maps if self.right is None else self.right(maps)
        return F.relu(self.left(maps) + residual)


def _stage(
    block: type[nn.Module], width_in: int, width: int, num_blocks: int, *, stride: int = 1
) -> nn.Sequential:
    first = block(width_in, width, stride=stride)
    return nn.Sequential(first, *(block(width, width) for _ in range(num_blocks - 1)))


def _projection(width_in: int, width: int, stride: int) -> nn.Module | None:
    """Return the shortcut of a block that changes the shape."""
    if stride == 1 and width_in == width:
        return None
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
