"""The model alone in plain PyTorch, without ptkit's memory allocator and thread settings.

plain_model.py NUM_STEPS NETWORK BATCH_SIZE SIZE DEVICE
"""

import sys

import torch
from networks import make_alone
from turns import serve


def main() -> None:
    num_steps, name, batch_size, size, device = sys.argv[1:6]
    dtype = None
    if device == "cuda":
        # As ptkit chooses: older GPUs emulate bf16.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if has_bf16 else torch.float16
    alone = make_alone(name, int(batch_size), int(size), device=device, dtype=dtype)
    serve({"round": lambda: alone(int(num_steps))})


if __name__ == "__main__":
    main()
