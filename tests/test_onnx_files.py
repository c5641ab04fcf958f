"""What ONNX files say of themselves, and what is refused before ONNX Runtime opens them."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import ABOUT, graph, telling, write_onnx

from ptkit.core.errors import CheckpointError
from ptkit.core.models.onnx_files import is_onnx, read_onnx


def test_a_file_says_what_its_graph_takes_and_gives(tmp_path):
    file = read_onnx(write_onnx(tmp_path / "model.onnx"))
    shape = file.batch, file.height, file.width, file.channels, file.num_outputs
    assert shape == (None, None, None, 3, 3)
    assert (file.input_name, file.takes_pixels, file.last_step) == ("images", True, "Softmax")
    assert file.about == ABOUT


def test_a_file_is_known_by_its_first_bytes_whatever_its_name(tmp_path):
    written = write_onnx(tmp_path / "model.onnx").read_bytes()
    (tmp_path / "other.bin").write_bytes(written)
    (tmp_path / "other.txt").write_text("hello")
    assert is_onnx(tmp_path / "other.bin")
    assert not is_onnx(tmp_path / "other.txt")
    assert is_onnx(tmp_path / "missing.onnx")
    assert not is_onnx(tmp_path / "missing.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ONNX file: it is empty"),
        (b"<html><body>", "is not an ONNX file: it is a web page"),
        (b"hello, world", "which begins with b'hello, w'"),
        (b"\x08\x08\x12\x07pytorch\x3a\xff\x01abc", "is a damaged ONNX file"),
        (b"\x08\x08\x12\x07pytorch", "its graph has no steps"),
    ],
)
def test_what_is_not_a_whole_onnx_file_is_refused(tmp_path, content, message):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"a newer ptkit \(0.1.0\) wrote .* in format 2"),
        ({"class_names": "cat"}, "class_names is a str, expected list"),
        ({"pipeline": {"calls": ["Resize((90000, 9))"]}}, "larger images than any model takes"),
        ({"preprocessing": 1}, "preprocessing is 1, expected bool"),
        ({"preprocessing": False}, r"UINT8 \(any, any, any, 3\); expected FLOAT"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_with_the_key(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_onnx(write_onnx(tmp_path / "model.onnx", **changes))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3"])
def test_metadata_that_is_no_json_object_is_refused(tmp_path, text):
    model = graph()
    helper.set_model_props(model, {"ptkit": text})
    with pytest.raises(CheckpointError, match="the metadata ptkit of"):
        read_onnx(write_onnx(tmp_path / "model.onnx", model, about=None))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph(kind=TensorProto.INT64), r"is INT64 \(any, any, any, 3\); expected UINT8"),
        (graph(size=("height",)), r"is UINT8 \(any, any, 3\); expected UINT8"),
    ],
    ids=["type", "shape"],
)
def test_an_input_that_is_not_images_is_refused(tmp_path, model, message):
    with pytest.raises(CheckpointError, match=message):
        read_onnx(write_onnx(tmp_path / "model.onnx", model))


@pytest.mark.parametrize("pixels", [True, False])
def test_a_graph_of_larger_images_than_any_model_takes_is_refused(tmp_path, pixels):
    path = tmp_path / "model.onnx"
    model = graph(pixels=pixels, size=(10**9, 10**9))
    with pytest.raises(
        CheckpointError, match=r"images of \(1000000000, 1000000000\) pixels, larger"
    ):
        read_onnx(write_onnx(path, model, preprocessing=pixels))


def beside(location, *, length=36):
    """Return a model whose weights are in another file."""
    model = graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": length}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    helper.set_model_props(model, {"ptkit": json.dumps(ABOUT)})
    return model


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("weights.bin", "weights.bin, which is not beside it: copy both files"),
        ("short.bin", "short.bin beside it is too short"),
        ("../secret.bin", "names a file outside its folder"),
        ("link.bin", "names a file outside its folder"),
        ("/etc/hostname", "names a file outside its folder"),
    ],
)
def test_numbers_beside_the_file_must_be_there_and_nowhere_else(tmp_path, location, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(36))
    (folder / "short.bin").write_bytes(bytes(35))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "model.onnx").write_bytes(beside(location).SerializeToString())
    with pytest.raises(CheckpointError, match=message):
        read_onnx(folder / "model.onnx")


def claiming(model, place):
    """Return a model that says to have a terabyte of numbers, in one of three places."""
    few = numpy_helper.from_array(np.zeros(3, np.float32), "few")
    few.dims[0] = 10**12
    constant = helper.make_node("Constant", [], ["claimed"], value=few)
    match place:
        case "initializer":
            model.graph.initializer.append(few)
        case "constant":
            model.graph.node.insert(0, constant)
        case "branch":
            inner = helper.make_graph([constant], "inner", [], [])
            both = {"then_branch": inner, "else_branch": inner}
            model.graph.node.append(helper.make_node("If", ["white"], ["chosen"], **both))
    return model


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, place):
    path = write_onnx(tmp_path / "model.onnx", claiming(graph(), place))
    assert path.stat().st_size < 3000
    with pytest.raises(CheckpointError, match="few claims 1000000000000 numbers"):
        read_onnx(path)


def test_sparse_tensors_are_refused(tmp_path):
    model = graph()
    sparse = onnx.SparseTensorProto(dims=[10**12])
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(CheckpointError, match="it holds sparse tensors"):
        read_onnx(write_onnx(tmp_path / "model.onnx", model))


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        read_onnx(Path(tmp_path / "model.onnx"))


def test_a_second_output_is_only_how_strange_images_are(tmp_path):
    model = telling([helper.make_node("ReduceMean", ["colour"], ["strangeness"], axes=[1])])
    with pytest.raises(CheckpointError, match=r"2 outputs; expected .*a number for each class$"):
        read_onnx(write_onnx(tmp_path / "model.onnx", model))
    with pytest.raises(CheckpointError, match=r"1 outputs; .*, how strange each image is$"):
        read_onnx(write_onnx(tmp_path / "model.onnx", unknown_limit=1.0))
    assert read_onnx(write_onnx(tmp_path / "model.onnx", model, unknown_limit=1.0)).tells_strangers
