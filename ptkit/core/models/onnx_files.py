"""ONNX files: what a graph takes and gives, and what `ptkit export` says of it, all checked before
ONNX Runtime opens the file.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.files import parse_json
from ptkit.core.models.checkpoint_schema import (
    LARGEST_SUM,
    ONNX_SCHEMA,
    fault_in,
    fault_of_pipeline,
)
from ptkit.core.models.first_bytes import IS_ONNX, first_bytes, known_stranger
from ptkit.core.wording import reason_of

INSTALL = "pip install 'ptkit[export]'"
# The key of the metadata, and the version of what it holds.
KEY, FORMAT = "ptkit", 1
# A protobuf cannot be larger.
_LARGEST_BYTES = 1 << 31
# Numbers of four bits are the smallest.
_LEAST_BITS = 4


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A graph with one input of images and one output, and a second one where it tells strangers.

    about: the metadata of `ptkit export`, None for other files. takes_pixels: decoded images, uint8
    (n, H, W, 3), rather than normalised ones, float (n, C, H, W). is_half: of 16 bits. batch,
    height, width, num_outputs: None where any number is taken or given. last_step: the name of the
    operator that gives the output. tells_strangers: whether the second output is how strange each
    image is.
    """

    path: Path
    about: Mapping[str, Any] | None
    input_name: str
    takes_pixels: bool
    is_half: bool
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    num_outputs: int | None
    last_step: str
    tells_strangers: bool


def is_onnx(path: Path) -> bool:
    """Say whether a path is meant to be an ONNX file, by its name or its first bytes."""
    if path.suffix.lower() == ".onnx":
        return True
    return path.is_file() and IS_ONNX.match(first_bytes(path)) is not None


def read_onnx(path: Path) -> OnnxFile:
    """Read what an ONNX file says of itself; its numbers are not unpacked, and nothing is run.

    Raises:
        CheckpointError: no such file, another kind of file, damaged, data missing beside it, or a
            graph that is not from images to one table of numbers.
        UsageError: onnx is not installed.
    """
    model = _parsed(path)
    for tensor in _tensors(model):
        if fault := _fault_of_tensor(tensor, path):
            raise CheckpointError(f"{path} cannot be used: {fault}")
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    about = _about(model, path)
    tells_strangers = about is not None and about.get("unknown_limit") is not None
    if len(inputs) != 1 or len(graph.output) != 1 + tells_strangers:
        also = ", and another, how strange each image is" if tells_strangers else ""
        raise CheckpointError(
            f"{path} has {len(inputs)} inputs and {len(graph.output)} outputs; expected one input,"
            f" images, and one output, a number for each class{also}"
        )
    output = graph.output[0]
    shape = _shape(output)
    if shape is not None and len(shape) != 2:
        raise CheckpointError(
            f"the output {output.name[:80]} of {path} is {_written(shape)}; expected (images,"
            " classes)"
        )
    last = next((node.op_type for node in graph.node if output.name in node.output), "")
    return OnnxFile(
        path=path,
        about=about,
        num_outputs=shape[1] if shape else None,
        last_step=last,
        tells_strangers=tells_strangers,
        **_input(inputs[0], about, path),
    )


def _parsed(path: Path) -> Any:
    head = first_bytes(path)
    if not IS_ONNX.match(head):
        what = known_stranger(head) or f"something else, which begins with {head[:8]!r}"
        raise CheckpointError(f"{path} is not an ONNX file: it is {what}")
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UsageError(f"reading {path} needs onnx ({error}): {INSTALL}") from error
    size = path.stat().st_size
    if size >= _LARGEST_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; an ONNX file has less than 2 GB")
    try:
        # Data beside the file is only looked for, not read.
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is a damaged ONNX file: it was cut off or changed; copy it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if not model.graph.node:
        raise CheckpointError(f"{path} is a damaged ONNX file: its graph has no steps")
    return model


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors that a model holds, those in the graphs of branches and loops too."""
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from _tensors_of_graph(graph)
    yield from _tensors_of_graph(model.graph)


def _tensors_of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from graph.sparse_initializer
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.tensors
            yield from attribute.sparse_tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(graph)


def _fault_of_tensor(tensor: Any, path: Path) -> str | None:
    """Say why a tensor cannot be read, or would take more memory than its bytes, if it is so."""
    if tensor.DESCRIPTOR.name == "SparseTensorProto":
        return "it holds sparse tensors; only dense ones are read"
    name = tensor.name[:80]
    if min(tensor.dims, default=0) < 0:
        return f"{name} has a negative size"
    num_bytes = tensor.ByteSize()
    if tensor.data_location == tensor.EXTERNAL:
        found = _bytes_beside(tensor, path)
        if isinstance(found, str):
            return found
        num_bytes = found
    if math.prod(tensor.dims) * _LEAST_BITS > 8 * num_bytes:
        shape = "×".join(map(str, tensor.dims))
        return f"{name} claims {shape[:80]} numbers, more than the file holds"
    return None


def _bytes_beside(tensor: Any, path: Path) -> int | str:
    """Return how many bytes a tensor has in a file beside this one, or what is wrong with that."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    file = path.parent / name
    # What is elsewhere on the disk is none of a file's business.
    folder = path.parent.resolve()
    if not name or Path(name).is_absolute() or not file.resolve().is_relative_to(folder):
        return f"it names a file outside its folder for its numbers, {name[:80]!r}"
    if not file.is_file():
        return f"its numbers are in {name[:80]}, which is not beside it: copy both files"
    try:
        offset, size = int(said.get("offset", 0)), file.stat().st_size
        length = int(said.get("length", size - offset))
    except ValueError:
        return f"the place of its numbers in {name[:80]} is not a number"
    if offset < 0 or length < 0 or offset + length > size:
        return f"{name[:80]} beside it is too short: it was cut off; copy it again"
    return length


def _about(model: Any, path: Path) -> Mapping[str, Any] | None:
    """Return the metadata of `ptkit export`, where it is there."""
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        about = parse_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"the metadata {KEY} of {path} is not JSON: {reason_of(error)}"
        ) from error
    version = about.get("format") if isinstance(about, dict) else None
    if type(version) is int and version > FORMAT:
        raise CheckpointError(
            f"a newer ptkit ({about.get('ptkit_version')}) wrote {path}, in format {version}:"
            " update this one"
        )
    if fault := fault_in(about, ONNX_SCHEMA):
        raise CheckpointError(f"the metadata {KEY} of {path} is incomplete: {fault.strip()}")
    if fault := fault_of_pipeline(about["pipeline"]["calls"]):
        raise CheckpointError(f"{path} cannot be used: {fault}")
    found: Mapping[str, Any] = about
    return found


def _input(value: Any, about: Mapping[str, Any] | None, path: Path) -> dict[str, Any]:
    """Return the fields of OnnxFile that are about the input."""
    from onnx import TensorProto

    takes_pixels = about is not None and about["preprocessing"]
    kind, shape = value.type.tensor_type.elem_type, _shape(value)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    kinds, channels_at = ((TensorProto.UINT8,), 3) if takes_pixels else (floats, 1)
    is_image = shape is not None and len(shape) == 4 and shape[channels_at] in (1, 3)
    if not is_image or kind not in kinds or (takes_pixels and shape and shape[3] != 3):
        names = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys(), strict=True))
        expected = "UINT8 (images, height, width, 3)" if takes_pixels else (
            "FLOAT (images, 3 or 1, height, width)"
        )  # fmt: skip
        found = f"{names.get(kind, kind)} {_written(shape)}"
        without = "" if about is not None else ", as the file has no metadata of `ptkit export`"
        raise CheckpointError(
            f"the input {value.name[:80]} of {path} is {found}; expected {expected}{without}"
        )
    assert shape is not None
    height, width = (shape[1], shape[2]) if takes_pixels else (shape[2], shape[3])
    # It becomes the size of the images that are made for it.
    if (height or 0) + (width or 0) > LARGEST_SUM:
        raise CheckpointError(
            f"{path} cannot be used: its graph takes images of {_written((height, width))} pixels,"
            " larger than any model takes"
        )
    return {
        "input_name": value.name,
        "takes_pixels": takes_pixels,
        "is_half": kind == TensorProto.FLOAT16,
        "batch": shape[0],
        "channels": shape[channels_at],
        "height": height,
        "width": width,
    }


def _shape(value: Any) -> tuple[int | None, ...] | None:
    """Return the sizes of an input or output, None for each that is left open; None without any."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def _written(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
