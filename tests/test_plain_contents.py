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


HARMLESS, OTHER = {"harmless": torch.ones(2, 2)}, {"other": torch.ones(3, 3)}


def saved(contents, *, is_zip=True):
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def records_of(contents):
    with zipfile.ZipFile(io.BytesIO(saved(contents))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(*records, compressed=()):
    """Return a zip file of (name, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records:
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            archive.writestr(name, content, kind)
    return buffer.getvalue()


def names_read_by_torch(data):
    return list(torch.load(io.BytesIO(data), weights_only=True))


def endless():
    """A key that takes years to hash."""
    key = ()
    for _ in range(50):
        key = (key, key)
    return key


def pickled(value):
    """Return a value's pickle as torch.save writes it: it hashes the keys of dictionaries."""
    return b"\x80\x02}" + pickle.dumps(value, 2)[2:-1] + b"K\x01s."


def test_the_pickles_that_are_looked_at_are_those_that_torch_reads(bounded):
    zipped = archive_of(*records_of(HARMLESS).items())
    assert names_read_by_torch(saved(OTHER, is_zip=False) + zipped) == ["other"]
    # Magic number, version of the format and of the machine; then what is in the file.
    whole = io.BytesIO(saved({}, is_zip=False))
    for _ in range(3):
        pickle.load(whole)
    before = whole.getvalue()[: whole.tell()]
    Path("sent.pkl").write_bytes(before + pickled(endless()) + pickle.dumps([], 2) + zipped)
    with pytest.raises(CheckpointError, match="more often than could be read"):
        read_weight_file(Path("sent.pkl"))


def test_foreign_names_before_a_zip_file_are_told():
    zipped = archive_of(*records_of(HARMLESS).items())
    Path("sent.pkl").write_bytes(saved({"a": Runs("system")}, is_zip=False) + zipped)
    with pytest.raises(CheckpointError, match=r"it asks for posix\.system"):
        read_weight_file(Path("sent.pkl"))


@pytest.mark.parametrize("harmless", ["archive/sub/data.pkl", "archive/folder/data.pkl"])
def test_one_pickle_is_there_where_torch_looks_for_it(harmless, bounded):
    other = records_of(OTHER)
    rest = [(name, content) for name, content in other.items() if name != "archive/data.pkl"]
    first = harmless, records_of(HARMLESS)["archive/data.pkl"]
    hidden = archive_of(first, ("archive/DATA.PKL", other["archive/data.pkl"]), *rest)
    assert names_read_by_torch(hidden) == ["other"]
    Path("sent.pkl").write_bytes(archive_of(first, ("archive/DATA.PKL", pickled(endless())), *rest))
    with pytest.raises(CheckpointError, match="records of the same name"):
        read_weight_file(Path("sent.pkl"))


@pytest.mark.parametrize(
    "names",
    [
        ["archive/DATA.PKL", "archive/data.pkl"],
        ["archive/data.pkl", "archive/DATA.PKL"],
        ["archive/data.pkl", "archive/data.pkl\0"],
    ],
)
def test_no_two_records_are_of_one_name(names):
    whole = records_of(HARMLESS)
    content = whole.pop("archive/data.pkl")
    # Put in afterwards: zipfile itself writes no name with a zero.
    data = archive_of(*((name.replace("\0", "~"), content) for name in names), *whole.items())
    Path("sent.pkl").write_bytes(data.replace(b"data.pkl~", b"data.pkl\0"))
    with pytest.raises(CheckpointError, match="records of the same name"):
        read_weight_file(Path("sent.pkl"))


def test_a_pickle_that_torch_does_not_look_for_is_no_file_of_torch():
    whole = {f"x/{name}": content for name, content in records_of(HARMLESS).items()}
    Path("sent.pkl").write_bytes(archive_of(*whole.items()))
    with pytest.raises(CheckpointError, match=r"torch\.save did not write"):
        read_weight_file(Path("sent.pkl"))


def list_of_records(data):
    """Return where the list of a zip file's records begins, and its length."""
    size, offset = struct.unpack_from("<2L", data, data.rfind(b"PK\5\6") + 12)
    return offset, size


def moved_list(data, by):
    """Return the list of a zip file's records with the places of all of them moved."""
    offset, size = list_of_records(data)
    found, place = bytearray(data[offset : offset + size]), 0
    while place < size:
        (start,) = struct.unpack_from("<L", found, place + 42)
        struct.pack_into("<L", found, place + 42, start + by)
        place += 46 + sum(struct.unpack_from("<3H", found, place + 28))
    return bytes(found)


def parts_of(data, *, by=0):
    """Return the records of a zip file, and their list for records that are moved."""
    return data[: list_of_records(data)[0]], moved_list(data, by)


def end_of(count, size, offset):
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)


def end_of_zip64(count, size, offset):
    return struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)


def two_lists():
    """Return a zip file whose end names one list, and that has another one before the end."""
    count, (shown, _) = len(records_of(HARMLESS)), parts_of(SHOWN)
    # Far enough behind that no record of the other list would be before the file.
    hidden, hidden_places = parts_of(HIDDEN)
    hidden += bytes(len(shown))
    base = hidden + hidden_places
    # zipfile takes the distance between the two lists for something in front of the file.
    distance = len(base) + len(shown) - len(hidden)
    places = moved_list(SHOWN, len(base) - distance)
    return base + shown + places + end_of(count, len(places), len(hidden))


def two_ends():
    """Return a zip64 file with two ends: one that is named, and one in the usual place."""
    count, (hidden, hidden_places) = len(records_of(HARMLESS)), parts_of(HIDDEN)
    base = hidden + hidden_places
    named = len(base)
    base += end_of_zip64(count, len(hidden_places), len(hidden))
    shown, places = parts_of(SHOWN, by=len(base))
    base += shown
    end = end_of_zip64(count, len(places), len(base))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, named, 1)
    return base + places + end + locator + end_of(count, len(places), len(base))


SHOWN = archive_of(*records_of(HARMLESS).items())
HIDDEN = archive_of(
    *records_of({"other": torch.zeros(1 << 20)}).items(), compressed=["archive/data/0"]
)


@pytest.mark.parametrize("made", [two_lists, two_ends])
def test_records_are_those_that_torch_sees(made, bounded):
    data = made()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert len(data) < 20_000
    assert torch.load(io.BytesIO(data), weights_only=True)["other"].nbytes == 4 << 20
    Path("sent.pkl").write_bytes(data)
    with pytest.raises(CheckpointError, match="list of records is not where its end says"):
        read_weight_file(Path("sent.pkl"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"epoch": float("nan")}}, "metrics.epoch is nan, expected a finite number"),
        ({"metrics": {"epoch": float("inf")}}, "metrics.epoch is inf, expected a finite number"),
        ({"classes": ["a", "b"]}, "it has 2 classes, and its model 3 outputs"),
        ({"classes": list("abcd")}, "it has 4 classes, and its model 3 outputs"),
        ({"scale": torch.ones(2), "shift": torch.ones(3)}, "task.scale is float32 of the shape"),
        ({"scale": torch.ones(3), "shift": torch.ones(3, 1)}, "task.shift is float32 of the shape"),
        ({"shift": torch.ones(3, dtype=torch.int64)}, "task.shift is int64 of the shape"),
        ({"counted": torch.ones(2, dtype=torch.bool)}, "task.counted is bool of the shape"),
        ({"counted": torch.ones(3)}, "task.counted is float32 of the shape"),
        ({"kind": "embedding", "class_means": torch.ones(3, 9)}, "task.class_means is float32"),
        ({"kind": "embedding", "class_means": torch.ones(9)}, "task.class_means is float32"),
    ],
)
def test_what_outputs_are_read_with_fits_the_model(change, said):
    is_of_task = change.keys().isdisjoint(("metrics", "classes"))
    task = {"task": {**CONTENTS["task"], **change}} if is_of_task else change
    made = {"format": "ptkit.checkpoint", "format_version": 1, "ptkit_version": "0"}
    torch.save({**CONTENTS, **made, **task}, "ckpt.pkl")
    Image.new("RGB", (32, 32)).save("image.png")
    result = CliRunner().invoke(app, ["predict", "ckpt.pkl", "image.png"])
    assert result.exit_code == 4, result.output
    assert said in result.stderr
