"""Networks and steps of data with one fault each, for bench_diagnose.py."""

import time
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def _blocks(*channels: int, activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), activation()]
    return layers


class Plain(nn.Module):
    """Four convolutions, no norms."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_blocks(3, 16, 32, 32, 64), nn.AdaptiveAvgPool2d(2))
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).flatten(1))


class Softmax(Plain):
    """Gives probabilities."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(dim=1)


class Sigmoids(nn.Module):
    """Eight layers whose gradients shrink by four and more each."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_blocks(3, *[16] * 8, activation=nn.Sigmoid), nn.AdaptiveAvgPool2d(2)
        )
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.05)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).flatten(1))


class TinyWeights(nn.Module):
    """Layers whose first weights have a spread of 0.01, as in an old recipe for linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        sizes = [768, 128, 128, 128, num_classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.flatten(1)
        for layer in self.layers[:-1]:
            features = layer(features).relu()
        return self.layers[-1](features)


class Dead(Plain):
    """Its second and third layers begin far below zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for place in (2, 4):
            nn.init.constant_(self.body[place].bias, -10)


class Forgotten(Plain):
    """No gradient reaches its first two layers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body[4:](self.body[:4](images).detach())
        return self.fc(features.flatten(1))


class Restless(nn.Module):
    """Puts its body back into training mode at each step, the norms that are frozen too."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise((3, 16, 32, 64))
        ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
        self.fc = nn.Linear(256, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.body.train()
        return self.fc(self.body(images).flatten(1))


class Calm(Restless):
    """The same, but its norms stay frozen."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).flatten(1))


class Narrow(nn.Module):
    """Has a sigmoid written by hand: exp(12) is infinite in fp16, and its gradient is then NaN. A
    share of the training batches is ten times as large as the others.
    """

    def __init__(self, num_classes: int, share: float = 0.0) -> None:
        super().__init__()
        self.share = share
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 16, 3, stride=2)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and torch.rand(()) < self.share:
            images = images * 10
        features = 1 / (1 + torch.exp(-self.conv1(images)))
        return self.fc(F.adaptive_avg_pool2d(self.conv2(features).relu(), 2).flatten(1))


class Biased(Plain):
    """Answers its last class too often, in evaluation."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(images)
        if not self.training:
            outputs = outputs + 3 * torch.eye(outputs.shape[1], device=outputs.device)[-1]
        return outputs


class Boastful(Plain):
    """Its outputs are five times too large, in evaluation."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (1 if self.training else 5)


def raw(image: torch.Tensor) -> torch.Tensor:
    """Leave pixels at 0..255."""
    return image.float() * 255


def twice(image: torch.Tensor) -> torch.Tensor:
    """Normalise what is normalised already."""
    return (image - 0.3) / 0.1


def slow(image: torch.Tensor) -> torch.Tensor:
    """Wait as for a slow disk."""
    time.sleep(0.02)
    return image


class Spiky:
    """Makes one image in two hundred fifty times as large."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image * (50 if torch.rand(()) < 0.005 else 1)
