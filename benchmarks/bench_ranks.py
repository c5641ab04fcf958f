"""What a step costs a rank besides the model, in a job of a thousand ranks simulated in one
process: the order of an epoch, the part of each batch with its draws, and the sums.

    python benchmarks/bench_ranks.py [--ranks 1000] [--images 10000000] [--batch-size 32000]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch

from ptkit.core.data.keyed import Sampling, epoch_order, uniforms
from ptkit.core.ranks import Rank

# Draws of an image: a crop and a flip take three.
COLUMNS = 3
# Ranks that are simulated of all: each does the same work.
SOME = 50
# Orders that are made; the median counts.
EPOCHS = 5


def selections(sampling: Sampling, order: np.ndarray, num_batches: int) -> Iterator[np.ndarray]:
    """Yield a rank's images of each batch, after making their draws."""
    for number in range(num_batches):
        mine = order[sampling.part_of_batch(number, len(order)).places]
        uniforms(0, "draws", epoch=1, indices=mine, columns=COLUMNS)
        yield mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=32_000)
    asked = parser.parse_args()
    orderings = []
    for epoch in range(EPOCHS):
        begin = time.perf_counter()
        order = epoch_order(asked.images, None, seed=0, epoch=epoch, shuffle=True)
        orderings.append(time.perf_counter() - begin)
    ordering = statistics.median(orderings)
    num_batches = asked.images // asked.batch_size
    numbers, seen = np.linspace(0, asked.ranks - 1, SOME).astype(int).tolist(), 0
    begin = time.perf_counter()
    for number in numbers:
        sampling = Sampling(asked.batch_size, shuffle=True, rank=Rank(number, asked.ranks))
        seen += sum(map(len, selections(sampling, order, num_batches)))
    sampled = (time.perf_counter() - begin) / len(numbers)
    losses = [torch.tensor(1.0) for _ in range(num_batches)]
    begin = time.perf_counter()
    torch.stack(losses).tolist()
    logged = time.perf_counter() - begin
    each = 1000 / num_batches
    print(
        f"{asked.ranks} ranks, {asked.images:,} images, batches of {asked.batch_size:,}, on"
        f" {platform.processor() or platform.machine()}; a step and rank: order"
        f" {ordering * each:.3f} ms, part and draws {sampled * each:.3f} ms, sums"
        f" {logged * each:.3f} ms; together {(ordering + sampled + logged) * each:.2f} ms"
    )


if __name__ == "__main__":
    main()
