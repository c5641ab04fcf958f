"""What a run asks of its device."""

import pytest
import torch

from ptkit.core.device import prepare_device
from ptkit.core.machine import num_cores


@pytest.fixture
def threads():
    """Set torch's threads to a number that nothing here would choose, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores() + 1)
    yield num_cores() + 1
    torch.set_num_threads(before)


def test_a_run_uses_every_core(monkeypatch, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert prepare_device(torch.device("cpu"), deterministic=False) == num_cores()


def test_a_number_of_threads_that_the_user_set_stays(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert prepare_device(torch.device("cpu"), deterministic=False) == threads
