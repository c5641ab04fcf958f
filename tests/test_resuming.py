"""A run goes on from where it was interrupted as if it had not been."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.errors import (
    CheckpointError,
    DataError,
    InterruptedRunError,
    StorageError,
    UsageError,
)
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.training.observers import Watcher

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUICK = {
    "model": "lenet()",
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
    "pictures": False,
    "graph": False,
    "histograms": False,
}
BARE = QUICK | {"tensorboard": False}
# In as many layouts as states may have.
RUNS = {
    "plain": {"model": "resnet8()", "augment": "natural", "histograms": True},
    "averaged": {
        "model": "resnet8()",
        "ema": 0.9,
        "accumulate": 2,
        "batch_size": 8,
        "optimizer": "AdamW()",
        "scheduler": "OneCycleLR()",
        "groups": ["layer1: unfreeze=2"],
        "cache": "off",
        "workers": 2,
    },
    "mixed": {
        "model": "resnet8()",
        "transforms": ["RandomChoice([MixUp(), CutMix()])"],
        "optimizer": "Muon()",
        "scheduler": "ReduceLROnPlateau(patience=0)",
        "metric": "loss",
    },
    "own code": {"transforms": ["own.py:Noise"], "model": "own.py:Dropping", "workers": 1},
    "own optimizer": {"optimizer": "own.py:Rows", "scheduler": "own.py:Seen", "lr": 0.01},
}
OWN = """
import torch
from torch import nn

class Noise(nn.Module):
    def forward(self, image):
        return image // 2 + torch.randint_like(image, 100)

class Dropping(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.Dropout(),
            nn.Linear(8, num_classes),
        )

class Rows(torch.optim.Optimizer):
    # Keeps a number for each row of a weight.
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                rows = self.state[p].setdefault("rows", torch.zeros(len(p)))
                rows.lerp_(p.grad.square().flatten(1).mean(1) if p.ndim > 1 else p.grad**2, 0.1)
                p.sub_(group["lr"] * p.grad / (1 + rows.view(-1, *[1] * (p.ndim - 1))))

class Seen(torch.optim.lr_scheduler.LRScheduler):
    # A list that grows, and a number that ends.
    def __init__(self, optimizer):
        self.seen, self.until = [], 1
        super().__init__(optimizer)

    def get_lr(self):
        self.seen.append(self.last_epoch)
        self.until = None if self.last_epoch else self.until
        return [lr * 0.9 ** len(self.seen) for lr in self.base_lrs]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    Path("own.py").write_text(OWN)
    return tmp_path


class Interrupter(Watcher):
    """Sends a signal at steps that it has not seen yet, those in `at` or all."""

    def __init__(self, at=None, number=signal.SIGTERM):
        self.at, self.number, self.seen, self.lines = at, number, set(), []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(text)

    def step(self, progress):
        place = (progress.epoch, progress.step)
        if place not in self.seen and (self.at is None or place in self.at):
            self.seen.add(place)
            os.kill(os.getpid(), self.number)


def interrupted(watch, **settings):
    """Train with interruptions until the end; return what each of them said."""
    said = []
    resume = None
    while True:
        try:
            if resume is None:
                ptkit.train(**settings, name="cut", watch=watch)
            else:
                ptkit.train(resume=resume, trust=True, watch=watch)
            return said
        except InterruptedRunError as error:
            said.append(str(error))
            resume = "runs/cut"


def tensors(file):
    state = torch.load(file, weights_only=True)
    return state["state_dict"], state.get("train", {})


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def rows(run):
    """Return the rows of metrics.csv, without what a clock says."""
    with Path(run, "metrics.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_s")}
            for row in csv.DictReader(file)
        ]


def points(run):
    """Return the points of scalars.json and those that TensorBoard reads."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = json.loads(Path(run, "scalars.json").read_text())
    known = {
        tag: [point[1:] for point in some] for tag, some in found.items() if "per_s" not in tag
    }
    read = [
        (file.parent.relative_to(run).as_posix(), value.tag, event.step)
        for file in sorted(Path(run).glob("tensorboard/**/events*"))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    return known, sorted(read)


@pytest.mark.parametrize(
    "name", [n if n == "mixed" else pytest.param(n, marks=pytest.mark.slow) for n in RUNS]
)
def test_interrupted_at_each_step_it_ends_with_the_same_bytes(name, here):
    settings = QUICK | RUNS[name]
    whole = ptkit.train(**settings, name="whole")
    said = interrupted(Interrupter(), **settings)
    assert said[0] == (
        "interrupted; runs/cut is saved up to step 1 of epoch 1; continue it with: ptkit train"
        " --resume runs/cut"
    )
    assert len(said) == 6
    (a, first), (b, second) = (tensors(f"runs/{run}/last.pkl") for run in ("whole", "cut"))
    assert same(a, b)
    ours = ("optimizer", "scheduler", "scaler", "best", "epoch", "step", "epochs_without_better")
    assert same({key: first[key] for key in ours}, {key: second[key] for key in ours})
    assert same(tensors(whole.checkpoint)[0], tensors("runs/cut/ckpt.pkl")[0])
    assert rows("runs/cut") == rows("runs/whole")
    assert points("runs/cut") == points("runs/whole")


def test_a_run_of_which_nothing_was_saved_begins_again(here):
    whole = ptkit.train(**QUICK, name="whole")

    class Killed(Watcher):
        def step(self, progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ptkit.train(**QUICK, name="cut", watch=Killed())
    assert not Path("runs/cut/last.pkl").exists()
    Path("runs/cut/.last.pkl.0123abcd").write_text("half")
    # Records that are damaged do not keep it from that.
    Path("runs/cut/layers.jsonl").write_text("half\n")
    shutil.copytree("runs/cut", "runs/nan")
    Path("runs/nan/layers.jsonl").write_text('{"kind": "diverged", "step": 1}\n')
    watch = Interrupter(at=())
    ptkit.train(resume="runs/nan", watch=watch)
    assert "runs/nan diverged before a state was saved: it begins again" in watch.lines
    watch = Interrupter(at=())
    ptkit.train(resume="runs/cut", watch=watch)
    assert "runs/cut was interrupted before a state was saved: it begins again" in watch.lines
    assert same(tensors(whole.checkpoint)[0], tensors("runs/cut/ckpt.pkl")[0])
    assert points("runs/cut") == points("runs/whole")
    assert not Path("runs/cut/.last.pkl.0123abcd").exists()


def test_ctrl_c_has_its_exit_code_and_says_how_to_go_on(here):
    watch = Interrupter(at={(1, 2)}, number=signal.SIGINT)
    with pytest.raises(InterruptedRunError) as caught:
        ptkit.train(**BARE, name="cut", watch=watch)
    assert caught.value.exit_code == 130
    assert read_checkpoint(Path("runs/cut/last.pkl"))["train"]["step_in_epoch"] == 2
    result = CliRunner().invoke(app, ["train", "--resume", "runs/cut"])
    assert result.exit_code == 0
    assert "resuming runs/cut after step 2 of epoch 1: bit-exact" in result.stdout


def test_pictures_that_were_interrupted_are_drawn_by_resuming(here, monkeypatch):
    from ptkit.looking import end_of_run

    def press(*_arguments, **_more):
        os.kill(os.getpid(), signal.SIGINT)
        return "curves"

    with monkeypatch.context() as patch:
        patch.setattr(end_of_run, "_draw_curves", press)
        with pytest.raises(
            InterruptedRunError, match=r"while the last pictures were drawn; .* --resume runs/cut"
        ):
            ptkit.train(**BARE, name="cut")
    before = Path("runs/cut/last.pkl").read_bytes()
    ptkit.train(resume="runs/cut")
    assert Path("runs/cut/confusion.png").exists()
    assert Path("runs/cut/last.pkl").read_bytes() == before
    with pytest.raises(UsageError, match=r"runs/cut is finished \(2 epochs\): ask for more"):
        ptkit.train(resume="runs/cut")


def test_a_finished_run_whose_rows_were_moved_away_gets_its_pictures(here, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ptkit.looking.end_of_run._draw_curves", lambda _run: os.kill(os.getpid(), 2))
        with pytest.raises(InterruptedRunError):
            ptkit.train(**BARE, name="cut")
    Path("runs/cut/metrics.csv").unlink()
    assert ptkit.train(resume="runs/cut").epochs == 2
    assert Path("runs/cut/confusion.png").exists()


def test_a_run_that_stopped_early_is_asked_for_more_patience(here):
    still = {"model": "lenet()", "optimizer": "SGD()", "lr": 1e-20, "epochs": 5, "patience": 1}
    assert ptkit.train(**BARE | still, name="one").epochs == 2
    with pytest.raises(UsageError, match=r"stopped early after 2 epochs: .*train\.patience=2"):
        ptkit.train(resume="runs/one")
    assert ptkit.train(resume="runs/one", patience=2).epochs == 3


def test_the_end_of_a_run_that_stopped_early_is_saved(here):
    still = {"model": "lenet()", "optimizer": "SGD()", "lr": 1e-20, "epochs": 9, "patience": 2}
    assert ptkit.train(**BARE | still, save_every=5, name="one").epochs == 3
    assert read_checkpoint(Path("runs/one/last.pkl"))["train"]["epoch"] == 3


# ------------------------------------------------------------------------------- states and folders


@pytest.mark.parametrize(
    ("every", "expected"),
    [("2s", (1, 1)), ("3s", (1, 0)), ("1", (1, 0)), ("10m", (1, 0)), ("4s", (1, 1))],
)
def test_the_state_is_saved_every_so_many_steps(here, every, expected):
    class Killed(Watcher):
        def step(self, progress):
            if (progress.epoch, progress.step) == (2, 2):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ptkit.train(**BARE, save_every=every, name="cut", watch=Killed())
    train = read_checkpoint(Path("runs/cut/last.pkl"))["train"]
    assert (train["epoch"], train["step_in_epoch"]) == expected


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_state_is_replaced_by_the_one_before_it(here, damage):
    whole = ptkit.train(**QUICK | {"epochs": 3}, name="whole")
    with pytest.raises(InterruptedRunError):
        ptkit.train(**QUICK | {"epochs": 3}, name="cut", watch=Interrupter(at={(3, 1)}))
    last = Path("runs/cut/last.pkl")
    content = last.read_bytes()
    last.unlink()
    if damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    watch = Interrupter(at=())
    ptkit.train(resume="runs/cut", watch=watch)
    (warning,) = (line for line in watch.lines if "going on from the state before it" in line)
    assert warning.startswith("runs/cut/last.pkl is missing" if damage == "gone" else "")
    assert warning.endswith("runs/cut/previous.pkl")
    assert same(tensors(whole.checkpoint)[0], tensors("runs/cut/ckpt.pkl")[0])
    assert points("runs/cut") == points("runs/whole")


def test_the_only_good_state_stays_until_the_next_one_is_written(here, monkeypatch):
    with pytest.raises(InterruptedRunError):
        ptkit.train(**QUICK | {"epochs": 3}, name="cut", watch=Interrupter(at={(3, 1)}))
    Path("runs/cut/last.pkl").write_bytes(b"damaged")
    rename = os.replace

    def refuse(source, target):
        if Path(target).name == "last.pkl" and Path(source).name.startswith(".last.pkl."):
            raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StorageError, match="No space left"):
            ptkit.train(resume="runs/cut")
    assert ptkit.train(resume="runs/cut").epochs == 3


def test_the_state_before_the_last_stays_where_it_cannot_be_replaced(here, monkeypatch):
    ptkit.train(**BARE, name="one")
    before = Path("runs/one/previous.pkl").read_bytes()
    rename = os.replace

    def refuse(source, target):
        if Path(target).name == "previous.pkl":
            raise OSError(5, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StorageError, match="Input/output error"):
            ptkit.train(resume="runs/one", epochs=3)
    assert Path("runs/one/previous.pkl").read_bytes() == before


def test_a_checkpoint_that_is_newer_than_the_state_stays_the_best_one(here, monkeypatch):
    ptkit.train(**BARE | {"epochs": 3, "metric": "loss", "lr": 0.003}, save_every=9, name="one")
    state = Path("runs/one/last.pkl")
    contents = read_checkpoint(state)
    # As if it had been saved after the first epoch alone, on another machine.
    first = {"epoch": 1, "loss": 9.0, "accuracy": 0.1}
    train = contents["train"] | {"epoch": 1, "best": first}
    env = contents["env"] | {"processor": "another"}
    save_checkpoint(state, contents | {"train": train, "env": env})
    newest = read_checkpoint(Path("runs/one/ckpt.pkl"))["metrics"]["best"]
    assert newest["epoch"] > 1
    watch = Interrupter(at={(2, 1)})
    with pytest.raises(InterruptedRunError):
        ptkit.train(resume="runs/one", watch=watch)
    assert any(f"ckpt.pkl is of epoch {newest['epoch']}" in line for line in watch.lines)
    assert read_checkpoint(state)["train"]["best"] == pytest.approx(newest)


@pytest.mark.parametrize(
    ("section", "key"), [("data", "valid_sha256"), ("config", "train"), ("train", "best.epoch")]
)
def test_a_state_with_a_part_missing_is_refused(here, section, key):
    ptkit.train(**BARE, name="one")
    for name in ("last.pkl", "previous.pkl"):
        contents = read_checkpoint(Path("runs/one", name))
        part = contents[section]["best"] if key == "best.epoch" else contents[section]
        del part[key.removeprefix("best.")]
        save_checkpoint(Path("runs/one", name), contents)
    with pytest.raises(CheckpointError, match=rf"it has no (\w+\.)?{key}"):
        ptkit.train(resume="runs/one", epochs=3)


def test_a_state_of_nobody_knows_how_many_epochs_is_refused(here):
    ptkit.train(**BARE, name="one")
    for name in ("last.pkl", "previous.pkl"):
        contents = read_checkpoint(Path("runs/one", name))
        del contents["config"]["train"]["epochs"]
        save_checkpoint(Path("runs/one", name), contents)
    with pytest.raises(CheckpointError, match=r"it has no config\.train\.epochs"):
        ptkit.train(resume="runs/one", epochs=3)


@pytest.mark.parametrize("left", [None, {}, {"best": {"loss": 1.0}}])
def test_a_best_checkpoint_that_does_not_say_its_epoch_is_of_the_one_in_the_state(here, left):
    ptkit.train(**BARE, name="one")
    file = Path("runs/one/ckpt.pkl")
    contents = read_checkpoint(file)
    del contents["metrics"]
    save_checkpoint(file, contents if left is None else contents | {"metrics": left})
    assert ptkit.train(resume="runs/one", epochs=3).epochs == 3


def test_sums_of_an_interrupted_epoch_that_are_not_whole_are_refused(here):
    with pytest.raises(InterruptedRunError):
        ptkit.train(**BARE, name="cut", watch=Interrupter(at={(2, 1)}))
    last = Path("runs/cut/last.pkl")
    contents = read_checkpoint(last)
    contents["train"]["sums"].popitem()
    save_checkpoint(last, contents)
    Path("runs/cut/previous.pkl").unlink()
    with pytest.raises(CheckpointError, match=r"it has no sums\.\w+"):
        ptkit.train(resume="runs/cut")


def test_a_run_whose_states_are_all_damaged_or_gone_is_refused(here):
    ptkit.train(**BARE, name="one")
    for file in ("last.pkl", "previous.pkl"):
        Path("runs/one", file).write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError, match=r"last\.pkl"):
        ptkit.train(resume="runs/one", epochs=3)
    for file in ("last.pkl", "previous.pkl"):
        Path("runs/one", file).unlink()
    with pytest.raises(UsageError, match=r"its last\.pkl is gone; `ptkit finetune runs/one`"):
        ptkit.train(resume="runs/one", epochs=3)


def test_a_folder_that_is_moved_ends_the_run_and_is_not_made_again(here):
    class Mover(Watcher):
        def step(self, progress):
            if (progress.epoch, progress.step) == (2, 1):
                Path("runs/one").rename("runs/moved")

    with pytest.raises(StorageError, match="the run folder runs/one was moved or removed while"):
        ptkit.train(**BARE, name="one", watch=Mover())
    assert os.listdir("runs") == ["moved"]
    assert ptkit.train(resume="runs/moved").epochs == 2


def test_other_settings_are_refused_before_images_are_read(here):
    ptkit.train(**BARE, name="one")
    for file in Path("images").rglob("*.png"):
        file.unlink()
    with pytest.raises(UsageError, match=r"but train\.batch_size is 8, was 16"):
        ptkit.train(resume="runs/one", epochs=3, batch_size=8)


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_changed_images_are_noticed(here, cache):
    ptkit.train(**BARE, cache=cache, name="one")
    image = Path("images/bar/train0.png")
    with Image.open(image) as picture:
        ImageOps.mirror(picture).save(image)
    with pytest.raises(
        DataError, match=r"1 training image changed since runs/one was saved, .*bar"
    ):
        ptkit.train(resume="runs/one", epochs=3)


def test_a_longer_run_keeps_its_warm_up_and_says_that_its_rates_were_others(here):
    watch = Interrupter(at=())
    ptkit.train(**BARE, warmup=0.5, name="one")
    ptkit.train(resume="runs/one", epochs=4, watch=watch)
    assert (
        "resuming runs/one after epoch 2: same samples and augmentations; the rates so far were not"
        " those of one run of 4 epochs" in watch.lines
    )
    assert read_checkpoint(Path("runs/one/last.pkl"))["train"]["scheduler"]["warmup_steps"] == 3
    # The same in steps, and as a share of so many epochs.
    assert ptkit.train(resume="runs/one", epochs=5, warmup=3.0).epochs == 5
    with pytest.raises(UsageError, match=r"scheduler\.warmup is 2, was 3 \(3 steps\)"):
        ptkit.train(resume="runs/one", epochs=6, warmup=2.0)


def test_a_run_that_was_compiled_may_go_on_without_and_says_so(here):
    ptkit.train(**BARE)
    file = Path("runs/1/config.toml")
    file.write_text(file.read_text().replace("compile = false", "compile = true"))
    for name in ("last.pkl", "previous.pkl"):
        state = torch.load(f"runs/1/{name}", weights_only=True)
        state["config"]["train"]["compile"], state["env"]["compiled"] = True, 1
        torch.save(state, f"runs/1/{name}")
    watch = Interrupter(at=())
    ptkit.train(resume="runs/1", epochs=3, compile=False, watch=watch)
    assert any("changed: compiled" in line for line in watch.lines)
