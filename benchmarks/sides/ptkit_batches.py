"""ptkit's batches without a model, and the two limits on their speed.

ptkit_batches.py LIST SIZE BATCH_SIZE CACHE DEVICE TRANSFORM...

Words: `round`, an epoch of augmented, normalised batches; `decode`, decoding alone, with one
thread per core; `gather`, collecting the uint8 images of each batch, in one thread. Figures: images
per second.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ptkit.core.machine import num_cores, prepare_environment

prepare_environment()

import cv2  # noqa: E402
import torch  # noqa: E402
from networks import wait_for  # noqa: E402
from turns import serve  # noqa: E402

from ptkit.core.config.layers import resolve  # noqa: E402
from ptkit.core.data.lists import read_list  # noqa: E402
from ptkit.core.device import choose_device, prepare_device  # noqa: E402
from ptkit.core.training.observers import Unwatched  # noqa: E402
from ptkit.core.training.setup_data import prepare_data  # noqa: E402

MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def main() -> None:
    file, size, batch_size, cache, device, *calls = sys.argv[1:]
    data = {
        "train": file,
        "valid": str(Path(file).parent / "valid.txt"),
        "size": int(size),
        "transforms": calls,
        "cache": cache,
        # An epoch may have an image twice.
        "allow_leak": True,
        "mean": MEAN,
        "std": STD,
    }
    settings = resolve({"data": data, "train": {"batch_size": int(batch_size)}})
    prepare_device(choose_device(device), deterministic=False)
    place, quiet = choose_device(device), Unwatched().counting
    batches = prepare_data(settings.data, settings.train, device=place, counting=quiet).train
    listed = read_list(Path(file))
    paths = [listed.image_path(index) for index in range(len(listed))]
    number = 0

    def epoch() -> int:
        nonlocal number
        number += 1
        count = sum(len(batch.labels) for batch in batches.epoch(number))
        wait_for(device)
        return count

    rounds = {
        "round": epoch,
        "decode": lambda: decode(paths),
        "gather": make_gather(len(paths), int(size), int(batch_size)),
    }
    serve({name: lambda work=work: rate(work) for name, work in rounds.items()})


def rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def decode(paths: list[str]) -> int:
    """Decode all images with OpenCV in one thread per core, and nothing else."""
    chunks = [paths[start : start + 16] for start in range(0, len(paths), 16)]
    with ThreadPoolExecutor(num_cores()) as pool:
        for _ in pool.map(
            lambda some: [cv2.imread(path, cv2.IMREAD_COLOR_RGB) is None for path in some], chunks
        ):
            pass
    return len(paths)


def make_gather(count: int, size: int, batch_size: int) -> Callable[[], int]:
    pixels = None

    def run() -> int:
        nonlocal pixels
        pixels = (
            torch.zeros((count, size, size, 3), dtype=torch.uint8) if pixels is None else pixels
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for indices in torch.randperm(count).split(batch_size):
            pixels[indices]
        torch.set_num_threads(threads)
        return count

    return run


if __name__ == "__main__":
    main()
