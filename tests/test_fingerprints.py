"""Training images are recognised by their bytes, however a run kept them."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import make_lists, write_list
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data import fingerprints as module
from ptkit.core.data.fingerprints import fingerprints, hash_files
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import InterruptedRunError
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint
from ptkit.core.models.locate import read_weights
from ptkit.core.parts.calls import parse_all
from ptkit.core.training.observers import Watcher

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUICK = {"tensorboard": False, "pictures": False, "log_layers": False, "model": "lenet",
         "batch_size": 16, "epochs": 1}  # fmt: skip
GOLDEN, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def by_hand(data):
    """Follow the docstring of `fingerprints` word by word."""
    keys = [int(key) for key in module._keys()]
    last = len(data) // 8 if len(data) > 8 * 4096 else None
    words = [int.from_bytes(data[k : k + 8], "little") for k in range(0, len(data), 8)]
    words = [word ^ (word >> 29) for word in words]
    total = sum(word * key for word, key in zip(words, keys, strict=False))
    if last is not None:
        whole, rest = words[:last], int.from_bytes(data[8 * last :], "little")
        total = 0
        for k in range(0, last, 4096):
            total *= GOLDEN
            total += sum(w * key for w, key in zip(whole[k : k + 4096], keys, strict=False))
        total = total * GOLDEN + rest
    number = (total + len(data) * GOLDEN) & MASK
    return number - (1 << 64) if number >> 63 else number


LENGTHS = [1, 7, 8, 9, 300, 32_767, 32_768, 32_769, 32_776, 65_537, 200_003]


def test_a_fingerprint_is_what_its_docstring_says_alone_or_among_others():
    contents = [random.Random(length).randbytes(length) for length in LENGTHS]
    expected = [by_hand(content) for content in contents]
    assert fingerprints(contents).tolist() == expected
    assert [int(fingerprints([content])[0]) for content in contents] == expected
    assert len(set(expected)) == len(expected)


def test_files_that_are_nearly_equal_differ():
    contents = [bytes(length) for length in range(1, 100)]
    contents += [bytes(k) + b"\1" + bytes(49_999 - k) for k in range(0, 50_000, 777)]
    assert len(set(fingerprints(contents).tolist())) == len(contents)


def test_what_was_not_read_has_none():
    assert fingerprints([b"", None, OSError()]).tolist() == [0, 0, 0]
    assert fingerprints([]).tolist() == []


def test_files_are_read_where_no_pass_has_read_them(here):
    images = read_list(Path("train.txt"))
    contents = [Path(images.image_path(k)).read_bytes() for k in range(len(images))]
    Path(images.image_path(3)).unlink()
    expected = [0 if k == 3 else by_hand(content) for k, content in enumerate(contents)]
    assert hash_files(images, np.arange(len(images))).tolist() == expected


def expected_hashes(list_file="train.txt"):
    images = read_list(Path(list_file))
    return [by_hand(Path(images.image_path(k)).read_bytes()) for k in range(len(images))]


def image_hashes(checkpoint):
    return read_checkpoint(Path(checkpoint))["data"]["image_hashes"].tolist()


WAYS = {
    "in memory": {"cache": "ram"},
    "in memory, of several sizes": {"cache": "ram", "transforms": ["RandomCrop(16)"], "size": 16},
    "on disk": {"cache": "disk"},
    "as they are needed": {"cache": "off"},
    "as they are needed, one thread": {"cache": "off", "workers": 1},
    "by a sampler that leaves some out": {"cache": "off", "sampler": "balanced"},
    "without a last batch": {"cache": "off", "batch_size": 20, "drop_last": True},
    "in worker processes": {"cache": "off", "transforms": ["AugMix()"], "workers": 2},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_checkpoint_has_the_hash_of_each_training_image_however_they_are_kept(here, way):
    result = ptkit.train(**QUICK | way)
    assert image_hashes(result.checkpoint) == expected_hashes()
    assert image_hashes(result.run / "last.pkl") == expected_hashes()


def test_worker_processes_hash_what_they_read(here, monkeypatch):
    images = read_list(Path("train.txt"))
    pipeline = Pipeline.of(parse_all(["AugMix()", "ToTensor()"]))
    batches = Batches(images, pipeline, Sampling(16), workers=2)
    list(batches.epoch())
    batches.close()
    monkeypatch.setattr(module, "_content", None)  # nothing is left to read
    assert batches.image_hashes().tolist() == expected_hashes()


def test_an_entry_on_disk_keeps_them(here, monkeypatch):
    ptkit.train(**QUICK, cache="disk")
    monkeypatch.setattr(module, "_content", None)  # no file is read again
    again = ptkit.train(**QUICK, cache="disk")
    assert image_hashes(again.checkpoint) == expected_hashes()


def test_damaged_hashes_make_an_entry_anew(here):
    ptkit.train(**QUICK, cache="disk")
    for file in Path("cache").glob("*/hashes.bin"):
        file.write_bytes(b"short")
    again = ptkit.train(**QUICK, cache="disk")
    assert image_hashes(again.checkpoint) == expected_hashes()


@pytest.mark.slow
def test_images_that_were_left_out_have_none(here):
    images = read_list(Path("train.txt"))
    expected = expected_hashes()
    Path(images.image_path(5)).write_bytes(b"")
    del expected[5]
    for cache in ("ram", "disk", "off"):
        result = ptkit.train(**QUICK, cache=cache, on_bad="skip")
        assert image_hashes(result.checkpoint) == expected


class StopAfterFirst(Watcher):
    def epoch(self, result, *, is_best):
        raise InterruptedRunError("stop", signal_number=2)


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_a_resumed_run_has_them_too(here, cache):
    settings = QUICK | {"epochs": 2, "cache": cache}
    with pytest.raises(InterruptedRunError):
        ptkit.train(**settings, watch=StopAfterFirst())
    result = ptkit.train(resume="runs/1")
    assert image_hashes(result.run / "last.pkl") == expected_hashes()


def test_they_can_be_left_out(here):
    result = ptkit.train(**QUICK, remember_images=False)
    assert "image_hashes" not in read_checkpoint(result.checkpoint)["data"]


def test_above_a_limit_they_are_left_out(here, monkeypatch):
    monkeypatch.setattr("ptkit.core.training.states._MOST_REMEMBERED", 47)
    result = ptkit.train(**QUICK)
    assert "image_hashes" not in read_checkpoint(result.checkpoint)["data"]


@pytest.mark.slow
def test_finetuned_weights_remember_what_they_saw_before_also_after_resuming(here):
    first = ptkit.train(**QUICK)
    # The other way round: what was tested is trained on.
    Path("mine.txt").write_text(Path("test.txt").read_text())
    settings = QUICK | {"train": "mine.txt", "batch_size": 5, "epochs": 2}
    with pytest.raises(InterruptedRunError):
        ptkit.finetune(first.checkpoint, **settings, watch=StopAfterFirst())
    result = ptkit.train(resume="runs/2")
    found = image_hashes(result.run / "last.pkl")
    assert found[:15] == expected_hashes("test.txt")
    assert found[15:] == sorted(expected_hashes())
    assert ptkit.evaluate(result.run, "train.txt").num_trained_on == 48


class Warnings(Watcher):
    def __init__(self):
        self.texts = []

    def warn(self, text):
        self.texts.append(text)


def test_finetuning_warns_of_validation_images_that_the_weights_were_trained_on(here):
    first = ptkit.train(**QUICK)
    old = Path("train.txt").read_text().splitlines(keepends=True)
    Path("new.txt").write_text("".join(old[6:]))
    Path("held.txt").write_text(Path("valid.txt").read_text() + "".join(old[:6]))
    watch = Warnings()
    ptkit.finetune(first.checkpoint, **QUICK, train="new.txt", valid="held.txt", watch=watch)
    assert watch.texts == [
        "6 of these 27 images were trained on before, by the weights that this run started from:"
        " its validation accuracy is inflated"
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and mixed.txt of the test images and copies of nine training images."""
    folder = make_lists(tmp_path_factory.mktemp("mixed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ptkit.train(**QUICK)
        write_mixed()
    return folder


def write_mixed():
    rows = [line.rsplit(" ", 1) for line in Path("test.txt").read_text().splitlines()]
    for number, line in enumerate(Path("train.txt").read_text().splitlines()[:9]):
        path, label = line.rsplit(" ", 1)
        Path(f"copy{number}.png").write_bytes(Path(path).read_bytes())
        rows.insert(2 * number, (f"copy{number}.png", label))
    write_list(Path("mixed.txt"), rows)


@pytest.fixture
def mixed(folder, monkeypatch):
    """The checkpoint, in the folder of the lists."""
    monkeypatch.chdir(folder)
    return Path("runs/1/ckpt.pkl")


def test_confmat_counts_them_and_gives_the_accuracy_without_them(mixed):
    found, honest = ptkit.evaluate(mixed, "mixed.txt"), ptkit.evaluate(mixed, "test.txt")
    assert (found.num_trained_on, honest.num_trained_on) == (9, 0)
    assert found.unseen.accuracy == honest.accuracy
    assert np.array_equal(found.unseen.matrix, honest.matrix)
    assert np.flatnonzero(found.trained_on).tolist() == list(range(0, 18, 2))
    assert found.as_dict()["num_trained_on"] == 9
    assert found.as_dict()["accuracy_without_trained_on"] == honest.accuracy


def test_they_are_counted_right_where_a_bad_image_is_left_out(folder, mixed, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "own"))
    Path("copy0.png").write_bytes(b"")
    found, honest = (
        ptkit.evaluate(mixed, "mixed.txt", on_bad="skip"),
        ptkit.evaluate(mixed, "test.txt"),
    )
    assert np.flatnonzero(found.trained_on).tolist() == list(range(1, 17, 2))
    assert np.array_equal(found.unseen.matrix, honest.matrix)
    rows = ptkit.predict(mixed, "mixed.txt").rows
    assert "error" in rows[0]
    assert [row["path"] for row in rows if row.get("trained_on")] == [
        f"copy{number}.png" for number in range(1, 9)
    ]


def test_predict_marks_them(mixed):
    rows = ptkit.predict(mixed, "mixed.txt").rows
    assert [row["path"] for row in rows if row.get("trained_on")] == [
        f"copy{number}.png" for number in range(9)
    ]


def test_of_a_list_of_training_images_nothing_is_left(mixed):
    found = ptkit.evaluate(mixed, "train.txt").as_dict()
    assert (found["num_trained_on"], found["accuracy_without_trained_on"]) == (48, None)


def test_a_checkpoint_from_before_says_nothing(mixed):
    contents = read_checkpoint(mixed)
    del contents["data"]["image_hashes"]
    stamp = ("format", "format_version", "ptkit_version")
    save_checkpoint(Path("old.pkl"), {k: v for k, v in contents.items() if k not in stamp})
    found = ptkit.evaluate("old.pkl", "mixed.txt").as_dict()
    assert (found["num_trained_on"], found["accuracy_without_trained_on"]) == (None, None)
    assert read_weights(Path("old.pkl")).image_hashes is None


def test_hashes_of_another_kind_are_not_believed(mixed):
    contents = read_checkpoint(mixed)
    contents["data"]["image_hashes"] = torch.zeros(3)
    stamp = ("format", "format_version", "ptkit_version")
    save_checkpoint(Path("odd.pkl"), {k: v for k, v in contents.items() if k not in stamp})
    assert read_weights(Path("odd.pkl")).image_hashes is None


def printed(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0
    return result.stdout


def test_confmat_and_predict_say_so_in_words(mixed):
    said = printed("confmat", str(mixed), "mixed.txt")
    honest = printed("confmat", str(mixed), "test.txt").splitlines()[0]
    assert f"\n9 of these 24 images were trained on; without them: {honest}; macro F1" in said
    assert printed("predict", str(mixed), "mixed.txt").endswith(
        "\n9 of these 24 images were trained on\n"
    )
    assert "; no other is left to test it on\n" in printed("confmat", str(mixed), "train.txt")


def test_nothing_is_said_where_no_image_was_trained_on(mixed):
    assert "trained on" not in printed("confmat", str(mixed), "test.txt")
    assert "trained on" not in printed("predict", str(mixed), "test.txt")
