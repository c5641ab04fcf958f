"""fp16: the scale of the loss, the steps it leaves out, and what of it is saved; on the CPU, whose
kernels know fp16 too.
"""

import copy
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from torch import nn

from ptkit.core.config.layers import resolve
from ptkit.core.device import choose_dtype, precision_of
from ptkit.core.errors import DivergedError, UsageError
from ptkit.core.models.zoo import build_model
from ptkit.core.parts.calls import parse
from ptkit.core.training.observers import Watcher
from ptkit.core.training.optimization.optimizers import USUAL_RATES, build_optimizer
from ptkit.core.training.optimization.scaling import LossScaler
from ptkit.core.training.run_place import Place
from ptkit.core.training.session import run

CALLS = sorted(f"{name}()" for name in USUAL_RATES.keys() - {"LBFGS", "SparseAdam"})
CALLS += ["SGD(momentum=0.9, nesterov=True)"]
TINY = {
    "model": {"call": "lenet()"},
    "train": {"epochs": 2, "batch_size": 16, "precision": "fp16", "clip_grad": 1.0},
    "log": {"tensorboard": False, "pictures": False},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def gradients(model, seed):
    """Put the same gradients into the parameters for the same seed."""
    numbers = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=numbers)


def scaled_step(model, scaler, *, seed, overflows=False):
    """Make a step as the loop does, whose gradients are `scale` times those of `gradients`."""
    scale = scaler.scaled(torch.ones(())).item()
    gradients(model, seed)
    for parameter in model.parameters():
        parameter.grad *= scale
    if overflows:
        parameter.grad[0] = torch.inf
    scaler.unscale()
    scaler.step()


@pytest.mark.parametrize("first", [False, True], ids=["second step", "first step"])
@pytest.mark.parametrize("call", CALLS)
def test_a_step_that_overflows_is_left_out_as_if_it_had_not_been(model, call, first):
    plain = copy.deepcopy(model)
    ours = build_optimizer(parse(call), model, lr=0.1).optimizer
    scaler = LossScaler(ours, model, is_enabled=True)
    for seed, overflows in ((1, first), (2, not first), (3, False), (4, False)):
        scaled_step(model, scaler, seed=seed, overflows=overflows)
    expected = build_optimizer(parse(call), plain, lr=0.1).optimizer
    for seed in (2, 3, 4) if first else (1, 3, 4):
        gradients(plain, seed)
        expected.step()
    torch.testing.assert_close([*model.parameters()], [*plain.parameters()])
    assert scaler.state_dict()["scale"] == 2.0**15


def test_a_group_that_joins_begins_as_if_its_left_out_step_had_not_been(model):
    groups, plain = ["0: unfreeze=2"], copy.deepcopy(model)
    call = parse("SGD(momentum=0.9)")
    ours = build_optimizer(call, model, lr=0.1, groups=groups)
    scaler = LossScaler(ours.optimizer, model, is_enabled=True)
    scaled_step(model, scaler, seed=1)
    ours.unfreeze(2)
    for seed, overflows in ((2, True), (3, False), (4, False)):
        scaled_step(model, scaler, seed=seed, overflows=overflows)
    expected = build_optimizer(call, plain, lr=0.1, groups=groups)
    for seed in (1, 3, 4):
        gradients(plain, seed)
        expected.optimizer.step()
        expected.unfreeze(2)
    torch.testing.assert_close([*model.parameters()], [*plain.parameters()])


def test_gradients_that_are_never_finite_end_the_run(model):
    ours = build_optimizer(parse("Adam()"), model, lr=0.1).optimizer
    scaler = LossScaler(ours, model, is_enabled=True)
    for step in range(26):
        scaler.check()
        scaled_step(model, scaler, seed=step, overflows=True)
    scaled_step(model, scaler, seed=0, overflows=True)
    with pytest.raises(DivergedError, match=r"NaN or infinite in fp16.*--precision fp32"):
        scaler.check()


def test_a_scaler_that_is_not_enabled_changes_nothing(model):
    plain = copy.deepcopy(model)
    ours = build_optimizer(parse("Adam()"), model, lr=0.1).optimizer
    scaler = LossScaler(ours, model, is_enabled=False)
    gradients(model, 1)
    scaler.unscale()
    scaler.step()
    scaler.check()
    expected = build_optimizer(parse("Adam()"), plain, lr=0.1).optimizer
    gradients(plain, 1)
    expected.step()
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert scaler.state_dict() == {}


# --------------------------------------------------------------------------------------- whole runs


class Watch(Watcher):
    def __init__(self, *, dies_in=0):
        self.lines, self.dies_in = [], dies_in

    def say(self, text):
        self.lines.append(text)

    def step(self, progress):
        if progress.epoch == self.dies_in:
            raise KeyboardInterrupt


def last_of(folder):
    return torch.load(Path(folder) / "last.pkl", weights_only=True)


def test_a_run_in_fp16_goes_on_byte_for_byte_with_its_scale(here):
    watch = Watch()
    whole = last_of(run(resolve(TINY), watch=watch, place=Place(name="whole")).run)
    assert any(line.endswith(", fp16") for line in watch.lines)
    with pytest.raises(KeyboardInterrupt):
        run(resolve(TINY), watch=Watch(dies_in=2), place=Place(name="cut"))
    before = last_of("runs/cut")["train"]["scaler"]
    watch = Watch()
    run(resolve(TINY), watch=watch, resume=Path("runs/cut"))
    assert "resuming runs/cut after epoch 1: bit-exact" in watch.lines
    cut = last_of("runs/cut")
    assert cut["train"]["scaler"] == whole["train"]["scaler"]
    assert before["_growth_tracker"] < whole["train"]["scaler"]["_growth_tracker"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(cut["state_dict"][name], value)


def test_a_run_in_fp16_learns_as_one_in_fp32_does(here):
    found = run(resolve(TINY), watch=Watch(), place=Place(name="half"))
    plain = run(
        resolve(TINY, {"train": {"precision": "fp32"}}), watch=Watch(), place=Place(name="full")
    )
    ours, expected = (last_of(result.run)["state_dict"] for result in (found, plain))
    start, _ = build_model("lenet()", num_classes=3, size=16, seed=0)
    # By what training changed: the steps are small beside the weights.
    for name, value in start.state_dict().items():
        assert (ours[name] - expected[name]).norm() < 0.05 * (expected[name] - value).norm()
    assert last_of("runs/full")["train"]["scaler"] == {}


def test_a_run_with_another_precision_does_not_claim_to_be_exact(here):
    with pytest.raises(KeyboardInterrupt):
        run(resolve(TINY), watch=Watch(dies_in=2), place=Place(name="cut"))
    for file in ("last.pkl", "ckpt.pkl"):
        saved = torch.load(Path("runs/cut") / file, weights_only=True)
        saved["env"] |= {"precision": "bf16", "kernels": "other"}
        torch.save(saved, Path("runs/cut") / file)
    watch = Watch()
    run(resolve(TINY), watch=watch, resume=Path("runs/cut"))
    assert any(line.endswith("changed: kernels, precision") for line in watch.lines)


def test_lbfgs_takes_no_fp16(here):
    settings = resolve(TINY, {"optimizer": {"call": "LBFGS()"}})
    with pytest.raises(UsageError, match="use --precision fp32 or bf16"):
        run(settings, watch=Watch())


# ---------------------------------------------------------------------------------- what auto means


@pytest.mark.parametrize(
    ("device", "has_bf16", "name"),
    [
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("cpu", False, "fp32"),
        ("mps", True, "fp32"),
    ],
)
def test_auto_is_what_the_device_computes_in(monkeypatch, device, has_bf16, name):
    # Emulated bf16 is no reason to take it.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 | including_emulation
    )
    assert precision_of(choose_dtype("auto", torch.device(device))) == name


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_is_called_what_its_flag_calls_it(name):
    assert precision_of(choose_dtype(name, torch.device("cpu"))) == name
