import json
import tomllib

import pytest
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config.layers import recipe_names, recipe_text, resolve, to_toml
from ptkit.core.config.settings import FIELDS, Settings
from ptkit.core.errors import UsageError

jsonschema = pytest.importorskip("jsonschema")

# A setting, and values that it may have or not.
VALUES = [
    ("train.epochs", [1, 0, 1.5, "1", True, "none"]),
    ("train.batch_size", [64, "auto", "none", "large", 0]),
    ("train.compile", [True, "auto", "yes"]),
    ("train.save_every", [1, "200s", "10m", 0, "0s", "often", "10m or so"]),
    ("train.seed", [0, -1, 2**63 - 1, 2**63]),
    ("data.augment", ["safe", "none", "strong"]),
    ("data.train", ["a.txt", "", 1]),
    ("data.size", [32, "none", 0, "32"]),
    ("data.mean", [[0.1, 0.2, 0.3], 0.5, 1, "0.1,0.2,0.3", "none", [2.0], ["a"], "red"]),
    ("data.transforms", [["RandomCrop(32)"], "RandomCrop(32)", "none", [1]]),
    ("optimizer.lr", [0.1, 1, 0, 0.0, "fast"]),
    ("optimizer.call", ["SGD()", "net.py:Mine", 3]),
    ("log.wandb", [True, "true", 1]),
]


@pytest.fixture(scope="module")
def check():
    printed = CliRunner().invoke(app, ["list", "settings", "--json-schema"]).stdout
    schema = json.loads(printed)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_fits(check, name):
    check.validate(tomllib.loads(recipe_text(name)))


def test_the_settings_that_a_run_stores_fit(check, tmp_path):
    given = {"data": {"size": 32, "mean": [0.5]}, "train": {"save_every": "200s", "compile": True}}
    for settings in (Settings(), resolve(given)):
        check.validate(tomllib.loads(to_toml(settings, folder=tmp_path)))


def test_what_no_setting_is_called_does_not_fit(check):
    assert not check.is_valid({"train": {"epoch": 3}})
    assert not check.is_valid({"trian": {}})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VALUES for value in values]
)
def test_a_value_fits_if_the_settings_take_it(check, name, value):
    section, _, key = name.partition(".")
    layer = {section: {key: value}}
    try:
        resolve(layer)
    except UsageError:
        is_taken = False
    else:
        is_taken = True
    assert check.is_valid(layer) == is_taken


def test_every_setting_says_what_it_means_and_its_default(check):
    for section, fields in FIELDS.items():
        for key, field in fields.items():
            found = check.schema["properties"][section]["properties"][key]
            assert found["description"].startswith(field.metadata["meaning"])
            wanted = list(field.default) if isinstance(field.default, tuple) else field.default
            assert found.get("default") == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "--json-schema"], "--json-schema works only with `ptkit list settings`"),
        (["settings", "data.*", "--json-schema"], "leave data.* out"),
        (["settings", "trane.*"], "no name is like trane.*"),
    ],
)
def test_what_list_settings_refuses(arguments, said):
    result = CliRunner().invoke(app, ["list", *arguments])
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_list_settings_names_default_flag_and_meaning():
    printed = CliRunner().invoke(app, ["list", "settings", "train.ep*"]).stdout
    assert printed == "train.epochs = 15  (--epochs)\n    Passes over the training images.\n"
