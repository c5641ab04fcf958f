"""Augmented, normalised batches without a model, against torchvision and against decoding alone.

    python benchmarks/bench_batches.py small IMAGES
    python benchmarks/bench_batches.py photos PHOTOS

IMAGES: class folders of 32×32 JPEGs, cut with padding and flipped. PHOTOS: class folders of
photographs, cut to 224 by RandomResizedCrop and flipped; decoded as they are needed (streaming),
and kept decoded. The peer: torchvision.io, v2 on tensors, DataLoader with two persistent workers.
Batches of kept images are also compared with gathering alone. Files are in the page cache.
"""

import tempfile
from pathlib import Path

from common import arguments, at_least, at_most, begin, image_paths, report, write_lists
from contest import Program, contest

NUM_VALID = 10
PEER = "torchvision.io + v2, 2 workers"


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("kind", choices=("small", "photos"))
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument(
        "--passes", type=int, default=2, help="how often an epoch has each photograph"
    )
    options = parser.parse_args()
    paths = image_paths(options.images, limit=options.limit)
    with tempfile.TemporaryDirectory(prefix="bench-batches-") as name:
        if options.kind == "small":
            begin(
                "batches",
                "small",
                note=f"{len(paths):,} images of 32×32, batches of 128, {options.device}",
            )
            small(paths, Path(name), rounds=options.rounds, device=options.device)
        else:
            passed = paths * options.passes
            begin(
                "batches",
                "photos",
                note=f"{len(paths):,} photographs to 224, batches of 32, {options.device}",
            )
            photos(passed, Path(name), rounds=options.rounds, device=options.device)
            pixels(paths[:64], Path(name))


def small(paths: list[Path], folder: Path, *, rounds: int, device: str) -> None:
    file = str(write_lists(paths, folder, num_valid=NUM_VALID))
    words = (
        file,
        "32",
        "128",
        "auto",
        device,
        "RandomCrop(32, padding=4)",
        "RandomHorizontalFlip()",
    )
    programs = {
        "ptkit": Program("ptkit_batches.py", words),
        "gather": Program("ptkit_batches.py", words, word="gather"),
        "peer": Program("torchvision_loader.py", (file, "32", "128", "crop", device)),
    }
    figures = contest(programs, rounds=rounds)
    what = "batches, 32×32: crop, flip, normalise"
    report(
        what, figures["ptkit"], figures["peer"], against=PEER, goal=at_least(18), unit="images/s"
    )
    against = "gathering uint8 images alone, 1 thread"
    report(
        what,
        figures["ptkit"],
        figures["gather"],
        against=against,
        goal=at_least(0.35),
        unit="images/s",
    )


def photos(paths: list[Path], folder: Path, *, rounds: int, device: str) -> None:
    file = str(write_lists(paths, folder, num_valid=NUM_VALID))
    calls = ("RandomResizedCrop(224)", "RandomHorizontalFlip()")
    streaming, cached = ((file, "224", "32", cache, device, *calls) for cache in ("off", "ram"))
    programs = {
        "streaming": Program("ptkit_batches.py", streaming),
        "decode": Program("ptkit_batches.py", streaming, word="decode"),
        "cached": Program("ptkit_batches.py", cached),
        "peer": Program("torchvision_loader.py", (file, "224", "32", "resized", device)),
    }
    found = contest(programs, rounds=rounds)
    what = "batches, photos to 224: resized crop, flip, normalise"
    stream, keep = f"{what}; streaming", f"{what}; decoded images kept"
    decoding = "decoding alone (OpenCV), a thread a core"
    report(
        stream,
        found["streaming"],
        found["decode"],
        against=decoding,
        goal=at_least(0.65),
        unit="images/s",
    )
    report(
        stream, found["streaming"], found["peer"], against=PEER, goal=at_least(1.4), unit="images/s"
    )
    report(keep, found["cached"], found["peer"], against=PEER, goal=at_least(4), unit="images/s")


def pixels(paths: list[Path], folder: Path) -> None:
    """Compare the batches with what torchvision makes of the same files, where nothing is drawn at
    random.
    """
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    from ptkit.core.data.keyed import Sampling
    from ptkit.core.data.lists import read_list
    from ptkit.core.data.loading.batches import Batches
    from ptkit.core.data.transforms.pipeline import Pipeline

    listed = read_list(write_lists(paths, folder))
    # A crop of all pixels with equal sides never fits: torchvision falls back to the square in the
    # middle.
    for call, transform in {
        "RandomResizedCrop(224, scale=(1, 1), ratio=(1, 1))": v2.RandomResizedCrop(
            224, scale=(1, 1), ratio=(1, 1)
        ),
        "Resize(256), CenterCrop(224)": v2.Compose(
            [v2.Resize(256, antialias=True), v2.CenterCrop(224)]
        ),
    }.items():
        calls = [*call.replace("), C", ")|C").split("|"), "ToTensor()"]
        largest = 0.0
        for batch in Batches(listed, Pipeline.parse(calls), Sampling(32)).epoch():
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                theirs = transform(
                    decode_jpeg(read_file(listed.image_path(index)), mode=ImageReadMode.RGB)
                )
                largest = max(largest, (image.mul(255) - theirs.float()).abs().max().item())
        what = f"largest difference of a pixel, `{call}`, {len(paths)} photos"
        report(
            what,
            [largest],
            [2.0],
            against="torchvision: at most 2 levels of 255",
            goal=at_most(1),
            unit="levels",
        )


if __name__ == "__main__":
    main()
