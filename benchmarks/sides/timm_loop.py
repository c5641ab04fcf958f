"""timm's own data set, loader, augmentation, model, loss, optimizer and schedule, at the defaults
of its train.py, in the loop that train.py has (the script itself is not part of the package); on
CUDA in bf16, as with `--amp --amp-dtype bfloat16`.

timm_loop.py TREE NETWORK BATCH_SIZE SIZE DEVICE
"""

import sys
import time

import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from turns import serve


def main() -> None:
    tree, name, batch_size, size, device = (
        sys.argv[1],
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5],
    )
    where = torch.device(device)
    data = create_dataset("", root=tree, split="", is_training=True, batch_size=batch_size, seed=42)
    loader = create_loader(
        data,
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        interpolation="random",
        num_workers=2,
        device=where,
        pin_memory=device == "cuda",
    )
    model = create_model(name, num_classes=len(data.reader.class_to_idx)).to(where)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.001, weight_decay=2e-5, momentum=0.9)
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=300, updates_per_epoch=len(loader)
    )
    loss_function = LabelSmoothingCrossEntropy(smoothing=0.1)
    updates = 0

    def epoch() -> float:
        nonlocal updates
        start, losses, seen = time.perf_counter(), AverageMeter(), 0
        model.train()
        optimizer.zero_grad()
        for images, labels in loader:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = loss_function(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            updates += 1
            seen += len(images)
            schedule.step_update(num_updates=updates, metric=losses.avg)
        return seen / (time.perf_counter() - start)

    serve({"round": epoch})


if __name__ == "__main__":
    main()
