"""int8 by onnxruntime's static quantisation: the ranges of all values are measured on images."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.exporting.answering import PREPROCESSING
from ptkit.core.exporting.quiet import quietly

# What has weights; all else stays in float32, and so does what stands before the model.
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_SEVERAL = 6


def quantised(model: Any, inputs: Iterable[np.ndarray]) -> Any:
    """Return an ONNX model whose convolutions and linear layers compute with int8.

    inputs: what the graph takes, batch by batch, from which the ranges of values are measured.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with quietly(), tempfile.TemporaryDirectory() as folder:
        whole, joined, small = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        whole.write_bytes(model.SerializeToString())
        _join_layers(whole, joined)
        quantize_static(
            joined,
            small,
            _Reader(iter(inputs)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of weights: on processors without VNNI sums of eight overflow.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_WITH_WEIGHTS),
            nodes_to_quantize=_nodes_to_quantise(onnx.load(joined)),
        )
        return onnx.load(small)


def _join_layers(source: Path, target: Path) -> None:
    """Compute what is constant, and put norms into the convolutions before them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _nodes_to_quantise(model: Any) -> list[str]:
    """Return the layers with weights but the first and the last: they are small, and errors there
    cost most (measured: half of the mean error in probability of an efficientnet_lite0).
    """
    weights = {one.name for one in model.graph.initializer if PREPROCESSING not in one.name}
    found = [
        node.name
        for node in model.graph.node
        if node.op_type in _WITH_WEIGHTS and weights.intersection(node.input)
    ]
    # Of a few layers these are not the lesser part.
    return found[1:-1] if len(found) >= _SEVERAL else found


class _Reader:
    """Hands batches to onnxruntime."""

    def __init__(self, inputs: Iterator[np.ndarray]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.inputs, None)
        return None if images is None else {"images": images}
