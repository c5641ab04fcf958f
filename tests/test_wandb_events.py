"""What Weights & Biases gets to see of a run, read back from the files of its offline mode."""

import importlib.util
import json
import struct
import sys

import numpy as np
import pytest
import torch
from matplotlib import figure
from PIL import Image
from torch import nn

from ptkit.core.config.settings import LogSettings
from ptkit.core.errors import UsageError
from ptkit.core.training.observers import (
    Boxes,
    Embedding,
    EpochResult,
    Figure,
    Film,
    Picture,
    PrCurve,
    Text,
)
from ptkit.core.training.run_folder import open_recorders
from ptkit.core.training.setup import check_log
from ptkit.core.training.wandb_events import WandbEvents

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "7").mkdir()
    return tmp_path / "7"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3))


def result(epoch):
    return EpochResult(
        epoch=epoch,
        train_loss=1 / epoch,
        train_accuracy=0.5,
        valid_loss=2 / epoch,
        valid={"accuracy": 0.25, "recall_at_1": 0.125},
        lrs={"all": 0.1},
        unfrozen=(),
        seconds=1.5,
        images_per_s=1000.0,
    )


def records(run):
    """Yield the records of all recordings of a run; the files are logs of LevelDB with protocol
    buffers in them.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    # The files are whole when the process that writes them has ended.
    wandb.teardown()
    for file in sorted(
        run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        data, at, part = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # the rest of a block that holds no header
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack("<4xHB", data[at : at + 7])
            part += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # a whole record, or the last part of one
                yield Record.FromString(part)
                part = b""


def history(run):
    """Return what was recorded at each step: step -> name -> value."""
    steps = {}
    for record in records(run):
        items = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        if items:
            steps.setdefault(items["_step"], {}).update(items)
    return steps


def media(run, kind, ending):
    return sorted(run.glob(f"wandb/offline-run-*/files/media/{kind}/**/*{ending}"))


@needs_wandb
def test_numbers_and_histograms_go_to_the_step_of_their_epoch(run, model):
    model(torch.rand(1, 3, 4, 4)).sum().backward()
    events = WandbEvents(run, LogSettings())
    for epoch in (1, 2):
        events.epoch(result(epoch), model)()
    events.close()
    found = history(run)
    names = (
        "loss/train",
        "loss/valid",
        "accuracy/train",
        "accuracy/valid",
        "valid/recall_at_1",
        "learning_rate/all",
    )
    assert {step: [found[step][name] for name in (*names, "images_per_s")] for step in (1, 2)} == {
        1: [1.0, 2.0, 0.5, 0.25, 0.125, 0.1, 1000],
        2: [0.5, 1.0, 0.5, 0.25, 0.125, 0.1, 1000],
    }
    histograms = {
        name.removesuffix("/values"): sum(v)
        for name, v in found[2].items()
        if name.endswith("/values")
    }
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert histograms == {
        f"{kind}/{n}": size for n, size in sizes.items() for kind in ("weights", "gradients")
    }


@needs_wandb
def test_settings_texts_and_input_are_recorded_at_the_start(run, model):
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    events = WandbEvents(run, LogSettings())
    events.start(
        model,
        torch.rand(1, 3, 4, 4),
        {"config": "[train]\nepochs = 3\n", "data": "<3 images"},
        picture,
    )
    events.close()
    configs = [
        json.loads(u.value_json) for r in records(run) for u in r.config.update if u.key == "train"
    ]
    assert configs == [{"epochs": 3}]
    assert "<pre>&lt;3 images</pre>" in "".join(
        path.read_text() for path in media(run, "html", ".html")
    )
    (file,) = media(run, "images", ".png")
    np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)


@needs_wandb
def test_pictures_films_tables_and_curves_arrive_with_their_epoch(run, model, tmp_path):
    gif = tmp_path / "kernels.gif"
    Image.new("RGB", (6, 4)).save(gif)
    picture = np.zeros((8, 8, 3), np.uint8)
    events = WandbEvents(run, LogSettings(histograms=False))
    events.epoch(result(5), model)()
    rows = [("true", "image"), ("cat", "a.png"), ("dog", "b.png")]
    for item in (
        Picture("kernels/conv1", picture),
        Boxes("gradcam/1", picture, {"cat": (1, 2, 5, 6)}),
        Film("kernels_by_epoch", gif),
        Text("left_out", "nothing"),
        Embedding("features", np.eye(2), rows, np.zeros((2, 3, 4, 4), np.float32)),
        PrCurve("pr_curve/cat", np.array([True, False]), np.array([0.9, 0.2])),
        Figure("curves", figure.Figure((1, 1))),
    ):
        events.show(item, 3)
    events.close()
    (last,) = history(run).values()
    tags = "kernels/conv1", "gradcam/1", "kernels_by_epoch", "text/left_out", "features", "curves"
    assert [last[f"{tag}_epoch"] for tag in tags] == [3] * 6
    (box,) = [
        json.loads(path.read_text())["box_data"] for path in media(run, "metadata/boxes2D", ".json")
    ]
    assert (box[0]["box_caption"], box[0]["position"]) == (
        "cat",
        {"minX": 1, "minY": 2, "maxX": 5, "maxY": 6},
    )
    (film,) = media(run, "videos", ".gif")
    assert film.read_bytes() == gif.read_bytes()
    tables = {
        path.parent.name: json.loads(path.read_text())
        for path in media(run, "table", ".table.json")
    }
    assert tables["table"]["columns"] == ["true", "image", "thumbnail", "feature0", "feature1"]
    assert [(row[0], row[1], row[3], row[4]) for row in tables["table"]["data"]] == [
        ("cat", "a.png", 1, 0),
        ("dog", "b.png", 0, 1),
    ]
    assert tables["pr_curve"]["data"][::63] == [[1, 0.5], [1, 1], [0, 0]]


@needs_wandb
def test_a_resumed_run_keeps_its_id(run, model):
    for epoch in (1, 2):
        events = WandbEvents(run, LogSettings(histograms=False))
        events.epoch(result(epoch), model)()
        events.close()
    assert len({record.run.run_id for record in records(run) if record.HasField("run")}) == 1


@needs_wandb
def test_a_run_records_to_both_at_once_and_draws_no_random_numbers(run, model, capfd):
    state = torch.default_generator.get_state()
    for recorder in open_recorders(run, LogSettings(wandb=True, histograms=False)):
        recorder.epoch(result(1), model)()
        recorder.close()
    assert torch.equal(state, torch.default_generator.get_state())
    assert list(run.glob("tensorboard/events*"))
    assert history(run)[1]["loss/train"] == 1
    assert capfd.readouterr() == ("", "")


@needs_wandb
def test_offline_no_key_is_needed(run):
    check_log(LogSettings(wandb=True))


@needs_wandb
def test_online_without_a_key_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    wandb.teardown()
    with pytest.raises(UsageError, match="run `wandb login`, or set WANDB_MODE=offline"):
        check_log(LogSettings(wandb=True))
    wandb.teardown()
    assert list(run.iterdir()) == []


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"pip install 'ptkit\[wandb\]'"):
        check_log(LogSettings(wandb=True))
