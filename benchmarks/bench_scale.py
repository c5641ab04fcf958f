"""Time and memory at scale: long lists, many images, many classes, large models.

    python benchmarks/bench_scale.py lists [--lines 10000000] [--step read|check|workers]
    python benchmarks/bench_scale.py images IMAGES
    python benchmarks/bench_scale.py classes
    python benchmarks/bench_scale.py model

IMAGES is ROOT/CLASS/*.jpg, such as the training part of CIFAR-10; it needs 40,000 of them. Memory
is the peak of resident memory in a separate process.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import arguments, at_most, begin, image_paths, report, write_lists

MIB = 1 << 20
# So many images have all the lines of a list, under as many names: folders that are links lead back
# to where they lie.
NUM_FILES, NUM_LINKS = 1000, 100
WORKERS = 4
STEPS = ("read", "check", "workers")
# The time of lists, images and epochs, and the peak of memory at the end.
LISTS = """
import json, time, numpy as np
from pathlib import Path
from ptkit.core.data import statistics
from ptkit.core.data import keyed as sampling
from ptkit.core.data.lists import read_list

seconds, start = {}, time.process_time()

def lap(name):
    global start
    seconds[name], start = time.process_time() - start, time.process_time()

read_list(Path("valid.txt"))
train = read_list(Path("train.txt"))
lap("read")
sampling.epoch_order(len(train), None, seed=0, epoch=1, shuffle=True)
lap("order")
weights = sampling.balanced_weights(train.labels)
sampling.draw_keys(sampling.epoch_order(len(train), weights, seed=0, epoch=1, shuffle=True))
lap("balanced")
statistics.sample(train, num=10_000)
lap("sample")
print(json.dumps(seconds))
"""
COMPARED = """
import json, time
from ptkit.core.config.settings import DataSettings
from ptkit.core.training.setup_lists import read_lists

start = time.process_time()
read_lists(DataSettings())
print(json.dumps({"check": time.process_time() - start}))
"""
EPOCHS = """
import json, sys
from ptkit.core.machine import prepare_environment

prepare_environment()
import time
from pathlib import Path
from ptkit.core.config.layers import resolve
from ptkit.core.data.lists import read_list
from ptkit.core.training.loop import fit
from ptkit.core.training.setup import prepare
from ptkit.core.training.observers import Unwatched

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024

def measured(folder):
    start, before = time.perf_counter(), resident()
    count = len(read_list(Path(folder, "train.txt")))
    listed = time.perf_counter()
    data = {"train": f"{folder}/train.txt", "valid": f"{folder}/valid.txt", "cache": "ram"}
    train = {"batch_size": 128, "epochs": 2, "device": device}
    settings = {"data": data, "train": train, "model": {"call": "lenet"}}
    run = prepare(resolve(settings), Unwatched(), is_resumed=False)
    prepared = time.perf_counter()
    seconds = [result.seconds for result in fit(run.training)]
    grown = resident() - before
    run.training.train.close()
    return {"list": (listed - start) / count, "prepare": (prepared - listed) / count,
            "epoch": min(seconds) / count, "bytes": grown / count}

device, *folders = sys.argv[1:]
measured(folders[0])
print(json.dumps([measured(folder) for folder in folders]))
"""
PLAIN = """
for name in ("train.txt", "valid.txt"):
    with open(name) as file:
        for line in file:
            path, label = line.rsplit(None, 1)
            hash(path), int(label)
"""
PLAIN_SIZES = """
import os

for name in ("train.txt", "valid.txt"):
    with open(name) as file:
        for line in file:
            os.stat(line.rsplit(None, 1)[0]).st_size
"""
# The memory of a process and its workers, each page once, after some batches of a list.
WORKING = """
import os, sys
import psutil
from pathlib import Path
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.pipeline import Pipeline

# AutoAugment draws from global generators: worker processes, not threads.
pipeline = Pipeline.parse(["Resize((16, 16))", "AutoAugment()", "ToTensor()"])
sampling = Sampling(64, shuffle=True)
batches = Batches(read_list(Path("train.txt")), pipeline, sampling, workers=int(sys.argv[1]))
for _, batch in zip(range(50), batches.epoch()):
    pass
children = psutil.Process().children(recursive=True)
assert len(children) == int(sys.argv[1])
print(sum(each.memory_full_info().pss for each in [psutil.Process(), *children]))
"""


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("part", choices=("lists", "images", "classes", "model"))
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--step", choices=STEPS, help="of lists: one of the steps only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as name:
        folder = Path(name)
        match options.part:
            case "lists":
                steps = [options.step] if options.step else STEPS
                lists(folder, num_lines=options.lines, steps=steps)
            case "images":
                if options.images is None:
                    parser.error("images needs a folder of them")
                images(folder, options.images, options.device)
            case "classes":
                classes(folder, options.device)
            case "model":
                large_model(folder, options.device)


def lists(folder: Path, *, num_lines: int, steps: Sequence[str]) -> None:
    begin(
        "scale",
        "lists",
        note=f"{num_lines:,} lines for training, a tenth of them for validation; s: of processors",
    )
    tenth = folder / "tenth"
    tenth.mkdir()
    _write_lines(tenth, num_lines // 10)
    _write_lines(folder, num_lines)
    if "read" in steps:
        _read(folder, tenth, num_lines)
    if "check" in steps:
        _compare(folder, tenth)
    if "workers" in steps:
        _work(folder)


def _read(folder: Path, tenth: Path, num_lines: int) -> None:
    few, _, _ = _measured([sys.executable, "-c", LISTS], tenth)
    found, _, peak = _measured([sys.executable, "-c", LISTS], folder)
    plain = _processor_time([sys.executable, "-c", PLAIN], folder)
    seconds, less = json.loads(found), json.loads(few)
    reading = "reading two lists"
    report(
        reading,
        [seconds["read"]],
        [20 * num_lines / 10_000_000],
        against="20 s for ten million lines",
        goal=at_most(1),
    )
    report(reading, [seconds["read"]], [plain], against="splitting each line, in plain Python")
    for key, what in {
        "read": reading,
        "order": "the order of an epoch",
        "balanced": "the draws of a balanced epoch",
        "sample": "choosing images for the statistics",
    }.items():
        # Ten times the lines take a little more than ten times as long: sorting, and memory beyond
        # the cache.
        report(
            what,
            [seconds[key]],
            [10 * less[key]],
            against="ten times that of a tenth",
            goal=at_most(1.5),
        )
    report(
        "peak memory, all of it", [peak], [2e9 / MIB], against="2 GB", goal=at_most(1), unit="MiB"
    )


def _compare(folder: Path, tenth: Path) -> None:
    """Report what reading both lists takes, and comparing paths and sizes of all their files."""
    few, _, _ = _measured([sys.executable, "-c", COMPARED], tenth)
    found, _, peak = _measured([sys.executable, "-c", COMPARED], folder)
    plain = _processor_time([sys.executable, "-c", PLAIN_SIZES], tenth)
    what = "reading and comparing them, by path and by size of the files"
    seconds, less = (json.loads(told)["check"] for told in (found, few))
    against = "ten times asking for the sizes of a tenth, in plain Python"
    report(what, [seconds], [10 * plain], against=against)
    report(what, [seconds], [10 * less], against="ten times that of a tenth", goal=at_most(1.5))
    what = f"peak memory, {what}"
    report(what, [peak], [2e9 / MIB], against="2 GB", goal=at_most(1), unit="MiB")


def _work(folder: Path) -> None:
    working, _, _ = _measured([sys.executable, "-c", WORKING, str(WORKERS)], folder)
    report(
        f"memory with {WORKERS} worker processes, each page once",
        [int(working) / MIB],
        [2e9 / MIB],
        against="2 GB",
        goal=at_most(1),
        unit="MiB",
    )


def images(folder: Path, source: Path, device: str) -> None:
    counts = (2_500, 10_000, 40_000)
    begin(
        "scale",
        "images",
        note="lenet at batch 128, images kept in memory; 1×, 4× and 16× 2,500 images",
    )
    paths, folders = image_paths(source), []
    for count in counts:
        folders.append(folder / str(count))
        folders[-1].mkdir()
        write_lists([*paths[:count], *paths[-100:]], folders[-1], num_valid=100)
    found, _, _ = _measured([sys.executable, "-c", EPOCHS, device, *folders], folder)
    one, *more = json.loads(found)
    for times, values in zip((4, 16), more, strict=True):
        for key, what in {
            "list": "reading the list",
            "prepare": "decoding, statistics",
            "epoch": "an epoch",
        }.items():
            ours, other = [1e6 * values[key]], [1e6 * one[key]]
            report(
                f"{what}, {times}×",
                ours,
                other,
                against="1×",
                goal=at_most(1.15),
                unit="µs an image",
            )
    report(
        "memory, 16×",
        [more[1]["bytes"]],
        [32 * 32 * 3],
        against="decoded pixels",
        unit="bytes an image",
    )


def classes(folder: Path, device: str) -> None:
    begin(
        "scale",
        "classes",
        note="20,000 images of 8×8 for training, 2,000 for validation; resnet8, one epoch",
    )
    few, many = folder / "few", folder / "many"
    _write_images(few, num_classes=10)
    _write_images(many, num_classes=10_000)
    train = [
        "train",
        "--epochs",
        "1",
        "--model",
        "resnet8",
        "--size",
        "16",
        "--quiet",
        "--device",
        device,
    ]
    for what, command in {
        "train, pictures and events": train,
        "confmat": ["confmat", "ckpt.pkl", "valid.txt", "--device", device],
    }.items():
        _, less, low = _ptkit(command, few)
        _, seconds, peak = _ptkit(command, many)
        report(f"{what}, 10,000 classes", [seconds], [less], against="10 classes")
        report(
            f"{what}, 10,000 classes, peak memory", [peak], [low], against="10 classes", unit="MiB"
        )


def large_model(folder: Path, device: str) -> None:
    from ptkit.core.models.zoo import build_model
    from ptkit.core.parts.calls import parse

    begin(
        "scale",
        "model",
        note="two epochs of two steps with AdamW and an average of the weights, everything written",
    )
    # Weights, gradients, two states of AdamW, the average.
    against = "resnet8 and 5 × the weights"
    if device == "cuda":
        report("peak memory, convnext_base", "not measured on a GPU", "", against=against)
        return
    _write_images(folder, num_classes=2, train=16, valid=4)
    small = [
        "train",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--size",
        "32",
        "--optimizer",
        "AdamW",
        "--quiet",
    ]
    small += ["--set", "train.ema=0.9", "--device", device, "--model"]
    _, _, base = _ptkit([*small, "resnet8"], folder)
    name = "convnext_base"
    model, _ = build_model(parse(name), num_classes=2, size=32, seed=0)
    weights = sum(p.numel() for p in model.parameters()) * 4 / MIB
    _, _, peak = _ptkit([*small, name], folder)
    what = f"peak memory, {name}, {weights * MIB / 4e6:.0f} M parameters"
    report(what, [peak], [base + 5 * weights], against=against, goal=at_most(1.2), unit="MiB")


def _write_lines(folder: Path, count: int) -> None:
    """Write two lists, of `count` lines and a tenth of that, whose images are all there."""
    import numpy as np
    from PIL import Image

    random, most = np.random.default_rng(0), NUM_FILES * NUM_LINKS**2
    if count > most:
        raise SystemExit(f"at most {most:,} lines, found {count:,}")
    for k in range(NUM_LINKS):
        (folder / f"link{k:02d}").symlink_to(".")
    for part, number in (("train", count), ("valid", count // 10)):
        for k in range(NUM_FILES):
            image = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(file := folder / f"{part}{k:04d}.png")
            # Bytes after its end, so that no image of one list is as long as one of the other, or
            # the contents would be compared.
            os.truncate(file, 1000 + 2 * k + (part == "valid"))
        with (folder / f"{part}.txt").open("w") as file:
            file.writelines(
                f"link{k // NUM_FILES // NUM_LINKS:02d}/link{k // NUM_FILES % NUM_LINKS:02d}"
                f"/{part}{k % NUM_FILES:04d}.png {k % NUM_FILES}\n"
                for k in range(number)
            )


def _write_images(
    folder: Path, *, num_classes: int, train: int = 20_000, valid: int = 2_000
) -> None:
    """Write lists and a few files: the same two hundred images under many names."""
    import numpy as np
    from PIL import Image

    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for k in range(200):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    for part, count in (("train", train), ("valid", valid)):
        (folder / part).mkdir()
        for k in range(count):
            os.link(folder / f"{k % 200}.png", folder / part / f"{k}.png")
        lines = [f"{part}/{k}.png {k % num_classes}\n" for k in range(count)]
        (folder / f"{part}.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"class {k}\n" for k in range(num_classes)))


def _ptkit(command: Sequence[str], folder: Path) -> tuple[str, float, float]:
    return _measured([sys.executable, "-m", "ptkit", *command], folder)


def _processor_time(command: Sequence[str], folder: Path) -> float:
    """Run a process in a folder; return the seconds of all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _measured(command, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measured(command: Sequence[str | Path], folder: Path) -> tuple[str, float, float]:
    """Run a process in a folder; return its output, its seconds and the peak of its memory in MiB.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        # Popen would wait for it again.
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))[:200]} failed:\n{errors.read()}")
        return output.read(), seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
