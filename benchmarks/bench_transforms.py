"""Each transform, alone and in a typical list: ptkit's kernels against torchvision v2 image by image, one thread each.

    python benchmarks/bench_transforms.py [--rounds 5]

Images are in memory, decoded: random pixels of 32×32 in batches of 128, and of 256×256, cut to 224, in batches of 16.
Both end in a batch, and make the same pixels for the same draws (tests hold them against each other); drawing is part
of the time. What has no form for whole batches runs image by image in ptkit too: Resize, CenterCrop and Pad once for a
whole run, the others in threads, and torchvision's policies, seeded for each image, in worker processes.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import in_turns, machine
from torchvision.transforms import v2

from ptkit.core.calls import parse
from ptkit.core.data import keyed
from ptkit.core.data.batches import Batches
from ptkit.core.data.keeping import Kept
from ptkit.core.data.lists import ImageList
from ptkit.core.data.transforms.catalogue import build_transform
from ptkit.core.data.transforms.kernels import has_form, kernel_of
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.machine import keep_freed_memory

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALIZE = f"Normalize({MEAN}, {STD})"
SIZES = {32: (32, 128), 224: (256, 16)}

# {0} is the size of training, {1} that of the images, {2} that of one of several crops.
ON_PIXELS = (
    "CenterCrop({0})",
    "FiveCrop({2})",
    "TenCrop({2})",
    "RandomCrop({0}, padding=4)",
    "RandomResizedCrop({0})",
    "RandomHorizontalFlip()",
    "RandomVerticalFlip()",
    "RandomRotation(15)",
    "RandomRotation(15, interpolation=InterpolationMode.BILINEAR)",
    "RandomAffine(15, translate=[0.1, 0.1], scale=[0.8, 1.2])",
    "Resize({0})",
    "Pad(4)",
    "ColorJitter(brightness=0.4)",
    "ColorJitter(contrast=0.4)",
    "ColorJitter(saturation=0.4)",
    "ColorJitter(hue=0.1)",
    "ColorJitter(0.4, 0.4, 0.4)",
    "ColorJitter(0.4, 0.4, 0.4, 0.1)",
    "Grayscale(3)",
    "RandomGrayscale(p=0.5)",
    "RandomApply([ColorJitter(0.4, 0.4)], p=0.5)",
    "RandomChoice([RandomRotation(15), ColorJitter(0.4)])",
    "RandomOrder([RandomHorizontalFlip(), ColorJitter(0.4)])",
    "AutoAugment()",
    "RandAugment()",
    "TrivialAugmentWide()",
    "AugMix()",
)
ON_FLOATS = (NORMALIZE, "RandomErasing()", "RandomErasing(value='random')")
ON_BATCHES = ("MixUp()", "CutMix()")
LISTS = {
    "crop, flip, normalise": ("RandomCrop({0}, padding=4)", "RandomHorizontalFlip()"),
    "crop, flip, jitter, normalise": (
        "RandomCrop({0}, padding=4)",
        "RandomHorizontalFlip()",
        "ColorJitter(0.4, 0.4, 0.4)",
    ),
    "crop, flip, jitter, normalise, erase": (
        "RandomCrop({0}, padding=4)",
        "RandomHorizontalFlip()",
        "ColorJitter(0.4, 0.4, 0.4)",
        "ToTensor()",
        NORMALIZE,
        "RandomErasing()",
    ),
    "resized crop, flip, jitter, normalise": (
        "RandomResizedCrop({0})",
        "RandomHorizontalFlip()",
        "ColorJitter(0.4, 0.4, 0.4)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{machine()}; {options.rounds} rounds, medians, one thread")
    for size, (side, count) in SIZES.items():
        print(f"\n{side}×{side} pixels, batches of {count}\n")
        print("| transform | whole batches | ptkit, µs an image | torchvision, µs an image | times faster |")
        print("|---|---|---|---|---|")
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for call in ON_PIXELS:
            one(call.format(size, side, size * 7 // 8), pixels, rounds=options.rounds)
        for call in ON_FLOATS:
            one(call, pixels, rounds=options.rounds, is_float=True)
        if size == 32:
            linear(pixels, rounds=options.rounds)
        for call in ON_BATCHES:
            mixing(call, pixels, rounds=options.rounds)
        for name, calls in LISTS.items():
            pipeline(name, [call.format(size, side, size * 7 // 8) for call in calls], pixels, rounds=options.rounds)


def one(call: str, pixels: Any, *, rounds: int, is_float: bool = False) -> None:
    """Time one transform, ptkit's form against torchvision's class."""
    transform = build_transform(parse(call))
    images = as_floats(pixels) if is_float else torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    kernel = kernel_of(transform)
    form = kernel.floats if is_float else kernel.batch
    if not has_form(transform, pixels.shape[1:3], of_floats=is_float):
        form = None
    batch = images.contiguous(memory_format=torch.channels_last) if is_float else pixels
    indices = np.arange(len(pixels))

    def ours(number: int) -> None:
        draws = keyed.uniforms(0, "bench", epoch=number + 1, indices=indices, columns=kernel.draws(transform))
        if form is not None:
            form(transform, batch.clone() if is_float else batch.copy(), draws)
            return
        torch.stack([kernel.apply(transform, image, row) for image, row in zip(images, draws, strict=True)])

    def theirs(_: int) -> None:
        results = (transform(image) for image in images)
        torch.stack([crop for result in results for crop in (result if isinstance(result, tuple) else (result,))])

    row(call, ours, theirs, count=len(pixels), rounds=rounds, is_batched=form is not None)


def linear(pixels: Any, *, rounds: int) -> None:
    """Time LinearTransformation: one product for a batch against one an image."""
    images = as_floats(pixels)
    matrix, mean = torch.randn(images[0].numel(), images[0].numel()), torch.randn(images[0].numel())
    mine, other = build_transform(parse("LinearTransformation([[1.0]], [1.0])")), v2.LinearTransformation(matrix, mean)
    mine = type(mine)(matrix, mean)
    row(
        "LinearTransformation",
        lambda _: mine(images),
        lambda _: torch.stack([other(image) for image in images]),
        count=len(images),
        rounds=rounds,
    )


def mixing(call: str, pixels: Any, *, rounds: int) -> None:
    """Time what mixes batches; ptkit draws for each image, torchvision once."""
    images = as_floats(pixels).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(pixels)) % 10
    mine = build_transform(parse(call))
    other = type(mine)(num_classes=10)
    row(
        call,
        lambda number: mix(mine, images, labels, seed=0, epoch=1, batch=number + 1),
        lambda _: other(images, labels),
        count=len(images),
        rounds=rounds,
    )


def pipeline(name: str, calls: list[str], pixels: Any, *, rounds: int) -> None:
    """Time a whole list, from kept uint8 pixels to normalised float batches."""
    if "ToTensor()" not in calls:
        calls = [*calls, "ToTensor()", NORMALIZE]
    count, side = len(pixels), pixels.shape[1]
    listed = ImageList(Path("bench"), Path(), ("a",), "", np.zeros(count, np.int64), b"", np.zeros(count, np.int64))
    batches = Batches(
        listed,
        Pipeline.parse([f"Resize(({side}, {side}))", *calls]),
        batch_size=count,
        workers=1,
        kept=Kept(pixels, ()),
    )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    scale = v2.ToDtype(torch.float32, scale=True)
    other = v2.Compose([scale if call == "ToTensor()" else build_transform(parse(call)) for call in calls])
    row(
        name,
        lambda number: list(batches.epoch(number + 1)),
        lambda _: torch.stack([other(image) for image in images]),
        count=count,
        rounds=rounds,
        is_batched=not batches.pipeline.middle,
    )
    batches.close()


def row(
    name: str,
    ours: Callable[[int], object],
    theirs: Callable[[int], object],
    *,
    count: int,
    rounds: int,
    is_batched: bool = True,
) -> None:
    """Print both times for one image and their ratio."""
    seconds = in_turns({"ours": ours, "theirs": theirs}, rounds=rounds)
    mine, other = (statistics.median(seconds[who]) / count * 1e6 for who in ("ours", "theirs"))
    mark = "yes" if is_batched else "no"
    print(f"| `{name}` | {mark} | {mine:,.1f} | {other:,.1f} | {other / mine:.1f} |", flush=True)


def as_floats(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(255)


if __name__ == "__main__":
    main()
