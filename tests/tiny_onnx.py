"""Small ONNX files: graphs that tell images of example_run.py apart by their colours."""

import json

import numpy as np
import onnx
from example_run import CLASSES
from onnx import TensorProto, helper, numpy_helper

# Blue, green, red of the mean colour, of which red comes first.
WEIGHTS = 20 * np.eye(3, dtype=np.float32)[::-1].copy()
ABOUT = {
    "format": 1,
    "kind": "single-label",
    "class_names": list(CLASSES),
    "thresholds": None,
    "temperature": None,
    "preprocessing": True,
    "pipeline": {
        "calls": [
            "Resize((16, 16))",
            "ToTensor()",
            "Normalize(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])",
        ],
        "size": 16,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    },
    "ptkit_version": "0.1.0",
}
NAMES = json.dumps(dict(enumerate(CLASSES)))
_FROM_PIXELS = [
    helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
    helper.make_node("Div", ["levels", "white"], ["shares"]),
    helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
]


def probabilities(pixels):
    """Return what a graph gives for an image, uint8 (H, W, 3), float (3,)."""
    scores = np.exp((pixels / 255).mean((0, 1)) @ WEIGHTS.T)
    return scores / scores.sum()


def graph(
    *, pixels=True, last="Softmax", size=("height", "width"), batch="batch", nodes=(), **more
):
    """Return a model of uint8 (n, H, W, 3), or of float (n, 3, H, W); nodes: more of them."""
    shape = [batch, *size, 3] if pixels else [batch, 3, *size]
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    planes = "planes" if pixels else "images"
    steps = [
        *(_FROM_PIXELS if pixels else []),
        helper.make_node("ReduceMean", [planes], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["colour", "weights"], ["scores"], transB=1),
        helper.make_node(last, ["scores"], ["probabilities"]),
        *nodes,
    ]
    stored = {"weights": WEIGHTS, "white": np.array(255, np.float32)}
    return helper.make_model(
        helper.make_graph(
            steps,
            "colours",
            [helper.make_tensor_value_info("images", more.get("kind", kind), shape)],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 3])],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


def telling(nodes):
    """Return the model of pixels with a second output, `strangeness`, of these nodes."""
    model = graph(nodes=nodes)
    output = helper.make_tensor_value_info("strangeness", TensorProto.FLOAT, ["batch"])
    model.graph.output.append(output)
    return model


def write_onnx(path, model=None, about=ABOUT, **changes):
    """Write a model with the metadata of `ptkit export`; without any where `about` is None."""
    model = graph() if model is None else model
    if about is not None:
        helper.set_model_props(model, {"ptkit": json.dumps(about | changes), "names": NAMES})
    onnx.save(model, path)
    return path
