"""torchvision's batches at their best: torchvision.io, v2 on tensors, two persistent workers.

torchvision_loader.py LIST SIZE BATCH_SIZE KIND DEVICE

KIND: crop (with padding) or resized (RandomResizedCrop). Figures: images per second of an epoch.
"""

import sys
import time

import torch
from networks import wait_for
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2
from turns import serve


class Files(Dataset):  # type: ignore[type-arg]
    def __init__(self, file: str, transform: v2.Transform) -> None:
        with open(file) as lines:
            self.rows = [line.rsplit(" ", 1) for line in lines]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        path, label = self.rows[index]
        return self.transform(decode_jpeg(read_file(path), mode=ImageReadMode.RGB)), int(label)


def main() -> None:
    file, size, batch_size, kind, device = sys.argv[1:6]
    crops = {
        "crop": v2.RandomCrop(int(size), padding=4),
        "resized": v2.RandomResizedCrop(int(size), antialias=True),
    }
    steps = [
        crops[kind],
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]),
    ]
    loader = DataLoader(
        Files(file, v2.Compose(steps)),
        batch_size=int(batch_size),
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )

    def epoch() -> float:
        start, seen = time.perf_counter(), 0
        for images, labels in loader:
            images.to(device, non_blocking=True)
            seen += len(labels)
        wait_for(device)
        return seen / (time.perf_counter() - start)

    serve({"round": epoch})


if __name__ == "__main__":
    main()
