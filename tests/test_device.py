"""What a run asks of its device."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ptkit.core.device import begin_copy, prepare_device, when_copied
from ptkit.core.machine import num_cores
from ptkit.core.models.checkpoints import copy_contents
from ptkit.core.training.histograms import parameter_copies


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


def test_a_copy_on_the_cpu_stays_as_it_was_with_its_strides():
    images = torch.rand(2, 3, 4, 5, requires_grad=True).to(memory_format=torch.channels_last)
    before = images.tolist()
    copy = begin_copy(images)
    when_copied(torch.device("cpu"))()
    with torch.no_grad():
        images.zero_()
    assert copy.tolist() == before
    assert (copy.stride(), copy.requires_grad) == (images.stride(), False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_copy_from_a_gpu_arrives_in_another_thread_though_the_tensor_changes(nothing_waits):
    weights = torch.ones(1 << 24, device="cuda")
    ahead = torch.rand(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with nothing_waits():
        # So much work is queued that the copy cannot have begun.
        for _ in range(20):
            ahead = ahead @ ahead
        copy = begin_copy(weights)
        arrived = when_copied(weights.device)
        weights.zero_()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(arrived).result()
    assert copy.device.type == "cpu"
    assert bool((copy == 1).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_a_checkpoint_holds_is_copied_without_waiting_for_the_gpu(nothing_waits):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.rand(2, 3, 8, 8, device="cuda")).sum().backward()
    optimizer.step()
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    with nothing_waits():
        contents = {"weights": model.state_dict(), "optimizer": optimizer.state_dict()}
        copies, gradients = copy_contents(contents), parameter_copies(model)
        arrived = when_copied(torch.device("cuda"))
    arrived()
    assert all(torch.equal(copies["weights"][name], weights[name]) for name in weights)
    assert all(
        torch.equal(gradients[f"gradients/{name}"], parameter.grad.cpu())
        for name, parameter in model.named_parameters()
    )
