"""A head on frozen features: against scikit-learn's, and as a run."""

import errno
import json
import os
import shutil
import signal
import tomllib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_data import make_lists
from torchvision.models import resnet50
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data.loading import entries
from ptkit.core.errors import CheckpointError, InterruptedRunError, StorageError, UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.models.features import seeing_features
from ptkit.core.shares import share_text
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.probe import features as probe_features
from ptkit.core.training.probe.features import Features
from ptkit.core.training.probe.linear_head import (
    Chosen,
    choose_penalty,
    fit_head,
    stratified_folds,
)
from ptkit.core.training.probe.neighbours import neighbours_vote
from ptkit.core.training.probe.report import expected_of_twice, part_of, report_of

pytestmark = pytest.mark.usefixtures("blank_pictures")
QUIET = {"tensorboard": False, "pictures": False}
QUIETLY = ["--set", "log.tensorboard=false", "--set", "log.pictures=false"]
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(60) % 3
# On other scales, and one that never changes.
FEATURES = torch.randn(60, 8, generator=GENERATOR) * torch.logspace(-2, 2, 8)
FEATURES += LABELS[:, None] * torch.logspace(-2, 2, 8) * 0.7
FEATURES[:, 3] = 5.0


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_a_head_is_scikit_learns_on_standardised_features(penalty):
    head = fit_head(FEATURES, LABELS, num_classes=3, penalty=penalty)
    std = FEATURES.std(0, correction=0)
    scaled = (FEATURES - FEATURES.mean(0)) / torch.where(std > 0, std, 1)
    # Its C is over the sum of the losses.
    theirs = LogisticRegression(C=1 / (penalty * len(LABELS)), max_iter=5000, tol=1e-8)
    expected = theirs.fit(scaled.numpy(), LABELS.numpy()).predict_proba(scaled.numpy())
    np.testing.assert_allclose(head.scores(FEATURES).softmax(1), expected, atol=2e-3)


def test_a_start_leads_to_the_same_head():
    start = fit_head(FEATURES, LABELS, num_classes=3, penalty=1.0)
    found = fit_head(FEATURES, LABELS, num_classes=3, penalty=0.1, start=start)
    alone = fit_head(FEATURES, LABELS, num_classes=3, penalty=0.1)
    torch.testing.assert_close(found.scores(FEATURES), alone.scores(FEATURES), rtol=0, atol=0.02)


def test_the_penalty_is_that_of_the_smallest_loss_on_images_left_out():
    noise = torch.randn(60, 200, generator=torch.Generator().manual_seed(1))
    assert choose_penalty([noise], LABELS, num_classes=3, seed=0).penalty >= 1
    chosen = choose_penalty([FEATURES, FEATURES], LABELS, num_classes=3, seed=0)
    assert chosen.penalty < 1
    assert chosen.num_right > 45
    assert chosen.num_images == 60


def test_folds_have_their_share_of_every_class():
    labels = np.repeat([0, 1, 2], [20, 10, 5])
    folds = stratified_folds(labels, 5, seed=3)
    counts = [np.bincount(labels[folds == fold], minlength=3).tolist() for fold in range(5)]
    assert counts == [[4, 2, 1]] * 5
    assert (folds != stratified_folds(labels, 5, seed=4)).any()


def test_the_mistakes_that_are_left_are_expected_to_shrink_by_the_same_factor_again():
    plain = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + LABELS[:, None] * 0.7
    noisy = plain + torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    train, valid = Features((noisy[:40],), LABELS[:40]), Features((noisy[40:],), LABELS[40:])
    chosen = Chosen(0.1, 1.0, 30, 40)
    report = report_of(train, valid, chosen, num_classes=3, seed=0)
    *_, half, whole = (part.accuracy for part in report.budget)
    assert half < whole < 1
    expected = 1 - (1 - whole) ** 2 / (1 - half)
    assert report.expected.accuracy == pytest.approx(expected)
    np.testing.assert_allclose(
        report.expected.accuracy_interval, wilson(report.expected.accuracy * 20, 20)
    )
    *_, budget, more = report.lines()
    assert budget.endswith(f", 40: {share_text(round(whole * 20), 20)}")
    assert more.startswith(
        f"twice as many training images are likely to bring about {expected:.1%} ("
    )
    worse = [part_of(count, share, num_valid=20) for count, share in ((20, 0.9), (40, 0.9))]
    assert expected_of_twice(tuple(worse), 40) is None


def wilson(right, total):
    """Work it out the other way: the shares p of which right / total is 1.96 deviations off."""
    z = 1.959963984540054
    share = right / total
    roots = np.roots([1 + z * z / total, -(2 * share + z * z / total), share * share])
    return tuple(sorted(roots.real))


def head_of(found):
    return read_checkpoint(found.run)["state_dict"]["fc.weight"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Lists, and a run to probe."""
    folder = make_lists(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(epochs=2, batch_size=16, model="resnet8", name="body", **QUIET)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of them to work in."""
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy", symlinks=True))
    return tmp_path


def test_a_probe_is_a_run_in_which_only_the_head_changes(here):
    result = CliRunner().invoke(app, ["probe", "--backbone", "runs/body", "--name", "probed"])
    assert result.exit_code == 0
    before, after = (read_checkpoint(Path("runs", name)) for name in ("body", "probed"))
    changed = {
        name
        for name, tensor in before["state_dict"].items()
        if not torch.equal(tensor, after["state_dict"][name])
    }
    assert changed == {"fc.weight", "fc.bias"}
    lines = result.stdout
    assert "features: 64 numbers of 48 training images, and of 21 validation images" in lines
    assert "right in five-fold cross-validation" in lines
    assert "accuracy on the validation images by the number of training images: 5: " in lines
    assert 'always "bar" 33.3%' in lines
    result = CliRunner().invoke(app, ["train", "--resume", "runs/probed", "--epochs", "1"])
    assert (
        result.exit_code,
        "runs/probed is finished: a probe has one epoch; `ptkit fine" in (result.stderr),
    ) == (2, True)
    assert "optimizer" not in lines
    for name in ("confusion.png", "data_budget.png"):
        assert Path("runs/probed", name).exists()


@pytest.mark.slow
def test_the_same_seed_and_its_own_config_give_the_same_head(here):
    first, second = (ptkit.probe("runs/body", name=name, **QUIET) for name in ("one", "two"))
    again = ptkit.train(config="runs/one/config.toml", name="three")
    heads = [
        read_checkpoint(found.run)["state_dict"]["fc.weight"] for found in (first, second, again)
    ]
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


@pytest.mark.slow
def test_mirror_images_count_where_training_may_mirror(here):
    mirrored = ["probe", "--backbone", "runs/body", "--transform", "RandomHorizontalFlip()"]
    assert (
        "48 training images and of their mirror images" in CliRunner().invoke(app, mirrored).stdout
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.1}, r"makes no steps: leave out optimizer\.lr"),
        ({"scheduler": "StepLR(1)", "ema": 0.9}, r"scheduler\.call, train\.ema"),
        ({"epochs": 2}, "is one epoch"),
        ({"loss": "TripletMarginLoss()"}, "leave another loss out"),
        ({"sampler": "balanced"}, r"leave out data\.sampler"),
    ],
)
def test_what_a_probe_cannot_use_is_refused(here, settings, message):
    with pytest.raises(UsageError, match=message):
        ptkit.probe("runs/body", **settings, **QUIET)


def test_a_probe_needs_weights(here):
    with pytest.raises(UsageError, match="needs trained weights"):
        ptkit.train(method="probe", epochs=1, **QUIET)


def test_a_list_of_one_image_a_class_is_enough(here):
    lines = Path("train.txt").read_text().splitlines(keepends=True)
    Path("train.txt").write_text("".join(lines[:3]))
    words = ["probe", "--backbone", "runs/body", "--batch-size", "2", *QUIETLY]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "number of training images: 3: " in result.stdout
    assert "twice as many" not in result.stdout


def test_a_head_that_cannot_be_fitted_is_refused_before_there_is_a_folder(here):
    Path("net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    head = nn.Linear(48, num_classes, bias=False)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)\n"
    )
    torch.save({"2.weight": torch.zeros(3, 48)}, "net.pt")
    with pytest.raises(UsageError, match="needs a linear head with a bias, and 2 is Linear"):
        ptkit.probe("net.pt", model="net.py:net", name="none", **QUIET)
    assert not Path("runs/none").exists()


@pytest.mark.slow
def test_the_precision_is_that_of_the_features(here):
    found = [ptkit.probe("runs/body", precision=p, name=p, **QUIET).run for p in ("fp32", "bf16")]
    heads = [read_checkpoint(run)["state_dict"]["fc.weight"] for run in found]
    assert not torch.equal(*heads)
    torch.testing.assert_close(*heads, rtol=0.5, atol=0.5)


def test_neighbours_vote_by_their_cosine():
    train = Features((torch.tensor([[1.0, 0], [0, 1], [0.1, 1]]),), torch.tensor([0, 1, 1]))
    images = torch.tensor([[5.0, 0.1], [0.1, 5], [1, 0.9]])
    cosines = torch.nn.functional.cosine_similarity(images[:, None], train.views[0][None], dim=2)
    weights = (cosines / 0.07).exp()
    expected = (weights[:, 1:].sum(1) > weights[:, 0]).long()
    assert neighbours_vote(train, images, num_neighbours=9, num_classes=2).tolist() == [0, 1, 1]
    assert neighbours_vote(train, images, num_neighbours=9, num_classes=2).equal(expected)
    assert neighbours_vote(train, images[2:], num_neighbours=1, num_classes=2).tolist() == [0]


def test_an_image_and_its_mirror_image_have_one_vote():
    plain, mirrored = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]]), torch.zeros(3, 2)
    train = Features((plain, mirrored), torch.tensor([1, 0, 0]))
    # Of two neighbours the second is another image, not the mirror image of the first.
    both = Features((plain, plain), train.labels)
    images = torch.tensor([[0.9, 0.12]])
    for views in (train, both):
        assert neighbours_vote(views, images, num_neighbours=1, num_classes=2).tolist() == [0]
    nearest = torch.nn.functional.cosine_similarity(images, plain)
    weights = (nearest / 0.07).exp()
    expected = int(weights[1] < weights[0])
    assert neighbours_vote(both, images, num_neighbours=2, num_classes=2).tolist() == [expected]


def test_of_an_image_and_its_mirror_image_the_nearer_counts():
    # The second view of the first image is near; the sum of its cosines is not.
    train = Features(
        (torch.tensor([[-1.0, 0], [0.8, 0.6]]), torch.tensor([[1.0, 0], [0.8, 0.6]])),
        torch.tensor([0, 1]),
    )
    image = torch.tensor([[1.0, 0]])
    assert neighbours_vote(train, image, num_neighbours=1, num_classes=2).tolist() == [0]


@pytest.mark.slow
def test_features_with_mirror_images_are_not_taken_for_those_without(here):
    for transform in ("RandomHorizontalFlip()", "RandomVerticalFlip()"):
        settings = {"transforms": [transform], **QUIET}
        kept = ptkit.probe("runs/body", **settings)
        anew = ptkit.probe("runs/body", cache="off", **settings)
        assert torch.equal(head_of(kept), head_of(anew))


def test_more_classes_than_images_have_a_budget_of_all_images():
    train = Features((torch.randn(4, 8),), torch.tensor([0, 1, 2, 0]))
    report = report_of(train, train, Chosen(0.1, 1.0, 3, 4), num_classes=9, seed=0)
    assert [part.num_images for part in report.budget] == [4]


@pytest.mark.slow
def test_the_vote_of_neighbours_is_told_and_recorded(here):
    result = CliRunner().invoke(app, ["probe", "--backbone", "runs/body", "--knn", "5", "--json"])
    told = json.loads(result.stdout)["probe"]
    assert told["num_neighbours"] == 5
    assert 0 <= told["num_right_by_neighbours"] <= 21
    assert json.loads(Path("runs/1/probe.json").read_text()) == told
    with pytest.raises(UsageError, match="knn is for a probe"):
        ptkit.train(knn=3)


def test_features_are_kept_for_the_next_time(here, monkeypatch):
    first = ptkit.probe("runs/body", name="one", **QUIET)
    assert Path("runs/one/data_budget.png") in first.files
    monkeypatch.setattr(probe_features, "features", None)  # it would have to be called
    second = ptkit.probe("runs/body", name="two", **QUIET)
    assert torch.equal(head_of(first), head_of(second))
    assert first.probe == second.probe
    listed = json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout)["entries"]
    assert [entry["kind"] for entry in listed] == ["features"] * 2


@pytest.mark.parametrize(
    "change",
    ["image", *(pytest.param(k, marks=pytest.mark.slow) for k in ("weights", "pipeline", "off"))],
)
def test_features_of_something_else_are_computed_anew(here, monkeypatch, change):
    ptkit.probe("runs/body", name="one", **QUIET)
    more = {}
    if change == "weights":
        ptkit.train(epochs=1, batch_size=16, model="resnet8", seed=5, name="other", **QUIET)
    elif change == "pipeline":
        more["mean"], more["std"] = (0.3, 0.3, 0.3), (0.2, 0.2, 0.2)
    elif change == "image":
        path = Path(Path("train.txt").read_text().split()[0])
        path.write_bytes(path.read_bytes())
    else:
        more["cache"] = "off"
    calls = []
    real = probe_features.features
    monkeypatch.setattr(
        probe_features, "features", lambda *args, **how: calls.append(1) or real(*args, **how)
    )
    ptkit.probe("runs/other" if change == "weights" else "runs/body", name="two", **more, **QUIET)
    # A changed training image leaves the validation images as they were.
    assert len(calls) == (1 if change == "image" else 2)


@pytest.mark.slow
def test_a_disk_that_is_full_costs_a_line_or_the_run(here, monkeypatch):
    def refuse(*_args):
        raise entries.refusal(OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(entries.EntryWriter, "write", refuse)
    warned = CliRunner().invoke(app, ["probe", "--backbone", "runs/body"])
    assert warned.exit_code == 0
    assert "warning: the features are not kept: " in warned.stderr
    with pytest.raises(StorageError, match="No space left"):
        ptkit.probe("runs/body", cache="disk", name="none", **QUIET)
    assert entries.list_entries() == []


@pytest.mark.slow
def test_of_several_backbones_the_best_in_cross_validation_is_taken(here):
    ptkit.train(epochs=1, batch_size=16, model="resnet8", lr=1e-6, name="raw", **QUIET)
    arguments = ["probe", "--backbone", "runs/raw", "--backbone", "runs/body", "--json"]
    result = json.loads(CliRunner().invoke(app, arguments).stdout)
    rows = {row["weights"]: row for row in result["backbones"]}
    best = max(rows.values(), key=lambda row: (row["num_right"], -row["loss"]))
    config = tomllib.loads(Path(result["run"], "config.toml").read_text())
    assert (
        Path("runs", "x", config["model"]["weights"]).resolve() == Path(best["weights"]).resolve()
    )


def test_features_stand_before_the_head(here):
    model = ptkit.load("runs/body")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = ptkit.features(model)(images)
        torch.testing.assert_close(model.fc(found), model(images))
    assert found.shape == (2, 64)


@pytest.mark.parametrize("place", ["features of", "cross-validation", "heads of fewer images"])
def test_an_interrupted_probe_stops_between_batches_and_heads(here, place):
    class Interrupting(Unwatched):
        @contextmanager
        def counting(self, what, total):
            is_here = what.startswith(place)
            yield lambda _count: os.kill(os.getpid(), signal.SIGINT) if is_here else None

    with pytest.raises(
        InterruptedRunError, match="interrupted; nothing was saved yet; begin again with"
    ):
        ptkit.probe("runs/body", name="cut", watch=Interrupting(), cache="off", **QUIET)
    assert not Path("runs/cut/ckpt.pkl").exists()


@pytest.mark.slow
def test_weights_of_another_model_are_refused_with_its_name(here):
    torch.save(resnet50(num_classes=3).state_dict(), "r50.pth")
    with pytest.raises(CheckpointError, match="look like those of resnet50; choose the --model"):
        ptkit.finetune("r50.pth", model="resnet18", name="none", size=32, mean=[0.5], std=[0.5])
    assert not Path("runs/none").exists()


def test_bare_weights_are_probed_with_the_model_that_is_named(here):
    checkpoint = read_checkpoint(Path("runs/body"))
    torch.save(checkpoint["state_dict"], "bare.pth")
    words = ["probe", "--backbone", "bare.pth", "--model", "resnet8", "--set", "data.on_bad=skip"]
    Path("broken.png").write_bytes(b"no image")
    Path("train.txt").write_text(Path("train.txt").read_text() + "broken.png 0\n")
    result = CliRunner().invoke(app, [*words, "--name", "bare", *QUIETLY])
    assert result.exit_code == 0, result.stderr
    assert "left out: " in result.stderr
    assert Path("runs/bare/skipped.txt").read_text().count("\n") == 1


def test_a_wrong_backbone_is_reported_before_the_others_are_computed(here):
    words = ["probe", "--backbone", "runs/body", "--backbone", "resnet81"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 4
    assert "resnet81" in result.stderr
    assert "backbone runs/body" not in result.stdout


def test_features_that_are_not_finite_are_refused_before_there_is_a_folder(here):
    # As those of a network whose numbers fp16 is too small for, on some images.
    Path("net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(3, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.fc(images.mean((2, 3)) / float(len(images) == 1 or 1e-45))\n"
    )
    torch.save({"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, "net.pt")
    with pytest.raises(UsageError, match="some features of the model are NaN or infinite"):
        ptkit.probe("net.pt", model="net.py:Net", name="none", **QUIET)


def test_features_under_autocast_are_means_in_float32():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), seeing_features(model, num_classes=2) as seen:
        maps = model[0](images)
        model(images)
    assert maps.dtype == torch.bfloat16
    assert torch.equal(seen(), maps.float().mean((2, 3)))
