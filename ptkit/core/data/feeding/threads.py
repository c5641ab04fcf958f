"""The threads that decode."""

from concurrent.futures import ThreadPoolExecutor

import torch


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch's kernels on one core each."""
    return ThreadPoolExecutor(
        threads, "ptkit-decode", initializer=torch.set_num_threads, initargs=(1,)
    )
