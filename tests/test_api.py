"""The Python door: every public function with its example, its keywords, and its silence."""

import copy
import dataclasses
import doctest
import inspect
import json
import pickle
import re
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import make_lists
from typer.testing import CliRunner

import ptkit
from ptkit.api import keywords
from ptkit.api.paths import StrPath
from ptkit.commands.app import COMMANDS, app
from ptkit.core.config import settings
from ptkit.core.errors import PtkitError, UsageError
from ptkit.core.machine import num_cores

QUIET_RUN = {"epochs": 1, "batch_size": 16, "tensorboard": False, "pictures": False,
             "log_layers": False}  # fmt: skip
# `data` downloads, which tests do not.
PUBLIC = [name for name in ptkit.__all__ if name not in ("__version__", "data")]
# Each needs the files that those before it wrote.
ORDER = [
    *("split", "check", "normstats", "train", "find_lr", "finetune", "probe", "evaluate"),
    *("train_series", "finetune_series"),
    *("eject", "calibrate", "uncalibrate", "predict", "predict_each", "export", "convert"),
    *("load", "features", "ListDataset", "allowing_pixels"),
]

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists, runs/1 and ckpt.pkl of a run that several tests read."""
    folder = make_lists(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(**QUIET_RUN)
    return folder


@pytest.fixture
def trained(run_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run_once)
    return run_once


def example_of(name: str) -> doctest.DocTest:
    text = inspect.getdoc(getattr(ptkit, name)) or ""
    return doctest.DocTestParser().get_doctest(text, {"ptkit": ptkit}, name, None, None)


def test_the_examples_of_all_public_names_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calibration needs twenty images of validation.
    make_lists(tmp_path, train=200)
    (tmp_path / "images").rename(tmp_path / "data")
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    monkeypatch.chdir(tmp_path)
    assert sorted(ORDER) == sorted(PUBLIC)
    for name in ORDER:
        example = example_of(name)
        assert example.examples, f"{name} has no example"
        report: list[str] = []
        doctest.DocTestRunner().run(example, out=report.append)
        assert report == []


def test_results_are_frozen_records_and_nothing_is_printed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        ptkit.split("images", out="lists"),
        ptkit.normstats("train.txt"),
        ptkit.train(**QUIET_RUN),
        ptkit.finetune("ckpt.pkl", **QUIET_RUN),
        ptkit.evaluate("ckpt.pkl", "test.txt"),
        ptkit.predict("ckpt.pkl", ["images/bar"]),
    ]
    assert all(type(record).__dataclass_params__.frozen for record in found)  # type: ignore[attr-defined]
    assert capsys.readouterr() == ("", "")


def test_the_keywords_of_train_are_those_of_the_settings() -> None:
    def annotation(field: settings.Field) -> object:
        kind: typing.Any = field.type
        if typing.get_origin(kind) is tuple:
            return Sequence[typing.get_args(kind)[0]]  # type: ignore[misc]
        if field.metadata["is_path"]:
            return StrPath | None if type(None) in typing.get_args(kind) else StrPath
        return kind

    expected = {keyword: annotation(field) for keyword, (_, field) in settings.KEYWORDS.items()}
    assert typing.get_type_hints(keywords.TrainSettings) == expected
    del expected["weights"]
    assert typing.get_type_hints(keywords.FinetuneSettings) == expected


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_no_setting_has_the_name_of_another_parameter(name: str) -> None:
    own = [p.name for p in inspect.signature(getattr(ptkit, name)).parameters.values()][:-1]
    assert set(own) & set(settings.KEYWORDS) <= {"weights"}
    hand_made = inspect.signature(COMMANDS[name])
    assert len(set(hand_made.parameters)) == len(hand_made.parameters) > len(settings.FLAGS)


@pytest.mark.parametrize("name", [name for name in ORDER[:8] if name != "find_lr"])
def test_a_function_takes_what_its_command_takes(name: str) -> None:
    def parameters(function: object) -> set[str]:
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]

    command = COMMANDS[{"evaluate": "confmat"}.get(name, name)]
    # In Python the limit of pixels is a context, for several calls.
    only_there = {"printer", "verbose", "assignments", "max_pixels", *settings.FLAGS}
    if name in ("train", "finetune", "probe"):
        only_there |= keywords.SourceFlags.__annotations__.keys()
    # What is drawn or shown of the record is the command's own affair.
    only_there |= {
        # Other functions, find_lr and eject; several seeds or folds have another kind of result.
        "train": {"out", "lr_find", "seeds", "folds", "eject"},
        "finetune": {"out", "resume", "file", "seeds", "folds", "eject"},
        # A setting, whose flag other commands do not have.
        "probe": {"knn"},
        "evaluate": {"out", "num_images", "font"},
        # Pictures, exit codes, and the suspect labels of a run.
        "check": {"out", "strict", "run", "sources"},
        # In Python the rows come from another function, predict_each.
        "predict": {"out", "as_csv", "as_jsonl"},
    }.get(name, set())
    assert parameters(command) - only_there <= parameters(getattr(ptkit, name))


def test_every_public_function_is_typed_and_documented() -> None:
    for name in PUBLIC:
        function = getattr(ptkit, name)
        assert inspect.getdoc(function)
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            assert signature.return_annotation is not inspect.Signature.empty
            kinds = [p.annotation for p in signature.parameters.values()]
            assert inspect.Parameter.empty not in kinds


def test_split_counts_images_and_keeps_the_command_line(here: Path) -> None:
    found = ptkit.split("images", ratio="1:1", out="lists", seed=3)
    assert sum(found.counts.values()) == 48 + 21 + 15
    assert found.class_names == ("bar", "cross", "square")
    record = json.loads(Path("lists/split.json").read_text())
    assert record["command"] == "ptkit split images --ratio 1:1 --seed 3 --out lists"


def test_what_a_run_sets_in_torch_is_for_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With it the threads are the user's.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, others = torch.get_num_threads(), num_cores() + 1
    torch.set_num_threads(others)
    try:
        ptkit.train(**QUIET_RUN, model="lenet")
        ptkit.eject("script.py", **QUIET_RUN, model="lenet")
        assert torch.get_num_threads() == others
    finally:
        torch.set_num_threads(before)


def test_train_in_python_and_on_the_command_line_make_the_same_settings(here: Path) -> None:
    ptkit.train(**QUIET_RUN, model="lenet", lr=0.05, transforms=["RandomCrop(16, padding=1)"])
    line = "--epochs 1 --batch-size 16 --model lenet --lr 0.05 --set log.tensorboard=false"
    arguments = ["train", *line.split(), "--set", "log.pictures=false", "--set", "log.layers=false"]
    done = CliRunner().invoke(app, [*arguments, "--transform", "RandomCrop(16, padding=1)"])
    assert done.exit_code == 0, done.stderr
    assert Path("runs/1/config.toml").read_text() == Path("runs/2/config.toml").read_text()
    assert Path("ckpt.pkl").resolve() == here / "runs/2/ckpt.pkl"


def test_a_run_goes_elsewhere_leaves_no_link_and_is_resumed(here: Path) -> None:
    first = ptkit.train(**QUIET_RUN, out=here / "mine", name="a", link=None)
    assert first.run == here / "mine/a"
    assert not Path("ckpt.pkl").exists()
    again = ptkit.train(resume=first.run, epochs=2, link=None)
    assert (again.run, again.epochs) == (first.run, 2)
    with pytest.raises(UsageError, match="leave out --name"):
        ptkit.train(resume=first.run, name="b")
    # A result can be passed as the path of its folder.
    assert len(ptkit.predict(first, "valid.txt").rows) == first.num_valid
    assert ptkit.train(resume=first, epochs=3, link=None).epochs == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ptkit.train(epoch=1), "no setting is called epoch; did you mean epochs?"),
        (lambda: ptkit.train(epochs=0), "train.epochs must be at least 1, found 0"),
        (lambda: ptkit.train(lr="fast"), "optimizer.lr must be a number, found 'fast'"),
        (lambda: ptkit.split("nowhere"), "nowhere"),
        (lambda: ptkit.split("images", copy="a", link="b"), "cannot be combined"),
        (lambda: ptkit.normstats("train.txt", num=0), "num must be at least 1, found 0"),
        (lambda: ptkit.normstats("train.txt", workers=-1), "workers must be at least 0, found -1"),
        (lambda: ptkit.evaluate("a.pkl", "a.txt", workers=-1), "workers must be at least 0"),
        (lambda: ptkit.predict("a.pkl", "a.txt", workers=-1), "workers must be at least 0"),
        (lambda: ptkit.evaluate("a.pkl", "a.txt", device="gpu"), "--device must be one of auto"),
        (lambda: ptkit.predict("a.pkl", "a.txt", device="gpu"), "--device must be one of auto"),
        (lambda: ptkit.normstats("train.txt", whiten="cza"), "did you mean zca?"),
        (lambda: ptkit.load("nope.pkl"), "nope.pkl"),
    ],
)
def test_mistakes_are_errors_of_ptkit(here: Path, call: typing.Any, message: str) -> None:
    with pytest.raises(PtkitError, match=re.escape(message)):
        call()


def test_records_of_statistics_hold_what_was_saved(here: Path) -> None:
    found = ptkit.normstats("train.txt", num=10, out=here / "elsewhere")
    assert json.loads(found.file.read_text())["num_images"] == 10
    assert found.file == here / "elsewhere" / "normstats.json"
    assert dataclasses.astuple(found.statistics)[:2] == (found.mean, found.std)


def test_a_loaded_model_predicts_paths_bytes_pictures_and_arrays_alike(trained: Path) -> None:
    model = ptkit.load("runs/1")
    path = trained / "images/bar/test0.png"
    picture = Image.open(path)
    rows = model.predict([path, str(path), path.read_bytes(), picture, np.asarray(picture)], top=2)
    assert [row.pop("path") for row in rows] == [str(path), str(path), None, None, None]
    assert rows == [rows[0]] * 5
    [printed] = ptkit.predict("runs/1", path, top=2, device="cpu").rows
    assert printed.pop("path") == str(path)
    assert printed["class"] == rows[0]["class"]
    assert printed["probability"] == pytest.approx(rows[0]["probability"], abs=1e-6)


def test_many_images_get_the_answers_that_they_get_one_by_one(trained: Path) -> None:
    model = ptkit.load("ckpt.pkl")
    images = sorted(trained.glob("images/*/*.png"))[:70]
    together, alone = model.predict(images), [model.predict(image)[0] for image in images]
    assert [row["class"] for row in together] == [row["class"] for row in alone]
    assert [row["probability"] for row in together] == pytest.approx(
        [row["probability"] for row in alone], abs=1e-5
    )


def test_a_copy_of_a_loaded_model_predicts_by_its_own_weights(trained: Path) -> None:
    model = ptkit.load("ckpt.pkl")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    image = np.full((16, 16, 3), 200, np.uint8)
    assert other.predict(image)[0]["probability"] == pytest.approx(1 / 3)
    assert model.predict(image)[0]["probability"] != pytest.approx(1 / 3)
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(image) == model.predict(image)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images: give at least one"),
        (np.zeros((16, 16, 3), np.float32), r"found float32 of \(16, 16, 3\)"),
        (np.zeros((3, 16, 16), np.uint8), r"found uint8 of \(3, 16, 16\)"),
        (b"<html>", "it is HTML"),
        ("nope.png", "nope.png"),
    ],
)
def test_what_is_no_image_is_refused(trained: Path, images: object, message: str) -> None:
    with pytest.raises(PtkitError, match=message):
        ptkit.load("ckpt.pkl").predict(images)


def test_evaluation_says_what_confmat_says(trained: Path) -> None:
    done = CliRunner().invoke(app, ["confmat", "ckpt.pkl", "test.txt", "--json"])
    said, found = json.loads(done.stdout), ptkit.evaluate("ckpt.pkl", "test.txt")
    assert found.metrics == {name: said[name] for name in found.metrics}
    assert list(found.accuracy_interval) == said["accuracy_interval"]
    assert list(found.class_names) == said["classes"]
    assert found.per_class["recall"].tolist() == said["recall"]


def test_bare_weights_are_evaluated_with_what_is_said_about_them(here: Path) -> None:
    run = ptkit.train(**QUIET_RUN, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    state = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    torch.save(state, "bare.pth")
    said = {"model": "resnet8", "mean": (0.5, 0.5, 0.5), "std": "0.25,0.25,0.25", "size": 16}
    found = ptkit.evaluate("bare.pth", "test.txt", **said)
    assert found.metrics == ptkit.evaluate(run.run, "test.txt").metrics
    bare, whole = ptkit.load("bare.pth", **said, classes="classes.txt"), ptkit.load(run.run)
    image = here / "images/bar/test0.png"
    assert bare.predict(image) == whole.predict(image)
    assert bare.pipeline["calls"] == whole.pipeline["calls"]
    with pytest.raises(UsageError, match="add --model NAME"):
        ptkit.load("bare.pth")


RUN = Path("runs/1")
NO_LIST = "runs/1 is a run folder; expected a list of images, such as train.txt"
NO_IMAGES = "runs/1 is a run folder; expected images, or a list of them"
NO_CALL = 'model must be a call such as "resnet18()" or "my_net.py:Net()", found'


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ptkit.ListDataset(RUN), NO_LIST),
        (lambda: ptkit.normstats(RUN), NO_LIST),
        (lambda: ptkit.evaluate(RUN, RUN), NO_LIST),
        (lambda: ptkit.train(train=RUN), NO_LIST),
        (lambda: ptkit.train(RUN), NO_IMAGES),
        (lambda: ptkit.split(RUN, overwrite=True), NO_IMAGES),
        (lambda: ptkit.split(RUN, label_from="(.)", overwrite=True), NO_IMAGES),
        (lambda: ptkit.check(RUN), NO_IMAGES),
        (lambda: ptkit.predict(RUN, RUN), NO_IMAGES),
        (
            lambda: ptkit.predict(RUN, torch.nn.ReLU()),  # type: ignore[arg-type]
            "images are given as files, folders or lists, found ReLU",
        ),
        (
            lambda: ptkit.split("images", ratio=(8, 1, 1), overwrite=True),  # type: ignore[arg-type]
            "--ratio must be two or three positive numbers such as 8:1:1 (train:valid:test), found"
            " (8, 1, 1)",
        ),
        (
            lambda: ptkit.train(model=RUN),
            f"{NO_CALL} the path runs/1; weights to start from go to ptkit.finetune",
        ),
        (
            lambda: ptkit.train(model=torch.nn.Sequential(*[torch.nn.ReLU()] * 2)),
            f"{NO_CALL} an object of the type Sequential; weights to start from go to"
            " ptkit.finetune",
        ),
        (
            lambda: ptkit.train(recipe=RUN),
            "no recipe is called runs/1, see `ptkit list recipes`; for the settings of this run:"
            " --config runs/1",
        ),
        (lambda: ptkit.train(loss=RUN), "loss.call must be text, found the path runs/1"),
        (
            lambda: ptkit.load(RUN, model=RUN),
            "expected a call such as Name(key=1), found PosixPath",
        ),
        (
            lambda: ptkit.train(name=RUN),
            "--name must be a plain folder name, found 'runs/1'; --out says where runs go",
        ),
        (
            lambda: ptkit.features(RUN),
            "features takes a model, found PosixPath: ptkit.features(ptkit.load('runs/1'))",
        ),
        (
            lambda: ptkit.features(torch.nn.Linear(2, 3)),
            "Linear has no class_names: pass num_classes, the number of outputs of its head",
        ),
    ],
)
def test_what_is_not_expected_in_a_place_is_refused_in_one_line(trained, call, message):
    with pytest.raises(PtkitError) as caught:
        call()
    assert str(caught.value) == message


def test_images_beside_a_config_of_the_users_own_are_split(here):
    Path("images/config.toml").touch()
    assert sum(ptkit.split("images", label_from="(.)", overwrite=True).counts.values()) > 0
