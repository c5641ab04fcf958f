import pytest
import torch
from torch import nn

from ptkit.core.errors import CheckpointError, StorageError
from ptkit.core.models.torchvision_models import pretrained_weights
from ptkit.core.models.transfer import transfer
from ptkit.core.models.zoo import build_model


def small(num_classes, seed=0):
    return build_model("resnet8", num_classes=num_classes, size=16, seed=seed)[0]


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_all_that_fits_is_taken():
    old, new = small(3), small(3, seed=1)
    report = transfer(new, old.state_dict())
    assert report.taken == tuple(old.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert (
        report.summary() == f"took {len(report.taken)} of the model's {len(report.taken)} tensors"
    )


def test_head_for_other_classes_is_mismatched_and_stays_fresh():
    new = small(5, seed=1)
    before = snapshot(new)
    report = transfer(new, small(3).state_dict())
    assert report.mismatched == (("fc.weight", (3, 64), (5, 64)), ("fc.bias", (3,), (5,)))
    assert [name for name in before if torch.equal(before[name], new.state_dict()[name])] == [
        name for name in before if name.startswith("fc.") or "bn" in name or "shortcut.1" in name
    ]


def test_missing_and_unexpected_are_reported_by_name():
    old, new = small(3).state_dict(), small(3, seed=1)
    del old["conv1.weight"]
    old["teacher.weight"] = torch.zeros(1)
    report = transfer(new, old)
    assert (report.missing, report.unexpected, report.mismatched) == (
        ("conv1.weight",),
        ("teacher.weight",),
        (),
    )
    num_own = len(new.state_dict())
    assert (
        report.summary()
        == f"took {num_own - 1} of the model's {num_own} tensors; 1 are new; 1 in the weights have"
        " no place (teacher.weight)"
    )
    assert "not in the weights, so fresh (1):\n  conv1.weight" in report.details()
    assert "not in the model (1):\n  teacher.weight" in report.details()


def test_head_that_would_fit_is_left_out_on_request():
    new = small(3, seed=1)
    before = snapshot(new)
    report = transfer(new, small(3).state_dict(), leave_out="fc")
    assert report.left_out == ("fc.weight", "fc.bias")
    assert not {"fc.weight", "fc.bias"} & {*report.taken, *report.missing, *report.unexpected}
    assert torch.equal(new.fc.weight, before["fc.weight"])


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "model.student."])
def test_prefix_of_the_body_alone_is_removed(prefix):
    old = small(3).state_dict()
    renamed = {
        name if name.startswith("fc") else prefix + name: tensor for name, tensor in old.items()
    }
    report = transfer(small(3, seed=1), renamed)
    assert report.taken == tuple(old)
    assert report.notes == (f"removed the prefix {prefix} from the weights' names",)


def test_prefix_of_the_model_is_added():
    model = nn.ModuleDict({"backbone": small(3, seed=1), "head": nn.Linear(3, 2)})
    report = transfer(model, small(3).state_dict())
    assert report.missing == ("head.weight", "head.bias")
    assert report.notes == ("added the prefix backbone. to the weights' names",)


@pytest.mark.parametrize(
    ("state_dict", "reason"),
    [
        (
            {"features.0.weight": torch.zeros(3)},
            "the weights have features.0.weight; the model has conv1.weight",
        ),
        (
            {"conv1.weight": torch.zeros(3)},
            r"conv1.weight is \(3,\) in the weights, \(16, 3, 3, 3\) in the model",
        ),
        ({"bn1.num_batches_tracked": torch.tensor(1)}, "no weights fit SmallResNet"),
    ],
)
def test_weights_of_another_architecture_are_refused(state_dict, reason):
    with pytest.raises(CheckpointError, match=reason):
        transfer(small(3), state_dict)


def test_models_that_check_layer_versions_take_plain_dictionaries():
    model, _ = build_model("mnasnet0_5", num_classes=3, size=32, seed=0)
    assert transfer(model, dict(model.state_dict())).missing == ()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_pretrained_weights_come_with_their_normalisation(cache):
    model, _ = build_model("squeezenet1_1", num_classes=1000, size=224, seed=0)
    torch.save(
        model.state_dict(),
        cache / "squeezenet1_1-b8a52dc0.pth",
        _use_new_zipfile_serialization=False,
    )
    found = pretrained_weights("squeezenet1_1")
    assert (found.mean, found.std, found.size) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        224,
    )
    assert found.class_names[:2] == ("tench", "goldfish")
    assert found.call == "squeezenet1_1()"
    new, _ = build_model(found.call, num_classes=4, size=224, seed=1)
    assert [name for name, _, _ in transfer(new, found.state_dict).mismatched] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]


def test_pretrained_densenet_gets_the_layer_names_of_today(cache):
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": torch.ones(64),
        "classifier.bias": torch.zeros(1000),
    }
    torch.save(old, cache / "densenet121-a639ec97.pth")
    assert list(pretrained_weights("densenet121").state_dict) == [
        "features.denseblock1.denselayer1.norm1.weight",
        "classifier.bias",
    ]


def test_failed_download_says_where_the_file_can_be_put(cache, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(
        StorageError, match=r"cannot download the weights of resnet18 .*or give a file of weights"
    ) as caught:
        pretrained_weights("resnet18")
    assert str(cache / "resnet18-f37072fd.pth") in str(caught.value)
    assert list(cache.iterdir()) == []


def test_damaged_file_in_the_cache_is_a_checkpoint_error(cache):
    (cache / "resnet18-f37072fd.pth").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"resnet18-f37072fd\.pth is a web page"):
        pretrained_weights("resnet18")
