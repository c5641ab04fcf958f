"""The networks of the peers in plain PyTorch, named as in ptkit, and their training steps alone."""

import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

READY_BATCHES = 30


class LeNet(nn.Module):
    """Two 5×5 convolutions and three linear layers, 62,006 parameters for ten classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = (
            nn.Linear(400, 120),
            nn.Linear(120, 84),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(maps.flatten(1))))))


def network(name: str, num_classes: int) -> nn.Module:
    """Build `lenet`, torchvision's `mobilenet_v2` or `resnet18`, or `resnet18-small` (3×3 stem, no
    pooling).
    """
    if name == "lenet":
        return LeNet(num_classes)
    if name == "mobilenet_v2":
        return torchvision.models.mobilenet_v2(num_classes=num_classes)
    model = torchvision.models.resnet18(num_classes=num_classes)
    if name == "resnet18-small":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def make_alone(
    name: str, batch_size: int, size: int, *, device: str, dtype: torch.dtype | None
) -> Callable[[int], float]:
    """Return a function that trains the model alone for some steps and returns images per second.

    Batches are in memory, channels last; dtype: of autocast, or None.
    """
    step, ready = (
        make_step(name, device=device, dtype=dtype),
        ready_batches(batch_size, size, device),
    )

    def run(num_steps: int) -> float:
        # As long as it runs, the kernels that are tried out are won back.
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        wait_for(device)
        start = time.perf_counter()
        for number in range(num_steps):
            step(*ready[number % READY_BATCHES])
        wait_for(device)
        torch.backends.cudnn.benchmark = before
        return num_steps * batch_size / (time.perf_counter() - start)

    return run


def make_step(
    name: str, *, device: str, dtype: torch.dtype | None
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that makes one optimizer step on images and labels."""
    model = network(name, 10).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.001, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            outputs = model(images)
        F.cross_entropy(outputs, labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def ready_batches(batch_size: int, size: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Return images, channels last, and labels of ten classes, in memory."""
    images = torch.randn(READY_BATCHES, batch_size, 3, size, size).to(device)
    some = [part.contiguous(memory_format=torch.channels_last) for part in images]
    labels = torch.randint(10, (READY_BATCHES, batch_size), device=device)
    return list(zip(some, labels, strict=True))


def wait_for(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
