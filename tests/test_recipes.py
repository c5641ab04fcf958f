"""Recipes: every one is a set of settings that can be, and flags win over it."""

import json
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.cli import app
from ptkit.core.config_layers import read_recipe, recipe_names, recipe_text, resolve
from ptkit.core.errors import UsageError


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_holds_settings_that_exist_and_says_what_it_is_for(name: str) -> None:
    resolve(read_recipe(name))
    assert recipe_text(name).startswith("# ")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no recipe is called curse; did you mean course\?"):
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


def test_a_recipe_of_ones_own_is_a_toml_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("[train]\nepochs = 7\n")
    assert resolve(read_recipe("mine.toml")).train.epochs == 7
