"""Every part trains on a GPU as it does on the CPU: two steps of each, compared."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists
from torch import Tensor, nn

from ptkit.core.config.layers import read_recipe, recipe_names, resolve
from ptkit.core.errors import UsageError
from ptkit.core.training.loop import fit, train_epoch
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.losses import RULES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = "cuda"
SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "make_catalogue.py"))
PARTS = {
    kind.title: [SCRIPT["example"](kind, name) for name in kind.catalogue.parts]
    for kind in SCRIPT["KINDS"]
}
TINY: dict[str, Any] = {
    "data": {"augment": "none", "size": 32},
    "model": {"call": "lenet()"},
    "optimizer": {"call": "Adam()"},
    "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
}
# As labels of each kind: one class, several classes, numbers.
LABELS = {"single": "{}", "multi": "{},3", "numbers": "{}.5"}
NAMES = {"single": "a\nb\nc\n", "multi": "a\nb\nc\nd\n", "numbers": "height\n"}
# Calls that two steps can show.
SHORT = {"LBFGS()": "LBFGS(max_iter=2)", "WarmupCosineLR()": "WarmupCosineLR(warmup_epochs=0)"}
# What goes before some; others need more, which tests of their own have.
BEFORE = {"Normalize": ["ToTensor()"], "RandomErasing": ["ToTensor()"]}
TRANSFORMS = [
    call
    for call in PARTS["Transforms"]
    if not call.startswith(("LinearTransformation", "ToPILImage"))
]
SPARSE = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.bag = nn.EmbeddingBag(256, num_classes, sparse=True)
        self.scale = nn.Linear(num_classes, num_classes)
    def forward(self, images):
        return self.scale(self.bag((images.sigmoid() * 255).long().flatten(1)))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Two batches.
    monkeypatch.chdir(make_lists(tmp_path, train=16, valid=6))
    Path("augment.py").write_text("def invert(image):\n    return 255 - image\n")
    Path("sparse.py").write_text(SPARSE)
    return tmp_path


def trained(*layers: dict[str, Any], device: str) -> tuple[Tensor, float]:
    """Return by how much two steps change the weights, and the loss after them."""
    settings = resolve(TINY, *layers, {"train": {"device": device}})
    training = prepare(settings, Unwatched(), is_resumed=False).training
    before = weights(training.parameters)
    (result,) = fit(training)
    for batches in (training.train, training.valid):
        batches.close()
    return weights(training.parameters) - before, result.valid_loss


def weights(parameters: list[Any]) -> Tensor:
    return torch.cat([parameter.detach().cpu().flatten() for parameter in parameters]).double()


def check(*layers: dict[str, Any]) -> None:
    """Compare steps on both devices: they round differently, and colours by a level."""
    (ours, our_loss), (expected, loss) = (
        trained(*layers, device=device) for device in (DEVICE, "cpu")
    )
    assert expected.norm() > 0
    assert (ours - expected).norm() < 0.1 * expected.norm()
    assert our_loss == pytest.approx(loss, rel=0.02)


def loss_cases() -> Iterator[tuple[str, str, bool]]:
    for name, rule in RULES.items():
        for kind in LABELS:
            if getattr(rule, kind) is not None:
                yield name, kind, False
        if rule.pairs is not None:
            yield name, "single", True


@pytest.mark.parametrize(("name", "kind", "pairs"), list(loss_cases()))
def test_losses(here: Path, name: str, kind: str, pairs: bool) -> None:
    for part in ("train", "valid"):
        rows = [line.rsplit(" ", 1) for line in Path(f"{part}.txt").read_text().splitlines()]
        text = "".join(f"{path} {LABELS[kind].format(label)}\n" for path, label in rows)
        Path(f"{part}.txt").write_text(text)
    Path("classes.txt").write_text(NAMES[kind])
    check({"loss": {"call": f"{name}()", **({"pairs": True} if pairs else {})}})


@pytest.mark.parametrize("call", PARTS["Optimizers"])
def test_optimizers(here: Path, call: str) -> None:
    model = "sparse.py:Net()" if call == "SparseAdam()" else "lenet()"
    check({"optimizer": {"call": SHORT.get(call, call)}, "model": {"call": model}})


@pytest.mark.parametrize("call", PARTS["Schedules"])
def test_schedules(here: Path, call: str) -> None:
    check({"scheduler": {"call": SHORT.get(call, call), "warmup": 0.0}})


@pytest.mark.parametrize("call", PARTS["Weight initialisations"])
def test_initialisations(here: Path, call: str) -> None:
    target = "fc1" if call.startswith(("eye_", "sparse_")) else "Conv2d"
    check({"model": {"init": [f"{target}={call}"]}})


@pytest.mark.parametrize("call", TRANSFORMS)
def test_transforms(here: Path, call: str) -> None:
    before = BEFORE.get(call.partition("(")[0], [])
    # Which takes what any of them leaves.
    check({"data": {"transforms": [*before, call], "size": 16}, "model": {"call": "resnet8()"}})


@pytest.mark.parametrize("name", recipe_names())
def test_recipes(here: Path, name: str) -> None:
    # Two steps are no part of a warm-up.
    short = {"data": {"size": 32}, "scheduler": {"warmup": 0.0}}
    check(read_recipe(name), short, {"train": TINY["train"]})


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_train_in_the_precision_that_auto_takes(here: Path, name: str) -> None:
    short = {"data": {"size": 32}, "train": {"epochs": 1, "batch_size": 8, "device": DEVICE}}
    training = prepare(resolve(read_recipe(name), short), Unwatched(), is_resumed=False).training
    assert training.dtype in (torch.bfloat16, torch.float16)
    assert all(torch.tensor(result.valid_loss).isfinite() for result in fit(training))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precisions(here: Path, precision: str) -> None:
    check({"train": {"precision": precision}, "optimizer": {"call": "SGD()"}})


def test_a_recipe_trains_compiled(here: Path) -> None:
    short = {"train": {"epochs": 3, "batch_size": 8, "compile": True, "device": DEVICE}}
    training = prepare(resolve(read_recipe("speed"), short), Unwatched(), is_resumed=False).training
    assert all(torch.tensor(result.train_loss).isfinite() for result in fit(training))
    training.train.close()
    training.valid.close()


def test_a_long_run_of_resnet18_tries_kernels_and_compiling_and_a_short_one_neither(
    here: Path,
) -> None:
    layer = {"model": {"call": "resnet18(stem='small')"}, "optimizer": {"call": "SGD()"}}
    for epochs, is_long in ((1, False), (10**6, True)):
        settings = resolve(TINY, layer, {"train": {"device": DEVICE, "epochs": epochs}})
        setup = prepare(settings, Unwatched(), is_resumed=False)
        assert setup.training.tries_kernels is is_long
        is_compiled = setup.training.compiled is not None
        assert setup.settings.train.compile is is_compiled
        # Whether a long run is depends on the times of its first steps.
        assert is_long or not is_compiled
        setup.data.close()


def test_a_look_before_training_leaves_kernels_to_be_tried_out(here: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and len(inputs[0]) == 8:
            seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic))

    settings = resolve(TINY, {"train": {"device": DEVICE, "epochs": 10**6, "compile": False}})
    with nn.modules.module.register_module_forward_pre_hook(look):
        training = prepare(settings, Unwatched(), is_resumed=False).training
        num_before = len(seen)
        train_epoch(training, 1)
    # A kernel that is chosen for the shape without trying stays.
    assert (False, False) not in seen[:num_before]
    assert seen[num_before] == (True, False)
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_batch_size_is_measured(here: Path, precision: str) -> None:
    layer = {"train": {"device": DEVICE, "batch_size": "auto", "precision": precision}}
    setup = prepare(resolve(TINY, layer), Unwatched(), is_resumed=False)
    assert setup.settings.train.batch_size == 16
    setup.data.close()


def test_a_batch_that_does_not_fit_is_told_with_one_that_does(here: Path) -> None:
    lists = make_lists(here / "many", train=64)
    data = {"train": str(lists / "train.txt"), "valid": str(lists / "valid.txt"), "size": 224}
    layer = {"data": data, "model": {"call": "resnet18()"}, "optimizer": {"call": "SGD()"}}
    settings = resolve(TINY, layer, {"train": {"device": DEVICE, "batch_size": 64}})
    # ResNet-18 at 224 takes about 1.5 GB for 64 images in fp32.
    torch.cuda.empty_cache()
    share = 1e9 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        with pytest.raises(UsageError, match=r"of \d+ they do: pass --batch-size \d+ --set"):
            prepare(settings, Unwatched(), is_resumed=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
