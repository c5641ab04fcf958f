"""A training loop as beginners write it: Pillow, one image at a time, loss read after every step.

course_loop.py TREE NETWORK BATCH_SIZE SIZE DEVICE
"""

import sys
import time

import torch
from networks import network
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from turns import serve


def main() -> None:
    tree, name, batch_size, size, device = sys.argv[1:6]
    transform = T.Compose(
        [
            T.Resize(int(size)),
            T.RandomCrop(int(size), padding=4),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]),
        ]
    )
    data = ImageFolder(tree, transform)
    loader = DataLoader(data, batch_size=int(batch_size), shuffle=True, drop_last=True)
    model = network(name, len(data.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, dampening=0.1)

    def epoch() -> float:
        start, right, mean_loss = time.perf_counter(), 0.0, 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = torch.nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            right += (outputs.argmax(1) == labels).sum().item()
            mean_loss += loss.item()
        return len(loader) * int(batch_size) / (time.perf_counter() - start)

    serve({"round": epoch})


if __name__ == "__main__":
    main()
