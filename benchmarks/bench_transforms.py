"""Each transform, alone and in a typical list: ptkit's kernels against torchvision v2.

    python benchmarks/bench_transforms.py [--rounds 5] [--device cpu]

Images are in memory, decoded: random pixels of 32×32 in batches of 128, and of 256×256, cut to 224,
in batches of 16. torchvision gets single images; each has one thread. Both end in a batch and make
the same pixels for the same draws (tests compare them); drawing is part of the time. Transforms
without a form for whole batches run image by image in ptkit too: Resize, CenterCrop and Pad once
for a whole run, the others in threads, and torchvision's policies, seeded for each image, in worker
processes. The last table is the path of small images from the cache to the model, against gathering
their pixels alone (bench_batches.py compares it with torchvision's loader).

With `--device cuda` the images are on the GPU, and torchvision gets whole batches, with one draw
for all: image by image it would only start kernels. Transforms without a form for the device are
left out.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, in_turns, machine
from torchvision.transforms import v2

from ptkit.core.data import keyed
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.kept import Kept
from ptkit.core.data.transforms.catalogue import build_transform, has_form, num_draws, spec_of
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.whitening import LinearTransformation
from ptkit.core.device import sent
from ptkit.core.machine import keep_freed_memory
from ptkit.core.parts.calls import parse

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALIZE = f"Normalize({MEAN}, {STD})"
SIZES = {32: (32, 128), 224: (256, 16)}

# {0} is the training size, {1} that of the images, {2} that of one of several crops.
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
SMALL = ("RandomCrop(32, padding=4)", "RandomHorizontalFlip()", "ToTensor()", NORMALIZE)
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
    options = arguments(__doc__, rounds=5).parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{machine()}; {options.rounds} rounds, medians, one thread, {device}")
    for size, (side, count) in SIZES.items():
        print(f"\n{side}×{side} pixels, batches of {count}\n")
        print(
            "| transform | whole batches | ptkit, µs an image | torchvision, µs an image | times"
            " faster |"
        )
        print("|---|---|---|---|---|")
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for call in ON_PIXELS:
            one(
                call.format(size, side, size * 7 // 8), pixels, rounds=options.rounds, device=device
            )
        for call in ON_FLOATS:
            one(call, pixels, rounds=options.rounds, device=device, is_float=True)
        if size == 32:
            linear(pixels, rounds=options.rounds, device=device)
        for call in ON_BATCHES:
            mixing(call, pixels, rounds=options.rounds, device=device)
        for name, calls in LISTS.items():
            written = [call.format(size, side, size * 7 // 8) for call in calls]
            pipeline(name, written, pixels, rounds=options.rounds, device=device)
    print("\n32×32 pixels: gather, crop with padding, flip, normalise\n")
    print("| batches of | ptkit, µs an image | gathering uint8 pixels alone, µs an image | ratio |")
    print("|---|---|---|---|")
    for batch_size in (16, 128, 256):
        small(batch_size, rounds=options.rounds, device=device)


def one(
    call: str, pixels: Any, *, rounds: int, device: torch.device, is_float: bool = False
) -> None:
    """Time one transform, ptkit's form against torchvision's class."""
    transform = build_transform(parse(call))
    is_on_gpu, kernel = device.type != "cpu", spec_of(transform)
    name = "floats" if is_float else "device" if is_on_gpu else "batch"
    form = getattr(kernel, name) if has_form(transform, pixels.shape[1:3], name) else None
    if form is None and is_on_gpu:
        return
    images = (
        as_floats(pixels) if is_float else torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    )
    images = images.to(device)
    there = torch.from_numpy(pixels).to(device) if is_on_gpu else pixels
    batch = images.contiguous(memory_format=torch.channels_last) if is_float else there
    indices = np.arange(len(pixels))

    def ours(number: int) -> None:
        draws = keyed.uniforms(
            0, "bench", epoch=number + 1, indices=indices, columns=num_draws(transform)
        )
        if form is None:
            torch.stack(
                [
                    kernel.apply(transform, image, row)
                    for image, row in zip(images, draws, strict=True)
                ]
            )
        elif name == "device":
            form(transform, batch, sent(draws, device))
        else:
            form(transform, batch.clone() if is_float else batch.copy(), draws)

    def theirs(_: int) -> None:
        results = [transform(images)] if is_on_gpu else [transform(image) for image in images]
        torch.stack(
            [
                crop
                for result in results
                for crop in (result if isinstance(result, tuple) else (result,))
            ]
        )

    row(call, ours, theirs, count=len(pixels), rounds=rounds, is_batched=form is not None)


def linear(pixels: Any, *, rounds: int, device: torch.device) -> None:
    """Time LinearTransformation: one product per batch against one per image."""
    images = as_floats(pixels).to(device)
    matrix, mean = torch.randn(images[0].numel(), images[0].numel()), torch.randn(images[0].numel())
    mine, other = (
        LinearTransformation(matrix, mean),
        v2.LinearTransformation(matrix.to(device), mean.to(device)),
    )
    row(
        "LinearTransformation",
        lambda _: mine(images),
        lambda _: (
            other(images)
            if device.type != "cpu"
            else torch.stack([other(image) for image in images])
        ),
        count=len(images),
        rounds=rounds,
    )


def mixing(call: str, pixels: Any, *, rounds: int, device: torch.device) -> None:
    """Time the transforms that mix a batch; ptkit draws for each image, torchvision once."""
    images = as_floats(pixels).contiguous(memory_format=torch.channels_last).to(device)
    labels = torch.arange(len(pixels), device=device) % 10
    mine = build_transform(parse(call))
    other = type(mine)(num_classes=10)
    row(
        call,
        lambda number: mix(mine, images, labels, seed=0, epoch=1, batch=number + 1),
        lambda _: other(images, labels),
        count=len(images),
        rounds=rounds,
    )


def pipeline(
    name: str, calls: list[str], pixels: Any, *, rounds: int, device: torch.device
) -> None:
    """Time a whole list, from kept uint8 pixels to normalised float batches."""
    if "ToTensor()" not in calls:
        calls = [*calls, "ToTensor()", NORMALIZE]
    batches = batches_of(pixels, calls, batch_size=len(pixels), device=device)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    scale = v2.ToDtype(torch.float32, scale=True)
    other = v2.Compose(
        [scale if call == "ToTensor()" else build_transform(parse(call)) for call in calls]
    )
    row(
        name,
        lambda number: list(batches.epoch(number + 1)),
        lambda _: (
            other(images)
            if device.type != "cpu"
            else torch.stack([other(image) for image in images])
        ),
        count=len(pixels),
        rounds=rounds,
        is_batched=not batches.pipeline.plan.image_steps,
    )
    batches.close()


def small(batch_size: int, *, rounds: int, device: torch.device) -> None:
    """Time an epoch of small images, against gathering their pixels in a random order."""
    pixels = np.random.default_rng(0).integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    batches = batches_of(pixels, SMALL, batch_size=batch_size, device=device)
    order = np.random.default_rng(1).permutation(len(pixels))
    parts = np.split(order, range(batch_size, len(pixels), batch_size))
    runs = {
        "ours": lambda number: sum(len(batch.labels) for batch in batches.epoch(number + 1)),
        "gather": lambda _: sum(len(pixels[part]) for part in parts),
    }
    seconds = in_turns({who: waiting(run) for who, run in runs.items()}, rounds=rounds)
    mine, other = (statistics.median(seconds[who]) / len(pixels) * 1e6 for who in runs)
    print(f"| {batch_size} | {mine:.2f} | {other:.2f} | {mine / other:.1f} |", flush=True)
    batches.close()


def batches_of(
    pixels: Any, calls: Sequence[str], *, batch_size: int, device: torch.device
) -> Batches:
    """Return batches of images that are already kept in memory."""
    count, side = len(pixels), pixels.shape[1]
    listed = ImageList(
        Path("bench"), Path(), ("a",), "", np.zeros(count, np.int64), b"", np.zeros(count, np.int64)
    )
    plan = Pipeline.parse([f"Resize(({side}, {side}))", *calls])
    kept = Kept(pixels, ())
    return Batches(
        listed, plan, Sampling(batch_size, shuffle=True), device=device, workers=1, kept=kept
    )


def waiting(run: Callable[[int], object]) -> Callable[[int], None]:
    """Return a run that ends when a GPU, if there is one, has done its part."""

    def run_to_the_end(number: int) -> None:
        run(number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run_to_the_end


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
    seconds = in_turns({"ours": waiting(ours), "theirs": waiting(theirs)}, rounds=rounds)
    mine, other = (statistics.median(seconds[who]) / count * 1e6 for who in ("ours", "theirs"))
    mark = "yes" if is_batched else "no"
    print(f"| `{name}` | {mark} | {mine:,.1f} | {other:,.1f} | {other / mine:.1f} |", flush=True)


def as_floats(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(255)


if __name__ == "__main__":
    main()
