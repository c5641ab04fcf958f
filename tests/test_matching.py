"""Files of other people's trainings: whatever else they hold, the model's own weights are found."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ptkit.core.errors import CheckpointError
from ptkit.core.models.matching import load_whole
from ptkit.core.models.transfer import transfer
from ptkit.core.models.zoo import build_model


def small(seed=0, num_classes=3):
    return build_model("resnet8", num_classes=num_classes, size=16, seed=seed)[0]


def prefixed(prefix, state_dict):
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def load(given, model=None):
    model = model or small(seed=1)
    notes = load_whole(model, given, source="the weights in a.pt", call="resnet8()")
    return model.state_dict(), notes


OLD = small().state_dict()
BODY = {name: tensor for name, tensor in OLD.items() if not name.startswith("fc.")}
# What lies beside a network in the files of training scripts -> what is named as left.
BESIDE = {
    "a loss's weight": {"criterion.weight": torch.ones(3)},
    "a metric's state": {"val_acc.tp": torch.zeros(3), "val_cm.confmat": torch.zeros(3, 3)},
    "an average's counter": {"n_averaged": torch.tensor(5)},
    "a teacher": prefixed("teacher.", OLD),
    "an auxiliary head": {"aux1.fc.weight": torch.ones(3, 8), "aux1.fc.bias": torch.ones(3)},
}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.module.", "model._orig_mod."]
)
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_network_is_found_whatever_lies_beside_it(prefix, beside):
    found, notes = load(beside | prefixed(prefix, OLD))
    assert equal(found, OLD)
    names = list(beside)[:3]
    assert notes[-1].startswith(f"left {len(beside)} tensor")
    assert all(name in notes[-1] for name in names)


def test_any_prefix_comes_off():
    found, notes = load(prefixed("my.net.", OLD) | {"n_averaged": torch.tensor(5)})
    assert equal(found, OLD)
    assert notes[0] == "removed the prefix my.net. from the weights' names"


def test_finetuning_takes_the_same_tensors_and_names_the_same_strangers():
    new = small(seed=1)
    report = transfer(new, {**prefixed("model.", OLD), "criterion.weight": torch.ones(3)})
    assert equal(new.state_dict(), OLD)
    assert report.summary().endswith("1 in the weights have no place (criterion.weight)")


def test_an_averaged_model_of_torch_is_the_model():
    found, notes = load(AveragedModel(small()).state_dict())
    assert equal(found, OLD)
    assert notes == (
        "removed the prefix module. from the weights' names",
        "left 1 tensor of no layer (n_averaged)",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_models(dtype):
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in OLD.items()}
    found, _ = load(cast)
    assert equal(found, {name: t.to(OLD[name].dtype) for name, t in cast.items()})


def test_a_counter_that_old_files_lack_is_zero():
    new = small(seed=1)
    for name, buffer in new.named_buffers():
        buffer.fill_(7 if name.endswith("num_batches_tracked") else 0)
    found, notes = load({n: t for n, t in OLD.items() if "num_batches" not in n}, new)
    assert equal(found, OLD)
    assert notes == ()


def test_the_same_head_under_another_name_is_the_head():
    found, notes = load({name.replace("fc.", "head."): t for name, t in OLD.items()})
    assert equal(found, OLD)
    assert notes == ("took head for fc: no other layer fits",)


def test_of_two_layers_that_could_be_the_head_neither_is():
    heads = {f"head{k}.{n}": OLD[f"fc.{n}"] for k in "12" for n in ("weight", "bias")}
    with pytest.raises(CheckpointError, match=r"2 missing \(fc.weight, fc.bias\)"):
        load(BODY | heads)


def test_a_wrapper_of_the_users_own_gets_its_prefix():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small(seed=1)

    for given in (OLD, prefixed("model.", OLD), prefixed("module.model.", OLD)):
        found, _ = load(given, Wrapped())
        assert equal(found, prefixed("model.", OLD))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"layer1.1.conv1.weight": torch.ones(16, 16, 3, 3)}, "layer1.1.conv1.weight"),
        ({"conv1.bias": torch.ones(16)}, "conv1.bias"),
        ({"classifier.weight": torch.ones(2, 3)}, "classifier.weight"),
        ({"norm.weight": torch.ones(3), "norm.bias": torch.ones(3)}, "norm.weight, norm.bias"),
    ],
)
def test_layers_that_the_model_lacks_are_refused_since_it_would_give_other_numbers(extra, message):
    expected = rf"the weights in a.pt do not fit resnet8\(\): \d not in the model \({message}\)"
    with pytest.raises(CheckpointError, match=expected):
        load(prefixed("model.", OLD) | extra)
    assert transfer(small(seed=1), OLD | extra).taken == tuple(OLD)


def test_buffers_that_a_model_computes_itself_are_left():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(seed=1)
            self.net.register_buffer("mask", torch.ones(2, 2), persistent=False)

    found, _ = load({**prefixed("net.", OLD), "net.mask": torch.zeros(2, 2)}, Masked())
    assert equal(found, prefixed("net.", OLD))
