from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ptkit
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import CheckpointError
from ptkit.core.exporting import onnx_graphs, torch_files
from ptkit.core.exporting.answering import Answering, Interface
from ptkit.core.exporting.metadata import Description
from ptkit.core.exporting.preprocessing import preprocessing_of
from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.models.zoo import build_model

from example_run import CLASSES, write_images  # isort: skip

# A small member of each family, with the pixels of a side.
TORCHVISION = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 32,
    "vit_b_32": 64,
    "wide_resnet50_2": 32,
}
OURS = {"lenet": 32, "resnet8": 16, "resnet20": 16, "whitenet": 16, "efficientnet_lite0": 64}
TIMM = {f"timm:test_{family}": 96 for family in ("resnet", "convnext", "vit", "efficientnet")}
ALL = {**TORCHVISION, **OURS, **TIMM}


@pytest.fixture
def export(tmp_path, monkeypatch):
    """A function that exports a fresh model of a call; photographs become its size by a crop."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, per_class=1)

    def exported(call, size, *, geometry=None, task=None, **wanted):
        channels = 1 if geometry and "Grayscale()" in geometry else 3
        model, text = build_model(call, num_classes=3, size=size, seed=1, channels=channels)
        geometry = geometry or [f"Resize({size + 4})", f"CenterCrop({size})"]
        normalize = "Normalize(mean=[0.5], std=[0.25])"
        contents = {
            "kind": "best",
            "model": {"call": text, "num_classes": 3},
            "classes": list(CLASSES),
            "task": task or {"kind": "single-label", "activation": "softmax"},
            "pipeline": {
                "calls": [*geometry, "ToTensor()", normalize],
                "size": size,
                "channels": channels,
            },
            "state_dict": model.state_dict(),
        }
        save_checkpoint(tmp_path / "ckpt.pkl", contents)
        # timm's code runs only where the user names it.
        again = call if call.startswith("timm:") else None
        return ptkit.export("ckpt.pkl", images="images", model=again, **wanted)

    return exported


@pytest.mark.parametrize(
    "call", ["whitenet", list(TIMM)[1], pytest.param(list(TIMM)[2], marks=pytest.mark.slow)]
)
def test_networks_of_several_kinds_agree_as_torchscript(export, call):
    assert export(call, ALL[call], to="torchscript").replayed.difference < 1e-5


def test_a_model_that_no_onnx_file_can_hold_is_refused_before_any_work(export, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "_MOST_BYTES", 100_000)
    with pytest.raises(CheckpointError, match=r"holds up to 2.1 GB, and the model has"):
        export("lenet", 32)


@pytest.mark.slow
@pytest.mark.parametrize("call", ALL)
def test_every_family_agrees_as_onnx(export, call):
    assert export(call, ALL[call]).replayed.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize("to", ["torch-export", "torchscript"])
def test_every_family_agrees_in_the_formats_of_torch(export, call, to):
    assert export(call, ALL[call], to=to).replayed.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("call", ["resnet18", "convnext_tiny", "swin_t", "timm:test_vit"])
def test_half_precision_agrees_within_a_hundredth(export, call):
    assert 0 < export(call, ALL[call], precision="fp16").replayed.difference < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export", "torchscript"])
@pytest.mark.parametrize(
    "geometry",
    [
        ["Resize((16, 16), interpolation=InterpolationMode.BICUBIC)", "RandomVerticalFlip(p=1)"],
        ["Resize(18, max_size=24)", "Pad(2, fill=[9, 99, 199])", "CenterCrop(16)"],
        ["PadToSquare(fill=114)", "Resize((16, 16))"],
        ["Resize(20)", "CenterCrop(16)", "Grayscale()"],
    ],
    ids=str,
)
def test_every_step_is_in_every_graph(export, geometry, to):
    assert export("resnet8", 16, geometry=geometry, to=to).replayed.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export", "torchscript"])
def test_an_embedding_answers_by_the_nearest_mean(export, to):
    means = torch.nn.functional.normalize(torch.eye(3) + 0.1, dim=1)
    task = {"kind": "embedding", "activation": "nearest", "class_means": means}
    assert export("lenet", 32, task=task, to=to).replayed.difference < 1e-5


SAYS_NOTHING = Description(
    kind="single-label", class_names=["a"], thresholds=None, temperature=None, preprocessing=False,
    pipeline={}, model="x", source_sha256="0", precision="fp32",
)  # fmt: skip


def test_onnx_files_name_no_files_of_this_machine_in_branches_either(tmp_path):
    import onnx
    from onnx import helper

    def node(kind, inputs, outputs, **attributes):
        found = helper.make_node(kind, inputs, outputs, **attributes)
        found.doc_string = found.metadata_props.add(key="stack_trace").value = "/elsewhere/net.py"
        return found

    def body(name, kind):
        made = helper.make_tensor_value_info(f"{name}_out", 1, None)
        found = helper.make_graph([node(kind, ["images"], [f"{name}_out"])], name, [], [made])
        found.value_info.append(helper.make_tensor_value_info(name, 1, None, "/elsewhere/net.py"))
        return found

    choice = node("If", ["is_so"], ["out"], then_branch=body("yes", "Abs"),
                  else_branch=body("no", "Neg"))  # fmt: skip
    ends = [helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("images", 1), ("is_so", 9), ("out", 1))]  # fmt: skip
    graph = helper.make_graph([choice], "whole", ends[:2], ends[2:])
    function = helper.make_function("own", "F", ["x"], ["y"], [node("Abs", ["x"], ["y"])], [])
    model = helper.make_model(graph, functions=[function])
    onnx_graphs.write_onnx(tmp_path / "model.onnx", model, SAYS_NOTHING)
    assert b"/elsewhere" not in (tmp_path / "model.onnx").read_bytes()
    assert [prop.key for prop in onnx.load(tmp_path / "model.onnx").metadata_props] == [
        "ptkit",
        "names",
    ]


def test_a_graph_that_onnxruntime_crashes_on_is_told_and_not_read_here(monkeypatch):
    # What is only damaged is an error where it is read.
    assert onnx_graphs._crash_of(b"no graph") is None
    monkeypatch.setattr(onnx_graphs, "_READ", "import os\nos.abort()")
    assert "crashes when it reads the graph" in onnx_graphs._crash_of(b"no graph")


def test_a_graph_that_crashes_is_not_read(monkeypatch):
    opset = SimpleNamespace(domain="", version=18)
    model = SimpleNamespace(opset_import=[opset], SerializeToString=lambda: b"graph")
    monkeypatch.setattr(onnx_graphs, "_crash_of", lambda content: f"{content} crashes")
    assert onnx_graphs._fault_of(model, None, None, 18) == "b'graph' crashes"


class Branching(nn.Module):
    """Computes one thing or another by what it gets."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, images):
        means = images.mean((2, 3))
        return torch.cond(
            means.sum() > 0, lambda x: self.fc(x) + 1, lambda x: self.fc(x) * 2, (means,)
        )


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_exported_branches_name_no_files_of_this_machine(tmp_path, to):
    module = Answering(Branching(), nn.Softmax(-1))
    interface = Interface(torch.randn(2, 3, 5, 5), ("probabilities",), is_any_size=False)
    file = tmp_path / "model"
    if to == "onnx":
        onnx_graphs.write_onnx(file, onnx_graphs.onnx_of(module, interface, opset=18), SAYS_NOTHING)
    else:
        torch_files.write_torch_export(file, module, interface, SAYS_NOTHING)
    assert b".py" not in file.read_bytes()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    "calls",
    [
        ["Resize(20)", "CenterCrop(24)"],
        ["Resize(20, interpolation=InterpolationMode.BICUBIC)", "CenterCrop(16)"],
        ["PadToSquare()", "Resize((8, 8))"],
    ],
)
def test_preprocessing_as_torchscript_computes_where_its_images_are(calls):
    graph = torch.jit.script(preprocessing_of(Pipeline.parse([*calls, "ToTensor()"])))
    # As a GPU does, this device refuses what lies on the CPU.
    images = torch.empty(2, 30, 40, 3, dtype=torch.uint8, device="meta")
    assert graph.to("meta")(images).device.type == "meta"
