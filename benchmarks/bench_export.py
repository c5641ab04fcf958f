"""How far exported files of every family of networks are from the networks, on photographs.

    python benchmarks/bench_export.py PHOTOS [CALL...] [--rows FILE] [--docs docs/exporting.md]

PHOTOS is a folder of images of any sizes. Weights are fresh, BatchNorm has the statistics of 32
photographs, and the head is scaled so that outputs have a standard deviation of 3: probabilities
are then neither all alike nor all 0 and 1. CALL measures these networks alone; rows of others stay
in FILE. With --docs the table of all rows in FILE is put into that page.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import machine, versions

from ptkit.core.machine import prepare_environment

# A member of each family, with the pixels of a side.
NETWORKS = {
    "alexnet": 224,
    "convnext_tiny": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "efficientnet_v2_s": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "regnet_y_400mf": 224,
    "resnet18": 224,
    "resnext50_32x4d": 224,
    "shufflenet_v2_x0_5": 224,
    "squeezenet1_1": 224,
    "swin_t": 224,
    "swin_v2_t": 224,
    "vgg11": 224,
    "vit_b_32": 224,
    "wide_resnet50_2": 224,
    "lenet": 32,
    "resnet8": 32,
    "whitenet": 32,
    "efficientnet_lite0": 224,
    "timm:resnet10t": 176,
    "timm:convnext_atto": 224,
    "timm:vit_tiny_patch16_224": 224,
    "timm:efficientnet_lite0": 224,
}
FORMATS = {
    "ONNX": {"to": "onnx"},
    "ONNX fp16": {"to": "onnx", "precision": "fp16"},
    "torch-export": {"to": "torch-export"},
    "TorchScript": {"to": "torchscript"},
}
NUM_CLASSES, SPREAD = 10, 3.0
# With those of eight the outputs of other photographs were up to fifty times as far apart.
NUM_SETTLED = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("calls", nargs="*")
    parser.add_argument("--rows", type=Path, default=Path("export.json"))
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    prepare_environment()
    known = json.loads(options.rows.read_text()) if options.rows.exists() else {}
    for call in options.calls or NETWORKS:
        known[call] = dict(measured(call, options.photos))
        print(call, known[call], flush=True)
        options.rows.write_text(json.dumps(known, indent=1) + "\n")
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        options.docs.write_text(filled(page, known), encoding="utf-8")


def measured(call: str, photos: Path) -> Iterator[tuple[str, object]]:
    """Yield the size, the largest difference of each format, and the seconds of ONNX."""
    import ptkit

    yield "size", NETWORKS[call]
    again = call if call.startswith("timm:") else None
    with tempfile.TemporaryDirectory(prefix="bench-export-") as name:
        ckpt = checkpoint(call, photos, Path(name))
        for label, wanted in FORMATS.items():
            start = time.perf_counter()
            ending = {"onnx": "onnx", "torch-export": "pt2", "torchscript": "pt"}[wanted["to"]]
            out = Path(name) / f"model.{ending}"
            try:
                found = ptkit.export(ckpt, images=photos, out=out, model=again, **wanted)
                yield label, found.replayed.difference
            except ptkit.core.errors.PtkitError as error:
                yield label, str(error)
            if label == "ONNX":
                yield "seconds", round(time.perf_counter() - start, 1)


def checkpoint(call: str, photos: Path, folder: Path) -> Path:
    """Write a checkpoint of fresh weights whose outputs on the photographs are spread."""
    import torch

    from ptkit.core.data.keyed import spread
    from ptkit.core.data.transforms.completion import complete, evaluation_geometry
    from ptkit.core.data.transforms.pipeline import Pipeline
    from ptkit.core.models.checkpoints import save_checkpoint
    from ptkit.core.models.zoo import build_model, find_head

    size = NETWORKS[call]
    model, text = build_model(call, num_classes=NUM_CLASSES, size=size, seed=0)
    model.eval()
    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    calls = complete(evaluation_geometry(size), size=size, **statistics)
    pipeline = Pipeline.of(calls)
    paths = sorted(path for path in photos.rglob("*") if path.suffix in (".jpg", ".png"))
    chosen = spread(range(len(paths)), NUM_SETTLED)
    images = torch.stack([pipeline.read_image(paths[k]) for k in chosen])
    with torch.no_grad():
        settle_norms(model, images)
        head = model.get_submodule(find_head(model, NUM_CLASSES))
        if not head.weight.any():
            # As of torchvision's vision transformers: all probabilities would be alike.
            torch.nn.init.normal_(head.weight, std=0.02)
        outputs = model(images)
        # Outputs are linear in the head; of networks that end in a ReLU nearly so.
        factor = SPREAD / outputs.std(dim=0).mean().clamp_min(1e-6)
        head.weight.mul_(factor)
        if head.bias is not None:
            head.bias.sub_(outputs.mean(dim=0)).mul_(factor)
    path = folder / "ckpt.pkl"
    contents = {
        "kind": "best",
        "model": {"call": text, "num_classes": NUM_CLASSES},
        "classes": [str(number) for number in range(NUM_CLASSES)],
        "task": {"kind": "single-label", "activation": "softmax"},
        "pipeline": {"calls": list(map(str, calls)), "size": size, **statistics},
        "state_dict": model.state_dict(),
    }
    save_checkpoint(path, contents)
    return path


def settle_norms(model, images) -> None:  # type: ignore[no-untyped-def]
    """Give BatchNorm the statistics of some images, as training does: with those that it is made
    with, little is left of a deep network's outputs, and the head's scale overflows fp16.
    """
    from torch import nn

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model(images)
    model.eval()


def filled(page: str, known: dict[str, dict]) -> str:
    """Return the page with the table between its marks."""
    header = ["network", "pixels", *FORMATS]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for call in [call for call in NETWORKS if call in known]:
        cells = [known[call][label] for label in FORMATS]
        texts = [f"{cell:.0e}" if isinstance(cell, float) else "refused" for cell in cells]
        lines.append(f"| `{call}` | {known[call]['size']} | {' | '.join(texts)} |")
    libraries = ("torch", "torchvision", "onnx", "onnxruntime", "timm")
    about = ", ".join(f"{name} {number}" for name, number in versions(libraries).items())
    text = "\n".join([*lines, "", f"{machine()}; {about}."])
    pattern = re.compile(r"(<!-- bench export -->\n).*?(\n<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: found[1] + text + found[2], page)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
