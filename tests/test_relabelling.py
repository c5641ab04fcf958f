"""Labels that were corrected, and the suspects that a run finds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import make_lists, write_list
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config.settings import DataSettings
from ptkit.core.errors import DataError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.training.setup_lists import read_lists
from ptkit.looking.label_review import draw_review, review_labels, write_relabelling
from ptkit.plots.saving import PictureFolder

RUN = CliRunner()
QUICK = ["--set", "log.pictures=false", "--set", "log.tensorboard=false"]

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def first_lines(file: str, count: int) -> list[list[str]]:
    return [line.rsplit(" ", 1) for line in Path(file).read_text().splitlines()[:count]]


def test_corrected_labels_are_those_of_both_lists(lists):
    before = read_lists(DataSettings())
    rows = [first_lines(name, 1)[0] for name in ("train.txt", "valid.txt")]
    changed = [(path, 1 - int(label)) for path, label in rows]
    # From another folder, by another name of the same path.
    Path("own").mkdir()
    Path("own/relabel.txt").write_text("".join(f"../{path} {k}\n" for path, k in changed))
    after = read_lists(DataSettings(relabel="own/relabel.txt"))
    for old, new, (_, label) in zip(before, after, changed, strict=True):
        assert new.labels[0] == label
        assert np.array_equal(new.labels[1:], old.labels[1:])
        assert (old.num_relabelled, new.num_relabelled) == (0, 1)
        # A run with these labels is not resumed without them.
        assert new.sha256 != old.sha256


def test_a_list_that_corrects_nothing_changes_nothing(lists):
    path, label = first_lines("train.txt", 1)[0]
    Path("same.txt").write_text(f"{path} {label}\n")
    before, after = (read_lists(DataSettings(relabel=name)) for name in (None, "same.txt"))
    assert [images.sha256 for images in after] == [images.sha256 for images in before]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("none.png 0", "which is not in train.txt nor in valid.txt"),
        ("{path} 7", "label 7 is beyond the last class"),
        ("{path}", "no label"),
    ],
)
def test_corrections_of_what_is_not_there_are_refused(lists, line, reason):
    path, _ = first_lines("train.txt", 1)[0]
    Path("relabel.txt").write_text(line.format(path=path) + "\n")
    result = RUN.invoke(app, ["train", "--relabel", "relabel.txt"])
    assert (result.exit_code, reason in result.stderr) == (3, True), result.stderr
    assert not Path("runs").exists()


def test_a_run_says_how_many_labels_it_changed_and_is_not_resumed_without_them(lists):
    path, label = first_lines("train.txt", 1)[0]
    Path("relabel.txt").write_text(f"{path} {1 - int(label)}\n")
    flags = ["--relabel", "relabel.txt", "--epochs", "1", "--name", "own", *QUICK]
    result = RUN.invoke(app, ["train", *flags])
    assert "with another class by relabel.txt: 1" in result.stdout, result.stderr
    Path("relabel.txt").write_text(f"{path} {label}\n")
    result = RUN.invoke(app, ["train", "--resume", "runs/own", "--epochs", "2"])
    assert (result.exit_code, "is not the list" in result.stderr) == (3, True)


def _train_on_noise(*, bad=()):
    """Train runs/wrong on 40 images, dark or light, of which the first has a wrong label and some
    cannot be read; return its path and its true label.
    """
    rng, rows = np.random.default_rng(0), []
    for number in range(48):
        pixels = rng.integers(0, 90, (12, 12, 3)) + 150 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(f"{number}.png")
        rows.append((f"{number}.png", number % 2))
    for number in bad:
        Path(f"{number}.png").write_bytes(b"")
    path, label = rows[0]
    write_list(Path("train.txt"), [(path, 1 - label), *rows[1:40]])
    write_list(Path("valid.txt"), rows[40:])
    flags = ["--name", "wrong", "--epochs", "4", "--batch-size", "8", *QUICK]
    flags += ["--set", "data.on_bad=skip"] if bad else []
    assert RUN.invoke(app, ["train", *flags]).exit_code == 0
    return path, label


def test_a_wrong_label_is_among_the_first_suspects_and_applied_when_it_is_left_in_the_list(lists):
    path, label = _train_on_noise()
    review = review_labels(Path("runs/wrong"))
    assert review.as_rows()[0][0] == path
    assert review.suggested[0] == label
    assert (np.diff(review.margins) >= 0).all()
    with PictureFolder(Path("seen"), command="check") as pictures:
        draw_review(review, pictures)
    assert write_relabelling(review, Path("seen/relabel.txt"))
    # Edited by the user: never written again.
    first = Path("seen/relabel.txt").read_text().splitlines()[0]
    Path("seen/relabel.txt").write_text(first + "\n")
    assert not write_relabelling(review, Path("seen/relabel.txt"))
    train, _ = read_lists(DataSettings(relabel="seen/relabel.txt"))
    assert train.labels[0] == label


def test_a_run_without_margins_or_with_another_list_is_refused(lists):
    assert RUN.invoke(app, ["train", "--name", "a", "--epochs", "1", *QUICK]).exit_code == 0
    Path("train.txt").write_text(Path("train.txt").read_text() + "\n")
    with pytest.raises(DataError, match="is not the list"):
        review_labels(Path("runs/a"))
    checkpoint = read_checkpoint(Path("runs/a"))
    del checkpoint["data"]["list_sha256"]
    save_checkpoint(Path("runs/a/ckpt.pkl"), checkpoint)
    with pytest.raises(DataError, match="does not say which list it was trained with"):
        review_labels(Path("runs/a"))
    with pytest.raises(DataError, match="runs/b does not exist"):
        review_labels(Path("runs/b"))
    Path("runs/a/margins.npz").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="is damaged"):
        review_labels(Path("runs/a"))
    Path("runs/a/margins.npz").unlink()
    with pytest.raises(DataError, match=r"has no margins\.npz"):
        review_labels(Path("runs/a"))


def test_images_that_training_skipped_or_that_were_moved_do_not_keep_a_run_from_review(lists):
    _train_on_noise(bad=(3, 41))
    assert len(review_labels(Path("runs/wrong")).images) == 39
    review = review_labels(Path("runs/wrong"))
    assert review.as_rows()[0][0] == "0.png"
    Path("moved").mkdir()
    for file in Path().glob("*.png"):
        file.rename(Path("moved") / file.name)
    result = RUN.invoke(app, ["check", "--run", "runs/wrong", "--root", "moved", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["suspects"][0]["path"] == "0.png"
    # Of an earlier version, which did not say which images it had.
    arrays = dict(np.load("runs/wrong/margins.npz"))
    assert arrays.pop("rows").tolist() == [0, 1, 2, *range(4, 40)]
    np.savez("runs/wrong/margins.npz", **arrays)
    with pytest.raises(DataError, match="an earlier version did not record which"):
        review_labels(Path("runs/wrong"), root=Path("moved"))


def test_corrected_labels_keep_the_statistics_of_the_images(lists):
    assert RUN.invoke(app, ["normstats", "train.txt"]).exit_code == 0
    path, label = first_lines("train.txt", 1)[0]
    Path("relabel.txt").write_text(f"{path} {1 - int(label)}\n")
    flags = ["--relabel", "relabel.txt", "--epochs", "1", *QUICK]
    assert "normalised with normstats.json" in RUN.invoke(app, ["train", *flags]).stdout


def test_a_weak_run_and_a_class_that_would_vanish_are_told(lists):
    _train_on_noise()
    review = review_labels(Path("runs/wrong"))
    assert review.doubts == []
    every = np.arange(40)
    weak = replace(review, rows=every, suggested=np.ones(40, np.int64), num_negative=12)
    assert [doubt.partition(":")[0] for doubt in weak.doubts] == [
        "30% of the images lost their class",
        f"with all suggestions no image would be left of {review.images.class_names[0]}",
    ]
