"""train.compile: the same run within rounding, resumed exactly, and checkpoints that know nothing
of it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists

import ptkit
from ptkit.core.config.layers import resolve
from ptkit.core.errors import UsageError
from ptkit.core.models.whitenet import whitenet
from ptkit.core.training import compiling
from ptkit.core.training.compiling import CompiledForward, compile_model
from ptkit.core.training.observers import Watcher
from ptkit.core.training.run_place import Place
from ptkit.core.training.run_result import RunResult
from ptkit.core.training.session import run

# Two convolutions compile in a few seconds, once for training and once for validation.
TINY = {
    "model": {"call": "lenet()"},
    "train": {"epochs": 2, "batch_size": 16, "compile": True},
    "log": {"tensorboard": False, "pictures": False},
}

# What torch 2.11 on Python 3.12 and torch 2.6 say to themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles"),
]


class PowerCutError(Exception):
    pass


class Listener(Watcher):
    def __init__(self, *, dies_in: int = 0) -> None:
        self.lines: list[str] = []
        self.dies_in = dies_in

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, progress: Any) -> None:
        if progress.epoch == self.dies_in:
            raise PowerCutError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # 40 images: two full batches and one of eight.
    monkeypatch.chdir(make_lists(tmp_path, train=40))
    return tmp_path


def start(*layers: dict[str, Any], watch: Watcher | None = None, **arguments: Any) -> RunResult:
    return run(resolve(TINY, *layers), watch=watch or Listener(), **arguments)


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_compiled_run_is_the_same_within_rounding_and_goes_on_exactly(here: Path) -> None:
    plain = start({"train": {"compile": False}}, place=Place(name="plain"))
    watch = Listener()
    compiled = start(watch=watch, place=Place(name="compiled"))
    assert any(line.startswith("model compiled: the first step took") for line in watch.lines)
    found, expected = weights(compiled.run / "last.pkl"), weights(plain.run / "last.pkl")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["fc3.weight"], torch.zeros_like(found["fc3.weight"]))

    with pytest.raises(PowerCutError):
        start(watch=Listener(dies_in=2), place=Place(name="cut"))
    start(resume=Path("runs/cut"))
    assert all(
        torch.equal(found[name], value)
        for name, value in weights(Path("runs/cut/last.pkl")).items()
    )

    assert type(ptkit.load(compiled.checkpoint)).__name__ == "LeNet"


@pytest.mark.slow
def test_compiling_leaves_the_model_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, note = compile_model(model, torch.rand(8, 3, 2, 2), dtype=None)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert note.startswith("model compiled: ")


@pytest.mark.slow
def test_a_compiled_whitenet_in_bf16_has_the_gradients_of_the_plain_one() -> None:
    torch.manual_seed(0)
    model = whitenet(num_classes=4, widths=(8, 12)).to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)

    def directions(forward: Any, *, is_half: bool) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            outputs = forward(images)
        found = torch.autograd.grad(outputs.float().square().mean(), [*model.parameters()])
        return [gradient.flatten() / gradient.norm() for gradient in found]

    compiled, _ = compile_model(model, images, dtype=torch.bfloat16)
    pairs = zip(directions(compiled, is_half=True), directions(model, is_half=False), strict=True)
    assert min(float(found @ expected) for found, expected in pairs) > 0.9


@pytest.mark.slow
def test_gradients_that_a_step_adds_up_outlive_the_replay_of_a_graph() -> None:
    model, batches = torch.nn.Linear(3, 2), torch.randn(3, 4, 3)
    forward = CompiledForward(model, torch.device("cpu"))
    forward.uses_graphs, memory = True, []

    def replay(images: torch.Tensor) -> torch.Tensor:
        # As a graph does: each replay writes into the memory of the one before.
        for kept in memory:
            kept.fill_(torch.nan)
        outputs = model(images)
        for parameter in model.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad + 0
        return outputs

    forward._compiled = replay
    for images in batches:
        forward(images).sum().backward()
        memory[:] = [parameter.grad for parameter in model.parameters()]
    expected = torch.autograd.grad(
        sum(model(images).sum() for images in batches), [*model.parameters()]
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], [*expected])


def test_what_cannot_be_recorded_as_a_graph_is_an_error_before_the_first_step(monkeypatch) -> None:
    class Graphs:
        uses_graphs, num_calls = True, 0

        def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
            self.model = model

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            self.num_calls += 1
            # The first call warms up, the second records.
            if self.num_calls == 2:
                raise RuntimeError("operation not permitted when stream is capturing")
            return self.model(images)

    monkeypatch.setattr(compiling, "CompiledForward", Graphs)
    model = torch.nn.Linear(3, 2)
    with pytest.raises(UsageError, match="operation not permitted when stream is capturing"):
        compile_model(model, torch.ones(4, 3), dtype=None)


@pytest.mark.slow
def test_compiling_without_a_compiler_is_one_line(here: Path) -> None:
    import torch._inductor.config

    # What was compiled before would be taken again.
    torch.compiler.reset()
    missing = {"cpp.cxx": (None, str(here / "no-compiler")), "fx_graph_cache": False}
    with torch._inductor.config.patch(missing), pytest.raises(UsageError) as error:
        start()
    assert "No working C++ compiler found" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_batches_of_another_shape_go_through_the_model_itself() -> None:
    model = torch.nn.Linear(3, 2)
    forward, seen = CompiledForward(model, torch.device("cpu")), []
    forward._compiled = lambda images: seen.append(len(images)) or model(images)  # type: ignore[func-returns-value]
    for count in (4, 4, 3, 4):
        forward(torch.zeros(count, 3))
    model.eval()
    for count in (8, 4, 8):
        forward(torch.zeros(count, 3))
    assert seen == [4, 4, 4, 8, 8]
