import argparse
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from ptkit.core.errors import CheckpointError
from ptkit.core.models.locate import read_weights
from ptkit.core.models.weights import plain_names


class Canary:
    """Makes a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)


@pytest.fixture
def state_dict():
    return Net().state_dict()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pt"


def same(found, expected):
    return list(found) == list(expected) and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def refusal(file):
    with pytest.raises(CheckpointError) as caught:
        read_weights(file)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_bare_state_dicts_are_read_from_zip_and_legacy_files(file, state_dict, is_zip):
    torch.save(state_dict, file, _use_new_zipfile_serialization=is_zip)
    weights = read_weights(file)
    assert same(weights.state_dict, state_dict)
    assert (weights.checkpoint, weights.notes, weights.path) == (None, (), file)


@pytest.mark.parametrize(
    "nest",
    ["state_dict", "model", "model_state_dict", "net", "network", "ema", "params", "model_ema"],
)
def test_nested_weights_are_unwrapped_with_a_note(file, state_dict, nest):
    torch.save({"epoch": 3, nest: state_dict, "optimizer": {"lr": 0.1}}, file)
    weights = read_weights(file)
    assert same(weights.state_dict, state_dict)
    assert weights.notes == (f"took the weights under {nest}",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "backbone.", "module._orig_mod."])
def test_without_a_model_the_prefix_of_all_names_is_not_shown(state_dict, prefix):
    renamed = {prefix + name: tensor for name, tensor in state_dict.items()}
    assert same(plain_names(renamed), state_dict)


def test_a_wrapper_is_one_though_a_tensor_lies_beside_it(state_dict):
    renamed = {"n_averaged": torch.tensor(1)} | {f"module.{n}": t for n, t in state_dict.items()}
    assert list(plain_names(renamed)) == ["n_averaged", *state_dict]


@pytest.mark.parametrize(
    "names", [["module.fc.weight", "fc.bias"], ["encoder.0.weight", "encoder.1.weight", "fc.bias"]]
)
def test_the_prefix_of_a_part_stays(names):
    assert list(plain_names(dict.fromkeys(names, torch.ones(2)))) == names


def test_second_nest_and_entries_without_tensors_are_told(file, state_dict):
    torch.save({"model": {**state_dict, "extra": 1}, "ema": state_dict}, file)
    weights = read_weights(file)
    assert same(weights.state_dict, state_dict)
    assert weights.notes == (
        "took the weights under model (not those under ema)",
        "left out 1 entries that are not tensors",
    )


def test_file_without_a_state_dict_says_what_it_has(file):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, file)
    assert refusal(file).endswith("holds no state dict: found epoch, optimizer")
    torch.save([1, 2], file)
    assert refusal(file).endswith("holds no state dict: found a list")


def test_dictionary_nested_in_itself_ends(file):
    loop = {"epoch": 1}
    loop["state_dict"] = loop
    torch.save(loop, file)
    assert "state_dict contains itself" in refusal(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (bytes(5000), "is zeros from its beginning"),
        (b"\n <!DOCTYPE html><html>404", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 (Keras) file"),
        (b"\x1f\x8b\x08", "is a compressed archive: unpack it first"),
        (b"\x89PNG\r\n\x1a\n", "is an image, not weights"),
        (b"epoch,loss\n1,2\n", "is not a file of weights (it begins with b'epoch,lo')"),
        (b"PK\3\4 and then nothing", "is damaged: it does not end as it should"),
        (
            pickle.dumps({"a": [1.0]}),
            "is a Python pickle that torch.save did not write; nothing was run",
        ),
    ],
)
def test_strangers_are_called_what_they_are(file, content, message):
    file.write_bytes(content)
    assert message in refusal(file)


def test_missing_files_folders_and_broken_links_are_told(tmp_path):
    assert "no file" in refusal(tmp_path / "none.pt")
    assert "ckpt.pkl: expected a checkpoint, a run folder" in refusal(tmp_path)
    (tmp_path / "ckpt.pkl").symlink_to("runs/1/ckpt.pkl")
    assert "is a link to runs/1/ckpt.pkl, which is not there any more" in refusal(
        tmp_path / "ckpt.pkl"
    )


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("is_zip", [True, False])
def test_whole_pickled_model_is_refused_with_what_it_asks_for(file, is_zip):
    torch.save(Net(), file, _use_new_zipfile_serialization=is_zip)
    message = refusal(file)
    assert (
        f"is a whole pickled model (it asks for {__name__}.Net, torch.nn.modules.linear.Linear)"
        in message
    )
    assert "nothing was run: `ptkit convert " in message
    assert message.endswith(
        'where it was made, save the weights alone: torch.save(model.state_dict(), "weights.pt")'
    )


@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}]
)
def test_hostile_pickle_is_refused_and_not_run(tmp_path, file, state_dict, options):
    torch.save({"state_dict": state_dict, "extra": Canary(tmp_path / "canary")}, file, **options)
    assert "a pickle with more than weights (it asks for posix.mkdir); nothing was run" in refusal(
        file
    )
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_bare_hostile_pickle_is_refused_and_not_run(tmp_path, file, protocol):
    file.write_bytes(pickle.dumps(Canary(tmp_path / "canary"), protocol=protocol))
    assert "weights" in refusal(file)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("extra", "name"), [(argparse.Namespace(lr=1), "argparse.Namespace"), (np.float64(1), "numpy")]
)
def test_foreign_objects_beside_the_weights_are_named(file, state_dict, extra, name):
    torch.save({"state_dict": state_dict, "extra": extra}, file)
    assert f"it asks for {name}" in refusal(file)


def test_unusual_pickle_is_not_called_damaged(file, state_dict):
    torch.save(state_dict, file, pickle_protocol=4)
    assert (
        "(Unsupported operand 149): it is not what torch.save writes by default; save it again"
        in refusal(file)
    )


def test_flipped_bit_in_a_tensor_of_a_foreign_file_is_found(file):
    torch.save({"weight": torch.zeros(1000)}, file)
    data = bytearray(file.read_bytes())
    data[data.index(bytes(4000)) + 2000] ^= 1
    file.write_bytes(data)
    assert "the record weights/data/0 does not match its CRC" in refusal(file)


def test_truncated_legacy_file_is_damaged(file, state_dict):
    torch.save(state_dict, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-10])
    assert refusal(file).endswith("it is damaged")


def test_other_zip_archives_are_not_weights(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arrays/a.npy", b"x")
    assert "a zip archive that torch.save did not write" in refusal(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/constants.pkl", b"x")
        archive.writestr("net/code/net.py", b"x")
    assert "a TorchScript archive, a program; nothing was run" in refusal(file)


def safetensors_bytes(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_safetensors_are_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "fc.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "fc.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "count": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
        "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [36, 36]},
    }
    data = struct.pack("<6f", *range(6)) + b"\x80\x3f\x00\x40" + struct.pack("<q", 7)
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, data))
    expected = {
        "fc.weight": torch.arange(6.0).reshape(2, 3),
        "fc.bias": torch.tensor([1, 2], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }
    assert same(read_weights(tmp_path / "a.safetensors").state_dict, expected)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
            "file not fully covered",
        ),
        ({"dtype": "F32", "shape": [3], "data_offsets": [-4, 8]}, "integer `-4`"),
        (
            {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
            "invalid shape, data type, or offset for tensor",
        ),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "integer `-1`"),
        ({"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}, "unknown variant `X9`"),
        ({"dtype": "F32", "shape": [2]}, "missing field `data_offsets`"),
        (5, "expected struct TensorInfo"),
        ({"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}, "overflow"),
        ({"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}, "of the type F4, which torch"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "invalid offset for tensor"),
    ],
)
def test_damaged_safetensors_are_refused(file, entry, message):
    file.write_bytes(safetensors_bytes({"a": entry}, bytes(8)))
    assert message in refusal(file)


def test_safetensors_whose_header_is_no_json_are_refused(file):
    file.write_bytes(struct.pack("<Q", 8) + b'{"a": [[' + bytes(8))
    assert "invalid JSON in header" in refusal(file)


@pytest.mark.parametrize("length", [8, 60, 100, 120])
def test_truncated_safetensors_are_refused(file, length):
    header = {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}
    file.write_bytes(safetensors_bytes(header, bytes(64))[:length])
    assert str(file) in refusal(file)


def test_safetensors_come_in_the_order_of_their_header(file):
    names = [f"layer{k}" for k in (3, 1, 2, 0)]
    entry = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [k, k + 1]}
        for k, name in enumerate(names)
    }
    file.write_bytes(safetensors_bytes(entry, bytes(4)))
    assert list(read_weights(file).state_dict) == names
