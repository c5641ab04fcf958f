"""Files of weights that somebody made on purpose: one line, no memory, nothing run."""

import io
import json
import pickle
import resource
import struct
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.errors import CheckpointError
from ptkit.core.models.checkpoints import read_checkpoint, rebuild, save_checkpoint
from ptkit.core.models.weight_files import read_weight_file
from ptkit.core.models.zoo import build_model

MODEL, CALL = build_model("lenet", num_classes=3, size=32, seed=0)
CONTENTS = {
    "kind": "best",
    "model": {"call": CALL, "num_classes": 3},
    "classes": ["a", "b", "c"],
    "task": {"kind": "single", "activation": "softmax"},
    "pipeline": {
        "calls": ["Resize((32, 32))", "ToTensor()"],
        "tensors": {},
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    },
    "state_dict": MODEL.state_dict(),
}


class Runs:
    """Runs something when it is unpickled."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        code = "open('ran', 'w')"
        return {
            "eval": (eval, (code,)),
            "exec": (exec, (code,)),
            "system": (__import__("os").system, ("touch ran",)),
            "import": (__import__, ("ran",)),
            "getattr": (getattr, (Path("ran"), "touch")),
            "load": (torch.load, ("ran",)),
        }[self.how]


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def around_itself():
    value = {}
    value["again"] = [value]
    return value


def broad():
    """Thirty lists, each of which holds the next one thirty times."""
    value = [0]
    for _ in range(30):
        value = [value] * 30
    return value


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
    "expanded": lambda: torch.ones(1).expand(1_000_000, 1_000_000),
    "expanded half": lambda: torch.ones(1, dtype=torch.float16).expand(1 << 40),
    "deep": lambda: nested(200),
    "itself": around_itself,
    "long number": lambda: 10**5000,
}
WHERE = {
    "weights": lambda odd: {"fc.weight": torch.ones(2, 2), "odd": odd},
    "state": lambda odd: {"state_dict": {"fc.weight": torch.ones(2, 2)}, "optimizer": [odd]},
    "checkpoint": lambda odd: {**CONTENTS, "format": "ptkit.checkpoint", "format_version": 1,
                               "ptkit_version": "0", "metrics": {"loss": odd}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path("ran").exists()


@pytest.fixture
def bounded():
    """At most 10 seconds and a gigabyte more."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("odd", ODD)
def test_what_no_weights_hold_is_refused(odd, place, bounded):
    with warnings.catch_warnings(action="ignore"):
        torch.save(WHERE[place](ODD[odd]()), "sent.pkl")
    with pytest.raises(CheckpointError, match=r"^sent\.pkl (cannot be used: |cannot be read )"):
        read_weight_file(Path("sent.pkl"))
    result = CliRunner().invoke(app, ["viz-weights", "sent.pkl"])
    assert result.exit_code == 4
    assert len(result.stderr.splitlines()) == 1


def test_what_is_there_often_is_looked_at_once(bounded):
    torch.save({"fc.weight": torch.ones(2, 2), "notes": broad()}, "sent.pkl")
    assert read_weight_file(Path("sent.pkl"))["fc.weight"].shape == (2, 2)


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("how", ["eval", "exec", "system", "import", "getattr", "load"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_is_run(how, place, form):
    contents = WHERE[place](Runs(how))
    if form == "pickle":
        Path("sent.pkl").write_bytes(pickle.dumps({**contents, "fc": 1}))
    else:
        torch.save(contents, "sent.pkl", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match="nothing was run"):
        read_weight_file(Path("sent.pkl"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"call": "mobilenet_v2(width_mult=16)", "num_classes": 3}}, "parameters"),
        ({"model": {"call": "vit_b_16(representation_size=9999999)", "num_classes": 3}}, "param"),
        ({"model": {"call": "whitenet(widths=[99999, 99999])", "num_classes": 3}}, "parameters"),
        ({"model": {"call": CALL, "num_classes": 10**12}}, "outputs"),
        ({"model": {"call": CALL, "num_classes": 0}}, "outputs"),
        ({"model": {"call": CALL, "num_classes": -1}}, "outputs"),
        ({"model": {"call": CALL, "num_classes": True}}, "is a bool, expected int"),
        ({"model": {"call": "a(" * 3000 + ")" * 3000, "num_classes": 3}}, "nested"),
        ({"model": {"call": "lenet(size=-" + "-" * 9000 + "1)", "num_classes": 3}}, "cannot"),
        ({"model": {"call": "os:system('touch ran')", "num_classes": 3}}, "nothing was run"),
        ({"model": {"call": "lenet(size=own.py:f())", "num_classes": 3}}, "cannot"),
    ],
)
def test_a_checkpoint_asks_for_no_more_than_it_brings(change, said, bounded):
    made = {"format": "ptkit.checkpoint", "format_version": 1, "ptkit_version": "0"}
    torch.save({**CONTENTS, **made, **change}, "ckpt.pkl")
    with pytest.raises(CheckpointError, match=said):
        rebuild(read_checkpoint(Path("ckpt.pkl")))


def test_a_checkpoint_as_it_should_be_is_built():
    save_checkpoint(Path("ckpt.pkl"), CONTENTS)
    assert isinstance(rebuild(read_checkpoint(Path("ckpt.pkl")))[0], nn.Module)


def safetensors(header, data=bytes(64)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(first, last, shape=(4, 4)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (safetensors({"a": entry(0, 64), "b": entry(0, 64)}), "numbers of b are those of others"),
        (safetensors({f"{k}": entry(0, 64) for k in range(20_000)}), "are those of others"),
        (safetensors({"a": entry(32, 96), "b": entry(0, 32, (8,))}), "damaged"),
        (safetensors({"a": entry(64, 0)}), "damaged"),
        (safetensors({"a": {"dtype": "F32", "shape": [4, 4]}}), "damaged"),
        (safetensors({"a": entry(0.0, 64)}), "damaged"),
        (safetensors({"a": 3}), "damaged"),
        (safetensors(b'{"a":' + b"[" * 100_000), "damaged"),
        (safetensors(b"{]"), "damaged"),
        (struct.pack("<Q", 90_000_000) + b"{}", "damaged"),
        (safetensors({"a": entry(0, 64, (4, 5))}), "damaged"),
        (safetensors({"a": entry(0, 64, (1 << 40, 1 << 40))}), "damaged"),
        (safetensors({"a": {**entry(0, 64), "dtype": "F99"}}), "damaged"),
    ],
)
def test_a_safetensors_file_holds_each_number_once(data, said, bounded):
    Path("sent.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        read_weight_file(Path("sent.safetensors"))


def with_record(name, content, *, compressed=False):
    """Return a file of weights in which one record of the zip is another."""
    buffer, changed = io.BytesIO(), io.BytesIO()
    torch.save({"fc.weight": torch.ones(64, 64)}, buffer)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(changed, "w", kind) as new:
        for record in old.namelist():
            base = record.partition("/")[2]
            new.writestr(record, content if base == name else old.read(record))
    return changed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        with_record("data.pkl", b""),
        with_record("data.pkl", b"\x80\x02" + b"(" * 100_000),
        with_record("data.pkl", b"\x80\x02" + b"]" * 100_000 + b"."),
        with_record("data.pkl", b"\x80\x02cos\nsystem\nX\x09\0\0\0touch ran\x85R."),
        with_record("data.pkl", b"\x80\x02}q\0h\0h\0s."),
        with_record("data/0", b""),
        with_record("data/0", bytes(16)),
        with_record("byteorder", b"middle"),
        with_record("version", b"9" * 5000),
        with_record("none", b"", compressed=True),
        with_record("data/0", bytes(64 << 20), compressed=True),
    ],
)
def test_a_damaged_archive_is_one_line(data, bounded):
    Path("sent.pkl").write_bytes(data)
    Image.new("RGB", (32, 32)).save("image.png")
    result = CliRunner().invoke(app, ["predict", "sent.pkl", "image.png"])
    assert result.exit_code == 4, result.stdout
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "call",
    ["resnet20(num_classes=9999999)", "mobilenet_v2(width_mult=1e6)", "mnasnet(width_mult=1e308)",
     "whitenet(widths=[" + "9," * 3000 + "9])", "vit_b_16(image_size=1600000)"],
)  # fmt: skip
def test_a_call_is_bounded_before_anything_is_built(call, bounded, monkeypatch):
    monkeypatch.setattr("ptkit.core.models.checkpoints.build_model", None)
    made = {"format": "ptkit.checkpoint", "format_version": 1, "ptkit_version": "0"}
    torch.save({**CONTENTS, **made, "model": {"call": call, "num_classes": 3}}, "ckpt.pkl")
    with pytest.raises(CheckpointError, match="larger numbers than its weights"):
        rebuild(read_checkpoint(Path("ckpt.pkl")))
