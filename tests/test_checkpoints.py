import os
import random
import resource
import stat
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import ptkit
from ptkit.core.errors import CheckpointError, StorageError, UsageError
from ptkit.core.models.checkpoints import (
    copy_contents,
    read_checkpoint,
    rebuild,
    save_checkpoint,
)
from ptkit.core.models.locate import read_weights
from ptkit.core.models.zoo import build_model


def contents_of(call, *, size=16, num_classes=3):
    model, text = build_model(call, num_classes=num_classes, size=size, seed=0)
    return {
        "kind": "best",
        "model": {"call": text, "num_classes": num_classes},
        "classes": [f"class {index}" for index in range(num_classes)],
        "task": {"kind": "single-label", "activation": "softmax", "thresholds": None},
        "pipeline": {
            "calls": ["ToTensor()"],
            "tensors": {},
            "size": size,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        },
        "state_dict": model.state_dict(),
        "metrics": {"best": {"accuracy": 0.5}},
    }


@pytest.fixture
def contents():
    return contents_of("resnet8")


@pytest.fixture
def file(tmp_path, contents):
    save_checkpoint(tmp_path / "runs" / "1" / "ckpt.pkl", contents)
    return tmp_path / "runs" / "1" / "ckpt.pkl"


def scores(model):
    images = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize(
    "call",
    [
        "lenet",
        "resnet8",
        "mnasnet0_5",
        "regnet_y_400mf",
        pytest.param("resnet18(stem='small')", marks=pytest.mark.slow),
    ],
)
def test_saved_model_loads_and_predicts_the_same_bits(tmp_path, call):
    contents = contents_of(call, size=32)
    save_checkpoint(tmp_path / "ckpt.pkl", contents)
    original, _ = build_model(call, num_classes=3, size=32, seed=0)
    assert torch.equal(scores(ptkit.load(tmp_path / "ckpt.pkl")), scores(original))


def test_loaded_model_knows_its_classes_and_pipeline(file, contents):
    model = ptkit.load(str(file))
    assert not model.training
    assert model.class_names == ("class 0", "class 1", "class 2")
    assert model.pipeline == contents["pipeline"] | {"alpha": "drop", "channels": 3}


def test_run_folder_means_its_best_checkpoint(file):
    assert read_checkpoint(file.parent)["model"] == {"call": "resnet8()", "num_classes": 3}
    assert read_weights(file.parent).path == file


def test_anyone_reads_a_checkpoint_with_plain_torch(file, contents):
    plain = torch.load(file, weights_only=True)
    assert plain["format"] == "ptkit.checkpoint"
    assert plain["format_version"] == 1
    assert plain["ptkit_version"] == ptkit.__version__
    assert list(plain["state_dict"]) == list(contents["state_dict"])


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5"])
def test_state_dict_loads_strictly_into_the_plain_torchvision_model(tmp_path, name):
    from torchvision.models import get_model

    save_checkpoint(tmp_path / "ckpt.pkl", contents_of(name, size=32))
    theirs = get_model(name, weights=None, num_classes=3)
    theirs.load_state_dict(
        torch.load(tmp_path / "ckpt.pkl", weights_only=True)["state_dict"], strict=True
    )


def test_same_contents_give_the_same_bytes(tmp_path, file, contents):
    save_checkpoint(tmp_path / "again.pkl", contents)
    assert (tmp_path / "again.pkl").read_bytes() == file.read_bytes()


def test_copies_stay_as_they_were_and_give_the_same_bytes(tmp_path, contents):
    weights = contents["state_dict"]
    # One memory under two names, a transposed one, a view of a larger one, and another format.
    weights["tied"] = torch.arange(6.0).reshape(2, 3)
    weights["transposed"] = weights["tied"].T
    weights["view"] = torch.arange(100.0)[10:20]
    weights["images_last"] = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "before.pkl", contents)
    both = copy_contents({"best": contents, "last": contents})
    for tensor in weights.values():
        tensor.zero_()
    for kind, copies in both.items():
        save_checkpoint(tmp_path / f"{kind}.pkl", copies)
        assert (tmp_path / f"{kind}.pkl").read_bytes() == (tmp_path / "before.pkl").read_bytes()
    addresses = [{n: t.data_ptr() for n, t in both[k]["state_dict"].items()} for k in both]
    assert [a["tied"] == a["transposed"] for a in addresses] == [True, True]
    assert addresses[0]["tied"] == addresses[1]["tied"]


def test_saving_makes_plain_what_can_be_plain(tmp_path, contents):
    big = torch.zeros(100_000)
    odd = {
        "metrics": {
            "pair": (1, 2),
            "version": torch.__version__,
            "rate": np.float64(0.5),
            "order": OrderedDict(a=1),
        },
        "train": {"view": big[:3], "weight": torch.nn.Parameter(torch.ones(2)), 7: None},
    }
    save_checkpoint(tmp_path / "ckpt.pkl", contents | odd)
    read = read_checkpoint(tmp_path / "ckpt.pkl")
    assert read["metrics"] == {
        "pair": [1, 2],
        "version": str(torch.__version__),
        "rate": 0.5,
        "order": {"a": 1},
    }
    assert [type(value) for value in read["metrics"].values()] == [list, str, float, dict]
    assert read["train"]["view"].untyped_storage().nbytes() == 12
    assert type(read["train"]["weight"]) is torch.Tensor


@pytest.mark.parametrize(
    ("value", "name"), [(Path("x"), "PosixPath"), (np.float32(1), "float32"), ({1}, "set")]
)
def test_saving_refuses_what_weights_only_loading_would_refuse(tmp_path, contents, value, name):
    with pytest.raises(TypeError, match=rf"checkpoint\['env'\]\['odd'\]\[0\] is a {name}"):
        save_checkpoint(tmp_path / "ckpt.pkl", contents | {"env": {"odd": [value]}})
    assert list(tmp_path.iterdir()) == []


def test_saving_something_else_than_a_checkpoint_is_our_own_mistake(tmp_path, contents):
    del contents["classes"]
    with pytest.raises(AssertionError, match="it has no classes"):
        save_checkpoint(tmp_path / "ckpt.pkl", contents)


@pytest.mark.parametrize("limit", [50_000, 1_000_000])
def test_full_disk_leaves_the_old_checkpoint_and_no_litter(file, contents, limit):
    before = file.read_bytes()
    contents["train"] = {"momentum": torch.zeros(1_000_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            StorageError, match=r"cannot write .*ckpt\.pkl: File too large; what was there before"
        ):
            save_checkpoint(file, contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["ckpt.pkl"]


def test_disk_that_gives_back_other_bytes_leaves_the_old_checkpoint(file, contents, monkeypatch):
    before = file.read_bytes()
    save = torch.save

    def save_with_a_slip(obj, f):
        save(obj, f)
        f.file.seek(1000)
        f.file.write(b"slip")

    monkeypatch.setattr(torch, "save", save_with_a_slip)
    with pytest.raises(StorageError, match=r"cannot write .*: the disk gave back other bytes"):
        save_checkpoint(file, contents)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["ckpt.pkl"]


def test_mode_bits_follow_the_umask(tmp_path, contents):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "ckpt.pkl", contents)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ckpt.pkl").stat().st_mode) == 0o640


def is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    return True


def test_every_flipped_bit_is_found(tmp_path, file):
    data, draw = file.read_bytes(), random.Random(0)
    ends = [*range(30), *range(len(data) - 45, len(data))]
    for place in ends + [draw.randrange(len(data)) for _ in range(200)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        assert is_refused(tmp_path / "damaged.pkl", damaged)


def test_every_truncation_and_zeroed_block_is_found(tmp_path, file):
    data, draw = file.read_bytes(), random.Random(1)
    for length in [
        *range(len(data) - 30, len(data)),
        *(draw.randrange(len(data)) for _ in range(64)),
    ]:
        assert is_refused(tmp_path / "damaged.pkl", data[:length])
    for _ in range(64):
        start = draw.randrange(len(data) - 4096)
        assert is_refused(
            tmp_path / "damaged.pkl", data[:start] + bytes(4096) + data[start + 4096 :]
        )


def raw(path, contents):
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 2, "ptkit_version": "9.1"},
            r"a newer ptkit \(9.1\) wrote .*in format 2: update this one",
        ),
        ({"format_version": "1"}, "format_version is '1', expected 1"),
        ({"classes": 3}, "classes is 3, expected list"),
        ({"classes": [1, 2, 3]}, r"classes\[0\] is 1, expected str"),
        ({"model": {"call": "resnet8()"}}, "model.num_classes is a NoneType, expected int"),
        ({"classes": []}, "classes is empty"),
        (
            {"state_dict": {"fc.weight": [1.0]}},
            r"state_dict\.fc\.weight is a list, expected a tensor",
        ),
    ],
)
def test_checkpoint_with_wrong_keys_is_refused(tmp_path, contents, change, message):
    stamped = {
        "format": "ptkit.checkpoint",
        "format_version": 1,
        "ptkit_version": "0.1",
        **contents,
        **change,
    }
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(raw(tmp_path / "ckpt.pkl", stamped))


def test_bare_weights_are_not_a_checkpoint(tmp_path, contents):
    with pytest.raises(CheckpointError, match="holds weights only, not a ptkit checkpoint"):
        read_checkpoint(raw(tmp_path / "weights.pt", contents["state_dict"]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "resnet20()",
            r"do not fit resnet20\(\): \d+ missing \(layer1\.1\.conv1\.weight, .*, \.\.\.\)",
        ),
        (
            "lenet()",
            (
                r"missing \(conv1\.bias, .*not in the model \(.*of another shape \(conv1\.weight"
                r" \(16, 3, 3, 3\)"
            ),
        ),
        (
            "resnet99()",
            "this ptkit cannot build the checkpoint's model: no model is called resnet99",
        ),
        ("resnet8(", "the checkpoint's model cannot be read"),
        ("os:system", "names user code .*nothing was run: name it again with --model"),
    ],
)
def test_model_that_does_not_match_the_weights_is_a_checkpoint_error(contents, call, message):
    contents["model"]["call"] = call
    with pytest.raises(CheckpointError, match=message):
        rebuild(contents)


def test_users_code_runs_only_when_it_is_named_again(tmp_path, contents):
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from ptkit.core.models.resnet import SmallResNet\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        "def net(num_classes): return SmallResNet(num_classes, num_blocks=1)\n"
    )
    contents["model"]["call"] = f"{tmp_path}/mine.py:net()"
    save_checkpoint(tmp_path / "ckpt.pkl", contents)
    with pytest.raises(CheckpointError, match="names user code"):
        ptkit.load(tmp_path / "ckpt.pkl")
    assert not (tmp_path / "mine.ran").exists()
    model = ptkit.load(tmp_path / "ckpt.pkl", model=f"{tmp_path}/mine.py:net")
    assert torch.equal(model.fc.weight, contents["state_dict"]["fc.weight"])


def test_wrong_model_on_the_command_line_is_a_usage_error(contents):
    with pytest.raises(UsageError, match="did you mean resnet8"):
        rebuild(contents, model="resnet9")
