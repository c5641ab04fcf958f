import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from ptkit.commands.app import app


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with one.png and two.png, noise of 20×20 pixels, as the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(f"{name}.png")
    return tmp_path


def viz_transforms(*arguments):
    return CliRunner().invoke(app, ["viz-transforms", *map(str, arguments)])


def table(folder="ptkit-viz-transforms"):
    return list(csv.DictReader(Path(folder, "transforms.csv").read_text().splitlines()))


def test_each_image_has_a_sheet_of_what_training_would_do(here):
    done = viz_transforms("one.png", "two.png", "--num-images", 3)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "step                       changed   size",
        "Resize((20, 20))            0 of 2  20×20",
        "RandomCrop(20, padding=2)   6 of 6  20×20",
        "2 pictures in ptkit-viz-transforms (tensorboard --logdir ptkit-viz-transforms)",
    ]
    written = sorted(path.name for path in (here / "ptkit-viz-transforms").glob("[!.e]*"))
    assert written == ["transforms-one.png", "transforms-two.png", "transforms.csv"]


def test_table_has_a_line_for_every_draw():
    viz_transforms(
        "one.png",
        "--transform",
        "RandomVerticalFlip(1.0)",
        "--transform",
        "FiveCrop(10)",
        "--num-images",
        2,
    )
    rows = table()
    places = [
        (row["step"], row["call"], row["draw"], row["crop"], row["height"], row["is_changed"])
        for row in rows
    ]
    assert places[:4] == [
        ("1", "Resize((20, 20))", "1", "1", "20", "False"),
        ("2", "RandomVerticalFlip(1.0)", "1", "1", "20", "True"),
        ("2", "RandomVerticalFlip(1.0)", "2", "1", "20", "True"),
        ("3", "FiveCrop(10)", "1", "1", "10", "True"),
    ]
    assert places[-1] == ("4", "all", "2", "5", "10", "True")
    pixels = np.asarray(Image.open("one.png")).astype(int)
    assert float(rows[1]["mean_change"]) == pytest.approx(np.abs(pixels - pixels[::-1]).mean())
    assert rows[3]["mean_change"] == ""


def test_pictures_of_files_with_one_name_stand_beside_each_other_in_tensorboard_too(here):
    (here / "more").mkdir()
    (here / "two.png").rename("more/one.png")
    viz_transforms("one.png", "more/one.png", "--num-images", 1)
    events = EventAccumulator("ptkit-viz-transforms", {"images": 0}).Reload()
    assert events.Tags()["images"] == ["transforms/one", "transforms/one-2"]


def test_draws_that_are_all_the_same_are_drawn_once():
    sizes = []
    for num_draws in (2, 20):
        viz_transforms(
            "one.png", "--transform", "RandomVerticalFlip(1.0)", "--num-images", num_draws
        )
        sizes.append(np.asarray(Image.open("ptkit-viz-transforms/transforms-one.png")).shape)
    assert sizes[0] == sizes[1]


def test_same_seed_gives_the_same_picture_and_another_another():
    pictures = []
    for seed in (1, 1, 2):
        viz_transforms("one.png", "--seed", seed, "--num-images", 2, "--quiet")
        pictures.append(np.asarray(Image.open("ptkit-viz-transforms/transforms-one.png"))[:-40])
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_settings_come_from_the_config_and_flags_win_over_it(here):
    (here / "run.toml").write_text(
        '[data]\nsize = 12\ntransforms = ["RandomErasing()"]\n[train]\nseed = 4\n'
    )
    found = json.loads(
        viz_transforms("one.png", "--config", "run.toml", "--json", "--num-images", 1).stdout
    )
    assert found["transforms"] == ["Resize((12, 12))", "ToTensor()", "RandomErasing()"]
    assert [Path(file).name for file in found["files"][:2]] == [
        "transforms-one.png",
        "transforms.csv",
    ]
    flags = ["--size", 8, "--transform", "Pad(1)", "--mean", "0.5,0.5,0.5", "--std", "0.1,0.1,0.1"]
    changed = json.loads(viz_transforms("one.png", "--config", "run.toml", "--json", *flags).stdout)
    assert changed["transforms"] == [
        "Resize((8, 8))",
        "Pad(1)",
        "ToTensor()",
        "Normalize(mean=[0.5, 0.5, 0.5], std=[0.1, 0.1, 0.1])",
    ]


def test_mixing_needs_a_second_image():
    done = viz_transforms("one.png", "--transform", "MixUp()", "--num-images", 1)
    assert done.exit_code == 0
    assert (
        "MixUp() is left out: it mixes images with each other, name a second one\n" in done.stdout
    )
    assert {row["call"] for row in table()} == {"Resize((20, 20))", "all"}
    assert (
        "left out"
        not in viz_transforms(
            "one.png", "two.png", "--transform", "MixUp()", "--num-images", 1
        ).stdout
    )
    assert {row["call"] for row in table()} == {"Resize((20, 20))", "MixUp()", "all"}


def test_quiet_says_nothing_and_out_chooses_the_folder(here):
    assert viz_transforms("one.png", "--quiet", "--out", "sheets", "--num-images", 1).output == ""
    assert (here / "sheets" / "transforms-one.png").is_file()
    assert not (here / "ptkit-viz-transforms").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no images: name image files, folders or list files"),
        (["three.png"], 3, "cannot read three.png"),
        (
            ["one.png", "--transform", "RandomCorp(8)"],
            2,
            "no transform is called RandomCorp; did you mean RandomCrop?",
        ),
        (["one.png", "--transform", "RandomCrop(50)"], 2, "RandomCrop"),
        (["one.png", "--transform", "Pad(1)", "--augment", "safe"], 2, "leave --augment out"),
        (
            ["one.png", "--augment", "all"],
            2,
            "--augment must be one of auto, none, safe, natural",
        ),
        (
            ["one.png", "--mean", "0.5,0.5,0.5"],
            2,
            "mean and std go together, three numbers each",
        ),
        (["one.png", "--mean", "red", "--std", "1,1,1"], 2, "data.mean"),
        (["one.png", "--config", "no.toml"], 2, "cannot read no.toml"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(here, arguments, code, message):
    done = viz_transforms(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.startswith("ptkit: ")
    assert not (here / "ptkit-viz-transforms").exists()


def test_a_folder_is_taken_whole_and_of_a_large_one_some_images(here, monkeypatch):
    folder = Path("many")
    folder.mkdir()
    for k in range(5):
        Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    monkeypatch.setattr("ptkit.commands.viz_transforms.MAX_SHEETS", 3)
    result = viz_transforms("many", "--num-images", 1)
    assert result.exit_code == 0, result.stderr
    assert "3 of 5 images, spread over all" in result.stdout
    assert {row["image"] for row in table()} == {"many/0.png", "many/2.png", "many/4.png"}
