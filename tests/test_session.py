"""One run, end to end, in Python: what it leaves behind, and that it goes on exactly after an
interruption.
"""

import csv
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import CLASS_NAMES, make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.config.layers import read_toml, resolve
from ptkit.core.errors import (
    DataError,
    DivergedError,
    InterruptedRunError,
    StorageError,
    UsageError,
)
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.zoo import build_model
from ptkit.core.training import run_folder
from ptkit.core.training.loop import Progress
from ptkit.core.training.observers import EpochResult, Unwatched, Watcher
from ptkit.core.training.run_place import Place
from ptkit.core.training.run_result import RunResult
from ptkit.core.training.session import run
from ptkit.core.training.setup import prepare
from ptkit.looking.end_of_run import write_summaries

TINY = {
    "data": {"train": "train.txt", "valid": "valid.txt"},
    "model": {"call": "lenet()"},
    "train": {"epochs": 3, "batch_size": 16},
    "log": {"tensorboard": False, "pictures": False},
}
# It has BatchNorm, and is what images of 16×16 get where no model is named.
RESNET = {"model": {"call": "resnet8()"}}


pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


class Listener(Watcher):
    """Remembers what it hears, and can end the run as a power cut would."""

    def __init__(self, *, die_at: tuple[int, int] = (0, 0)) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.results: list[EpochResult] = []
        self.die_at = die_at

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, progress: Progress) -> None:
        if (progress.epoch, progress.step) == self.die_at:
            raise PowerCutError

    def epoch(self, result: EpochResult, *, is_best: bool) -> None:
        self.results.append(result)


class PowerCutError(Exception):
    pass


PAIRS = """
from torch import nn

class Pairs(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))

    def forward(self, images):
        if self.training and len(images) % 2:
            raise ValueError("odd")
        return super().forward(images)
"""


def start(
    *layers: dict[str, Any], watch: Watcher | None = None, name: str | None = None, **arguments: Any
) -> RunResult:
    return run(
        resolve(TINY, *layers),
        watch=watch or Listener(),
        place=Place(name=name),
        **arguments,
    )


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def are_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -------------------------------------------------------------------------------- what a run leaves


def test_a_run_learns_and_leaves_its_files(here: Path) -> None:
    result = start(RESNET, {"train": {"epochs": 8}}, at_end=write_summaries)
    assert result.best["accuracy"] > 0.9
    assert result.run == Path("runs/1")
    names = {file.name for file in result.run.iterdir()}
    assert names >= {
        "config.toml",
        "ckpt.pkl",
        "last.pkl",
        "metrics.csv",
        "valid_predictions.csv",
        "curves.png",
    }
    assert "confusion.png" in names
    assert os.readlink("ckpt.pkl") == "runs/1/ckpt.pkl"


def test_the_metrics_are_those_of_the_predictions(here: Path) -> None:
    result = start(at_end=write_summaries)
    with (result.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    with (result.run / "valid_predictions.csv").open() as file:
        found = list(csv.DictReader(file))
    right = sum(row["true"] == row["predicted"] for row in found)
    assert len(found) == 21
    assert right / 21 == pytest.approx(result.best["accuracy"])
    best = rows[int(result.best["epoch"]) - 1]
    assert float(best["valid_accuracy"]) == pytest.approx(result.best["accuracy"], abs=1e-5)


def test_validation_counts_every_image_once_whatever_the_batch(here: Path) -> None:
    watch = Listener()
    result = start({"train": {"batch_size": 4}}, watch=watch, at_end=write_summaries)
    with (result.run / "valid_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert (len(rows), right / 21) == (21, pytest.approx(result.best["accuracy"]))


def test_the_checkpoint_is_plain_and_rebuilds_the_model(here: Path) -> None:
    result = start()
    contents = torch.load(result.checkpoint, weights_only=True)
    assert contents["classes"] == list(CLASS_NAMES)
    assert contents["pipeline"]["size"] == 16
    assert contents["pipeline"]["calls"][0] == "Resize((16, 16))"
    model = ptkit.load(result.checkpoint)
    assert model.class_names == CLASS_NAMES
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_same_seed_same_weights_and_another_seed_others(here: Path) -> None:
    first, second = start(name="a"), start(name="b")
    other = start({"train": {"seed": 1}}, name="c")
    assert are_equal(weights(first.run / "last.pkl"), weights(second.run / "last.pkl"))
    assert not are_equal(weights(first.run / "last.pkl"), weights(other.run / "last.pkl"))


def test_cache_and_workers_do_not_change_the_weights(here: Path) -> None:
    kept = start({"data": {"cache": "ram"}}, name="kept")
    streamed = start({"data": {"cache": "off", "workers": 3}}, name="streamed")
    assert are_equal(weights(kept.run / "last.pkl"), weights(streamed.run / "last.pkl"))


def test_the_saved_config_repeats_the_run(here: Path) -> None:
    first = start({"optimizer": {"call": "Adam(lr=0.003)"}}, name="first")
    again = run(
        resolve(read_toml(first.run / "config.toml")), watch=Listener(), place=Place(name="again")
    )
    assert are_equal(weights(first.run / "last.pkl"), weights(again.run / "last.pkl"))
    assert (first.run / "config.toml").read_text() == (again.run / "config.toml").read_text()


def test_the_best_epoch_is_kept_and_patience_ends_the_run(here: Path) -> None:
    watch = Listener()
    result = start(RESNET, {"train": {"epochs": 60, "patience": 2}}, watch=watch)
    scores = [(r.valid["accuracy"], -r.valid_loss) for r in watch.results]
    assert result.best["epoch"] == scores.index(max(scores)) + 1
    assert len(watch.results) == result.best["epoch"] + 2


def test_accumulated_batches_step_like_one_large_batch(here: Path) -> None:
    # Without BatchNorm, whose statistics are those of the small batches.
    plain = {"model": {"call": "lenet()"}, "data": {"augment": "none"}, "train": {"epochs": 1}}
    whole = start(plain, {"train": {"batch_size": 16}}, name="whole")
    parts = start(plain, {"train": {"batch_size": 8, "accumulate": 2}}, name="parts")
    a, b = weights(whole.run / "last.pkl"), weights(parts.run / "last.pkl")
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)


def test_clipping_limits_the_step(here: Path) -> None:
    plain = {
        "optimizer": {"call": "SGD()", "lr": 1.0},
        "scheduler": {"call": "none", "warmup": 0.0},
    }
    one_step = {"train": {"epochs": 1, "batch_size": 48, "clip_grad": 1e-3}}
    before = start(plain, one_step, {"optimizer": {"lr": 1e-9}}, name="before")
    after = start(plain, one_step, name="after")
    a, b = weights(before.run / "last.pkl"), weights(after.run / "last.pkl")
    moved = sum(
        float(((a[k] - b[k]) ** 2).sum())
        for k in a
        if "running" not in k and "num_batches" not in k
    )
    assert math.sqrt(moved) == pytest.approx(1e-3, rel=0.01)


def test_mixed_images_have_no_training_accuracy(here: Path) -> None:
    result = start({"data": {"transforms": ["MixUp()"]}, "train": {"epochs": 1}})
    with (result.run / "metrics.csv").open() as file:
        assert [row["train_accuracy"] for row in csv.DictReader(file)] == [""]


def test_tensorboard_events_hold_every_chart(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = {"log": {"tensorboard": True}, "train": {"epochs": 2}}
    result = start(RESNET, more, at_end=write_summaries)
    events = EventAccumulator(
        str(result.run / "tensorboard"), size_guidance={"histograms": 0}
    ).Reload()
    tags = events.Tags()
    assert {"learning_rate/all", "learning_rate/no_weight_decay", "images_per_s"} <= set(
        tags["scalars"]
    )
    assert {"weights/conv1.weight", "gradients/fc.bias"} <= set(tags["histograms"])
    assert {"confusion", "curves"} <= set(tags["images"])
    assert tags["graph"]
    assert {"config/text_summary", "data/text_summary"} <= set(tags["tensors"])
    train = EventAccumulator(str(result.run / "tensorboard")).Reload()
    assert [event.step for event in train.Scalars("loss/train")] == [1, 2]


# ----------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    "layer",
    [
        {"optimizer": {"call": "LBFGS(max_iter=2)"}, "train": {"batch_size": 24}},
        RESNET
        | {"optimizer": {"call": "Rprop()"}, "scheduler": {"call": 'LambdaLR("0.5 ** epoch")'}},
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(layer: dict[str, Any], here: Path) -> None:
    whole = start(layer, name="whole")
    with pytest.raises(PowerCutError):
        start(layer, name="cut", watch=Listener(die_at=(3, 1)))
    watch = Listener()
    resumed = run(
        resolve(read_toml(Path("runs/cut/config.toml"))), watch=watch, resume=Path("runs/cut")
    )
    assert "resuming runs/cut after epoch 2: bit-exact" in watch.lines
    assert are_equal(weights(whole.run / "last.pkl"), weights(resumed.run / "last.pkl"))
    assert are_equal(weights(whole.checkpoint), weights(resumed.checkpoint))
    assert whole.best == resumed.best


def test_a_signal_ends_the_run_at_a_step_and_it_can_be_resumed(here: Path) -> None:
    class Interrupter(Listener):
        def step(self, progress: Progress) -> None:
            if (progress.epoch, progress.step) == (2, 1):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match="--resume runs/1") as caught:
        start(watch=Interrupter())
    assert caught.value.exit_code == 143
    result = run(
        resolve(read_toml(Path("runs/1/config.toml"))), watch=Listener(), resume=Path("runs/1")
    )
    assert result.epochs == 3


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writing a checkpoint takes longer than an epoch; return what was written, when it was."""
    written: list[str] = []

    def save(path: Path, contents: dict[str, Any], **more: Any) -> None:
        time.sleep(0.15)
        save_checkpoint(path, contents, **more)
        written.append(f"{path.name} {contents['metrics']['epoch']}")

    monkeypatch.setattr(run_folder, "save_checkpoint", save)
    return written


def test_a_signal_waits_for_a_write_that_is_under_way(here: Path, slow_disk: list[str]) -> None:
    class Interrupter(Listener):
        def step(self, progress: Progress) -> None:
            if (progress.epoch, progress.step) == (3, 1):
                assert "last.pkl 2" not in slow_disk
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(
        InterruptedRunError, match=r"runs/1 is saved up to step 1 of epoch 3; continue"
    ):
        start(watch=Interrupter())
    assert slow_disk[-2:] == ["last.pkl 2"] * 2
    train = read_checkpoint(Path("runs/1/last.pkl"))["train"]
    assert (train["epoch"], train["step_in_epoch"]) == (2, 1)


@pytest.mark.slow
def test_the_link_is_made_and_the_run_ends_when_all_is_on_disk(
    here: Path, slow_disk: list[str]
) -> None:
    class Looker(Listener):
        def step(self, progress: Progress) -> None:
            if progress.epoch == 2:
                assert read_checkpoint(Path("ckpt.pkl"))["metrics"]["epoch"] == 1

    start(watch=Looker())
    assert [name for name in slow_disk if name.startswith("last")] == [
        *("last.pkl 1", "last.pkl 2", "last.pkl 3"),
    ]


def test_what_is_under_way_is_written_whatever_ends_the_run(
    here: Path, slow_disk: list[str]
) -> None:
    with pytest.raises(PowerCutError):
        start(watch=Listener(die_at=(3, 1)))
    assert slow_disk[-1] == "last.pkl 2"


def test_no_checkpoint_is_promised_that_could_not_be_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, contents: dict[str, Any], **more: Any) -> None:
        raise StorageError(f"cannot write {path}")

    class Full(Listener):
        def epoch(self, result: EpochResult, *, is_best: bool) -> None:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(run_folder, "save_checkpoint", refuse)
    with pytest.raises(StorageError, match=r"cannot write runs/1/ckpt\.pkl"):
        start(watch=Full())


def test_a_disk_that_fails_while_an_epoch_is_written_ends_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, failed = [], threading.Event()

    def save(path: Path, contents: dict[str, Any], **more: Any) -> None:
        if path.name == "last.pkl" and contents["metrics"]["epoch"] == 2:
            failed.set()
            raise StorageError(f"cannot write {path}: No space left on device")
        save_checkpoint(path, contents, **more)

    class Stepper(Listener):
        def step(self, progress: Progress) -> None:
            if progress.epoch == 3:
                failed.wait(10)
                # Until the thread has handed it over.
                time.sleep(0.05)
                steps.append(progress.step)

    monkeypatch.setattr(run_folder, "save_checkpoint", save)
    with pytest.raises(StorageError, match=r"cannot write runs/1/last.pkl: No space left"):
        start(watch=Stepper())
    # At once, not at the end of the epoch; what was saved before is whole.
    assert steps in ([], [1])
    assert read_checkpoint(Path("runs/1/last.pkl"))["train"]["epoch"] == 1
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert start(resume=Path("runs/1")).epochs == 3


def test_resume_refuses_another_learning_rate_and_another_list(here: Path) -> None:
    start({"train": {"epochs": 1}})
    saved = read_toml(Path("runs/1/config.toml"))
    more = {"train": {"epochs": 2}}
    with pytest.raises(UsageError, match=r"optimizer.lr is 0.5, was"):
        run(
            resolve(saved, more, {"optimizer": {"lr": 0.5}}),
            watch=Listener(),
            resume=Path("runs/1"),
        )
    with pytest.raises(UsageError, match="ask for more with --epochs"):
        run(resolve(saved), watch=Listener(), resume=Path("runs/1"))
    lines = (here / "train.txt").read_text().splitlines(keepends=True)
    (here / "train.txt").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="is not the list that runs/1 was trained with"):
        run(resolve(saved, more), watch=Listener(), resume=Path("runs/1"))


# ------------------------------------------------------------------------------------ what is wrong


def test_a_run_never_writes_into_an_existing_folder(here: Path) -> None:
    start(name="mine")
    with pytest.raises(UsageError, match="runs/mine exists"):
        start(name="mine")


def test_a_file_called_ckpt_is_left_alone(here: Path) -> None:
    (here / "ckpt.pkl").write_bytes(b"mine")
    watch = Listener()
    start({"train": {"epochs": 1}}, watch=watch)
    assert (here / "ckpt.pkl").read_bytes() == b"mine"
    assert "left alone" in watch.warnings[0]


def test_a_loss_that_explodes_ends_the_run_and_keeps_the_last_good_checkpoint(here: Path) -> None:
    with pytest.raises(
        DivergedError,
        match=r"at step \d \(epoch 1\); first in the gradient.* there is no checkpoint",
    ):
        start({"optimizer": {"call": "SGD()", "lr": 1e30}, "scheduler": {"warmup": 0.0}})
    late = {
        "optimizer": {"call": "SGD()", "lr": 0.01},
        "scheduler": {"call": 'LambdaLR("1e32 ** (epoch // 2)")'},
    }
    with pytest.raises(DivergedError, match=r"\(epoch 3\).*runs/late/ckpt.pkl is kept, of epoch"):
        start(late, {"scheduler": {"warmup": 0.0}}, name="late")
    assert ptkit.load("runs/late").class_names == CLASS_NAMES


def test_an_unreadable_image_stops_or_is_left_out(here: Path) -> None:
    bad = here / "images" / "bar" / "train0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"train0\.png"):
        start()
    assert not Path("runs").exists()
    watch = Listener()
    result = start({"data": {"on_bad": "skip"}}, watch=watch)
    assert "train0.png" in watch.warnings[0]
    assert "train0.png" in (result.run / "skipped.txt").read_text()


def test_one_file_for_both_lists_is_named_as_such(here: Path) -> None:
    same = {"data": {"valid": "./train.txt"}}
    with pytest.raises(DataError, match=r"--train and --valid name the same file, train\.txt: "):
        start(same)
    assert start(same, {"data": {"allow_leak": True}, "train": {"epochs": 1}}).epochs == 1


def test_an_image_in_both_lists_is_a_leak(here: Path) -> None:
    line = (here / "train.txt").read_text().splitlines()[0]
    with (here / "valid.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match="is in both"):
        start()
    assert start({"data": {"allow_leak": True}, "train": {"epochs": 1}}).epochs == 1


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"train": {"batch_size": 49}}, "larger than the training list"),
        ({"data": {"mean": [0.5, 0.5, 0.5]}}, "go together"),
        (
            {"data": {"transforms": ["RandomCrop(40)"]}},
            "RandomCrop of 40×40 from an image of 16×16",
        ),
        ({"data": {"transforms": ["RandomCrop(16)"], "augment": "safe"}}, "leave --augment out"),
        ({"model": {"call": "lenet()"}, "data": {"size": 8}}, "16 pixels or larger"),
        ({"data": {"eval_transforms": ["RandomRotation(10)"]}}, "must not be random"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_folder_is_made(
    layer: dict[str, Any], message: str, here: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        start(layer)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            {"model": {"call": "mobilenet_v2"}, "train": {"batch_size": 1}},
            r"MobileNetV2 does not take a training batch of 1 \(16×16 images\) \(Expected more than"
            r" 1 value per channel .*\): choose another --batch-size$",
        ),
        (
            {"model": {"call": "net.py:Pairs"}, "train": {"batch_size": 9}},
            r"Pairs does not take a training batch of 3 .* \(odd\): choose another --batch-size, or"
            r" --set data.drop_last=true$",
        ),
    ],
)
def test_a_model_that_cannot_take_the_smallest_batch_is_refused_before_the_first_epoch(
    layer: dict[str, Any], message: str, here: Path
) -> None:
    Path("net.py").write_text(PAIRS)
    with pytest.raises(UsageError, match=message):
        start(layer)
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        {"model": {"call": "lenet"}},
        {"model": {"call": "resnet8"}},
        # Frozen, BatchNorm does not look at the batch.
        {"model": {"call": "mobilenet_v2"}, "optimizer": {"groups": ["features: frozen"]}},
        {"model": {"call": "net.py:Pairs"}, "train": {"batch_size": 10}},
        {
            "model": {"call": "net.py:Pairs"},
            "train": {"batch_size": 46},
            "data": {"drop_last": True},
        },
    ],
)
def test_a_model_that_takes_the_smallest_batch_trains(layer: dict[str, Any], here: Path) -> None:
    Path("net.py").write_text(PAIRS)
    assert start({"train": {"batch_size": 1, "epochs": 1}}, layer).epochs == 1


def test_the_trial_of_the_smallest_batch_leaves_no_trace(here: Path) -> None:
    call = {"model": {"call": "mobilenet_v3_small"}, "train": {"epochs": 1}}
    before = torch.random.get_rng_state()
    setup = prepare(resolve(TINY, call), Listener(), is_resumed=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    fresh, _ = build_model("mobilenet_v3_small", num_classes=3, size=16, seed=0)
    assert are_equal(dict(setup.model.module.state_dict()), dict(fresh.state_dict()))


def test_a_finetuned_run_is_resumed_wherever_its_weights_lie(here: Path) -> None:
    first = start({"train": {"epochs": 1}}, name="first")
    weights_file = str(first.checkpoint.resolve())
    with pytest.raises(PowerCutError):
        start({"model": {"weights": weights_file}}, name="cut", watch=Listener(die_at=(3, 1)))
    os.remove(weights_file)
    resumed = run(
        resolve(read_toml(Path("runs/cut/config.toml"))), watch=Listener(), resume=Path("runs/cut")
    )
    assert resumed.epochs == 3


def test_evaluation_is_normalised_as_the_users_own_list_says(here: Path) -> None:
    own = ["Resize((16, 16))", "ToTensor()", "Normalize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])"]
    result = start({"data": {"transforms": own}, "train": {"epochs": 1}})
    pipeline = torch.load(result.checkpoint, weights_only=True)["pipeline"]
    assert (pipeline["mean"], pipeline["std"]) == ([0.5] * 3, [0.25] * 3)


def test_other_class_names_beside_the_validation_list_are_refused(here: Path) -> None:
    make_lists(here / "other")
    (here / "other" / "classes.txt").write_text("cross\nbar\nsquare\n")
    with pytest.raises(DataError, match="names other classes"):
        start({"data": {"valid": "other/valid.txt"}})


def test_statistics_beside_the_list_are_used(here: Path) -> None:
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import read_list

    found = statistics.measure(read_list(here / "train.txt"))
    statistics.save(found, here / "train.txt")
    values = json.loads((here / "normstats.json").read_text())
    watch = Listener()
    result = start({"train": {"epochs": 1}}, watch=watch)
    assert "normalised with normstats.json" in watch.lines[1]
    assert torch.load(result.checkpoint, weights_only=True)["pipeline"]["mean"] == values["mean"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_a_run_name_never_leads_out_of_the_runs_folder(name: str, here: Path) -> None:
    with pytest.raises(UsageError, match="plain folder name"):
        start(name=name)
    assert not (here / "runs").exists()


# ------------------------------------------------------------------------------ labels of all kinds


def write_labels(here: Path, label_of: dict[int, str]) -> None:
    """Give the lists other labels, by class."""
    for part in ("train", "valid", "test"):
        lines = (here / f"{part}.txt").read_text().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines)
        (here / f"{part}.txt").write_text(
            "".join(f"{path} {label_of[int(label)]}\n" for path, label in pairs)
        )


def rows_of_metrics(result: RunResult) -> list[dict[str, str]]:
    with (result.run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_several_labels_are_learned(here: Path) -> None:
    # A cross is a bar and a beam.
    write_labels(here, {0: "0,", 1: "0,1", 2: "2"})
    result = start(RESNET, {"train": {"epochs": 10}})
    assert result.best["map"] > 0.9
    row = rows_of_metrics(result)[-1]
    assert row["valid_accuracy"] == ""
    assert list(row)[5:9] == ["valid_map", "valid_f1", "valid_precision", "valid_recall"]


def test_numbers_are_learned_in_their_own_units(here: Path) -> None:
    write_labels(here, {0: "-100.5", 1: "20.0", 2: "300.0"})
    (here / "classes.txt").unlink()
    result = start(RESNET, {"train": {"epochs": 10}})
    assert result.best["r2"] > 0.8
    assert 1 < result.best["mae"] < 100
    contents = torch.load(result.checkpoint, weights_only=True)
    assert (contents["task"]["kind"], contents["classes"]) == ("regression", ["value"])


def test_an_embedding_is_learned_and_knows_the_place_of_each_class(here: Path) -> None:
    loss = {"call": "TripletMarginLoss()", "embedding": 8}
    result = start(RESNET, {"loss": loss, "train": {"epochs": 8}})
    assert result.best["accuracy"] > 0.8
    contents = torch.load(result.checkpoint, weights_only=True)
    assert contents["task"]["class_means"].shape == (3, 8)
    assert ptkit.load(result.checkpoint)(torch.zeros(1, 3, 16, 16)).shape == (1, 8)


def test_lists_of_different_kinds_are_refused(here: Path) -> None:
    lines = (here / "valid.txt").read_text().splitlines()
    (here / "valid.txt").write_text("\n".join([lines[0] + ",2", *lines[1:]]))
    with pytest.raises(
        DataError, match=r"valid\.txt has several classes an image, expected one class an image"
    ):
        start()


# ---------------------------------------------------------------------- averages and late beginners


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(here: Path) -> None:
    plain = start(RESNET, name="plain")
    averaged = start(RESNET, {"train": {"ema": 0.9}}, name="averaged")
    last = torch.load(averaged.run / "last.pkl", weights_only=True)
    assert are_equal(last["train"]["raw_state_dict"], weights(plain.run / "last.pkl"))
    assert not torch.equal(
        last["state_dict"]["fc.weight"], last["train"]["raw_state_dict"]["fc.weight"]
    )


@pytest.mark.slow
def test_a_group_trains_from_its_epoch_on(here: Path) -> None:
    result = start(
        RESNET,
        {"optimizer": {"groups": ["layer1: unfreeze=3"]}, "train": {"epochs": 3}},
        name="late",
    )
    frozen = start(
        RESNET,
        {"optimizer": {"groups": ["layer1: frozen"]}, "train": {"epochs": 3}},
        name="frozen",
    )
    first, never = weights(result.run / "last.pkl"), weights(frozen.run / "last.pkl")
    assert not any(torch.equal(first[key], never[key]) for key in first if key.endswith("weight"))
    early = start(
        RESNET,
        {"optimizer": {"groups": ["layer1: unfreeze=3"]}, "train": {"epochs": 4, "patience": None}},
        name="e",
    )
    assert early.epochs == 4


def test_layers_near_the_input_learn_at_lower_rates(here: Path) -> None:
    watch = Listener()
    start({"optimizer": {"layer_decay": 0.5}, "train": {"epochs": 1}}, watch=watch)
    rates = list(watch.results[0].lrs.values())
    assert rates[0] < rates[-1]


@pytest.mark.slow
def test_a_run_with_late_groups_and_an_average_goes_on_exactly(here: Path) -> None:
    layer = RESNET | {
        "optimizer": {"groups": ["layer1: unfreeze=2"]},
        "train": {"epochs": 4, "ema": 0.9},
    }
    whole = start(layer, name="whole")
    with pytest.raises(PowerCutError):
        start(layer, watch=Listener(die_at=(3, 2)), name="cut")
    resumed = start(layer, resume=Path("runs/cut"))
    assert are_equal(weights(whole.run / "last.pkl"), weights(resumed.run / "last.pkl"))
    assert are_equal(weights(whole.checkpoint), weights(resumed.checkpoint))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"data": {"sampler": "balanced", "shuffle": False}}, "it needs data.shuffle=true"),
        ({"loss": {"embedding": 8}}, "loss.embedding is for losses that compare images"),
        (
            {"loss": {"call": "TripletMarginLoss()"}, "data": {"transforms": ["MixUp()"]}},
            "MixUp and CutMix mix",
        ),
        (
            {"loss": {"call": "TripletMarginLoss()"}, "train": {"batch_size": 2}},
            "raise --batch-size",
        ),
        (
            {"train": {"metric": "map"}},
            "for these labels, found 'map'",
        ),
        (
            RESNET | {"optimizer": {"groups": ["layer1: unfreeze=9"]}},
            "unfrozen at epoch 9, but the run has 3 epochs",
        ),
    ],
)
def test_settings_without_effect_are_refused(
    layer: dict[str, Any], message: str, here: Path
) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        start(layer)
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_run_that_names_its_own_normalize_can_be_repeated(here: Path) -> None:
    calls = [
        "RandomCrop(16, padding=2)",
        "ToTensor()",
        "Normalize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])",
    ]
    first = start({"data": {"transforms": calls}, "train": {"epochs": 1}}, name="first")
    again = run(
        resolve(read_toml(first.run / "config.toml")), watch=Listener(), place=Place(name="again")
    )
    assert are_equal(weights(first.checkpoint), weights(again.checkpoint))


def test_whitened_images_are_not_normalised_and_the_checkpoint_needs_no_file(here: Path) -> None:
    from ptkit.looking.subject import load_subject

    found = CliRunner().invoke(app, ["normstats", "train.txt", "--whiten", "zca", "--size", "16"])
    assert found.exit_code == 0, found.stderr
    result = start(
        {"data": {"transforms": ['LinearTransformation("whitening.npz")']}, "train": {"epochs": 1}}
    )
    image = "images/cross/train1.png"
    before = load_subject(result.checkpoint).parse_pipeline().read_image(image)
    Path("whitening.npz").unlink()
    subject = load_subject(result.checkpoint)
    assert torch.equal(subject.parse_pipeline().read_image(image), before)
    assert (subject.weights.mean, subject.weights.std) == ((0.0,) * 3, (1.0,) * 3)
    assert abs(float(before.mean())) < 1


@pytest.mark.slow
def test_crops_are_trained_one_by_one_and_evaluated_by_their_mean(here: Path) -> None:
    result = start(
        RESNET,
        {"data": {"transforms": ["FiveCrop(12)"]}, "train": {"epochs": 2}},
        at_end=write_summaries,
    )
    contents = torch.load(result.checkpoint, weights_only=True)
    assert contents["pipeline"]["calls"][:2] == ["Resize((16, 16))", "FiveCrop(12)"]
    with (result.run / "valid_predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 21


@pytest.mark.slow
def test_an_embedding_goes_on_exactly_with_the_places_of_its_best_weights(here: Path) -> None:
    layer = RESNET | {
        "loss": {"call": "TripletMarginLoss()", "embedding": 4},
        "train": {"epochs": 5},
    }
    whole = start(layer, name="whole")
    with pytest.raises(PowerCutError):
        start(layer, watch=Listener(die_at=(5, 1)), name="cut")
    resumed = start(layer, resume=Path("runs/cut"))
    places = [
        torch.load(r.checkpoint, weights_only=True)["task"]["class_means"] for r in (whole, resumed)
    ]
    assert torch.equal(*places)
    assert torch.load(resumed.run / "last.pkl", weights_only=True)["task"]["class_means"] is None


@pytest.mark.slow
def test_weights_of_whitened_images_want_whitened_images(here: Path) -> None:
    assert (
        CliRunner()
        .invoke(app, ["normstats", "train.txt", "--whiten", "zca", "--size", "16"])
        .exit_code
        == 0
    )
    call = 'LinearTransformation("whitening.npz")'
    first = start({"data": {"transforms": [call]}, "train": {"epochs": 1}}, name="first")
    onward = {"model": {"weights": str(first.run)}, "train": {"epochs": 1}}
    with pytest.raises(UsageError, match="trained on whitened images"):
        start(onward, name="without")
    assert start(onward, {"data": {"transforms": [call]}}, name="with").checkpoint.exists()


# ------------------------------------------------------------- which epoch counts, and what is told


def test_by_loss_the_epoch_of_the_lowest_loss_is_kept(here: Path) -> None:
    watch = Listener()
    result = start({"train": {"metric": "loss", "epochs": 4}}, watch=watch)
    losses = [found.valid_loss for found in watch.results]
    assert (result.best["epoch"], result.best["loss"]) == (
        losses.index(min(losses)) + 1,
        min(losses),
    )


def test_patience_counts_on_after_an_interruption(here: Path) -> None:
    # Steps too small to change a weight: no epoch is better than the first.
    layer = {"model": {"call": "lenet()"}, "optimizer": {"call": "SGD()", "lr": 1e-20}}
    patient = {"train": {"epochs": 9, "patience": 3}}
    with pytest.raises(PowerCutError):
        start(layer, patient, name="cut", watch=Listener(die_at=(4, 1)))
    resumed = start(layer, patient, resume=Path("runs/cut"))
    assert (resumed.epochs, resumed.best["epoch"]) == (4, 1)


@pytest.mark.slow
def test_the_state_is_saved_every_so_many_epochs_and_after_the_first_and_last(here: Path) -> None:
    layer = {"train": {"epochs": 5, "save_every": 3}}
    with pytest.raises(PowerCutError):
        start(layer, name="cut", watch=Listener(die_at=(3, 1)))
    assert read_checkpoint(Path("runs/cut/last.pkl"))["train"]["epoch"] == 1
    whole = start(layer, name="whole")
    assert torch.load(whole.run / "last.pkl", weights_only=True)["metrics"]["epoch"] == 5


def test_too_little_memory_is_told_with_what_is_left(here: Path) -> None:
    class Full(Listener):
        def epoch(self, result: EpochResult, *, is_best: bool) -> None:
            raise torch.OutOfMemoryError

    with pytest.raises(
        UsageError,
        match=r"out of memory: a step of \d+ images fits .*; runs/1/ckpt\.pkl is kept, of epoch 1",
    ):
        start(watch=Full())


def test_a_validation_loss_that_is_no_number_ends_the_run(here: Path) -> None:
    Path("own.py").write_text(
        "from torch import nn\nclass Own(nn.CrossEntropyLoss):\n    def forward(self, outputs,"
        " labels):\n        return super().forward(outputs, labels) * (1 if outputs.requires_grad"
        " else float('nan'))\n"
    )
    with pytest.raises(
        DivergedError, match=r"the validation loss became nan after epoch 1; .* no checkpoint"
    ):
        start({"loss": {"call": "own.py:Own"}})


def test_the_model_is_built_for_the_size_that_the_transforms_end_in(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    listed = {"size": 40, "transforms": ["Resize((20, 20))"]}
    found = run(resolve(TINY, {"data": listed, "model": {"call": "lenet()"}}), watch=Unwatched())
    checkpoint = read_checkpoint(found.run)
    assert checkpoint["model"]["call"] == "lenet(size=20)"
    assert checkpoint["pipeline"]["size"] == 20
    wide = {"transforms": ["Resize((16, 24))"]}
    found = run(resolve(TINY, {"data": wide, "model": {"call": "resnet8()"}}), watch=Unwatched())
    assert read_checkpoint(found.run)["pipeline"]["size"] == [16, 24]


def test_a_name_that_is_taken_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/taken").mkdir(parents=True)
    with pytest.raises(UsageError, match="the run runs/taken exists"):
        run(resolve(TINY), watch=Unwatched(), place=Place(name="taken"))
