"""train.batch_size=auto, and the batch size that would have fitted where memory ran out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists

import ptkit
from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.device import is_out_of_memory
from ptkit.core.errors import UsageError
from ptkit.core.ranks import Rank, being
from ptkit.core.training.batch_sizes import (
    explained_memory,
    fastest,
    first_that_fits,
    saved_bytes,
)
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY: dict[str, Any] = {
    "model": {"call": "lenet()"},
    "train": {"epochs": 1, "device": "cpu"},
    "log": {"tensorboard": False, "pictures": False},
}
QUICK: dict[str, Any] = {"model": "lenet", "epochs": 1, "tensorboard": False, "pictures": False}


class Listener(Unwatched):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Hungry(torch.nn.Module):
    """Takes all memory for batches above a size."""

    def __init__(self, num_classes: int, most: int = 16) -> None:
        super().__init__()
        self.head, self.most = torch.nn.Linear(3, num_classes), most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.head(images.mean(dim=(2, 3)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path, train=40))
    Path("net.py").write_text(
        "from test_batch_sizes import Hungry\ndef Net(num_classes, most=16):\n"
        "    return Hungry(num_classes, most)\n"
    )
    return tmp_path


def measured(rates: dict[int, float], *, fits: int = 10**9) -> Callable[[int], float]:
    def images_per_s(size: int) -> float:
        if size > fits:
            raise torch.OutOfMemoryError
        return rates[size]

    return images_per_s


@pytest.mark.parametrize(
    ("fits", "largest", "expected", "why"),
    [
        (999, 999, 64, "128 gains less than 5%"),
        (32, 999, 32, "64 does not fit into memory"),
        (999, 40, 32, "an epoch should have 16 steps"),
    ],
)
def test_the_largest_batch_that_fits_and_gains_is_taken(fits, largest, expected, why) -> None:
    rates = {16: 100.0, 32: 180.0, 64: 240.0, 128: 245.0}
    found = fastest(measured(rates, fits=fits), first=16, largest=largest)
    assert (found.batch_size, found.why) == (expected, why)


def test_a_batch_size_that_was_measured_is_told_with_all_that_were_tried() -> None:
    found = fastest(measured({16: 1000.0, 32: 1010.0}), first=16, largest=64)
    assert found.note == (
        "batch size: 16, of those measured (16: 1,000, 32: 1,010 images/s); 32 gains less than 5%"
    )


def test_no_batch_that_fits_is_an_error() -> None:
    with pytest.raises(UsageError, match="neither a batch of 16 images nor a smaller one fits"):
        fastest(measured({}, fits=1), first=16, largest=64)


def test_an_error_that_is_not_of_memory_is_no_batch_that_does_not_fit() -> None:
    def broken(size: int) -> float:
        raise RuntimeError("shapes do not agree")

    with pytest.raises(RuntimeError, match="shapes do not agree"):
        fastest(broken, first=16, largest=64)


def test_the_first_size_that_fits_is_found_among_smaller_ones() -> None:
    tried: list[int] = []

    def step(size: int) -> None:
        tried.append(size)
        if size > 8:
            raise torch.OutOfMemoryError

    assert first_that_fits([32, 16, 8, 4], step) == 8
    assert tried == [32, 16, 8]
    assert first_that_fits([32, 16], step) is None


def test_torch_says_of_a_cpu_that_its_memory_is_used_up() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes do not agree"))


def test_what_forward_keeps_for_backward_is_counted_once_and_without_the_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    images = torch.rand(10, 4)
    # The input, and the output of ReLU, which two layers keep.
    assert saved_bytes(model, lambda: model(images).sum().backward()) == 4 * 10 * (4 + 8)


def test_copies_of_weights_that_autocast_keeps_do_not_grow_with_the_batch() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(400, 500), torch.nn.Linear(500, 2))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(torch.rand(1, 400))
        outputs.sum().backward()

    # Of each layer the input: in bf16.
    assert saved_bytes(model, step) == 2 * (400 + 500)


def test_a_run_with_a_measured_batch_size_is_that_of_the_size_found(here: Path) -> None:
    # Which has statistics beside its weights.
    watch, quick = Listener(), {**QUICK, "model": "resnet8"}
    found = ptkit.train(batch_size="auto", watch=watch, **quick)
    config = read_toml(found.run / "config.toml")["train"]
    size = config["batch_size"]
    assert size in (16, 32)
    line = next(line for line in watch.lines if line.startswith("batch size: "))
    assert f"batch size: {size}, of those measured (16: " in line
    assert line.endswith(f"lr {0.1 * size / 64:g}, in proportion to it")
    same = ptkit.train(batch_size=size, **quick)
    ours, theirs = (torch.load(r.run / "last.pkl", weights_only=True) for r in (found, same))
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    assert read_toml(same.run / "config.toml")["train"] == config


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"lr": 0.05}, "lr 0.05, as given"),
        ({"call": "SGD(lr=0.03)"}, "lr 0.03, as given"),
        ({"call": "AdamW()"}, "lr 0.002, usual for AdamW at any batch size"),
        (
            {"call": "AdamW()", "lr": 0.001, "lr_per": 4},
            "lr 0.002, scaled by the square root from that for 4 images",
        ),
    ],
)
def test_a_rate_that_does_not_go_with_the_batch_size_is_told(
    here, monkeypatch, optimizer, words
) -> None:
    # Of 16 images there are no two sizes to choose from.
    lists = make_lists(here / "few", train=16)
    monkeypatch.chdir(lists)
    watch, auto = Listener(), {"train": {"batch_size": "auto"}, "optimizer": optimizer}
    prepare(resolve(TINY, auto), watch, is_resumed=False).data.close()
    assert any(line.startswith("batch size: ") and line.endswith(words) for line in watch.lines)


def test_batches_mixed_and_in_crops_are_measured_too(here: Path) -> None:
    layer = {"data": {"transforms": ["MixUp()"], "size": 32}, "train": {"batch_size": "auto"}}
    prepare(resolve(TINY, layer), Unwatched(), is_resumed=False).data.close()
    crops = {"data": {"transforms": ["FiveCrop(32)"], "size": 32}}
    prepare(resolve(TINY, layer, crops), Unwatched(), is_resumed=False).data.close()


def test_each_crop_counts_as_an_image_in_the_batches_of_evaluation(here: Path) -> None:
    crops = {"data": {"transforms": ["FiveCrop(32)"], "size": 32}, "train": {"batch_size": 20}}
    setup = prepare(resolve(TINY, crops), Unwatched(), is_resumed=False)
    assert setup.data.valid.sampling.batch_size == 2 * 20 // 5
    other = setup.data.with_batch_size(10)
    assert other.valid.sampling.batch_size == other.reference.sampling.batch_size == 2 * 10 // 5
    other.close()


def test_memory_that_runs_out_is_told_with_the_batch_size_that_fits(here: Path) -> None:
    with pytest.raises(UsageError) as error:
        ptkit.train(**{**QUICK, "model": "net.py:Net(most=11)"}, batch_size=32)
    assert str(error.value) == (
        "out of memory: batches of 32 images do not fit, of 8 they do: pass --batch-size 8 --set"
        " train.accumulate=4"
    )


def test_memory_that_runs_out_after_gradients_were_unscaled_is_told(here: Path) -> None:
    fp16 = {"train": {"batch_size": 8, "precision": "fp16"}}
    setup = prepare(resolve(TINY, fp16), Unwatched(), is_resumed=False)
    training = setup.training
    batch = next(training.train.epoch(1))
    outputs = training.model(batch.images)
    training.scaler.scaled(training.loss(outputs, batch.labels)).backward()
    training.scaler.unscale()
    # As clipping or the optimizer's first step may end.
    with pytest.raises(UsageError, match="a step of 8 images"), explained_memory(training):
        raise torch.OutOfMemoryError("CUDA out of memory")
    setup.data.close()


def test_memory_that_ran_out_beside_a_step_is_told(here: Path) -> None:
    setup = prepare(resolve(TINY, {"train": {"batch_size": 8}}), Unwatched(), is_resumed=False)
    words = "a step of 8 images fits by itself, but not what came"
    with pytest.raises(UsageError, match=words), explained_memory(setup.training):
        raise MemoryError
    setup.data.close()


def test_an_epoch_has_its_steps_where_a_step_has_several_batches(here: Path, monkeypatch) -> None:
    monkeypatch.setattr("ptkit.core.training.batch_sizes._GAIN", 0)
    monkeypatch.setattr("ptkit.core.training.batch_sizes._STEPS_AN_EPOCH", 1)
    watch, several = Listener(), {"train": {"batch_size": "auto", "accumulate": 2}}
    prepare(resolve(TINY, several), watch, is_resumed=False).data.close()
    # Of 40 images: two batches of 16, and not one of 32.
    assert any(line.startswith("batch size: 16,") for line in watch.lines)


def test_memory_that_no_batch_fits_into_is_told(here: Path) -> None:
    with pytest.raises(UsageError, match="neither a batch of 32 images nor a smaller one fits"):
        ptkit.train(**{**QUICK, "model": "net.py:Net(most=0)"}, batch_size=32)


def test_a_probe_has_no_steps_to_measure(here: Path) -> None:
    ptkit.train(**QUICK)
    with pytest.raises(UsageError, match=r"makes no steps: leave out train\.batch_size=auto"):
        ptkit.probe("ckpt.pkl", batch_size="auto")


def test_the_rate_of_a_recipe_is_for_the_recipes_batch_size() -> None:
    auto: dict[str, Any] = {"train": {"batch_size": "auto"}}
    recipe: dict[str, Any] = {"train": {"batch_size": 32}, "optimizer": {"lr": 0.001}}
    own: dict[str, Any] = {"optimizer": {"lr": 0.5}}
    # A rate that is given beside it stays as it is.
    assert resolve(recipe, auto).optimizer.lr_per == 32
    assert resolve(recipe, {**auto, **own}).optimizer.lr_per is None
    assert resolve(recipe, auto, own).optimizer.lr_per is None
    in_call: dict[str, Any] = {"optimizer": {"call": "AdamW(lr=0.5)"}}
    assert resolve(recipe, {**auto, **in_call}).optimizer.lr_per is None
    assert resolve(auto).optimizer.lr_per is None
    # So does a rate in the call of an earlier layer; a step may have several batches, or the usual.
    assert resolve(in_call, auto).optimizer.lr_per == 64
    accumulated = {**recipe, "train": {"batch_size": 32, "accumulate": 4}}
    assert resolve(accumulated, auto).optimizer.lr_per == 128
    said = {**recipe, "optimizer": {"lr": 0.001, "lr_per": 256}}
    assert resolve(said, auto).optimizer.lr_per == 256


def test_what_a_rate_is_for_needs_a_rate(here: Path) -> None:
    with pytest.raises(UsageError, match=r"optimizer\.lr_per is for a rate that is given"):
        prepare(resolve(TINY, {"optimizer": {"lr_per": 64}}), Unwatched(), is_resumed=False)


def test_memory_that_runs_out_in_one_of_several_ranks_makes_no_steps(here: Path) -> None:
    setup = prepare(resolve(TINY, {"train": {"batch_size": 8}}), Unwatched(), is_resumed=False)
    before = {name: value.clone() for name, value in setup.training.model.state_dict().items()}
    words = "^out of memory: choose a smaller --batch-size$"
    refused = pytest.raises(UsageError, match=words)
    with being(Rank(0, 2)), refused, explained_memory(setup.training):
        raise MemoryError
    after = setup.training.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    setup.data.close()
