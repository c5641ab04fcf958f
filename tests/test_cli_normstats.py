import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ptkit.commands.app import app


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with train.txt of one black 2×2 image and one white 4×3 image; the working
    directory.
    """
    Image.new("RGB", (2, 2)).save(tmp_path / "black.png")
    Image.new("RGB", (3, 4), "white").save(tmp_path / "white.png")
    (tmp_path / "train.txt").write_text("black.png 0\nwhite.png 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def normstats(here):
    """A function that runs the command in that folder."""
    return lambda *arguments: CliRunner().invoke(app, ["normstats", *arguments])


def test_normstats_prints_what_a_script_needs_and_saves_it(normstats, here):
    done = normstats("train.txt")
    assert (done.exit_code, done.stderr) == (0, "")
    # 12 of 16 pixels are white: mean 3/4, standard deviation the root of 3/16.
    assert (
        done.stdout == "normMean = [0.750000, 0.750000, 0.750000]\n"
        "normStd  = [0.433013, 0.433013, 0.433013]\n"
        "Normalize(mean=[0.750000, 0.750000, 0.750000], std=[0.433013, 0.433013, 0.433013])\n"
        "2 images, own sizes; saved in normstats.json\n"
    )
    saved = json.loads((here / "normstats.json").read_text())
    assert saved.keys() == {"mean", "std", "num_images", "size", "list_sha256", "alpha"}
    np.testing.assert_allclose(saved["std"], [np.sqrt(3) / 4] * 3, rtol=0, atol=1e-12)


def test_normstats_at_a_size_gives_every_image_the_same_weight(normstats):
    done = normstats("train.txt", "--size", "8")
    assert done.stdout.splitlines()[0] == "normMean = [0.500000, 0.500000, 0.500000]"
    assert "2 images, 8×8" in done.stdout


def test_normstats_json_is_one_object_and_nothing_else(normstats):
    done = normstats("train.txt", "--json")
    values = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    assert values == {
        "mean": [0.75] * 3,
        "std": pytest.approx([np.sqrt(3) / 4] * 3, abs=1e-12),
        "num_images": 2,
        "size": None,
        "odd": {},
        "file": "normstats.json",
    }


def test_normstats_quiet_says_nothing(normstats, here):
    assert normstats("train.txt", "--quiet").output == ""
    assert (here / "normstats.json").exists()


def test_normstats_of_a_sample_depends_on_the_seed_alone(normstats):
    def samples():
        seeds = [["--seed", str(seed)] for seed in range(9)]
        return [
            json.loads(normstats("train.txt", "--json", "--num", "1", *seed).stdout)
            for seed in seeds
        ]

    first = samples()
    assert first == samples()
    assert {values["mean"][0] for values in first} == {0.0, 1.0}
    assert {values["num_images"] for values in first} == {1}


def test_normstats_run_twice_gives_the_same_file(normstats, here):
    normstats("train.txt", "--workers", "1")
    first = (here / "normstats.json").read_bytes()
    normstats("train.txt", "--workers", "3")
    assert (here / "normstats.json").read_bytes() == first


def test_normstats_writes_beside_the_list_or_into_out(normstats, here, monkeypatch):
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert "saved in ../normstats.json" in normstats("../train.txt").stdout
    assert normstats("../train.txt", "--out", "new/folder").exit_code == 0
    assert Path("new/folder/normstats.json").read_bytes() == (here / "normstats.json").read_bytes()


def test_normstats_of_a_missing_list_ends_with_3_and_one_line(normstats):
    done = normstats("nothing.txt")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "ptkit: no nothing.txt here; `ptkit split FOLDER` writes lists\n"


@pytest.mark.parametrize("arguments", [[], ["--size", "8"], ["--json"], ["--quiet"]])
def test_normstats_of_broken_images_ends_with_3_and_names_the_first(normstats, here, arguments):
    (here / "white.png").write_bytes((here / "white.png").read_bytes()[:40])
    done = normstats("train.txt", *arguments)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("ptkit: cannot read white.png: ")
    assert done.stderr.endswith(
        "(1 of 2 images cannot be read); --on-bad skip leaves such images out\n"
    )
    assert not (here / "normstats.json").exists()


def test_normstats_of_a_missing_image_ends_with_3(normstats, here):
    (here / "train.txt").write_text("lost.png 0\n")
    done = normstats("train.txt")
    assert done.exit_code == 3
    assert done.stderr == (
        "ptkit: train.txt, line 1: no image lost.png; if the images are elsewhere, pass --root"
        " DIR\n"
    )


def test_normstats_of_an_empty_list_ends_with_3(normstats, here):
    (here / "train.txt").write_text("\n")
    done = normstats("train.txt")
    assert done.exit_code == 3
    assert done.stderr.startswith("ptkit: train.txt names no images")


def test_normstats_that_cannot_write_ends_with_74(normstats, here):
    (here / "file").write_text("")
    done = normstats("train.txt", "--out", "file")
    assert done.exit_code == 74
    assert done.stderr.startswith("ptkit: cannot write file/normstats.json: ")


@pytest.mark.parametrize(
    "arguments", [["--num", "0"], ["--size", "0"], ["--workers", "-1"], ["--sise", "8"]]
)
def test_normstats_with_wrong_settings_ends_with_2(normstats, arguments):
    assert normstats("train.txt", *arguments).exit_code == 2


# ---------------------------------------------------------------------------------------- whitening


def test_normstats_whiten_saves_the_matrix_and_prints_how_to_use_it(normstats, here):
    done = normstats("train.txt", "--size", "2", "--whiten", "zca")
    assert (done.exit_code, done.stderr) == (0, "")
    # Two images differ in one direction: 12 values of half the range each, so the only eigenvalue
    # is 12/4.
    assert done.stdout.splitlines()[3:] == [
        "2 images, 2×2; saved in normstats.json",
        'LinearTransformation("whitening.npz")',
        (
            "zca of 12 values an image (2×2), 2 images, epsilon 3e-05 (1e-05 of the largest"
            " eigenvalue); saved in whitening.npz"
        ),
        (
            "note: the covariance does not have full rank (fewer images than values: 2; rank 1 of"
            " 12); what these images never show is scaled by 1/sqrt(epsilon)"
        ),
        "ptkit train --size 2 --transform 'LinearTransformation(\"whitening.npz\")'",
    ]
    with np.load(here / "whitening.npz") as saved:
        np.testing.assert_allclose(saved["mean_vector"], [0.5] * 12, rtol=1e-6)
        # Black and white become -1 and 1 along that direction: 1/sqrt(12) in each value.
        np.testing.assert_allclose(
            np.full(12, 0.5) @ saved["transformation_matrix"], 12**-0.5, rtol=1e-4
        )


def test_normstats_whiten_says_how_to_train_on_the_images_that_were_measured(normstats, here):
    (here / "my list.txt").write_text((here / "train.txt").read_text())
    done = normstats("my list.txt", "--size", "2", "--whiten", "zca", "--root", ".")
    command = done.stdout.splitlines()[-1]
    assert command.startswith("ptkit train --train 'my list.txt' --root . --size 2 --transform")


def test_normstats_whiten_leaves_mean_and_deviation_as_they_are(normstats):
    plain = json.loads(normstats("train.txt", "--size", "3", "--json").stdout)
    whitened = json.loads(normstats("train.txt", "--size", "3", "--json", "--whiten", "pca").stdout)
    assert whitened == plain | {"whitening": "whitening.npz", "kind": "pca", "num_dimensions": 27}


@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
def test_normstats_whiten_of_a_sample_takes_the_images_that_are_measured(normstats, here, seed):
    measured = json.loads(normstats("train.txt", "--num", "1", "--seed", seed, "--json").stdout)
    other = {0.0: "white", 1.0: "black"}[measured["mean"][0]]
    (here / f"{other}.png").unlink()
    done = normstats("train.txt", "--num", "1", "--seed", seed, "--whiten", "zca")
    assert done.exit_code == 3
    assert (
        done.stderr == "ptkit: all images of train.txt are the same: there is nothing to whiten\n"
    )


def test_normstats_whiten_of_images_that_are_not_square_does_not_say_train(normstats, here):
    Image.new("RGB", (3, 4), "red").save(here / "red.png")
    (here / "train.txt").write_text("red.png 0\nwhite.png 1\n")
    done = normstats("train.txt", "--whiten", "pca")
    assert "pca of 36 values an image (4×3), 2 images, " in done.stdout
    assert "ptkit train" not in done.stdout


def test_normstats_whiten_writes_into_out_and_names_that_file(normstats, here):
    done = normstats("train.txt", "--size", "2", "--whiten", "zca", "--out", "new folder")
    assert "--transform 'LinearTransformation(\"new folder/whitening.npz\")'" in done.stdout
    assert (here / "new folder" / "whitening.npz").is_file()
    assert not (here / "whitening.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--whiten", "zcb"], "--whiten must be one of zca, pca, found 'zcb'; did you mean zca?"),
        (
            ["--whiten", "zca"],
            (
                "the images of train.txt differ in size (2×2 and 4×3): pass --size, the one of"
                " training"
            ),
        ),
        (
            ["--whiten", "zca", "--size", "224"],
            "whitening 224×224 images takes matrices of 150,528×150,528, ",
        ),
    ],
)
def test_normstats_that_cannot_whiten_ends_with_2_and_writes_nothing(
    normstats, here, arguments, message
):
    done = normstats("train.txt", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ptkit: {message}")
    assert done.stderr.count("\n") == 1
    assert sorted(here.glob("*.npz")) + sorted(here.glob("*.json")) == []


def broken_ones(here):
    """Add two images to the list that cannot be read, and return their names."""
    names = ["empty.png", "text.jpg"]
    (here / "empty.png").touch()
    (here / "text.jpg").write_text("hello, I am text")
    with (here / "train.txt").open("a") as lines:
        lines.writelines(f"{name} 1\n" for name in names)
    return names


@pytest.mark.parametrize("whiten", [[], ["--whiten", "zca", "--size", "2"]])
def test_normstats_goes_on_past_bad_images_and_names_all_of_them(normstats, here, whiten):
    alone = json.loads(normstats("train.txt", "--json", *whiten).stdout)
    names = broken_ones(here)
    done = normstats("train.txt", "--json", "--on-bad", "skip", *whiten)
    found = json.loads(done.stdout)
    reasons = [line.strip() for line in done.stderr.splitlines()]
    assert (done.exit_code, reasons[0]) == (3, "ptkit: 2 images left out:")
    assert [reason.split(":")[0] for reason in reasons[1:]] == [f"cannot read {n}" for n in names]
    assert found == alone | {"skipped": reasons[1:]}
    assert json.loads((here / "normstats.json").read_text())["num_images"] == 2


def test_normstats_of_bad_images_alone_is_an_error(normstats, here):
    (here / "train.txt").write_text("")
    broken_ones(here)
    done = normstats("train.txt", "--on-bad", "skip")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.endswith("(2 of 2 images cannot be read)\n")
