"""ONNX files in the place of checkpoints: `ptkit predict` and `ptkit confmat`."""

import json
import sys

import numpy as np
import pytest
import torch
from example_run import CLASSES, write_images, write_run
from onnx import helper, numpy_helper
from PIL import Image
from tiny_onnx import graph, probabilities, telling, write_onnx
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data import images
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.looking import subject

ANSWERS = {"mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with images, test.txt and classes.txt."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


def expected(paths):
    return np.stack([probabilities(images.read(path)) for path in paths])


def test_predict_runs_a_graph_on_decoded_images_of_several_sizes(folder):
    rng = np.random.default_rng(0)
    for k in range(20):
        # Ten of one size, and ten of which each has its own.
        shape = (9, 7, 3) if k % 2 else (5 + k, 30, 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/{k:02}.png")
    found = ptkit.predict(write_onnx(folder / "model.onnx"), "images")
    np.testing.assert_allclose(found.values, expected(found.paths), atol=1e-5)
    assert found.class_names == CLASSES


def test_a_graph_without_preprocessing_gets_the_pipeline_of_its_metadata(folder):
    pipeline = {"calls": ["Resize((16, 16))", "ToTensor()"], "size": 16}
    model = graph(pixels=False)
    path = write_onnx(folder / "model.onnx", model, preprocessing=False, pipeline=pipeline)
    found = ptkit.predict(path, "images")
    np.testing.assert_allclose(found.values, expected(found.paths), atol=0.02)


BRIGHTNESS = helper.make_node("ReduceMean", ["colour"], ["strangeness"], axes=[1], keepdims=0)


def test_images_that_a_graph_finds_too_strange_are_unknown(folder):
    shades = [40, 200, 90, 210, 10, 190]
    for k, shade in enumerate(shades):
        Image.new("RGB", (9, 9 + k % 2), (shade, shade, shade)).save(f"images/{k}.png")
    path = write_onnx(folder / "model.onnx", telling([BRIGHTNESS]), unknown_limit=0.5)
    found = ptkit.predict(path, [f"images/{k}.png" for k in range(6)])
    assert found.unknown.tolist() == [shade > 127 for shade in shades]


def test_a_graph_that_gives_no_number_for_how_strange_an_image_is_is_refused(folder):
    nodes = [
        helper.make_node("Sub", ["shares", "white"], ["below"]),
        helper.make_node("Log", ["below"], ["nothing"]),
        helper.make_node("ReduceMean", ["nothing"], ["strangeness"], axes=[1, 2, 3], keepdims=0),
    ]
    path = write_onnx(folder / "model.onnx", telling(nodes), unknown_limit=0.5)
    with pytest.raises(CheckpointError, match="gives NaN for how strange an image is"):
        ptkit.predict(path, "images")


def test_confmat_prints_the_tables_that_it_prints_for_a_checkpoint(folder, blank_pictures):
    code, out, err = run("confmat", write_onnx("model.onnx"), "test.txt", "--workers", 1)
    assert (code, err) == (0, "")
    assert out.startswith('accuracy 100.0% (75.8 to 100.0%), 12 of 12 images, always "blue" 33.3%')
    assert (folder / "ptkit-confmat" / "confusion.csv").exists()


def test_an_unreadable_image_gets_a_row_with_the_reason(folder):
    (folder / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, _ = run("predict", write_onnx("model.onnx"), "images", "--json")
    rows = {row["path"]: row for row in json.loads(out)}
    assert code == 3
    assert "damaged PNG header" in rows.pop("images/bad.png")["error"]
    assert {row["class"] for row in rows.values()} == set(CLASSES)


def test_several_labels_are_those_above_their_thresholds(folder):
    changes = {"kind": "multi-label", "thresholds": {"blue": 0.0, "green": 1.0, "red": 0.5}}
    path = write_onnx("model.onnx", graph(last="Sigmoid"), **changes)
    (row,) = ptkit.predict(path, "images/red/0.png").rows
    assert row["classes"] == ["blue", "red"]


def test_numbers_are_those_of_the_graph(folder):
    path = write_onnx("model.onnx", graph(last="Identity"), kind="regression")
    (row,) = ptkit.predict(path, "images/red/0.png").rows
    colour = (images.read("images/red/0.png") / 255).mean((0, 1))
    np.testing.assert_allclose(list(row["numbers"].values()), 20 * colour[::-1], rtol=1e-5)


def test_a_file_without_metadata_runs_with_the_users_answers(folder):
    write_onnx("model.onnx", graph(pixels=False), about=None)
    found = ptkit.predict("model.onnx", "images", size=16, classes="classes.txt", **ANSWERS)
    np.testing.assert_allclose(found.values, expected(found.paths), atol=0.02)
    assert found.notes == ("weights of model.onnx: the graph gives probabilities",)


def test_images_for_a_graph_stay_on_the_cpu_where_there_is_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(subject, "choose_device", lambda _: torch.device("meta"))
    write_onnx("model.onnx", graph(pixels=False), about=None)
    found = ptkit.predict("model.onnx", "images", size=16, classes="classes.txt", **ANSWERS)
    np.testing.assert_allclose(found.values, expected(found.paths), atol=0.02)


def test_a_graph_of_one_size_and_a_fixed_batch_gives_the_same(folder):
    model = graph(pixels=False, last="Identity", size=(16, 16), batch=5)
    write_onnx("model.onnx", model, about=None)
    found = ptkit.predict("model.onnx", "images", **ANSWERS)
    np.testing.assert_allclose(found.values, expected(found.paths), atol=0.02)
    assert found.notes == ("weights of model.onnx: softmax of what the graph gives",)


def test_a_fixed_batch_that_does_not_fit_into_memory_is_refused(folder):
    model = graph(pixels=False, size=(16, 16), batch=10**12)
    write_onnx("model.onnx", model, about=None)
    with pytest.raises(CheckpointError, match="takes 1,000,000,000,000 images at once, more than"):
        ptkit.predict("model.onnx", "images", **ANSWERS)


@pytest.mark.parametrize(
    ("model", "answers", "error", "message"),
    [
        ({}, {}, UsageError, r"add --mean R,G,B, --std R,G,B, --size PIXELS \(and --classes"),
        ({"size": (16, 16)}, {}, UsageError, r"add --mean R,G,B, --std R,G,B \(and"),
        ({"size": (16, 16)}, {"size": 8}, UsageError, "images of 16×16 pixels, found --size 8"),
        ({"size": (16, 8)}, ANSWERS, UsageError, "16×8 pixels; only square ones are made"),
        ({}, {**ANSWERS, "size": 8, "alpha": "no"}, UsageError, "--alpha must be one of drop"),
        ({}, {**ANSWERS, "size": 8, "model": "resnet8"}, UsageError, "leave out --model"),
        ({}, {"size": 8, "mean": [0], "std": [1]}, UsageError, "3 channels: give --mean"),
        ({}, {**ANSWERS, "size": 8, "classes": "two.txt"}, DataError, "2 class names, but"),
    ],
)
def test_answers_that_are_missing_or_wrong_are_asked_for(folder, model, answers, error, message):
    (folder / "two.txt").write_text("a\nb\n")
    write_onnx("model.onnx", graph(pixels=False, **model), about=None)
    with pytest.raises(error, match=message):
        ptkit.predict("model.onnx", "images", **answers)


def test_an_exported_file_takes_no_answers(folder):
    code, _, err = run(
        "predict", write_onnx("model.onnx"), "images", "--size", 16, "--alpha", "white"
    )
    assert (code, err) == (
        2,
        "ptkit: model.onnx is an ONNX file and already stores this: leave out --size, --alpha\n",
    )


def test_another_device_than_the_cpu_is_refused(folder):
    code, _, err = run("predict", write_onnx("model.onnx"), "images", "--device", "cuda")
    assert (code, err) == (
        2,
        "ptkit: model.onnx runs on the CPU, with ONNX Runtime: leave out --device cuda\n",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "singel-label"}, "did you mean single-label"),
        ({"class_names": ["a"]}, "names 1 classes and gives 3 numbers"),
        ({"kind": "multi-label", "thresholds": {"red": 0.5}}, "no threshold of the class blue"),
    ],
)
def test_metadata_that_does_not_fit_the_graph_is_refused(folder, changes, message):
    with pytest.raises(CheckpointError, match=message):
        ptkit.predict(write_onnx(folder / "model.onnx", **changes), "images")


def test_a_pipeline_that_names_code_is_refused_and_nothing_is_run(folder):
    (folder / "own.py").write_text("open('canary', 'w')\n")
    pipeline = {"calls": ["own.py:Own()", "ToTensor()"]}
    model = graph(pixels=False)
    write_onnx("model.onnx", model, preprocessing=False, pipeline=pipeline)
    code, _, err = run("predict", "model.onnx", "images")
    assert (code, "names user code" in err) == (4, True)
    assert not (folder / "canary").exists()


def test_operators_of_a_library_are_refused(folder):
    model = graph()
    model.graph.node[0].domain = "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(CheckpointError, match=r"own:Cast.* is not a registered function/op"):
        ptkit.predict(write_onnx(folder / "model.onnx", model), "images")


def test_a_graph_that_asks_for_a_terabyte_is_refused_when_it_asks(folder):
    model = graph(nodes=[helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
                         helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
                         helper.make_node("Add", ["own", "zero"], ["probabilities"])])  # fmt: skip
    next(node for node in model.graph.node if node.op_type == "Softmax").output[0] = "own"
    sizes = np.array([1 << 19, 1 << 19])
    model.graph.initializer.append(numpy_helper.from_array(sizes, "huge"))
    code, _, err = run("predict", write_onnx("model.onnx", model), "images")
    assert code == 4
    assert "cannot be run" in err
    assert "smaller than requested bytes of 1099511627776" in err


@pytest.mark.parametrize("command", ["gradcam", "viz-weights", "finetune", "summary"])
def test_what_needs_a_network_of_torch_refuses_an_onnx_file(folder, command):
    more = ["images"] if command == "gradcam" else []
    code, _, err = run(command, write_onnx("model.onnx"), *more)
    assert (code, err) == (
        4,
        "ptkit: model.onnx is an ONNX file, which `ptkit predict` and `ptkit confmat` run; this"
        " needs the checkpoint that it was exported from\n",
    )


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_the_extra(folder, monkeypatch, library):
    path = write_onnx("model.onnx")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"pip install 'ptkit\[export\]'"):
        ptkit.predict(path, "images")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--without-preprocessing"]], ids=["whole", "model"])
def test_an_exported_checkpoint_gives_the_rows_and_tables_of_the_checkpoint(
    folder, flags, blank_pictures
):
    write_run(folder)
    # Photographs have many sizes.
    Image.open("images/red/0.png").resize((31, 20)).save("images/red/0.png")
    arguments = ["export", "ckpt.pkl", "--images", "test.txt", "--out", "model.onnx", *flags]
    assert run(*arguments)[0] == 0
    rows = [json.loads(run("predict", file, "images", "--top", 3, "--json")[1])
            for file in ("model.onnx", "ckpt.pkl")]  # fmt: skip
    for found, expected in zip(*rows, strict=True):
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-5)
        del found["probability"], expected["probability"], found["top"], expected["top"]
    assert rows[0] == rows[1]
    tables = [
        run("confmat", file, "test.txt")[1].splitlines() for file in ("model.onnx", "ckpt.pkl")
    ]
    assert tables[0][:-1] == tables[1][:-1]


def test_answers_below_a_threshold_are_withheld(folder):
    thresholds = {"blue": 0.0, "green": 0.0, "red": 1.0}
    write_onnx("model.onnx", thresholds=thresholds)
    found = ptkit.predict("model.onnx", ["images/blue", "images/red"])
    assert found.unknown.tolist() == [False] * 4 + [True] * 4
