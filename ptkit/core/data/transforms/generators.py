"""The global generators of torch, numpy and Python, which a user's transform may draw from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Put the generators that a user's transform may draw from back to where they were."""
    before = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
