"""Import torch and torchvision and run a first kernel: a convolution, forward and backward.

first_kernel.py DEVICE
"""

import sys

import torch
import torchvision  # noqa: F401

images = torch.ones(8, 3, 32, 32, device=sys.argv[1])
model = torch.nn.Conv2d(3, 6, 5).to(images.device)
model(images).sum().backward()
print(model.bias.grad.sum().item())
