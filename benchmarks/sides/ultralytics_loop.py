"""Ultralytics' classification trainer on yolo11n-cls, and its model alone as plain PyTorch.

ultralytics_loop.py TREE BATCH_SIZE SIZE DEVICE

TREE has train/CLASS and val/CLASS. Words: `round`, an epoch; `alone`, steps on a batch in
memory. Validation and saving do not count.
"""

import os
import sys
import time
from pathlib import Path

TREE = Path(sys.argv[1])
# Before the import: it must not install anything, use the network, or write to the user's folders.
os.environ |= {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "YOLO_CONFIG_DIR": str(TREE / "settings"),
}

import torch  # noqa: E402
from networks import wait_for  # noqa: E402
from turns import Turns  # noqa: E402
from ultralytics.models.yolo.classify import ClassificationTrainer  # noqa: E402
from ultralytics.nn.tasks import ClassificationModel  # noqa: E402


def main() -> None:
    batch_size, size, device = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    num_images = sum(1 for _ in TREE.glob("train/*/*.jpg")) // batch_size * batch_size
    names = sorted(folder.name for folder in (TREE / "train").iterdir())
    turns, clock = Turns(), {}
    alone = make_alone(batch_size, size, device, num_classes=len(names))

    def begin(_: object) -> None:
        turns.begin(others={"alone": lambda: alone(num_images // batch_size)})
        clock["start"] = time.perf_counter()

    def end(_: object) -> None:
        wait_for(device)
        turns.end(num_images / (time.perf_counter() - clock["start"]))

    settings = {
        "model": "yolo11n-cls.yaml",
        "data": str(TREE),
        "epochs": 10_000,
        "imgsz": size,
        "batch": batch_size,
        "workers": 2,
        "device": "cpu" if device == "cpu" else 0,
        # As the model alone. Its default would fetch another model to check itself.
        "amp": "bf16" if device == "cuda" else False,
        "plots": False,
        "save": False,
        "val": False,
        "pretrained": False,
        "project": str(TREE / "runs"),
        "verbose": False,
    }
    trainer = ClassificationTrainer(overrides=settings)
    trainer.add_callback("on_train_epoch_start", begin)
    trainer.add_callback("on_train_epoch_end", end)
    trainer.train()


def make_alone(batch_size: int, size: int, device: str, *, num_classes: int):  # type: ignore[no-untyped-def]
    """Return a function that trains the model alone for some steps: images per second."""
    model = ClassificationModel("yolo11n-cls.yaml", nc=num_classes, verbose=False).to(device)
    model.train()
    # As its trainer does, on a GPU.
    is_cuda = device == "cuda"
    memory_format = torch.channels_last if is_cuda else torch.contiguous_format
    model.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    images = torch.randn(batch_size, 3, size, size, device=device)
    images = images.contiguous(memory_format=memory_format)
    labels = torch.randint(num_classes, (batch_size,), device=device)

    def run(num_steps: int) -> float:
        wait_for(device)
        start = time.perf_counter()
        for _ in range(num_steps):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=is_cuda):
                outputs = model(images)
            torch.nn.functional.cross_entropy(outputs, labels).backward()
            optimizer.step()
        wait_for(device)
        return num_steps * batch_size / (time.perf_counter() - start)

    return run


if __name__ == "__main__":
    main()
