"""A checkpoint with flipped bits, cut off, and with zeroed blocks: every damage is found.

python benchmarks/faults/damage_checkpoints.py
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptkit.core.errors import CheckpointError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.zoo import build_model

FLIPS, CUTS, BLOCKS = 200, 64, 64
BLOCK = 4096


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what was done, and the bytes."""
    draw = random.Random(0)
    for _ in range(FLIPS):
        place = draw.randrange(len(data))
        flipped = data[place] ^ 1 << draw.randrange(8)
        yield f"a flipped bit in byte {place}", data[:place] + bytes([flipped]) + data[place + 1 :]
    for _ in range(CUTS):
        length = draw.randrange(len(data))
        yield f"cut off at {length}", data[:length]
    for _ in range(BLOCKS):
        start = draw.randrange(len(data) - BLOCK)
        yield f"zeros from {start}", data[:start] + bytes(BLOCK) + data[start + BLOCK :]


def main() -> None:
    model, call = build_model("resnet8", num_classes=10, size=16, seed=0)
    contents = {
        "kind": "best",
        "model": {"call": call, "num_classes": 10},
        "classes": [str(k) for k in range(10)],
        "task": {"kind": "single-label", "activation": "softmax"},
        "pipeline": {"calls": ["Resize((16, 16))", "ToTensor()"], "size": 16},
        "state_dict": model.state_dict(),
    }
    missed = count = 0
    with tempfile.TemporaryDirectory() as folder:
        file, sent = Path(folder, "ckpt.pkl"), Path(folder, "sent.pkl")
        save_checkpoint(file, contents)
        for what, data in damaged(file.read_bytes()):
            sent.write_bytes(data)
            count += 1
            try:
                read_checkpoint(sent)
            except CheckpointError:
                continue
            missed += 1
            print(f"not found: {what}")
    print(
        f"{'FAILED' if missed else 'passed'}: {count - missed} of {count} damages found ({FLIPS}"
        f" flipped bits, {CUTS} truncations, {BLOCKS} zeroed blocks)"
    )
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
