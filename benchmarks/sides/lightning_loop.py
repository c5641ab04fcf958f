"""A plain LightningModule and a DataLoader of two workers, no logger, checkpoints or progress; on
CUDA in bf16.

lightning_loop.py TREE NETWORK BATCH_SIZE SIZE DEVICE
"""

import logging
import sys
import time
import warnings

import lightning
import torch
from networks import network, wait_for
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from turns import Turns

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    """The network, which waits before each epoch until it is asked for."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.network, self.turns = network(name, num_classes), Turns()
        self.seen, self.started = 0, 0.0

    def training_step(self, batch, _):  # type: ignore[no-untyped-def]
        self.seen += len(batch[1])
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(self.network.parameters(), 0.001, momentum=0.9)


class Clock(lightning.Callback):
    def on_train_epoch_end(self, trainer, module):  # type: ignore[no-untyped-def]
        wait_for(module.device.type)
        module.turns.end(module.seen / (time.perf_counter() - module.started))


class Waiting(DataLoader):  # type: ignore[type-arg]
    """A turn begins when the loop asks for the first batch, so reading ahead is part of it."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.module.turns.begin()
        self.module.seen, self.module.started = 0, time.perf_counter()
        return super().__iter__()


def main() -> None:
    tree, name, batch_size, size, device = sys.argv[1:6]
    crop = T.RandomCrop(32, padding=4) if size == "32" else T.RandomResizedCrop(int(size))
    steps = [
        crop,
        T.RandomHorizontalFlip(),
        T.ToTensor(),
        T.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]),
    ]
    data = ImageFolder(tree, T.Compose(steps))
    loader = Waiting(
        data,
        batch_size=int(batch_size),
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )
    loader.module = Module(name, len(data.classes))
    lightning.Trainer(
        max_epochs=10_000,
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    ).fit(loader.module, loader)


if __name__ == "__main__":
    main()
