"""LeNet as the course draws it: two convolutions, three linear layers."""

from torch import Tensor, nn
from torch.nn import functional as F


def lenet(*, num_classes: int, size: int = 32, in_channels: int = 3) -> nn.Module:
    """Build LeNet for `size` × `size` images; 32 gives the 400 features of the textbook.

    in_channels: 3 for RGB, 1 for grey.

    Raises:
        ValueError: smaller than 16 pixels, which leaves nothing after the second pooling.
    """
    if size < 16:
        raise ValueError(f"images must be 16 pixels or larger, found {size}")
    return LeNet(num_classes, size, in_channels=in_channels)


class LeNet(nn.Module):
    """conv 3→6 k5, pool, conv 6→16 k5, pool, fc →120→84→classes.

    As LeCun et al. 1998, with ReLU and max pooling.
    """

    def __init__(self, num_classes: int, size: int = 32, *, in_channels: int = 3) -> None:
        super().__init__()
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, in_channels, size, size)."""
        # The largest of rectified values is the largest, rectified: the same numbers and gradients,
        # from a quarter of the values.
        maps = F.relu(self.pool1(self.conv1(images)))
        maps = F.relu(self.pool2(self.conv2(maps)))
        features = F.relu(self.fc1(maps.flatten(1)))
        scores: Tensor = self.fc3(F.relu(self.fc2(features)))
        return scores
