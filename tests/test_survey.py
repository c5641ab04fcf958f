"""The look at all files before a run that decodes them as they are needed."""

import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import make_lists, write_list
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data import images as decoder
from ptkit.core.data.formats import can_read
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading import survey as survey_module
from ptkit.core.data.loading.decoding import decode_all, decode_each
from ptkit.core.data.loading.keeping import decode_to_disk, key_of, open_kept
from ptkit.core.data.loading.survey import survey
from ptkit.core.data.statistics import measure
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
FIRST = "with several frames (the first is used)"


def encoded(kind, image=PICTURE, *, several=False):
    # Copies: saving leaves settings of one format in an image.
    more = {"save_all": True, "append_images": [image.rotate(180)]} if several else {}
    file = io.BytesIO()
    image.copy().save(file, kind, **more)
    return file.getvalue()


ODD = {
    "a.jpg": (encoded("PNG"), ["in another format than the name says"]),
    "b.gif": (encoded("GIF", several=True), [f"GIF, {FIRST}"]),
    "c.webp": (encoded("WEBP", several=True), [f"WebP, {FIRST}"]),
    "d.png": (encoded("PNG", several=True), [f"PNG, {FIRST}"]),
    "e.jpg": (encoded("MPO", several=True), [f"MPO, {FIRST}"]),
    "f.tif": (encoded("TIFF", several=True), ["TIFF"]),
    "g.png": (encoded("PNG", Image.new("RGB", (1, 1))), ["of 1×1 pixels"]),
    "m.png": (encoded("PNG", Image.new("RGB", (1, 100))), ["20 times as long as wide, or more"]),
    "n.jpg": (encoded("JPEG", Image.new("RGB", (19, 1))), []),
    "h.jpg": (encoded("JPEG"), []),
    "i.jpg": (encoded("JPEG") + b"what a camera adds", []),
    "j.bmp": (encoded("BMP"), []),
    "k.gif": (encoded("GIF"), []),
}
if can_read("AVIF"):
    ODD["l.avif"] = (encoded("AVIF"), ["AVIF"])
KINDS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def surveyed(contents):
    for name, data in contents.items():
        Path(name).write_bytes(data)
    write_list(Path("list.txt"), [(name, 0) for name in contents])
    return survey(read_list(Path("list.txt")), lambda _count: None)


COUNTS = Counter(kind for _, kinds in ODD.values() for kind in kinds)


@pytest.fixture
def odd(here, monkeypatch):
    monkeypatch.setenv("PTKIT_CACHE", str(here / "cache"))
    for name, (data, _) in ODD.items():
        Path(name).write_bytes(data)
    write_list(Path("list.txt"), [(name, 0) for name in ODD])
    return read_list(Path("list.txt"))


def test_unusual_images_are_counted(odd):
    found = survey(odd, lambda _count: None)
    assert (found.odd, found.bad) == (COUNTS, ())


@pytest.mark.parametrize("prefix", ["Resize((8, 8))", ""], ids=["one size", "own sizes"])
def test_every_pass_counts_the_same(odd, prefix):
    pipeline = Pipeline.parse([*filter(None, [prefix]), "ToTensor()"])
    key = key_of(odd, pipeline)
    passes = [
        decode_all(odd, pipeline), decode_each(odd), measure(odd),
        decode_to_disk(odd, pipeline, key=key), open_kept(odd, key=key),
    ]  # fmt: skip
    assert [found.odd for found in passes] == [COUNTS] * 5


def test_a_run_and_the_statistics_say_what_they_used(lists):
    odd = Path(Path("train.txt").read_text().split()[0])
    odd.write_bytes(encoded("JPEG", PICTURE.resize((16, 16))))
    said = "used: 1 in another format than the name says\n"
    counts = {"in another format than the name says": 1}
    kept = [*STREAMING[:5], "--set", "log.pictures=false", "--set", "log.tensorboard=false"]
    for arguments in (kept, ["normstats", "train.txt"]):
        result = CliRunner().invoke(app, arguments)
        assert said in result.stdout, result.output
        told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
        assert told["odd"] == counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_decoding_refuses_the_survey_refuses_too_with_the_same_words(kind, here):
    whole = encoded(kind)
    contents = {
        f"{length}.{kind.lower()}": whole[:length]
        for length in {0, 1, 8, 20, 30, len(whole) // 2, len(whole) - 3, len(whole) - 1, len(whole)}
    }
    expected = []
    found = surveyed(contents)
    for index, name in enumerate(contents):
        try:
            decoder.read(name)
        except DataError as error:
            expected.append((index, str(error)))
    assert found.bad == tuple(expected)


@pytest.fixture
def lists(here, monkeypatch):
    monkeypatch.setenv("PTKIT_CACHE", str(here / "cache"))
    return make_lists(here, train=12, valid=6, test=3)


# Photographs of one epoch are decoded as they are needed.
STREAMING = [
    *("train", "--epochs", "1", "--model", "resnet8", "--size", "16"),
    *("--transform", "RandomResizedCrop(16)"),
    *("--set", "log.pictures=false", "--set", "log.tensorboard=false"),
]


def test_a_damaged_file_is_found_before_there_is_a_run(lists):
    bad = Path(Path("train.txt").read_text().split()[6])
    bad.write_bytes(bad.read_bytes()[:-60])
    result = CliRunner().invoke(app, [*STREAMING, "--set", "data.mean=0.5,0.5,0.5",
                                      "--set", "data.std=0.5,0.5,0.5"])  # fmt: skip
    assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1), result.output
    assert f"cannot read {bad}" in result.stderr
    assert not Path("runs").exists()


def test_the_second_run_only_asks_for_sizes_and_times(lists, monkeypatch):
    odd = Path(Path("train.txt").read_text().split()[0])
    odd.write_bytes(encoded("JPEG", PICTURE.resize((16, 16))))
    for cache in ("off", "auto"):
        result = CliRunner().invoke(app, [*STREAMING, "--set", f"data.cache={cache}"])
        assert result.exit_code == 0, result.output
        assert "; used: 1 in another format than the name says" in result.stdout
        # Only what the user lets ptkit keep.
        assert Path("cache").exists() == (cache == "auto")
    looked = []
    monkeypatch.setattr(survey_module, "_look", lambda path: looked.append(path) or [])
    again = CliRunner().invoke(app, STREAMING)
    assert "; used: 1 in another format than the name says" in again.stdout
    assert looked == []
    os.utime(odd, (1, 1))
    CliRunner().invoke(app, STREAMING)
    assert len(looked) == 12
    assert "survey" in CliRunner().invoke(app, ["cache"]).stdout
