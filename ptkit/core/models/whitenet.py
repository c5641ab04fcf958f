"""A small, quick network for small images, whose first layer whitens patches of them.

After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), sections 3.1 to 3.3,
narrower and with a whitening layer of stride 2, for which two cores are enough.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Added to the variances of patches before their roots are taken (section 3.2), so that nearly
# constant directions are not blown up.
_VARIANCE_FLOOR = 5e-4
# Scales the scores (section 3.1), so that training begins with nearly equal probabilities.
_SCORE_SCALE = 1 / 9
# Of BatchNorm, in PyTorch's sense (section 3.1).
_NORM_MOMENTUM = 0.4


def whitenet(
    *,
    num_classes: int,
    widths: Sequence[int] = (64, 192),
    stride: int = 2,
    kernel_size: int = 3,
    in_channels: int = 3,
) -> nn.Module:
    """Build the network.

    widths: of its blocks, each of which halves the sides. stride, kernel_size: of the whitening
    layer. in_channels: 3 for RGB, 1 for grey.
    """
    return WhiteNet(
        num_classes,
        widths=widths,
        stride=stride,
        kernel_size=kernel_size,
        in_channels=in_channels,
    )


class WhiteNet(nn.Module):
    """A whitening layer, blocks of two 3×3 convolutions, the maximum of each map, a linear layer.

    `fit_inputs` fills the whitening layer; before that it has random weights.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int],
        stride: int = 2,
        kernel_size: int = 3,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        # The patches' directions and their negatives.
        width = 2 * in_channels * kernel_size**2
        self.whiten = nn.Conv2d(in_channels, width, kernel_size, stride=stride)
        self.blocks = nn.Sequential(*map(_Block, (width, *widths[:-1]), widths))
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, in_channels, H, W)."""
        maps: Tensor = self.blocks(F.gelu(self.whiten(images)))
        # Not amax: its gradient looks for the maximum anew, and compiled code, which computes the
        # maps anew without rounding them to bf16, finds none: 0/0.
        scores: Tensor = self.fc(F.max_pool2d(maps, maps.shape[2:]).flatten(1))
        return scores * _SCORE_SCALE

    @torch.no_grad()
    def fit_inputs(self, images: Tensor) -> None:
        """Make the first layer whiten patches of training images (n, in_channels, H, W).

        The images are as the model gets them. The filters are the eigenvectors of the patches'
        second moments, each divided by the root of its eigenvalue, and their negatives (section
        3.2).
        """
        # On the CPU, so that a seed has the same filters everywhere; some devices have no float64.
        columns = F.unfold(images.cpu(), self.whiten.kernel_size, stride=self.whiten.stride)
        # In double precision: eigenvalues of patches differ by many powers of 10.
        patches = columns.transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        whitened = (vectors / (values + _VARIANCE_FLOOR).sqrt()).T.flip(0)
        filters = whitened.view(-1, *self.whiten.weight.shape[1:])
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()


class _Block(nn.Module):
    """Two convolutions; the first one's maps are halved before they are normalised."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after, momentum=_NORM_MOMENTUM)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after, momentum=_NORM_MOMENTUM)
        for conv in (self.conv1, self.conv2):
            # The first output maps are the input maps (section 3.1).
            nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.gelu(self.norm1(F.max_pool2d(self.conv1(maps), 2)))
        return F.gelu(self.norm2(self.conv2(maps)))
