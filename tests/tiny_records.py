"""A run folder with what a healthy run records, and changes of it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight", "fc.weight")
NUM_STEPS, NUM_EPOCHS, NUM_VALID = 30, 5, 200


def start() -> dict[str, Any]:
    about = {"shape": [8, 8, 3, 3], "trained": True, "lr_scale": 1.0, "weight_decay": 1e-3}
    return {
        "kind": "start",
        "version": 1,
        "num_classes": 2,
        "class_counts": [300, 300],
        "valid_counts": [100, 100],
        "guessing": float(np.log(2)),
        "precision": "fp32",
        "clip_grad": None,
        "weights": {name: dict(about) for name in NAMES},
        "head": "fc.weight",
        "initial": {
            "loss": 0.7,
            "layer_std": {name.removesuffix(".weight"): 1.0 for name in NAMES},
            "input": {"mean": [0.0], "std": [1.0], "max": 3.0},
            "outputs_are_probabilities": False,
        },
    }


def epoch(number: int) -> dict[str, Any]:
    begin = (number - 1) * NUM_STEPS
    steps = np.arange(begin, begin + NUM_STEPS)
    rng = np.random.default_rng(number)
    noise = rng.normal(0, 0.02, NUM_STEPS)
    return {
        "kind": "epoch",
        "epoch": number,
        "step": begin + NUM_STEPS,
        "loss": (0.1 + 0.6 * np.exp(-steps / 40) + noise).tolist(),
        "lr": [0.1] * NUM_STEPS,
        "wait_s": [0.0001] * NUM_STEPS,
        "grad_norm": np.exp(rng.normal(0, 0.3, NUM_STEPS)).tolist(),
        "sampled": list(range(1, NUM_STEPS + 1)),
        "weights": {
            name: {
                "weight": [10.0] * NUM_STEPS,
                "gradient": [0.1] * NUM_STEPS,
                "update": [0.02] * NUM_STEPS,
            }
            for name in NAMES
        },
        "activations": {"conv1": {"units": 8, "dead": 0, "std": 1.0}},
        "output_bias": [0.0, 0.0],
        "train_s": 1.0,
        "recording_s": 0.01,
    }


def outputs() -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated outputs, and the labels drawn from them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], NUM_VALID // 2)
    sure = rng.uniform(0.75, 0.999, NUM_VALID)
    answers = np.where(rng.random(NUM_VALID) < sure, labels, 1 - labels)
    # Of two outputs ±z the larger has the probability 1 / (1 + exp(-2 z)).
    z = np.log(sure / (1 - sure))[:, None] / 2
    return np.where(answers[:, None] == np.arange(2), z, -z).astype(np.float32), labels


def make_run(
    folder: Path,
    change: Callable[[dict[str, Any], list[dict[str, Any]]], None] = lambda _start, _epochs: None,
    *,
    metrics: dict[str, list[float]] | None = None,
    values: np.ndarray | None = None,
    config: str = "",
) -> Path:
    """Write a run that recorded a healthy training, or what `change` makes of it."""
    folder.mkdir(parents=True)
    loss = "" if "[loss]" in config else '[loss]\ncall = "CrossEntropyLoss()"\n'
    base = "" if "[optimizer]" in config else '[optimizer]\ncall = "SGD(momentum=0.9)"\nlr = 0.1\n'
    (folder / "config.toml").write_text(base + loss + config)
    first, epochs = start(), [epoch(number) for number in range(1, NUM_EPOCHS + 1)]
    change(first, epochs)
    lines = [json.dumps(line) + "\n" for line in (first, *epochs)]
    (folder / "layers.jsonl").write_text("".join(lines))
    columns: dict[str, list[float]] = {
        "epoch": list(range(1, NUM_EPOCHS + 1)),
        "train_loss": [0.6, 0.4, 0.3, 0.2, 0.15],
        "train_accuracy": [0.7, 0.82, 0.86, 0.88, 0.9],
        "valid_loss": [0.6, 0.4, 0.3, 0.25, 0.25],
        "valid_accuracy": [0.7, 0.82, 0.85, 0.87, 0.87],
        **(metrics or {}),
    }
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    found, labels = outputs()
    best = found if values is None else values
    np.savez(folder / "valid_outputs.npz", labels=labels, best=best, last=best,
             best_epoch=4, last_epoch=5)  # fmt: skip
    return folder
