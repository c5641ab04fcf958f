"""What TensorBoard gets to see of a run, read back from its event files."""

import copy
import errno
import inspect
import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.util.tensor_util import make_ndarray
from torch import nn

from ptkit.core.config.settings import LogSettings
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.training.events import Events, events_folder, write_images
from ptkit.core.training.kernel_film import KernelFilm
from ptkit.core.training.observers import (
    Boxes,
    Embedding,
    EpochResult,
    Figure,
    Film,
    Picture,
    PrCounts,
    PrCurve,
    Text,
)
from ptkit.core.training.run_folder import open_recorders
from ptkit.core.training.setup import check_log
from ptkit.plots.kernel_film import gif_bytes


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


@pytest.fixture
def example():
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "runs" / "7").mkdir(parents=True)
    return tmp_path / "runs" / "7"


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def events(run):
    found = Events(run, LogSettings())
    yield found
    found.close()


def result(epoch, **changed):
    """An epoch whose losses are 1 / epoch and 2 / epoch."""
    first = EpochResult(
        epoch=epoch,
        train_loss=1 / epoch,
        train_accuracy=0.5,
        valid_loss=2 / epoch,
        valid={"accuracy": 0.25, "recall_at_1": 0.125},
        lrs={"all": 0.1, "weight_decay=0": 0.2},
        unfrozen=(),
        seconds=1.5,
        images_per_s=1000.0,
    )
    return replace(first, **changed)


def read(folder):
    return EventAccumulator(
        str(folder), size_guidance={"histograms": 0, "images": 0, "tensors": 0}
    ).Reload()


def scalars_of(folder, tag):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def pixels_of(folder, tag):
    (event,) = read(folder).Images(tag)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


# ------------------------------------------------------------------------------------------ numbers


def test_training_and_validation_stand_in_one_chart(run, model):
    events = Events(run, LogSettings(histograms=False))
    for epoch in (1, 2):
        events.epoch(result(epoch), model)()
    events.close()
    lines = ("loss", "train"), ("loss", "valid"), ("accuracy", "train"), ("accuracy", "valid")
    found = {(tag, line): scalars_of(run / "tensorboard", f"{tag}/{line}") for tag, line in lines}
    assert found == {
        ("loss", "train"): [(1, 1.0), (2, 0.5)],
        ("loss", "valid"): [(1, 2.0), (2, 1.0)],
        ("accuracy", "train"): [(1, 0.5), (2, 0.5)],
        ("accuracy", "valid"): [(1, 0.25), (2, 0.25)],
    }


def test_one_run_is_one_run(run, model):
    events = Events(run, LogSettings(histograms=False))
    for epoch in (1, 2):
        events.epoch(result(epoch), model)()
    events.close()
    assert [path.parent for path in run.rglob("events.out.*")] == [events.folder]
    (layout,) = read(events.folder).Tensors("custom_scalars__config__")
    (text,) = layout.tensor_proto.string_val
    assert all(tag in text for tag in (b"loss/train", b"loss/valid", b"accuracy/valid"))


def test_rates_of_every_group_throughput_and_other_metrics_have_charts_of_their_own(
    run, events, model
):
    events.epoch(result(1), model)()
    events.epoch(result(2, lrs={"all": 0.05, "weight_decay=0": 0.1, "late": 0.5}), model)()
    events.close()
    tags = (
        "learning_rate/all",
        "learning_rate/no_weight_decay",
        "learning_rate/late",
        "images_per_s",
        "valid/recall_at_1",
    )
    charts = {"loss/train", "loss/valid", "accuracy/train", "accuracy/valid"}
    assert set(read(events.folder).Tags()["scalars"]) == {*tags, *charts}
    found = [scalars_of(events.folder, tag) for tag in tags]
    assert found == [
        [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        [(1, pytest.approx(0.2)), (2, pytest.approx(0.1))],
        [(2, 0.5)],
        [(1, 1000.0), (2, 1000.0)],
        [(1, 0.125), (2, 0.125)],
    ]


def test_labels_without_one_right_answer_have_no_accuracy_chart(run, events, model):
    events.epoch(result(1, train_accuracy=None, valid={"mae": 3.0}), model)()
    events.close()
    assert not (events.folder / "accuracy").exists()
    assert scalars_of(events.folder, "valid/mae") == [(1, 3.0)]


def test_histograms_hold_weights_and_gradients_of_every_layer(events, model, example):
    model(example).sum().backward()
    events.epoch(result(1), model)()
    events.close()
    accumulated = read(events.folder)
    names = [name for name, _ in model.named_parameters()]
    assert set(accumulated.Tags()["histograms"]) == {
        f"{kind}/{n}" for n in names for kind in ("weights", "gradients")
    }
    for name, parameter in model.named_parameters():
        for kind, tensor in (("weights", parameter), ("gradients", parameter.grad)):
            (event,) = accumulated.Histograms(f"{kind}/{name}")
            histogram, values = event.histogram_value, tensor.detach().double().numpy()
            assert (event.step, histogram.num, sum(histogram.bucket)) == (
                1,
                values.size,
                values.size,
            )
            assert (histogram.min, histogram.max) == (values.min(), values.max())
            assert histogram.sum == pytest.approx(values.sum())


def test_a_disk_that_refuses_events_is_named(events, model, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write = events.epoch(result(1), model)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=r"events into .*tensorboard: No space left"):
            write()


def test_a_full_disk_is_an_error_at_once_and_what_was_half_written_is_cut_off(
    run, events, model, picture
):
    class Full:
        """Takes a part of what it is given, as a disk does that fills up."""

        def __init__(self, file):
            self.file, self.room = file, 30

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room, written = 0, self.file.write(data[: self.room])
            return written

    events.epoch(result(1), model)()
    lengths = events.lengths()
    ours = events._writer.file_writer.event_writer
    ours._file, whole = Full(ours._file), ours._file
    for write in (lambda: events.show(Picture("a", picture), 2), events.epoch(result(2), model)):
        with pytest.raises(StorageError, match=r"events into .*tensorboard: No space left"):
            write()
    ours._file = whole
    events.close()
    resumed = Events(run, LogSettings(), up_to_epoch=1, lengths=lengths)
    resumed.epoch(result(2), model)()
    resumed.close()
    assert scalars_of(resumed.folder, "images_per_s") == [(1, 1000.0), (2, 1000.0)]
    assert scalars_of(resumed.folder, "loss/train") == [(1, 1.0), (2, 0.5)]


def test_events_of_before_stay_when_a_run_went_on_without_any(run, model):
    first = Events(run, LogSettings())
    first.epoch(result(1), model)()
    first.close()
    resumed = Events(run, LogSettings(), up_to_epoch=2, lengths={"layers.jsonl": 9})
    resumed.epoch(result(3), model)()
    resumed.close()
    assert scalars_of(run / "tensorboard", "images_per_s") == [(1, 1000.0), (3, 1000.0)]


def test_links_among_event_files_are_left_alone(run, model, tmp_path):
    theirs = tmp_path / "events.out.tfevents.theirs"
    theirs.write_bytes(b"theirs")
    Events(run, LogSettings()).close()
    (run / "tensorboard" / "events.out.tfevents.link").symlink_to(theirs)
    (run / "tensorboard" / "loss").symlink_to(tmp_path)
    events = Events(run, LogSettings(), up_to_epoch=0, lengths={})
    events.epoch(result(1), model)()
    events.close()
    assert theirs.read_bytes() == b"theirs"
    assert set(os.listdir(tmp_path)) == {"runs", theirs.name}


def test_a_link_in_the_place_of_the_event_folder_is_refused(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="nothing is written through links"):
        Events(run, LogSettings(), up_to_epoch=0, lengths={})
    assert os.listdir(tmp_path / "elsewhere") == []


def test_checksums_of_events_are_computed_by_compiled_code():
    """In Python a megabyte takes 0.1 s, in which the training waits for the interpreter."""
    from tensorboardX.crc32c import crc32c

    assert not inspect.isfunction(crc32c)


def test_histograms_leave_out_what_is_not_finite(events, model):
    with torch.no_grad():
        model[4].bias[:] = torch.tensor([1.0, torch.nan, torch.inf])
        model[1].bias[:] = torch.nan
    events.epoch(result(1), model)()
    events.close()
    accumulated = read(events.folder)
    assert accumulated.Histograms("weights/4.bias")[0].histogram_value.num == 1
    assert "weights/1.bias" not in accumulated.Tags()["histograms"]


# ------------------------------------------------------------------------------- texts and pictures


def test_a_run_starts_with_texts_graph_and_input(events, model, example, picture):
    events.start(model, example, {"config": "[train]\nepochs = 3", "data": "10 images"}, picture)
    events.close()
    accumulated = read(events.folder)
    texts = {
        tag: accumulated.Tensors(tag)[0].tensor_proto.string_val[0]
        for tag in accumulated.Tags()["tensors"]
    }
    assert texts == {
        "config/text_summary": b"    [train]\n    epochs = 3",
        "data/text_summary": b"    10 images",
    }
    np.testing.assert_array_equal(pixels_of(events.folder, "input"), picture)
    graph = GraphDef.FromString(accumulated.Graph().SerializeToString())
    assert any("Conv2d" in node.name for node in graph.node)


def test_figures_are_written_as_they_look(events):
    from matplotlib import figure as matplotlib_figure

    figure = matplotlib_figure.Figure(figsize=(3, 2), dpi=50, facecolor="#ff0000")
    events.show(Figure("confusion", figure), 4)
    events.close()
    drawn = pixels_of(events.folder, "confusion")
    assert drawn.shape == (100, 150, 3)
    assert (drawn == (255, 0, 0)).all()


def test_boxes_are_drawn_on_their_picture(events):
    boxes = {"冰 predicted": (10, 5, 50, 40)}
    events.show(Boxes("gradcam/1", np.zeros((60, 80, 3), np.uint8), boxes), 2)
    events.close()
    drawn = pixels_of(events.folder, "gradcam/1")
    assert drawn.shape == (60, 80, 3)
    assert (drawn[5, 10:50] == (255, 0, 0)).all()
    assert (drawn[5:25, 50] == (255, 0, 0)).all()
    assert not drawn[45:].any()


def test_a_picture_without_boxes_is_left_as_it_is(events, picture):
    events.show(Boxes("gradcam/1", picture, {}), 2)
    events.close()
    np.testing.assert_array_equal(pixels_of(events.folder, "gradcam/1"), picture)


def test_a_film_is_an_image_with_all_its_frames(tmp_path, events):
    gif = tmp_path / "kernels.gif"
    gif.write_bytes(gif_bytes([np.full((10, 20, 3), 90 * k, np.uint8) for k in range(3)]))
    events.show(Film("kernels_by_epoch", gif), 3)
    events.close()
    (event,) = read(events.folder).Images("kernels_by_epoch")
    assert (event.step, event.width, event.height) == (3, 20, 10)
    assert event.encoded_image_string == gif.read_bytes()
    assert Image.open(io.BytesIO(event.encoded_image_string)).n_frames == 3


def test_a_text_is_not_taken_for_markdown(events):
    events.show(Text("left_out", "# kernels\n# film"), 3)
    events.close()
    (event,) = read(events.folder).Tensors("left_out/text_summary")
    assert (event.step, event.tensor_proto.string_val[0]) == (3, b"    # kernels\n    # film")


def test_commands_write_pictures_too(tmp_path, picture):
    write_images(tmp_path, {"conv1/kernels": picture}, 5)
    np.testing.assert_array_equal(pixels_of(tmp_path, "conv1/kernels"), picture)


# ----------------------------------------------------------------------------- embedding, PR curves


def test_an_embedding_has_its_rows_and_a_sprite_of_its_thumbnails(events, capsys):
    features = np.arange(10.0).reshape(5, 2)
    thumbnails = np.stack([np.full((3, 4, 4), k / 10, np.float32) for k in range(5)])
    rows = [("true", "image"), *((f"class\t{k}", f"data/{k}\n.png") for k in range(5))]
    for _ in range(2):  # a resumed run may end with the same epoch again
        events.show(Embedding("features", features, rows, thumbnails), 3)
    events.close()
    folder = events.folder / "00003" / "features"
    assert np.loadtxt(folder / "tensors.tsv", delimiter="\t").tolist() == features.tolist()
    assert (folder / "metadata.tsv").read_text().splitlines() == [
        "true\timage",
        *(f"class {k}\tdata/{k} .png" for k in range(5)),
    ]
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (12, 12, 3)
    assert sprite[::4, ::4, 0].tolist() == [[0, 25, 51], [76, 102, 0], [255, 255, 255]]
    config = (events.folder / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 1
    assert 'tensor_path: "00003/features/tensors.tsv"' in config
    assert capsys.readouterr().out == ""


def test_pr_curves_hold_counts_precision_and_recall(events):
    truth, scores = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1])
    events.show(PrCurve("pr_curve/cat", truth, scores), 3)
    events.close()
    (event,) = read(events.folder).Tensors("pr_curve/cat")
    found = make_ndarray(event.tensor_proto)
    assert (event.step, found.shape) == (3, (6, 127))
    # Thresholds are 126ths: 0, a half, and nine tenths.
    tp, fp, tn, fn, precision, recall = found[:, [0, 63, 113]].tolist()
    assert (tp, fp, tn, fn) == ([2, 1, 1], [2, 1, 0], [0, 1, 2], [0, 1, 1])
    assert (precision, recall) == ([0.5, 0.5, 1], [1, 0.5, 0.5])


def test_raw_pr_curves_are_made_of_their_counts(events):
    counts = {"tp": [4, 3, 0], "fp": [6, 1, 0], "tn": [0, 5, 6], "fn": [0, 1, 4]}
    arrays = {name: np.array(values) for name, values in counts.items()}
    events.show(PrCounts("micro", arrays), 3)
    events.close()
    (event,) = read(events.folder).Tensors("micro")
    expected = [*counts.values(), [0.4, 0.75, 0], [1, 0.75, 0]]
    np.testing.assert_allclose(make_ndarray(event.tensor_proto), expected)


# --------------------------------------------------------------------------- scalars.json, resuming


def points(run):
    """Return tag -> [(epoch, value)] of scalars.json."""
    found = json.loads((run / "scalars.json").read_text())
    return {tag: [(step, value) for _, step, value in values] for tag, values in found.items()}


def test_scalars_json_has_every_number_of_every_epoch(run, events, model):
    events.epoch(result(1), model)()
    events.epoch(result(2, valid={"accuracy": 0.5, "recall_at_1": float("nan")}), model)()
    assert points(run) == {
        "loss/train": [(1, 1.0), (2, 0.5)],
        "loss/valid": [(1, 2.0), (2, 1.0)],
        "accuracy/train": [(1, 0.5), (2, 0.5)],
        "accuracy/valid": [(1, 0.25), (2, 0.5)],
        "learning_rate/all": [(1, 0.1), (2, 0.1)],
        "learning_rate/no weight decay": [(1, 0.2), (2, 0.2)],
        "images_per_s": [(1, 1000.0), (2, 1000.0)],
        "valid/recall_at_1": [(1, 0.125), (2, None)],
    }


def test_a_resumed_run_goes_on_in_the_same_charts_and_hides_what_was_lost(run, model):
    quick = LogSettings(histograms=False)
    cut = Events(run, quick)
    for epoch in (1, 2, 3):
        cut.epoch(result(epoch), model)()
    cut.close()
    # Of another name than the first file, as it is after a second.
    resumed = Events(run, replace(quick, filename_suffix=".b"), up_to_epoch=1)
    for epoch in (2, 3, 4):
        resumed.epoch(result(epoch, train_loss=9.0, images_per_s=7.0), model)()
    resumed.close()
    assert scalars_of(resumed.folder, "images_per_s") == [(1, 1000.0), (2, 7.0), (3, 7.0), (4, 7.0)]
    expected = [(1, 1.0), (2, 9.0), (3, 9.0), (4, 9.0)]
    assert scalars_of(resumed.folder, "loss/train") == expected
    assert points(run)["loss/train"] == expected


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"loss/train": [3]}'])
def test_a_damaged_scalars_json_begins_anew(run, model, damage):
    (run / "scalars.json").write_text(damage)
    events = Events(run, LogSettings(histograms=False), up_to_epoch=1)
    events.epoch(result(2), model)()
    events.close()
    assert points(run)["images_per_s"] == [(2, 1000.0)]


# ----------------------------------------------------------------------------------------- settings


def record_an_epoch(run, settings, model, example, picture):
    """Record the start, one epoch and a picture; return the recorders."""
    recorders = open_recorders(run, settings)
    for recorder in recorders:
        recorder.start(model, example, {"config": ""}, picture)
        recorder.epoch(result(1), model)()
        if settings.pictures:
            recorder.show(Picture("last", picture), 1)
        recorder.close()
    return recorders


def test_recording_changes_neither_randomness_nor_the_model(run, model, example, picture):
    model.train()
    model[1].eval()
    model(example).sum().backward()
    before = copy.deepcopy(
        {"weights": model.state_dict(), "gradients": [p.grad for p in model.parameters()]}
    )
    torch_state, numpy_state = torch.default_generator.get_state(), np.random.get_state()[1].copy()
    record_an_epoch(run, LogSettings(), model, example, picture)
    assert torch.equal(torch_state, torch.default_generator.get_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(
        torch.equal(tensor, model.state_dict()[name]) for name, tensor in before["weights"].items()
    )
    assert all(
        torch.equal(a, p.grad) for a, p in zip(before["gradients"], model.parameters(), strict=True)
    )


def test_a_model_that_cannot_be_traced_is_recorded_without_its_graph(events, example, capsys):
    class Untraceable(nn.Module):
        def forward(self, images):
            raise RuntimeError("not under a tracer")

    events.start(Untraceable(), example, {}, np.zeros((1, 1, 3), np.uint8))
    events.close()
    assert (
        b"cannot be traced"
        in read(events.folder).Tensors("graph/text_summary")[0].tensor_proto.string_val[0]
    )
    assert capsys.readouterr().out == ""


def test_each_part_can_be_switched_off(run, model, example, picture):
    some = LogSettings(histograms=False, graph=False, pictures=False)
    record_an_epoch(run, some, model, example, picture)
    tags = read(run / "tensorboard").Tags()
    assert (tags["histograms"], tags["graph"], tags["images"]) == ([], False, [])
    assert not (run / "kernels.npz").exists()


def test_without_tensorboard_the_pictures_are_still_made(run, model, example, picture):
    film, _ = record_an_epoch(run, LogSettings(tensorboard=False), model, example, picture)
    assert isinstance(film, KernelFilm)
    assert {path.name for path in run.iterdir()} == {"kernels.npz", "distributions.npz"}


def test_a_run_that_records_nothing_writes_nothing(run, model, example, picture):
    nothing = LogSettings(tensorboard=False, pictures=False)
    assert record_an_epoch(run, nothing, model, example, picture) == ()
    assert list(run.iterdir()) == []


def test_folder_comment_and_suffix_are_chosen(run, tmp_path, model):
    settings = LogSettings(
        folder=str(tmp_path / "all"), comment="_lr0.1", filename_suffix=".first", histograms=False
    )
    events = Events(run, settings)
    events.epoch(result(1), model)()
    events.close()
    assert events.folder == tmp_path / "all" / "7_lr0.1"
    names = [path.name for path in events.folder.rglob("events.out.tfevents.*")]
    assert len(names) == 1
    assert all(name.endswith(".first") for name in names)
    assert events_folder(run, LogSettings(comment="_lr0.1")) == run / "tensorboard_lr0.1"


def test_runs_of_one_name_stay_apart_and_a_resumed_one_finds_its_own(tmp_path, model):
    settings = LogSettings(folder=str(tmp_path / "all"), histograms=False)
    for parent in ("a", "b"):
        (tmp_path / parent / "7").mkdir(parents=True)
        Events(tmp_path / parent / "7", settings).close()
    folders = [
        events_folder(tmp_path / parent / "7", settings, is_resumed=True).name
        for parent in ("a", "b", "c")
    ]
    assert folders == ["7", "7-2", "7-3"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"comment": "a/b"}, "log.comment becomes a part of a file name and cannot hold 'a/b'"),
        ({"filename_suffix": "x:y"}, "log.filename_suffix becomes a part"),
        ({"tensorboard": False, "folder": "all"}, "log.folder is for TensorBoard events"),
    ],
)
def test_log_settings_that_cannot_take_effect_are_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        check_log(replace(LogSettings(), **changed))


def test_ordinary_log_settings_are_accepted():
    check_log(LogSettings(folder="all", comment="_lr=0.1", filename_suffix=".mine"))
