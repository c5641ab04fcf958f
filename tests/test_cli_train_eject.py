"""`ptkit train --eject`: the script trains the same model, without ptkit."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data import keyed
from ptkit.core.ejecting import pieces
from ptkit.core.ejecting.optimization import frozen_statistics
from ptkit.core.training.optimization.optimizers import frozen_norms

from tiny_data import make_lists  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUIET = {"tensorboard": False, "pictures": False, "log_layers": False, "link": None}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def eject(*arguments, command="train"):
    return CliRunner().invoke(app, [command, "--eject", "script.py", *map(str, arguments)])


@pytest.fixture
def losses_of(monkeypatch):
    """Return a function that calls another and returns the losses of its steps."""
    backward, fit = torch.Tensor.backward, torch.optim.LBFGS.step

    def losses_of(run):
        found = []

        def kept(loss, *arguments, **keywords):
            found.append(loss.item())
            return backward(loss, *arguments, **keywords)

        def fitted(*arguments):
            # A head that is fitted before the first step.
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "backward", backward)
                return fit(*arguments)

        with monkeypatch.context() as patch, torch.random.fork_rng([]):
            patch.setattr(torch.Tensor, "backward", kept)
            patch.setattr(torch.optim.LBFGS, "step", fitted)
            run()
        return found

    return losses_of


def run_without_ptkit():
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "ptkit"]:
            # Whoever imports it gets an ImportError.
            patch.setitem(sys.modules, name, None)
        runpy.run_path("script.py", run_name="__main__")


def same_losses(losses_of, **settings):
    ptkit.eject("script.py", **settings)
    theirs = losses_of(run_without_ptkit)
    ours = losses_of(lambda: ptkit.train(**settings, **QUIET))
    assert len(ours) >= 20
    assert theirs[:20] == pytest.approx(ours[:20], rel=1e-5)
    return ours


def same_last_line(shown, metrics_file):
    """Compare what a script printed of its last epoch with the run's last row."""
    rows = metrics_file.read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert shown.splitlines()[-1].split()[2:] == [
        *("loss", f"{float(last['train_loss']):.4f}"),
        *("valid", "loss", f"{float(last['valid_loss']):.4f}"),
        *("accuracy", f"{float(last['valid_accuracy']):.2%}"),
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_of_classes_that_weigh_differently_is_that_of_the_run(
    here, losses_of, capsys, accumulate
):
    settings = {"epochs": 4, "batch_size": 5, "loss": "CrossEntropyLoss(weight=[1, 3, 9])"}
    same_losses(losses_of, **settings, accumulate=accumulate)
    same_last_line(capsys.readouterr().out, here / "runs/1/metrics.csv")


def test_a_weight_that_is_none_is_none_in_the_script(here):
    ptkit.eject("script.py", epochs=1, loss="CrossEntropyLoss(weight=None)")
    assert "torch.tensor(None)" not in Path("script.py").read_text()


def test_the_script_trains_as_the_run_does(here, losses_of, capsys):
    settings = {"epochs": 7, "batch_size": 16, "seed": 3}
    assert len(same_losses(losses_of, **settings)) == 21
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1].startswith("epoch  7/7  loss ")
    same_last_line(shown, here / "runs/1/metrics.csv")
    best = torch.load("model.pt", weights_only=True)
    kept = torch.load("runs/1/ckpt.pkl", weights_only=True)["state_dict"]
    assert best.keys() == kept.keys()
    assert all(torch.allclose(best[name], kept[name]) for name in kept)


OTHER_PARTS = {
    "epochs": 4,
    "batch_size": 8,
    "model": "lenet",
    "optimizer": "AdamW(weight_decay=0.1)",
    "scheduler": "StepLR(step_size=2)",
    "loss": "CrossEntropyLoss(weight='balanced')",
    "transforms": ["RandomResizedCrop(16)", "ColorJitter(0.4, 0.4)", "RandomRotation(10)"],
    "groups": ["fc3: lr=10x", "conv1: frozen"],
    "init": ["Conv2d=kaiming_normal_(mode='fan_out')"],
    "clip_grad": 1.0,
    "ema": 0.9,
}
OF_TORCHVISION = {
    "epochs": 4,
    "batch_size": 8,
    "model": "resnet18",
    "augment": "natural",
    "optimizer": "RMSprop()",
    "scheduler": "OneCycleLR()",
    "loss": "NLLLoss()",
}


@pytest.mark.slow
def test_other_parts_of_a_run_are_the_same_in_the_script(here, losses_of):
    same_losses(losses_of, **OTHER_PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("recipe", [{"epochs": 7, "batch_size": 16}, OTHER_PARTS, OF_TORCHVISION])
def test_every_seed_of_every_recipe_is_the_same_in_the_script(here, losses_of, recipe, seed):
    same_losses(losses_of, **recipe, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"layer_decay": 0.8, "head_lr": 10.0, "groups": ["layer1: lr=1x"]},
        {"method": "probe-steps", "transforms": ["RandomHorizontalFlip()"], "lr": 0.001},
    ],
)
def test_trained_weights_go_on_as_in_the_run(here, losses_of, settings):
    ptkit.train(epochs=1, name="before", **QUIET)
    (here / "classes.txt").write_text("other\nnames\nhere\n")
    weights = "runs/before/ckpt.pkl"
    ptkit.eject("script.py", weights=weights, epochs=8, batch_size=16, **settings)
    theirs = losses_of(run_without_ptkit)
    ours = losses_of(lambda: ptkit.finetune(weights, epochs=8, batch_size=16, **settings, **QUIET))
    assert len(ours) == len(theirs) == 24
    assert theirs[:20] == pytest.approx(ours[:20], rel=1e-5)


def test_draws_in_the_script_are_those_of_a_run(monkeypatch):
    monkeypatch.setattr(pieces, "SEED", 11)
    draws = keyed.uniforms(11, "augment", epoch=4, indices=np.arange(5), columns=3)
    found = [[pieces.bits("augment", 5, index, k) for k in (1, 2, 3)] for index in range(5)]
    assert [[(number >> 11) / 2**53 for number in row] for row in found] == draws.tolist()
    order = keyed.permutation(11, "order", epoch=2, length=1000)
    assert sorted(range(1000), key=lambda k: pieces.bits("order", 3, k + 1)) == order.tolist()


def several_labels(part):
    lines = Path(f"{part}.txt").read_text().splitlines()
    return [(*line.rsplit(maxsplit=1), number) for number, line in enumerate(lines)]


def write_labels(label_of):
    for part in ("train", "valid"):
        lines = [f"{path} {label_of(int(k), n)}\n" for path, k, n in several_labels(part)]
        Path(f"{part}.txt").write_text("".join(lines))


MIXED = {
    "epochs": 7,
    "batch_size": 16,
    "transforms": ["RandomChoice([MixUp(alpha=0.4), CutMix()])"],
}
ADDED_UP = {"epochs": 4, "batch_size": 4, "accumulate": 3}


@pytest.mark.parametrize(
    "settings",
    [
        MIXED,
        ADDED_UP,
        {**ADDED_UP, "loss": "CrossEntropyLoss(weight='balanced')", "transforms": ["MixUp()"]},
        {**MIXED, "transforms": ["CutMix()"], "loss": "BCEWithLogitsLoss()"},
    ],
    ids=["mix", "accumulate", "both", "rows"],
)
def test_batches_are_mixed_and_added_up_as_in_the_run(here, losses_of, settings):
    same_losses(losses_of, model="lenet", **settings)


@pytest.mark.parametrize(
    ("label_of", "word", "settings"),
    [
        (lambda k, n: f"{k},{(k + n) % 2}", "map", {}),
        (lambda k, n: f"{k + 0.25},{n % 5 / 2}", "mae", {}),
        (lambda k, n: f"{k + 0.25},{n % 5 / 2}", "mae", {"loss": "PoissonNLLLoss()"}),
    ],
    ids=["several", "numbers", "counts"],
)
def test_other_labels_are_read_as_the_run_does(here, losses_of, capsys, label_of, word, settings):
    write_labels(label_of)
    if word == "mae":
        Path("classes.txt").unlink()
    same_losses(losses_of, epochs=7, batch_size=16, model="lenet", **settings)
    last = (here / "runs/1/metrics.csv").read_text().splitlines()
    found = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    shown = next(line for line in capsys.readouterr().out.splitlines() if "epoch  7/7" in line)
    value = float(found[f"valid_{word}"])
    assert shown.split()[-1] == (f"{value:.2%}" if word == "map" else f"{value:.4f}")


def test_the_script_is_short_plain_and_clean(here):
    result = eject("--model", "lenet", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["packages"] == ["torch", "torchvision", "opencv-python"]
    code = Path("script.py").read_text()
    assert found["num_lines"] == len(code.splitlines())
    assert len([line for line in code.splitlines() if line]) <= 150
    assert "ptkit" not in code
    config = Path(__file__).parent.parent / "pyproject.toml"
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(config), "script.py"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_list_may_have_any_name(here):
    name = 'my \\u"""list.txt'
    Path("train.txt").rename(name)
    result = eject("--model", "lenet", "--train", name)
    assert result.exit_code == 0, result.output


def test_a_script_that_exists_stays_as_it_is(here):
    Path("script.py").write_text("mine")
    result = eject()
    assert result.exit_code == 2
    assert "script.py exists" in result.stderr
    assert Path("script.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--transform", "FiveCrop(8)"], "FiveCrop(8)"),
        (["--model", "whitenet"], "whitenet"),
        (["--optimizer", "LBFGS()"], "LBFGS"),
        (["--group", "fc: unfreeze=2"], "unfreeze"),
        (["--set", "train.metric=macro_f1"], "train.metric=macro_f1"),
        (["--set", "data.sampler=balanced"], "data.sampler=balanced"),
        (["--name", "mine"], "--name"),
        (["--seeds", "2"], "--seeds"),
        (["--lr-find"], "--lr-find"),
        (["images"], "ptkit split images"),
    ],
)
def test_what_has_no_plain_form_is_refused_by_its_name(here, arguments, named):
    result = eject(*arguments)
    assert result.exit_code == 2, result.stdout
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("script.py").exists()


def test_an_image_that_opencv_does_not_read_is_refused(here):
    heif = pytest.importorskip("pillow_heif")
    path = here / "images/bar/train0.png"
    heif.from_pillow(Image.open(path)).save(path, quality=90)
    result = eject()
    assert (result.exit_code, "train0.png" in result.stderr) == (2, True), result.stderr


@pytest.mark.slow
def test_the_script_runs_in_a_python_of_its_own(here):
    assert eject("--epochs", 2, "--batch-size", 16).exit_code == 0
    command = [sys.executable, "-I", "-W", "error", "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["1/2", "2/2"]


def test_a_script_keeps_the_statistics_that_the_run_keeps():
    def norms():
        return [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False)]

    model = nn.Sequential(nn.Sequential(*norms()), nn.Sequential(*norms()))
    frozen = [name for name, _ in model.named_parameters() if name.startswith("0")]
    model[0].requires_grad_(False)
    setup = SimpleNamespace(
        model=SimpleNamespace(module=model),
        training=SimpleNamespace(optimizer_setup=SimpleNamespace(frozen=frozen)),
    )
    exec("\n".join(frozen_statistics(setup)), {"model": model.train()})
    kept = [name for name, module in model.named_modules() if not module.training]
    assert kept == ["0.1", "0.2"] == frozen_norms(model, frozen)
