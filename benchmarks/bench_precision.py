"""What a number format gains and costs: speed, memory and digits of fp32 with TF32, bf16 and fp16.

    python benchmarks/bench_precision.py [--device cuda]

Training steps of the model alone on batches in memory, as in bench_train.py, each format in turns
with fp32 without TF32. On a CPU, which has no TF32, `lenet` shows that the script runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from common import arguments, begin, figures_in_turns, report
from sides.networks import make_alone, network
from torch import Tensor
from torch.nn import functional as F

FORMATS = {"cuda": ("fp32 with TF32", "bf16", "fp16"), "cpu": ("bf16", "fp16")}
EXACT = "fp32 without TF32"
MODELS = {
    "cuda": (("resnet18", 224, 64), ("resnet18-small", 32, 512)),
    "cpu": (("lenet", 32, 128),),
}
STEPS = {"cuda": 50, "cpu": 5}


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    begin("precision", note=f"the model alone, {options.device}")
    for name, size, batch_size in MODELS[options.device]:
        what = f"`{name}` at {size}, batch {batch_size}"
        compare(what, Model(name, size, batch_size, options.device), rounds=options.rounds)


class Model:
    """A network of networks.py with a batch, and what its steps are in each format."""

    def __init__(self, name: str, size: int, batch_size: int, device: str) -> None:
        torch.manual_seed(0)
        self.name, self.size, self.batch_size, self.device = name, size, batch_size, device
        self.module = network(name, 10).to(device, memory_format=torch.channels_last).train()
        images = torch.randn(batch_size, 3, size, size)
        self.images = images.to(device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch_size, device=device) % 10

    def speed(self, format: str) -> float:
        """Return images per second of some steps."""
        with computing_in(format) as dtype:
            alone = make_alone(
                self.name, self.batch_size, self.size, device=self.device, dtype=dtype
            )
            steps = STEPS[self.device]
            # Kernels are chosen in the first steps.
            alone(max(steps // 10, 2))
            return alone(steps)

    def gradients(self, format: str) -> tuple[Tensor, float]:
        """Return the gradients of a step as one vector, and the most memory it took, in MiB."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.module.zero_grad()
        with computing_in(format) as dtype:
            with torch.autocast(self.device, dtype, enabled=dtype is not None):
                outputs = self.module(self.images)
            # As GradScaler does: small gradients are lost in fp16 otherwise, large ones with more.
            (F.cross_entropy(outputs.float(), self.labels) * 2**10).backward()
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else 0.0
        # On the CPU: those of one format are no part of the memory that the next one takes.
        found = [parameter.grad.cpu().double().flatten() for parameter in self.module.parameters()]
        return torch.cat(found), peak


def compare(what: str, model: Model, *, rounds: int) -> None:
    formats = FORMATS[model.device]
    speeds = figures_in_turns(
        {name: lambda _, name=name: model.speed(name) for name in (EXACT, *formats)}, rounds=rounds
    )
    exact, most = model.gradients(EXACT)
    for name in formats:
        report(f"{what}: {name}", speeds[name], speeds[EXACT], against=EXACT, unit="images/s")
        found, peak = model.gradients(name)
        error, against = float((found - exact).norm() / exact.norm()), "their length"
        report(
            f"{what}: error of the gradients in {name}", [error], [1.0], against=against, unit=""
        )
        if model.device == "cuda":
            report(f"{what}: memory in {name}", [peak], [most], against=EXACT, unit="MiB")


@contextmanager
def computing_in(format: str) -> Iterator[torch.dtype | None]:
    """Set TF32 for a block; yield autocast's dtype, or None."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if format == EXACT else "high")
    torch.backends.cudnn.allow_tf32 = format != EXACT
    try:
        yield {"bf16": torch.bfloat16, "fp16": torch.float16}.get(format)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


if __name__ == "__main__":
    main()
