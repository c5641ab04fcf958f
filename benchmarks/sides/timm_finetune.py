"""timm's data set, loader, augmentation, optimizer and schedule in the loop of its train.py, from
the ImageNet weights of EfficientNet-Lite0.

timm_finetune.py LISTS WEIGHTS EPOCHS BATCH_SIZE RATE LAYER_DECAY SEED DEVICE

LISTS: a folder with train.txt and valid.txt. Prints the best accuracy on the validation images.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

SIZE, MEAN, STD = 224, (127 / 255,) * 3, (128 / 255,) * 3


def main() -> None:
    lists, weights, epochs, batch_size, rate, decay, seed, device = sys.argv[1:]
    torch.manual_seed(int(seed))
    model = pretrained(weights, num_classes=2).to(device)
    with tempfile.TemporaryDirectory() as name:
        loaders = {
            part: loader(Path(lists), part, Path(name), batch_size=int(batch_size), device=device)
            for part in ("train", "valid")
        }
        best = finetuned(
            model, loaders, epochs=int(epochs), rate=float(rate), decay=float(decay), device=device
        )
    print(json.dumps({"accuracy": best}))


def pretrained(file: str, *, num_classes: int) -> torch.nn.Module:
    """Return timm's network with the weights of another port, whose tensors have the same order."""
    model = create_model("tf_efficientnet_lite0", num_classes=1000)
    theirs = list(torch.load(file, weights_only=True).values())
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, theirs, strict=True)))
    model.reset_classifier(num_classes)
    return model


def loader(lists: Path, part: str, folder: Path, *, batch_size: int, device: str):
    """Link the images of a list as class folders, which timm reads."""
    for number, line in enumerate((lists / f"{part}.txt").read_text().splitlines()):
        path, label = line.rsplit(" ", 1)
        target = folder / part / label / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((lists / path).resolve())
    is_training = part == "train"
    data = create_dataset("", root=str(folder / part), split="", is_training=is_training)
    return create_loader(
        data,
        input_size=(3, SIZE, SIZE),
        batch_size=batch_size,
        is_training=is_training,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        crop_pct=0.875,
        num_workers=2,
        device=torch.device(device),
        persistent_workers=True,
    )


def finetuned(model, loaders, *, epochs: int, rate: float, decay: float, device: str) -> float:
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=rate, weight_decay=0.05, layer_decay=decay
    )
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, updates_per_epoch=len(loaders["train"]),
        step_on_epochs=False,
    )  # fmt: skip
    # As ptkit beside it.
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=device == "cuda")
    loss_function, updates, best = LabelSmoothingCrossEntropy(smoothing=0.1), 0, 0.0
    for _ in range(epochs):
        model.train()
        for images, labels in loaders["train"]:
            with autocast():
                outputs = model(images)
            loss = loss_function(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            schedule.step_update(num_updates=updates)
        model.eval()
        right = total = 0
        with torch.inference_mode():
            for images, labels in loaders["valid"]:
                with autocast():
                    outputs = model(images)
                right += int((outputs.argmax(1) == labels.to(device)).sum())
                total += len(labels)
        best = max(best, right / total)
    return best


if __name__ == "__main__":
    main()
