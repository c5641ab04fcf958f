"""Recipes: every one is a set of settings that can be, and flags win over it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config.layers import gather, read_recipe, recipe_names, recipe_text, resolve
from ptkit.core.config.settings import FLAGS, KEYWORDS
from ptkit.core.errors import PtkitError, UsageError
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.session import run
from ptkit.core.training.setup import prepare
from ptkit.core.training.usual import finetuning_rate

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_holds_settings_that_exist_and_says_what_it_is_for(name: str) -> None:
    resolve(read_recipe(name))
    assert recipe_text(name).startswith("# ")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"called curse, see `ptkit list recipes`; did you mean course\?"
    ):
        read_recipe("curse")


def test_recipes_are_listed_as_they_stand() -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", "recipes", "--json"]).stdout)
    assert {"course", "finetune"} <= {row["name"] for row in rows}
    assert all(row["toml"].startswith(f"# {row['summary']}\n") for row in rows)
    assert "momentum=0.9, dampening=0.1" in CliRunner().invoke(app, ["list", "recipes"]).stdout


def test_a_recipe_trains_and_a_flag_wins_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_lists(tmp_path))
    result = CliRunner().invoke(
        app, ["train", "--recipe", "course", "--epochs", "1", "--set", "log.pictures=false"]
    )
    assert result.exit_code == 0, result.stderr
    config = Path("runs/1/config.toml").read_text()
    assert 'call = "lenet()"' in config
    assert "epochs = 1\n" in config
    assert "lr = 0.001" in config


def test_the_speed_recipe_learns_in_one_epoch_and_answers_with_both_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_lists(tmp_path, train=240))
    result = CliRunner().invoke(
        app, ["train", "--recipe", "speed", "--batch-size", "16", "--epochs", "1", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["best"]["accuracy"] > 0.9
    pipeline = torch.load("ckpt.pkl", weights_only=True)["pipeline"]
    assert "WithHorizontalFlip()" in pipeline["calls"]


def test_a_users_own_recipe_is_a_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("[train]\nepochs = 7\n")
    assert resolve(read_recipe("mine.toml")).train.epochs == 7


# -------------------------------------------------------------------- what is given beside a recipe

# For every flag of a setting, a value that no recipe has.
GIVEN: dict[str, Any] = {
    "train": ["other.txt"],
    "valid": ["other_valid.txt"],
    "root": ["."],
    "relabel": ["corrected.txt"],
    "alpha": ["white"],
    "fit": ["pad", "stretch", "crop"],
    "size": [24, 64],
    "augment": ["none", "safe", "natural", "auto"],
    "transforms": [("RandomVerticalFlip()",), ("ColorJitter(0.1)", "RandomErasing()")],
    "workers": [1],
    "model": ["resnet8()", "resnet18(stem='standard')", "lenet()"],
    "init": [("Linear=normal_(0, 0.5)",)],
    "loss": ["NLLLoss()", "TripletMarginLoss()"],
    "optimizer": ["AdamW()", "SGD(momentum=0.5)", "LBFGS()", "Muon()"],
    "lr": [0.0123],
    "groups": [("Linear: lr=2x",), ("Conv2d: frozen",)],
    "scheduler": ["StepLR(step_size=3)", "none", "ReduceLROnPlateau()"],
    "epochs": [7],
    "batch_size": [8],
    "seed": [5],
    "device": ["cpu"],
    "precision": ["fp32"],
    "save_every": [3],
}
REFUSED = {
    "finetune": ["LBFGS()"],
    # The weights that it names fit no other model, and a head is fitted for classes.
    "photos": ["LBFGS()", "TripletMarginLoss()", *GIVEN["model"]],
}
WALK = [
    (recipe, keyword, value)
    for recipe in recipe_names()
    for keyword, values in GIVEN.items()
    for value in values
    # Refused: see below.
    if value not in REFUSED.get(recipe, ())
]


def one_recipe_for_each_value() -> list[Any]:
    """Return the walk with the pairs marked slow that are not of one recipe a value, in turns."""
    recipes = recipe_names()
    values = [(keyword, value) for keyword, several in GIVEN.items() for value in several]
    quick = {
        (
            next(
                r for r in recipes[k % len(recipes) :] + recipes if value not in REFUSED.get(r, ())
            ),
            k,
        )
        for k, (_, value) in enumerate(values)
    }
    return [
        pytest.param(
            *one, marks=[] if (one[0], values.index(one[1:])) in quick else pytest.mark.slow
        )
        for one in WALK
    ]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_lists(tmp_path_factory.mktemp("walk"), train=50, valid=6)
    lines = (folder / "train.txt").read_text().splitlines(keepends=True)
    (folder / "train.txt").write_text("".join(lines[:40]))
    (folder / "other.txt").write_text("".join(lines[:38]))
    (folder / "corrected.txt").write_text(lines[0])
    (folder / "other_valid.txt").write_text("".join(lines[40:]))
    (folder / "normstats.json").unlink(missing_ok=True)
    return folder


def test_the_walk_has_every_flag() -> None:
    assert GIVEN.keys() == FLAGS.keys()


@pytest.mark.parametrize(("recipe", "keyword", "value"), WALK)
def test_a_flag_beside_a_recipe_is_what_the_settings_have(
    recipe: str, keyword: str, value: Any
) -> None:
    section, setting = KEYWORDS[keyword]
    settings = gather({keyword: value}, recipe=recipe)
    assert getattr(getattr(settings, section), setting.name) == value


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "keyword", "value"), one_recipe_for_each_value())
def test_a_flag_beside_a_recipe_is_taken_or_refused_by_its_name(
    recipe: str, keyword: str, value: Any, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lists)
    # The list is a short one, and images of 224 pixels would take most of the time.
    beside = {"batch_size": 16, **({"size": 40} if recipe.startswith("photos") else {})}
    settings = gather(beside | {keyword: value}, recipe=recipe)
    setup = prepare(settings, Unwatched(), is_resumed=False)
    section, setting = KEYWORDS[keyword]
    found = getattr(getattr(setup.settings, section), setting.name)
    # A LeNet is built for the size of the images, which its call then has.
    assert found == value or (value, found.partition("(")[0]) == ("lenet()", "lenet")
    size = setup.settings.data.size
    assert setup.data.train.pipeline.size == setup.data.valid.pipeline.size == (size, size)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "keyword", "value"), WALK)
def test_a_flag_beside_a_recipe_trains(
    recipe: str, keyword: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_lists(tmp_path, train=18, valid=6))
    for name in ("train", "valid"):
        shutil.copy(f"{name}.txt", f"other{'' if name == 'train' else '_valid'}.txt")
    settings = gather({"batch_size": 6, "size": 32, keyword: value}, recipe=recipe)
    one_epoch = replace(settings, train=replace(settings.train, epochs=1))
    assert run(one_epoch, watch=Unwatched(), link=None).epochs == 1
    # Twenty gigabytes of checkpoints, in all.
    shutil.rmtree("runs")


def test_what_recipes_cannot_use_is_refused_before_anything_is_written(
    lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lists)
    for settings, message in [
        ({"model": "resnet8()"}, "no weights fit SmallResNet"),
        ({"loss": "TripletMarginLoss()"}, "with --set train.method=steps"),
    ]:
        with pytest.raises(PtkitError, match=message):
            prepare(
                gather({**settings, "size": 40}, recipe="photos"), Unwatched(), is_resumed=False
            )


def test_lbfgs_beside_rates_by_layer_is_refused_by_its_name(
    lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lists)
    settings = gather({"optimizer": "LBFGS()"}, recipe="finetune")
    with pytest.raises(UsageError, match=r"^LBFGS takes no .*layer_decay=none\)\n +LBFGS\(\)"):
        prepare(settings, Unwatched(), is_resumed=False)


def test_a_rate_goes_with_its_optimizer_and_stays_with_other_arguments_of_the_same() -> None:
    assert gather({"optimizer": "AdamW()"}, recipe="speed").optimizer.lr is None
    assert gather({"optimizer": "Muon()"}, recipe="speed").optimizer.lr == 0.24
    assert gather({"optimizer": "AdamW()", "lr": 0.1}, recipe="speed").optimizer.lr == 0.1
    assert gather({"optimizer": "Muon(lr=0.1)"}, recipe="speed").optimizer.lr is None


@pytest.mark.parametrize(
    ("before", "given", "rate", "schedule"),
    [
        (
            {"optimizer.lr": 0.2},
            {"scheduler": "OneCycleLR(max_lr=0.5)"},
            None,
            "OneCycleLR(max_lr=0.5)",
        ),
        ({"optimizer.lr": 0.2}, {"scheduler": "OneCycleLR()"}, 0.2, "OneCycleLR()"),
        ({"scheduler.call": "OneCycleLR(max_lr=0.5)"}, {"lr": 0.1}, 0.1, "OneCycleLR()"),
        (
            {"scheduler.call": "OneCycleLR(pct_start=0.2, max_lr=[0.5, 1])"},
            {"optimizer": "SGD(lr=0.1)"},
            None,
            "OneCycleLR(pct_start=0.2)",
        ),
        (
            {"scheduler.call": "OneCycleLR(0.5, pct_start=0.2)"},
            {"lr": 0.1},
            0.1,
            "OneCycleLR(pct_start=0.2)",
        ),
        ({"scheduler.call": "OneCycleLR(0.5, 60)"}, {"lr": 0.1}, 0.1, "OneCycleLR(total_steps=60)"),
        (
            {"scheduler.call": "OneCycleLR(max_lr=[0.1, 0.5] , pct_start=0.2)"},
            {"lr": 0.1},
            0.1,
            "OneCycleLR(pct_start=0.2)",
        ),
        # Another optimizer has another rate.
        (
            {"optimizer.call": "SGD()", "scheduler.call": "OneCycleLR(max_lr=0.5)"},
            {"optimizer": "Adam()"},
            None,
            "OneCycleLR()",
        ),
        # What a run wrote down.
        (
            {"optimizer.lr": 0.5, "scheduler.call": "OneCycleLR(max_lr=0.5)"},
            {"epochs": 9},
            0.5,
            "OneCycleLR(max_lr=0.5)",
        ),
    ],
)
def test_a_rate_in_a_schedule_and_one_beside_it_replace_each_other(
    before: dict[str, Any], given: dict[str, Any], rate: float | None, schedule: str
) -> None:
    base: dict[str, dict[str, Any]] = {}
    for name, value in before.items():
        section, _, key = name.partition(".")
        base.setdefault(section, {})[key] = value
    settings = gather(given, base=base)
    assert (settings.optimizer.lr, settings.scheduler.call) == (rate, schedule)


def test_a_rate_given_twice_in_one_breath_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the rate is given twice: OneCycleLR\(0.5\) has max_lr"):
        gather({"lr": 0.1, "scheduler": "OneCycleLR(0.5)"})
    with pytest.raises(UsageError, match=r"max_lr, and SGD\(momentum=0.9, lr=0.1\) has lr: leave"):
        gather({"optimizer": "SGD(momentum=0.9, lr=0.1)", "scheduler": "OneCycleLR(0.5)"})
    assert gather({"lr": "none", "scheduler": "OneCycleLR(0.5)"}).optimizer.lr is None
    for wrong in ({"lr": "fast", "scheduler": "OneCycleLR(0.5)"}, {"lr": 0.1, "scheduler": 5}):
        with pytest.raises(UsageError, match="must be"):
            gather(wrong)


def test_the_scale_of_a_rate_goes_with_it_and_not_to_a_max_lr() -> None:
    scaled = {"optimizer": {"lr": 0.1, "lr_per": 256}}
    assert gather({"scheduler": "OneCycleLR(max_lr=0.5)"}, base=scaled).optimizer.lr_per is None
    ran = {"optimizer": {"lr": 0.5}, "scheduler": {"call": "OneCycleLR(max_lr=0.5)"},
           "train": {"batch_size": 64}}  # fmt: skip
    assert gather({"batch_size": "auto"}, base=ran).optimizer.lr_per is None


@pytest.mark.parametrize(
    ("sections", "rate"),
    [
        ({"optimizer": {"lr": 0.1}}, 0.01),
        ({"optimizer": {"call": "SGD(lr=0.1)"}}, 0.01),
        ({"scheduler": {"call": "OneCycleLR(max_lr=0.3)"}}, 0.03),
        ({}, None),
        # From scratch a layer may stay as it is, too.
        ({"optimizer": {"lr": 0.1, "groups": ["conv1: frozen"]}}, 0.01),
        ({"optimizer": {"lr": 0.1, "groups": ["unfreeze*: weight_decay=0"]}}, 0.01),
        # What is wrong may be replaced.
        ({"optimizer": {"call": "SGD(lr='0.1')"}}, None),
    ],
)
def test_a_rate_from_scratch_is_a_tenth_for_trained_weights(
    sections: dict[str, Any], rate: float | None
) -> None:
    assert finetuning_rate(resolve(sections | {"model": {"call": "resnet8()"}})) == rate
    assert finetuning_rate(resolve(sections)) is None
    assert finetuning_rate(resolve(sections | {"model": {"weights": "resnet18"}})) is None


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"lr": 0.1, "head_lr": 10.0}},
        {"optimizer": {"lr": 0.1, "layer_decay": 0.75}},
        {"optimizer": {"lr": 0.1, "groups": ["layer1.*: unfreeze=2"]}},
        {"optimizer": {"lr": 0.1}, "train": {"method": "probe-steps"}},
    ],
)
def test_a_recipe_for_trained_weights_keeps_its_rate(sections: dict[str, Any]) -> None:
    assert finetuning_rate(resolve(sections | {"model": {"call": "resnet8()"}})) is None


def test_recipes_have_a_tenth_of_their_rate_for_trained_weights_if_they_are_from_scratch() -> None:
    found = {name: finetuning_rate(resolve(read_recipe(name))) for name in recipe_names()}
    assert found == {
        "course": 0.0001,
        "finetune": None,
        "photos": None,
        "photos-scratch": 0.0001,
        "small-images": 0.01,
        "speed": 0.024,
        "speed-gpu": 0.024,
    }


def test_groups_and_names_of_layers_go_with_their_model() -> None:
    assert gather({"model": "resnet8"}, recipe="speed").optimizer.groups == ()
    wider = gather({"model": "whitenet(widths=[64, 256, 256])"}, recipe="speed")
    assert wider.optimizer.groups == gather({}, recipe="speed").optimizer.groups
    assert gather({"model": "resnet8"}, recipe="course").model.init == ("tutorial",)


@pytest.mark.parametrize("augment", ["auto", "none", "safe", "natural"])
def test_a_ready_list_replaces_the_transforms_of_a_recipe(augment: str) -> None:
    data = gather({"augment": augment}, recipe="speed").data
    assert (data.augment, data.transforms, data.eval_transforms) == (augment, (), ())


def test_own_transforms_replace_those_of_a_recipe_and_what_evaluation_has_of_them() -> None:
    data = gather({"transforms": ["RandomCrop(32)"]}, recipe="speed").data
    assert (data.transforms, data.eval_transforms) == (("RandomCrop(32)",), ())


def test_the_crops_of_a_recipe_have_the_size_that_is_given() -> None:
    assert gather({"size": 64}, recipe="photos-scratch").data.transforms == (
        "RandomResizedCrop(64, scale=(0.25, 1))",
        "RandomHorizontalFlip()",
        "ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)",
    )
    assert gather({"size": 48}, recipe="speed").data.eval_transforms == (
        "Resize((48, 48))",
        "WithHorizontalFlip()",
    )
    assert gather({"size": 48}, recipe="speed-gpu").data.eval_transforms == (
        "Resize((48, 48))",
        "Pad(1, padding_mode='reflect')",
        "TenCrop(48)",
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("resnet18(stem='small')", "resnet18()"),
        ("lenet(size=32, in_channels=1)", "lenet(in_channels=1)"),
        ("maxvit_t(mlp_dropout=0.1, input_size=(32, 32))", "maxvit_t(mlp_dropout=0.1,)"),
        ("own.py:net(size=32)", "own.py:net(size=32)"),
    ],
)
def test_what_a_model_has_of_the_size_goes_with_it(
    tmp_path: Path, call: str, expected: str
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[data]\nsize = 32\n[model]\ncall = "{call}"\n')
    assert gather({"size": 64}, recipe=str(recipe)).model.call == expected
    assert gather({"size": 32}, recipe=str(recipe)).model.call == call


def test_a_schedule_is_stepped_as_it_is_itself_not_as_the_one_before() -> None:
    assert gather({"scheduler": "StepLR(step_size=1)"}, recipe="speed").scheduler.per == "auto"


def test_values_of_a_users_own_recipe_go_too_and_those_beside_no_other_stay(
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "[data]\nsize = 32\naugment = 'natural'\n"
        "[loss]\ncall = 'TripletMarginLoss()'\nembedding = 8\n"
        "[model]\ncall = 'lenet'\ninit = ['tutorial', 'fc3=constant_(0.3)']\n"
        "[optimizer]\ncall = 'SGD(lr=0.3, momentum=0.5)'\n"
    )
    given = {"transforms": ["RandomApply([RandomCrop(20)])"], "lr": 0.1, "model": "resnet8"}
    found = gather({**given, "loss": "CrossEntropyLoss()"}, recipe=str(recipe))
    assert found.data.augment == "auto"
    assert found.loss.embedding is None
    assert found.model.init == ("tutorial",)
    assert found.optimizer == replace(found.optimizer, call="SGD(momentum=0.5)", lr=0.1)
    recipe.write_text("[optimizer]\nlr = 0.3\n[scheduler]\nper = 'epoch'\n")
    plain = gather({"optimizer": "AdamW()", "scheduler": "StepLR(2)"}, recipe=str(recipe))
    assert (plain.optimizer.lr, plain.scheduler.per) == (0.3, "epoch")


def test_a_file_of_settings_is_a_layer_like_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[data]\nsize = 32\ntransforms = ['RandomApply([RandomCrop(size=32)])']\n")
    assert gather({"size": 48}, config=file).data.transforms == (
        "RandomApply([RandomCrop(size=48)])",
    )
    file.write_text(
        "[data]\nsize = 32\ntransforms = ['RandomCrop((32, 32), 32)', 'f.py:MyCrop(32)']"
    )
    assert gather({"size": 48}, config=file).data.transforms == (
        "RandomCrop((48, 48), 32)",
        "f.py:MyCrop(32)",
    )
    assert gather({"augment": "safe"}, config=file).data.transforms == ()
