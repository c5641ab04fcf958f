"""Memory of batches from kept images, against the size of the decoded images and two batches.

    python benchmarks/bench_memory.py IMAGES [--limit 50000]

IMAGES is ROOT/CLASS/*.jpg of 32×32. Growth: the peak of resident memory while data are prepared and
two epochs pass, minus what was resident before; one process per round. Large batches make every
copy visible.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, at_most, begin, image_paths, report, write_lists

BATCH_SIZES = (128, 2_048)
GROWTH = """
import sys
from ptkit.core.machine import prepare_environment

prepare_environment()
import torch
from ptkit.core.config.layers import resolve
from ptkit.core.training.setup_data import prepare_data
from ptkit.core.device import choose_device, prepare_device
from ptkit.core.training.observers import Unwatched

def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

def passed(file, batch_size):
    data = {"train": file, "valid": file.replace("train", "valid"), "size": 32,
            "mean": [0.5] * 3, "std": [0.25] * 3, "cache": "ram",
            "transforms": ["RandomCrop(32, padding=4)", "RandomHorizontalFlip()"]}
    settings = resolve({"data": data, "train": {"batch_size": batch_size}})
    cpu, quiet = choose_device("cpu"), Unwatched().counting
    batches = prepare_data(settings.data, settings.train, device=cpu, counting=quiet).train
    for number in (1, 2):
        for batch in batches.epoch(number):
            pass

prepare_device(choose_device("cpu"), deterministic=False)
# Once with few images: what is loaded and built on first use is not part of the growth.
passed(sys.argv[1], 64)
before = resident("VmRSS")
passed(sys.argv[2], int(sys.argv[3]))
print(resident("VmHWM") - before)
"""


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=50_000)
    options = parser.parse_args()
    paths = image_paths(options.images, limit=options.limit)
    begin("memory", note=f"{len(paths):,} images of 32×32")
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        few, many = Path(name) / "few", Path(name) / "many"
        few.mkdir()
        many.mkdir()
        files = [
            write_lists(paths[:200], few, num_valid=10),
            write_lists(paths, many, num_valid=10),
        ]
        for batch_size in BATCH_SIZES:
            measure(*files, num_images=len(paths), batch_size=batch_size, rounds=options.rounds)


def measure(few: Path, many: Path, *, num_images: int, batch_size: int, rounds: int) -> None:
    command = [sys.executable, "-c", GROWTH, str(few), str(many), str(batch_size)]
    growths = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the measured process failed:\n{done.stderr}")
        growths.append(float(done.stdout))
    pixels, batch = num_images * 32 * 32 * 3, batch_size * 32 * 32 * 3 * 4
    allowed = (pixels + many.stat().st_size + 2 * batch) / 2**20
    what = f"growth with {num_images:,} images kept, batches of {batch_size:,}"
    report(
        what,
        growths,
        [allowed] * rounds,
        against="decoded images, list and two batches",
        goal=at_most(1),
        unit="MiB",
    )


if __name__ == "__main__":
    main()
