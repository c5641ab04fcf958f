"""Tensors taken out of pickles that ask for code: all of them, and nothing is run."""

import argparse
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from ptkit.core.errors import CheckpointError
from ptkit.core.models.module_files import read_weights_alone
from ptkit.core.models.weight_files import COMMENT, read_weight_file

COMMENT_LENGTH = len(COMMENT % 0)


class Own(nn.Module):
    """Weights that are tied, a buffer that is not saved, an absent layer, half numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.third = nn.Linear(4, 2).bfloat16()
        self.gone = None
        self.register_module("absent", None)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("kept", torch.arange(6).reshape(2, 3).T)
        self.itself = [self.body]


def assert_alike(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_gives_its_state_dict(tmp_path, is_zip):
    model = Own()
    torch.save(model, tmp_path / "own.pt", _use_new_zipfile_serialization=is_zip)
    found, (note,) = read_weights_alone(tmp_path / "own.pt")
    assert_alike(found, model.state_dict())
    assert found["first.weight"] is found["second.weight"]
    assert "test_module_files.Own" in note
    assert note.endswith("of which nothing was run")


def test_a_state_with_objects_beside_the_weights_loses_the_objects(tmp_path):
    weights = nn.Linear(2, 2).state_dict()
    state = {"state_dict": weights, "epoch": 3, "args": argparse.Namespace(lr=0.1), 5: Path("x")}
    torch.save(state, tmp_path / "state.pt")
    found, _ = read_weights_alone(tmp_path / "state.pt")
    assert_alike(found.pop("state_dict"), weights)
    assert found == {"epoch": 3, "args": None, 5: None}


def test_plain_weights_are_read_as_ever(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    assert read_weights_alone(tmp_path / "plain.pt")[1] == ()


class Runs:
    """Asks for a function to be called when it is unpickled."""

    def __init__(self, function, *arguments):
        self.answer = function, arguments

    def __reduce__(self):
        return self.answer


class Builds:
    """Asks for its state to be set on something of the reader's."""

    def __reduce__(self):
        return OrderedDict, (), {"__class__": 1, "weights": torch.ones(2)}


HOSTILE = {
    "eval": Runs(eval, "open('ran', 'w')"),
    "exec": Runs(exec, "open('ran', 'w')"),
    "system": Runs(__import__("os").system, "touch ran"),
    "import": Runs(__import__, "canary"),
    "getattr": Runs(getattr, Path("ran"), "touch"),
    "open": Runs(open, "ran", "w"),
    "partial": Runs(Runs, Runs(eval, "open('ran', 'w')")),
    "load": Runs(torch.load, "ran"),
    "build": Builds(),
    "class": Own,
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_pickle_asks_for_is_run(tmp_path, monkeypatch, kind, is_zip):
    monkeypatch.chdir(tmp_path)
    Path("canary.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    weights = nn.Linear(2, 2).state_dict()
    state = {"state_dict": weights, "hostile": HOSTILE[kind], "args": argparse.Namespace()}
    torch.save(state, "hostile.pt", _use_new_zipfile_serialization=is_zip)
    found, _ = read_weights_alone(Path("hostile.pt"))
    assert_alike(found["state_dict"], weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.py", "hostile.pt"]


def written(path, pickled, **records):
    """Write a zip file of torch.save with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"x/data/{name}", data)
    return path


# Something foreign, without which a file is read as plain weights.
FOREIGN = b"cown\nThing\n0"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x04" + FOREIGN + b"\x96" + struct.pack("<Q", 1 << 40) + b".", "holds a bytearray"),
        (b"\x80\x02" + FOREIGN + b"K\x01)R.", "calls something that is not a class"),
        (
            b"\x80\x02" + FOREIGN + b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.",
            "not desc",
        ),
        (b"\x80\x02" + FOREIGN + b"X\x01\x00\x00\x00aQ.", "stored in an unknown way"),
        (b"\x80\x02" + FOREIGN + b"\x82\x01.", "extension registry"),
        (b"\x80\x02" + FOREIGN + b"(" * 9, "it is damaged; nothing was run"),
    ],
)
def test_pickles_that_no_module_has_are_refused(tmp_path, pickled, message):
    with pytest.raises(CheckpointError, match=message):
        read_weights_alone(written(tmp_path / "hostile.pt", pickled))


def test_a_memo_of_any_size_takes_no_memory(tmp_path):
    # r stores under a number of four bytes: room for all numbers up to it would be 34 GB.
    pickled = b"\x80\x02" + FOREIGN + b"}r\xff\xff\xff\xff."
    assert read_weights_alone(written(tmp_path / "memo.pt", pickled))[0] == {}


@pytest.mark.parametrize(
    "copied",
    [
        b"ctorch\nSize\nh\x01\x85R",
        b"ccollections\nOrderedDict\nh\x01\x85R",
        b"cbuiltins\nset\nh\x01\x85R",
    ],
    ids=["Size", "OrderedDict", "set"],
)
def test_copies_of_what_is_there_once_are_refused(tmp_path, copied):
    # A list of a thousand pairs, then copies of it.
    few = b"](" + b"K\x01K\x01\x86" * 1000 + b"eq\x010"
    pickled = b"\x80\x02" + FOREIGN + few + b"](" + copied * 200 + b"e."
    with pytest.raises(CheckpointError, match="more copies than it has bytes"):
        read_weights_alone(written(tmp_path / "copies.pt", pickled))


def test_the_name_of_a_type_imports_nothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "__getattr__", asked.append)
    tensor = b"ctorch._utils\n_rebuild_tensor_v3\n(NK\x00))NNctorch\nmade_up\ntR."
    with pytest.raises(CheckpointError, match="of an unknown type"):
        read_weights_alone(written(tmp_path / "type.pt", b"\x80\x02" + FOREIGN + tensor))
    assert "made_up" not in asked


def with_own_comment(path):
    """Write the comment of our own files into a zip file, with the right CRC."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = bytes(COMMENT_LENGTH)
    data = path.read_bytes()[: -COMMENT_LENGTH - 2]
    comment = COMMENT % zlib.crc32(data + b"\0\0")
    path.write_bytes(data + struct.pack("<H", COMMENT_LENGTH) + comment)
    return path


@pytest.mark.parametrize("read", [read_weight_file, read_weights_alone])
@pytest.mark.parametrize("foreign", [b"", FOREIGN], ids=["plain", "foreign"])
def test_compressed_records_are_refused_also_under_our_own_comment(tmp_path, read, foreign):
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + foreign + b"N0" * (1 << 20) + b"}.")
        archive.writestr("x/data/0", bytes(1 << 20))
    assert path.stat().st_size < 20_000
    for sent in (path, with_own_comment(path)):
        with pytest.raises(CheckpointError, match="with compressed records, which torch"):
            read(sent)


def test_records_that_claim_more_than_the_file_has_are_refused(tmp_path):
    torch.save({"weight": torch.ones(1000)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        records = {entry.filename: whole.read(entry) for entry in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "over.pt", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
        # The same bytes under another name.
        copied = zipfile.ZipInfo("archive/data/1")
        first = archive.getinfo(next(name for name in records if name.endswith("data/0")))
        for key in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(copied, key, getattr(first, key))
        archive.filelist += [copied] * 9
    with pytest.raises(CheckpointError, match="its records claim more bytes than it has"):
        read_weight_file(with_own_comment(tmp_path / "over.pt"))


# A tuple that holds the one before twice, fifty times; each is then at its number.
LEVELS = b")q\x000" + b"".join(b"h%ch%c\x86q%c0" % (level, level, level + 1) for level in range(50))
LAST = b"h\x32"
# A list in the arguments of a call, filled after they were made.
LATER = b"]q\xff0h\xff\x85q\xfe0h\xff(" + LAST + b"K\x01\x86e0ccollections\nOrderedDict\nh\xfeR."
COSTLY = {
    "key": LEVELS + b"}" + LAST + b"K\x01s.",
    "keys": LEVELS + b"}(" + LAST + b"K\x01u.",
    "set": LEVELS + b"\x8f(" + LAST + b"\x90.",
    "pairs": LEVELS + b"ccollections\nOrderedDict\n](" + LAST + b"K\x01\x86e\x85R.",
    "filled later": LEVELS + LATER,
    "function": LEVELS + LAST + b")R.",
    "long numbers": b"\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000 + b"q\x000}("
    + b"h\x00N" * 100_000 + b"u.",
    "copies": b"](" + b"K\x01K\x01\x86" * 10_000 + b"eq\x010("
    + b"ccollections\nOrderedDict\nh\x01\x85R0" * 10_000 + b"t.",
    "deep": b"})" + b"\x85" * 20_000 + b"K\x01s.",
}  # fmt: skip


@pytest.mark.parametrize("read", [read_weight_file, read_weights_alone])
@pytest.mark.parametrize("kind", COSTLY)
def test_a_pickle_that_would_take_for_ever_is_refused(tmp_path, kind, read):
    for foreign in (b"", FOREIGN):
        path = written(tmp_path / "costly.pt", b"\x80\x02" + foreign + COSTLY[kind])
        with pytest.raises(CheckpointError, match=r"cannot be read as weights: it.*nothing was"):
            read(path)


def test_a_record_whose_own_crc_is_wrong_is_not_passed_by(tmp_path):
    path = written(tmp_path / "costly.pt", b"\x80\x02" + COSTLY["key"])
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<L", archive.getinfo("x/data.pkl").CRC)
    path.write_bytes(path.read_bytes().replace(crc, bytes(4)))
    with pytest.raises(CheckpointError, match="is damaged: Bad CRC-32"):
        read_weight_file(with_own_comment(path))


def test_a_legacy_file_whose_keys_would_take_for_ever_is_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pt").read_bytes()
    # The last pickle: the keys of the tensors.
    place = data.rindex(b"\x80\x02]")
    (tmp_path / "old.pt").write_bytes(data[:place] + b"\x80\x02" + LEVELS + b"]" + LAST + b"a.")
    with pytest.raises(CheckpointError, match="more often than could be read"):
        read_weight_file(tmp_path / "old.pt")


def view(size, stride, count=4):
    """Pickle a tensor of four numbers in another shape."""

    class View:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, size, stride, False, {})

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            kind = torch.FloatStorage
            return ("storage", kind, "0", "cpu", count) if isinstance(value, Storage) else None

    import io

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"weight": View(), "args": argparse.Namespace()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "stride"),
    [((1 << 40,), (0,)), ((5,), (1,)), ((2, 2), (3, 1)), ((1 << 20,) * 3, (0,) * 3), ((2,), (-1,))],
)
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, size, stride):
    path = written(tmp_path / "view.pt", view(size, stride), **{"0": bytes(16)})
    with pytest.raises(CheckpointError, match=r"more than the file holds|is not described"):
        read_weights_alone(path)


def test_a_record_that_is_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="the record 0 is missing"):
        read_weights_alone(written(tmp_path / "view.pt", view((2,), (1,))))


def test_modules_in_modules_that_are_there_twice_are_given_up(tmp_path):
    model = nn.ReLU()
    for _ in range(40):
        model = nn.Sequential(model, model)
    torch.save(model, tmp_path / "broad.pt")
    # To look at all of them would take years.
    with pytest.raises(CheckpointError, match="names more tensors than any model has"):
        read_weights_alone(tmp_path / "broad.pt")


def test_lists_in_lists_that_are_there_often_are_looked_at_once(tmp_path):
    value = [0]
    for _ in range(30):
        value = [value] * 30
    torch.save({"weight": torch.ones(2), "list": value, "args": argparse.Namespace()},
               tmp_path / "broad.pt")  # fmt: skip
    found, _ = read_weights_alone(tmp_path / "broad.pt")
    assert torch.equal(found["weight"], torch.ones(2))


def test_what_contains_itself_is_refused(tmp_path):
    value = {"args": argparse.Namespace()}
    value["again"] = [value]
    torch.save(value, tmp_path / "around.pt")
    with pytest.raises(CheckpointError, match="contains itself"):
        read_weights_alone(tmp_path / "around.pt")


def test_damage_is_said_before_what_the_file_asks_for(tmp_path):
    torch.save(Own(), tmp_path / "own.pt")
    data = bytearray((tmp_path / "own.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "own.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_weights_alone(tmp_path / "own.pt")
    # In the pickle itself too.
    place = data.index(b"test_module_files")
    data[len(data) // 2] ^= 1
    data[place] ^= 1
    (tmp_path / "own.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_weights_alone(tmp_path / "own.pt")
    (tmp_path / "own.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="is damaged: it does not end"):
        read_weights_alone(tmp_path / "own.pt")


def test_a_legacy_file_that_was_cut_off_is_refused(tmp_path):
    torch.save(Own(), tmp_path / "own.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "own.pt").write_bytes((tmp_path / "own.pt").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="it was cut off"):
        read_weights_alone(tmp_path / "own.pt")


def test_a_pickle_of_another_program_is_refused_as_ever(tmp_path):
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(Own()))
    with pytest.raises(CheckpointError, match=r"a Python pickle that torch\.save did not write"):
        read_weights_alone(tmp_path / "own.pkl")
