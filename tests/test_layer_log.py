"""What a run records for `ptkit diagnose`, and that recording changes nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resuming import OWN, QUICK, RUNS, Interrupter, interrupted, same, tensors
from tiny_data import CLASS_NAMES, make_lists
from torch import nn

import ptkit
from ptkit.core.comparing.runs import read_run
from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.data.loading.batches import Batch
from ptkit.core.run_files import read_outputs
from ptkit.core.training.optimization.schedules import build_schedule
from ptkit.core.training.recording.activations import Activations
from ptkit.core.training.recording.frozen import FrozenStatistics
from ptkit.core.training.recording.layers import LayerGauge, sampled_steps
from ptkit.core.training.recording.outputs import Margins
from ptkit.core.training.recording.series import Seconds

pytestmark = pytest.mark.usefixtures("blank_pictures")

# Seconds differ from run to run.
TIMES = ("wait_s", "train_s", "recording_s")
DEAD = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, num_classes)
        with torch.no_grad():
            self.first.bias[:2] = -1000

    def forward(self, images):
        return self.head(F.relu(self.first(images)).mean((2, 3)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    Path("own.py").write_text(OWN)
    Path("dead.py").write_text(DEAD)
    return tmp_path


def trained(name, **settings):
    ptkit.train(**{**QUICK, "tensorboard": False, "name": name, **settings})
    return Path("runs", name)


def lines_of(run):
    return [json.loads(line) for line in Path(run, "layers.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def arrays_of(file):
    with np.load(file) as arrays:
        return {name: array.tolist() for name, array in arrays.items()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW if name != "averaged" else ()) for name in RUNS]
)
def test_a_run_is_the_same_with_and_without_recording(name, here):
    settings = {**RUNS[name], "clip_grad": 1.0}
    on = trained("on", **settings)
    off = trained("off", **settings, log_layers=False)
    assert same(tensors(on / "ckpt.pkl")[0], tensors(off / "ckpt.pkl")[0])
    ours, theirs = (tensors(run / "last.pkl")[1] for run in (on, off))
    assert same(ours["optimizer"], theirs["optimizer"])
    assert ours["sums"] == theirs["sums"]
    assert not [*off.glob("*.npz"), *off.glob("layers.jsonl")]


def test_the_first_line_tells_what_the_run_begins_with(here):
    groups = ["conv1: lr=0.5x, weight_decay=0"]
    start = lines_of(trained("a", model="lenet", size=32, groups=groups))[0]
    assert list(start["weights"]) == [
        *("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight")
    ]
    assert start["weights"]["conv1.weight"] == {
        "shape": [6, 3, 5, 5],
        "trained": True,
        "from_epoch": 1,
        "lr_scale": 0.5,
        "weight_decay": 0,
    }
    assert start["class_names"] == list(CLASS_NAMES)
    assert (start["class_counts"], start["valid_counts"]) == ([16, 16, 16], [7, 7, 7])
    assert start["guessing"] == pytest.approx(math.log(3))
    assert start["images_kept"] is True
    assert (start["head"], start["precision"]) == ("fc3.weight", "fp32")
    initial = start["initial"]
    assert initial["loss"] == pytest.approx(math.log(3), rel=0.2)
    assert list(initial["layer_std"]) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert len(initial["input"]["mean"]) == 3
    assert initial["outputs_are_probabilities"] is False


def test_the_first_loss_is_a_mean_where_the_loss_is_a_sum(here):
    runs = {
        kind: trained(kind, loss=f"CrossEntropyLoss(reduction='{kind}')")
        for kind in ("mean", "sum")
    }
    first = {kind: lines_of(run)[0]["initial"]["loss"] for kind, run in runs.items()}
    assert first["sum"] == pytest.approx(first["mean"])


def test_weights_that_images_fill_are_named(here):
    assert lines_of(trained("a", model="whitenet"))[0]["fitted"] == ["whiten.weight", "whiten.bias"]
    assert lines_of(trained("b", model="lenet", size=32))[0]["fitted"] == []


@pytest.mark.parametrize(("lines", "head"), [([], 1), (["fc3: lr=3x"], 3)])
def test_weights_whose_copies_are_stepped_are_told_as_trained(here, lines, head):
    groups = ["conv1: lr=0.5x", "fc1: frozen", *lines]
    start = lines_of(trained("a", model="lenet", size=32, optimizer="Muon", groups=groups))[0]
    told = {name: (about["trained"], about["lr_scale"]) for name, about in start["weights"].items()}
    assert told == {
        "conv1.weight": (True, 0.5),
        "conv2.weight": (True, 1),
        "fc1.weight": (False, 0),
        "fc2.weight": (True, 1),
        # AdamW steps the head, at a rate of its own.
        "fc3.weight": (True, pytest.approx(head)),
    }


def test_an_epoch_has_numbers_of_every_step(here):
    run = trained("a", optimizer="SGD()", lr=0.1, scheduler="none", warmup=0, clip_grad=None)
    first, second = lines_of(run)[1:]
    assert [first["epoch"], first["step"], second["step"]] == [1, 3, 6]
    assert first["lr"] == [0.1] * 3
    assert len(first["loss"]) == len(first["wait_s"]) == len(first["grad_norm"]) == 3
    assert first["sampled"] == [1, 2, 3]
    # Plain gradient descent changes each weight by the rate times its gradient.
    for norms in first["weights"].values():
        assert norms["update"] == pytest.approx(
            [0.1 * norm for norm in norms["gradient"]], rel=1e-3
        )
    squares = np.square([norms["gradient"] for norms in first["weights"].values()]).sum(0)
    assert (np.sqrt(squares) <= np.array(first["grad_norm"]) * 1.0001).all()
    assert first["train_s"] > first["recording_s"] > 0


def test_the_gradient_norm_is_that_before_clipping(here):
    free, norm, value = (
        lines_of(trained(name, epochs=1, **settings))[1]
        for name, settings in {
            "free": {},
            "norm": {"clip_grad": 1e-4},
            "value": {"clip_grad": 1e-4, "clip_value": 1e-6},
        }.items()
    )
    for clipped in (norm, value):
        assert clipped["grad_norm"][0] == pytest.approx(free["grad_norm"][0], rel=1e-5)
        name = next(iter(free["weights"]))
        assert clipped["weights"][name]["gradient"][0] == free["weights"][name]["gradient"][0]
        assert clipped["weights"][name]["update"][0] < free["weights"][name]["update"][0]


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(here):
    settings = {"batch_size": 8, "accumulate": 2}
    run = trained("a", **settings)
    found = [np.mean(line["loss"]) for line in lines_of(run)[1:]]
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    assert found == pytest.approx([float(row.split(",")[1]) for row in rows], rel=1e-4)


def test_units_that_never_fire_are_counted(here):
    for line in lines_of(trained("a", model="dead.py:Net"))[1:]:
        found = line["activations"]
        assert (found["first"]["units"], found["first"]["dead"]) == (5, 2)
        # No ReLU follows the outputs.
        assert (found["head"]["units"], found["head"]["dead"]) == (3, None)
        assert len(line["output_bias"]) == 3


def test_units_of_the_last_class_of_a_sorted_list_are_alive():
    """A unit for each of ten classes, and one that never fires; 1,000 images sorted by class."""
    model = nn.Sequential(nn.Linear(10, 11), nn.ReLU(), nn.Linear(11, 10))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(11, 10))
        model[0].bias.fill_(-0.5)
    labels = torch.arange(1000) // 100
    for size in (64, 7, 1000):
        parts = torch.arange(1000).split(size)
        gauge = LayerGauge(
            model, weights={}, trained=[], head=None, clips=False, margins=None, outputs=None,
        )  # fmt: skip
        gauge.begin_validation(len(parts))
        for part in parts:
            images = F.one_hot(labels[part], 10).float()
            gauge.forward(Batch(images, labels[part], part.numpy()), model)(images)
        found = gauge.recorded(step=1, train_s=1.0)
        assert found.activations["0"]["dead"] == 1
        assert 200 <= found.looked_at <= 400


def test_once_every_unit_has_fired_no_further_batch_is_looked_at():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
    gauge = LayerGauge(
        model, weights={}, trained=[], head=None, clips=False, margins=None, outputs=None,
    )  # fmt: skip
    gauge.begin_validation(8)
    is_looked_at, labels, indices = [], torch.zeros(2, dtype=torch.long), np.arange(2)
    for number in range(8):
        # The third unit fires from the third batch on.
        images = torch.tensor([[1.0, 1.0, -1.0 if number < 2 else 1.0]] * 2)
        forward = gauge.forward(Batch(images, labels, indices), model)
        forward(images)
        is_looked_at.append(forward is not model)
    # Every fourth is, for the spread of outputs.
    assert is_looked_at == [True, True, True, False, True, False, False, False]
    found = gauge.recorded(step=1, train_s=1.0)
    # Two images of each.
    assert (found.activations["0"]["dead"], found.looked_at) == (0, 8)


@pytest.mark.parametrize("kind", [nn.ReLU(), nn.ReLU6(), nn.Threshold(0.0, -9.0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_unit_that_fires_once_is_alive_whatever_the_others_give(kind, layout):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), kind)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4)[:, :, None, None])
        model[0].bias.zero_()
    images = torch.full((6, 4, 5, 5), -1.0)
    # Of one unit a single place, of another all; the others stay below 0 or at it.
    images[3, 1, 2, 4], images[:, 2], images[:, 3] = 0.25, 2.0, 0.0
    seen = Activations(model, Seconds())
    with seen.seen():
        model(images.contiguous(memory_format=layout))
    assert seen.taken()["0"]["dead"] == 2


@pytest.mark.parametrize("sizes", [(1,), (1, 4), (5, 1, 3)])
@pytest.mark.parametrize("kind", [nn.ReLU(), nn.Threshold(0.0, -9.0)])
def test_units_are_alive_in_whichever_image_of_whichever_batch_they_fire(kind, sizes):
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), kind)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :, None, None])
    # One unit fires in the first image, one in the last, one never.
    images = torch.full((sum(sizes), 3, 4, 4), -1.0)
    images[0, 0], images[-1, 1] = 1.0, 1.0
    seen = Activations(model, Seconds())
    for part in images.split(sizes):
        with seen.seen():
            model(part)
    assert seen.taken()["0"]["dead"] == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [0.0, 1000.0])
def test_the_spread_is_that_of_the_outputs_that_are_measured(layout, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 2))
    with torch.no_grad():
        model[0].bias.fill_(bias)
    parts = torch.randn(20, 3, 8, 8).split((8, 12))
    seen = Activations(model, Seconds())
    for part in parts:
        with seen.seen(spread=slice(None, None, 3)):
            model(part.contiguous(memory_format=layout))
    expected = torch.cat([model[0](part)[::3] for part in parts]).double().std(correction=0)
    assert seen.taken()["0"]["std"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_a_rectified_parameter_is_no_output_of_a_batch(shape):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(shape))

        def forward(self, images):
            return self.conv(images) * F.relu(self.gate).sum()

    model = Gated()
    seen = Activations(model, Seconds())
    with seen.seen():
        model(torch.ones(2, 3, 5, 5))
    assert seen.taken()["conv"]["dead"] is None


def test_what_goes_below_0_is_no_relu():
    model = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh())
    seen = Activations(model, Seconds())
    with seen.seen():
        model(torch.ones(3, 2))
    assert seen.taken()["0"]["dead"] is None


def test_outputs_of_validation_are_those_of_the_best_and_the_last_epoch(here):
    run = trained("a", epochs=4, lr=0.3)
    found = arrays_of(run / "valid_outputs.npz")
    rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("valid_accuracy")
    labels = np.array(found["labels"])
    assert labels.tolist() == [number % 3 for number in range(21)]
    assert found["last_epoch"] == 4
    for which in ("best", "last"):
        accuracy = (np.argmax(found[which], 1) == labels).mean()
        row = rows[found[f"{which}_epoch"]]
        assert accuracy == pytest.approx(float(row[column]), abs=1e-5)
    assert found["best_epoch"] == tensors_best(run)


def tensors_best(run):
    return tensors(run / "last.pkl")[1]["best"]["epoch"]


def test_each_image_has_a_margin_of_every_epoch(here):
    found = arrays_of(trained("a", model="resnet8()", epochs=6) / "margins.npz")
    assert found["count"] == [6] * 48
    # These are easy images.
    assert np.mean(found["sum"]) > 0


def test_margins_are_summed_on_the_cpu_in_double_precision(called_of_torch):
    # Apple's devices have no float64.
    margins = Margins(2)
    margins.add(torch.eye(2), torch.tensor([0, 1]), np.array([0, 1]))
    with called_of_torch() as called:
        found = margins.state_dict()
    assert called.index("cpu") < called.index("double")
    assert found["sum"].tolist() == [1, 1]


def test_how_far_frozen_statistics_move_is_measured():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[0].requires_grad_(False)
    frozen = FrozenStatistics(model)
    frozen.begin()
    model(torch.full((2, 3, 4, 4), 5.0))
    # A tenth of the way from 0 to 5, where the standard deviation was 1.
    assert frozen.taken() == {"0": pytest.approx(0.5, rel=1e-4)}
    frozen.begin()
    model.eval()(torch.full((2, 3, 4, 4), 9.0))
    assert frozen.taken() == {"0": 0.0}


def test_frozen_norms_of_a_run_keep_their_statistics(here):
    run = trained("a", epochs=1, model="resnet8()", groups=["layer1: frozen"])
    found = lines_of(run)[1]["frozen_statistics"]
    assert set(found) == {"layer1.0.bn1", "layer1.0.bn2"}
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"transforms": ["MixUp()"]}, ["valid_outputs.npz"]),
        ({"loss": "TripletMarginLoss()"}, []),
    ],
    ids=["mixed", "compared"],
)
def test_what_has_no_meaning_is_not_written(settings, files, here):
    run = trained("a", epochs=1, **settings)
    assert [file.name for file in run.glob("*.npz")] == files


@SLOW
@pytest.mark.parametrize("name", ["averaged", "plain"])
def test_a_run_interrupted_at_each_step_records_as_one_that_was_not(name, here):
    settings = {**QUICK, **RUNS[name], "histograms": False}
    ptkit.train(**settings, name="whole")
    interrupted(Interrupter(), **settings)
    whole, cut = lines_of("runs/whole"), lines_of("runs/cut")
    assert without_times(cut) == without_times(whole)
    assert len(cut[1]["wait_s"]) == len(whole[1]["wait_s"])
    for file in ("margins.npz", "valid_outputs.npz"):
        assert arrays_of(f"runs/cut/{file}") == arrays_of(f"runs/whole/{file}")
    assert norms_of("runs/cut") == norms_of("runs/whole")


def norms_of(run):
    events = EventAccumulator(f"{run}/tensorboard", {"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars("gradient/total_norm")]


def test_epochs_that_are_trained_again_are_not_written_twice(here):
    run = trained("a", epochs=3, save_every=2)
    whole = without_times(lines_of(run))
    # As after a kill in the third epoch: its line is there, its state is not.
    (run / "last.pkl").unlink()
    (run / "previous.pkl").rename(run / "last.pkl")
    with (run / "layers.jsonl").open("a") as file:
        file.write('{"kind":"epo')
    ptkit.train(resume=str(run))
    assert without_times(lines_of(run)) == whole


def test_a_run_that_recorded_nothing_begins_when_it_is_resumed(here):
    run = trained("a", epochs=1, log_layers=False)
    ptkit.train(resume=str(run), epochs=2, log_layers=True)
    assert [line.get("epoch") for line in lines_of(run)] == [None, 2]


@pytest.mark.parametrize(
    ("num_steps", "count"), [(1, 1), (4, 4), (5, 4), (39, 4), (40, 5), (255, 31), (1000, 32)]
)
def test_sampled_steps_are_spread_over_the_epoch(num_steps, count):
    steps = sampled_steps(num_steps, epochs=20)
    assert len(set(steps)) == len(steps) == count
    assert (steps[0], steps[-1]) == (1, num_steps)


@pytest.mark.parametrize(
    ("num_steps", "epochs", "count"),
    [(1, 1, 1), (8, 1, 8), (39, 1, 16), (39, 3, 6), (39, 4, 4), (255, 1, 31), (1000, 1, 32)],
)
def test_a_run_of_few_epochs_has_sixteen_samples_where_it_has_the_steps(num_steps, epochs, count):
    steps = sampled_steps(num_steps, epochs=epochs)
    assert len(set(steps)) == len(steps) == count
    assert (steps[0], steps[-1]) == (1, num_steps)


@pytest.mark.parametrize("epochs", [1, 2, 4])
@pytest.mark.parametrize(
    "call",
    [
        "CosineAnnealingLR()",
        "OneCycleLR(max_lr=1, pct_start=0.5)",
        "PolynomialLR(power=2)",
        "WarmupCosineLR(warmup_epochs=0.2)",
    ],
)
def test_a_sampled_step_is_near_the_peak_of_the_rate_and_the_median_near_that_of_all(call, epochs):
    for num_steps in range(8, 60, 3):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
        schedule = build_schedule(
            SchedulerSettings(call), optimizer, epochs=epochs, steps_per_epoch=num_steps
        )
        rates = []
        for _ in range(epochs * num_steps):
            schedule.set_rates(optimizer)
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.after_step()
        of_epochs = np.reshape(rates, (epochs, num_steps))
        sampled = of_epochs[:, np.array(sampled_steps(num_steps, epochs=epochs)) - 1]
        assert sampled.max() > 0.85 * max(rates)
        assert median_at_peak(sampled) == pytest.approx(median_at_peak(of_epochs), rel=0.15)


def median_at_peak(rates):
    return np.median(rates[rates >= rates.max() / 2])


def test_images_of_an_ignored_class_count_neither_in_outputs_nor_in_predictions(here):
    run = trained("a", loss="CrossEntropyLoss(ignore_index=1)")
    found, outputs = read_run(run), read_outputs(run)
    best = max(row["valid_accuracy"] for row in found.rows)
    # Seven of each of three classes.
    assert len(found.predictions.truth) == len(outputs.labels) == 14
    assert CLASS_NAMES[1] not in {found.predictions.names[k] for k in found.predictions.truth}
    assert found.predictions.right.mean() == outputs.accuracy == pytest.approx(best)
    labels = [line.split()[-1] for line in Path("valid.txt").read_text().splitlines()]
    assert outputs.rows.tolist() == [k for k, label in enumerate(labels) if label != "1"]
