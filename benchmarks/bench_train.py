"""Training on small images: the whole loop against the model alone, and against a plain loop as a beginner writes it.

    python benchmarks/bench_train.py IMAGES [--model lenet] [--batch-size 128] [--limit 20000] [--device cpu]

IMAGES is ROOT/CLASS/*.jpg of 32×32. "Model alone" steps on batches that lie ready in memory, channels last, with
the same loss and optimizer: in the loop's own process, and in a process of plain PyTorch, without the allocator and
thread settings that ptkit makes. The plain loop opens files with Pillow, transforms image by image, and reads the
loss after every step.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from common import HEADER, in_turns, machine, report

AUGMENT = ["RandomCrop(32, padding=4)", "RandomHorizontalFlip()"]
# Steps of a short epoch.
SHORT = 30
MODEL_ALONE = """
import sys, time, torch
from ptkit.core.models.zoo import build_model

call, batch_size, count, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model, _ = build_model(call, num_classes=10, size=32, seed=0)
model.to(device, memory_format=torch.channels_last)
images = torch.randn(batch_size, 3, 32, 32).to(device, memory_format=torch.channels_last)
labels = torch.randint(0, 10, (batch_size,)).to(device)
optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
for number in range(count // batch_size + 20):
    if number == 20:
        start = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
    optimizer.step()
if device == "cuda":
    torch.cuda.synchronize()
print(time.perf_counter() - start)
"""
OUR_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[6])
import argparse, time, bench_train
from ptkit.core.machine import prepare_environment

prepare_environment()
options = argparse.Namespace(model=sys.argv[1], batch_size=int(sys.argv[2]), device=sys.argv[4])
training = bench_train.prepared(Path(sys.argv[5]), options)
from ptkit.core.training.loop import train_epoch

train_epoch(training, 1)
start = time.perf_counter()
train_epoch(training, 2)
bench_train.wait(options.device)
print(time.perf_counter() - start)
"""
PLAIN_LOOP = """
import sys, time, torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from ptkit.core.models.zoo import build_model

class Files(Dataset):
    def __init__(self, file, transform):
        self.rows = [line.rsplit(" ", 1) for line in open(file)]
        self.transform = transform
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        path, label = self.rows[index]
        return self.transform(Image.open(path).convert("RGB")), int(label)

call, batch_size, device, file = sys.argv[1], int(sys.argv[2]), sys.argv[4], sys.argv[5]
transform = T.Compose([T.Resize(32), T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(),
                       T.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])])
model, _ = build_model(call, num_classes=10, size=32, seed=0)
model.to(device)
optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, dampening=0.1)
start, right = time.perf_counter(), 0.0
for images, labels in DataLoader(Files(file, transform), batch_size=batch_size, shuffle=True):
    images, labels = images.to(device), labels.to(device)
    optimizer.zero_grad()
    outputs = model(images)
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    loss.backward()
    optimizer.step()
    right += (outputs.argmax(1) == labels).sum().item()
    loss.item()
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        file = write_lists(options.images.resolve(), Path(name), options.limit)
        print(f"{machine()}; {options.model}, batch {options.batch_size}, {options.limit:,} images\n\n{HEADER}")
        in_process(file, options)
        whole_loops(file, options)


def write_lists(images: Path, folder: Path, limit: int) -> Path:
    paths = sorted(images.glob("*/*.jpg"))
    random.Random(0).shuffle(paths)
    names = sorted({path.parent.name for path in paths})
    lines = [f"{path} {names.index(path.parent.name)}\n" for path in paths[: limit + 1000]]
    (folder / "train.txt").write_text("".join(lines[:limit]))
    (folder / "valid.txt").write_text("".join(lines[limit:]))
    (folder / "classes.txt").write_text("\n".join(names))
    return folder / "train.txt"


def in_process(file: Path, options: argparse.Namespace) -> None:
    """Time short epochs of our loop and as many steps of the model alone, in quick turns: a busy moment hits both."""
    from ptkit.core.machine import prepare_environment

    prepare_environment()

    short = file.parent / "short"
    short.mkdir()
    for name, count in (("train.txt", SHORT * options.batch_size), ("valid.txt", 100), ("classes.txt", 1000)):
        lines = (file.parent / name).read_text().splitlines(keepends=True)
        (short / name).write_text("".join(lines[:count]))
    training = prepared(short / "train.txt", options)
    ready = list(training.train.epoch(0))

    def model_alone(_number: int) -> None:
        training.model.train()
        for batch in ready:
            training.optimizer.zero_grad(set_to_none=True)
            training.loss(training.model(batch.images), batch.labels).backward()
            training.optimizer.step()
        wait(options.device)

    def ours(number: int) -> None:
        from ptkit.core.training.loop import train_epoch

        train_epoch(training, number + 2)
        wait(options.device)

    seconds = in_turns({"ours": ours, "alone": model_alone}, rounds=12 * options.rounds)
    what = f"training `{options.model}`, batch {options.batch_size}"
    report(f"{what}; peer: model alone", seconds["ours"], seconds["alone"], goal=1 / 0.9)


def prepared(file: Path, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from ptkit.core.config import resolve
    from ptkit.core.training.session import prepare
    from ptkit.core.training.watching import Watcher

    settings = resolve(
        {
            "data": {"train": str(file), "valid": str(file.parent / "valid.txt"), "transforms": AUGMENT},
            "model": {"call": options.model},
            "train": {"batch_size": options.batch_size, "device": options.device, "epochs": 100},
        }
    )
    return prepare(settings, Watcher(), is_resumed=False).training


def whole_loops(file: Path, options: argparse.Namespace) -> None:
    """Time an epoch of our loop and of others in processes of their own, in turns."""

    def seconds_of(program: str) -> float:
        words = [options.model, str(options.batch_size), str(options.limit), options.device, str(file)]
        done = subprocess.run(
            [sys.executable, "-c", program, *words, str(Path(__file__).parent)],
            check=True,
            capture_output=True,
            text=True,
        )
        return float(done.stdout.split()[-1])

    rows = [[seconds_of(p) for p in (OUR_LOOP, MODEL_ALONE, PLAIN_LOOP)] for _ in range(options.rounds)]
    mine, alone, plain = ([row[k] for row in rows] for k in range(3))
    what = f"training `{options.model}`, batch {options.batch_size}, a process each"
    report(f"{what}; peer: model alone, as plain PyTorch", mine, alone, goal=1 / 0.9)
    report(f"{what}; peer: a plain loop, as in the course", mine, plain, goal=0.2)


def wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
