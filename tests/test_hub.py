"""Sets of the Hugging Face Hub: parquet files, folders and what is said where there is no Hub."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_hub
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from ptkit.commands.app import app

datasets = pytest.importorskip("datasets", exc_type=ImportError)
import pyarrow.parquet  # noqa: E402
from datasets import (  # noqa: E402
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    disable_progress_bars,
)

NAMES = ["cat", "dog/wolf"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    disable_progress_bars()
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def encoded(number: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def rows(count: int, labels: list[object] | None = None, kind: object = None, **more: object):
    """A set of one colour each, with the columns image and label, and others."""
    columns = {
        "image": [{"bytes": encoded(k), "path": f"photo{k}.jpg"} for k in range(count)],
        "label": labels or [k % 2 for k in range(count)],
        **{name: values for name, (values, _) in more.items()},
    }
    features = {"image": Image(), "label": kind or ClassLabel(names=NAMES)}
    return Dataset.from_dict(
        columns, features=Features(features | {name: kind for name, (_, kind) in more.items()})
    )


def write_parquet(folder: str, **parts: Dataset) -> None:
    Path(folder, "data").mkdir(parents=True)
    for name, data in parts.items():
        data.to_parquet(f"{folder}/data/{name}-00000-of-00001.parquet")


def found_in(folder: str) -> list[str]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_parquet_files_become_class_folders_with_their_bytes() -> None:
    write_parquet("mine", train=rows(4), validation=rows(6).select([4, 5]))
    result = ptkit("data", "hf:me/animals", "--from", "mine")
    assert result.exit_code == 0
    assert "6 images of 2 classes in animals (train 4, validation 2)" in result.stdout
    assert found_in("animals") == [
        "train/cat/photo0.jpg",
        "train/cat/photo2.jpg",
        "train/dog_wolf/photo1.jpg",
        "train/dog_wolf/photo3.jpg",
        "validation/cat/photo4.jpg",
        "validation/dog_wolf/photo5.jpg",
    ]
    assert Path("animals/train/cat/photo2.jpg").read_bytes() == encoded(2)
    # No copy in the library's own format, no cache.
    assert sorted(os.listdir()) == ["animals", "mine"]
    split = ptkit("split", "animals", "--allow-missing")
    assert (split.exit_code, len(Path("valid.txt").read_text().splitlines())) == (0, 2)


def test_one_file_and_a_saved_set_serve_too() -> None:
    rows(3).to_parquet("animals.parquet")
    DatasetDict(train=rows(3), unsupervised=rows(2)).save_to_disk("saved")
    assert ptkit("data", "hf:animals", "--from", "animals.parquet", "--out", "a").exit_code == 0
    result = ptkit("data", "hf:animals", "--from", "saved", "--out", "b")
    assert "left out: the splits unsupervised\n" in result.stdout
    result = ptkit("data", "hf:animals", "--from", "saved", "--out", "c", "--json")
    assert json.loads(result.stdout)["notes"] == ["left out: the splits unsupervised"]
    # A file alone has no parts.
    assert [f"train/{name}" for name in found_in("a")] == found_in("b")


def test_text_is_a_class_and_images_without_one_are_left_out() -> None:
    words = ["red", None, "blue", "red"]
    write_parquet(
        "mine", train=rows(4, words, Value("string")), test=rows(1, [None], Value("string"))
    )
    result = ptkit("data", "hf:animals", "--from", "mine")
    assert "left out: 1 image of train without a class\nleft out: 1 image of test" in result.stdout
    assert found_in("animals") == ["train/blue/photo2.jpg", "train/red/photo0.jpg",
                                   "train/red/photo3.jpg"]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "image", "message"),
    [
        (7, encoded(1), "class 7, and there are 2"),
        (1, None, "gone.jpg"),
    ],
)
def test_rows_that_make_no_sense_are_refused(label: int, image: bytes | None, message: str) -> None:
    plain = {"bytes": Value("binary"), "path": Value("string")}
    data = Dataset.from_dict(
        {"image": [{"bytes": image, "path": "gone.jpg"}], "label": [label]},
        features=Features({"image": plain, "label": Value("int64")}),
    )
    table = data.data.table.replace_schema_metadata(rows(1).features.arrow_schema.metadata)
    pyarrow.parquet.write_table(table, "odd.parquet")
    result = ptkit("data", "hf:animals", "--from", "odd.parquet")
    assert (result.exit_code, message in result.stderr) == (3, True), result.stderr
    assert os.listdir() == ["odd.parquet"]


def test_of_several_classes_per_image_one_is_chosen() -> None:
    coarse = ClassLabel(names=["animal", "plant"])
    fine = rows(2).rename_column("label", "fine").add_column("coarse", [1, 0])
    write_parquet("mine", train=fine.cast_column("coarse", coarse))
    result = ptkit("data", "hf:things", "--from", "mine")
    assert (result.exit_code, os.listdir()) == (2, ["mine"])
    assert (
        "several classes per image (fine, coarse): choose one with --label-column" in result.stderr
    )
    assert ptkit("data", "hf:things", "--from", "mine", "--label-column", "cours").exit_code == 2
    result = ptkit("data", "hf:things", "--from", "mine", "--label-column", "coarse")
    assert found_in("things") == ["train/animal/photo1.jpg", "train/plant/photo0.jpg"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("text.parquet", "text.parquet is not a data set that can be read"),
        ("note.txt", "not a .parq"),
    ],
)
def test_files_that_are_no_set_are_refused(source: str, message: str) -> None:
    Path(source).write_text("hello")
    result = ptkit("data", "hf:things", "--from", source)
    assert (result.exit_code, os.listdir()) == (3, [source])
    assert message in result.stderr


def test_without_a_hub_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_hub.serving({}) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        unknown = ptkit("data", "hf:me/nothing")
    assert unknown.exit_code == 2
    assert "the Hugging Face Hub has no data set me/nothing: see https://huggingf" in unknown.stderr
    # Nobody listens there any more.
    result = ptkit("data", "hf:me/nothing")
    assert (result.exit_code, os.listdir(), result.stderr.count("\n")) == (74, [], 1)
    assert "cannot download hf:me/nothing (" in result.stderr
    assert "by hand and pass --from FOLDER" in result.stderr


def test_a_library_that_would_run_code_of_a_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "2.18.0")
    result = ptkit("data", "hf:me/nothing")
    assert (result.exit_code, os.listdir()) == (2, [])
    assert "from version 4 on, which runs no code of a set; found 2.18.0" in result.stderr


def test_without_a_network_on_purpose_the_hub_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: rows(3))
    result = ptkit("data", "hf:me/some")
    assert result.exit_code == 0, result.stderr
    assert "licence: see https://huggingface.co/datasets/me/some" in result.stdout
