"""A small run folder with a checkpoint, images and a list, for the tests of commands that look at
it.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.models.zoo import build_model

CLASSES = ("blue", "green", "red")


def write_run(folder: Path, call: str = "resnet8()") -> Path:
    """Write runs/1/ with config.toml and a checkpoint of fresh weights, and ckpt.pkl, a link to it;
    return the run.
    """
    model, text = build_model(call, num_classes=3, size=16, seed=1)
    run = folder / "runs" / "1"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    contents = {
        "kind": "best",
        "model": {"call": text, "num_classes": 3},
        "classes": list(CLASSES),
        "task": {"kind": "single-label", "activation": "softmax"},
        "pipeline": {
            "calls": [
                "Resize((16, 16))",
                "ToTensor()",
                "Normalize(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])",
            ],
            "tensors": {},
            "size": 16,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        },
        "state_dict": model.state_dict(),
        "metrics": {"epoch": 7, "best": {"epoch": 7}},
    }
    save_checkpoint(run / "ckpt.pkl", contents)
    os.symlink(Path("runs") / "1" / "ckpt.pkl", folder / "ckpt.pkl")
    return run


def write_images(folder: Path, per_class: int = 4) -> list[str]:
    """Write coloured noise as images/CLASS/k.png, test.txt and classes.txt; return the paths in the
    list's order.
    """
    rng = np.random.default_rng(0)
    paths, lines = [], []
    for label, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(per_class):
            noise = rng.integers(0, 100, (12, 10, 3), dtype=np.uint8)
            noise[..., 2 - label] += 150
            path = f"images/{name}/{k}.png"
            Image.fromarray(noise).save(folder / path)
            paths.append(path)
            lines.append(f"{path} {label}\n")
    (folder / "test.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return paths
