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
            nodes_to_quantize=_nodes_with_weights(onnx.load(joined)),
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


def _nodes_with_weights(model: Any) -> list[str]:
    weights = {one.name for one in model.graph.initializer if PREPROCESSING not in one.name}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _WITH_WEIGHTS and weights.intersection(node.input)
    ]


class _Reader:
    """Hands batches to onnxruntime."""

    def __init__(self, inputs: Iterator[np.ndarray]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.inputs, None)
        return None if images is None else {"images": images}
