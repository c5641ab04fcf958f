import json
import os

import pytest
from test_startup import modules_after
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.loading.entries import EntryWriter
from ptkit.core.data.loading.keeping import decode_to_disk, key_of
from ptkit.core.data.transforms.pipeline import Pipeline


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with the entries of two pipelines and what a killed process left."""
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def entries(folder, noise_images, monkeypatch):
    """The names of two entries, of images of one size and of images of their own sizes."""
    monkeypatch.setattr("time.strftime", lambda _form: "2026-01-02T03:04:05+0000")
    for first in ("Resize((4, 6))", "RandomResizedCrop(4)"):
        pipeline = Pipeline.parse([first, "ToTensor()"])
        decode_to_disk(noise_images, pipeline, key=key_of(noise_images, pipeline))
    return sorted(os.listdir(folder), key=lambda name: os.path.exists(folder / name / "sizes.bin"))


def cache(*arguments):
    return CliRunner().invoke(app, ["cache", *arguments])


def as_json(*arguments):
    return json.loads(cache(*arguments, "--json").stdout)


def test_every_entry_is_listed_with_what_it_holds(entries, folder, noise_list):
    result = cache(*entries)
    one, own = entries
    assert [line.split() for line in result.output.splitlines()[:3]] == [
        ["entry", "images", "size", "bytes", "made", "state", "list"],
        [
            one,
            "23",
            "4×6",
            *_amount(folder / one),
            "2026-01-02",
            "03:04",
            "complete",
            str(noise_list),
        ],
        [
            own,
            "23",
            "own",
            *_amount(folder / own),
            "2026-01-02",
            "03:04",
            "complete",
            str(noise_list),
        ],
    ]
    assert result.output.splitlines()[3].startswith("2 entries, ")
    assert result.output.splitlines()[3].endswith(f"in {folder}")


def test_json_has_every_entry_and_what_was_removed(entries, folder, noise_list):
    one, own = entries
    found = as_json()
    assert (found["folder"], found["removed"]) == (str(folder), [])
    assert {row["name"] for row in found["entries"]} == set(entries)
    row = next(row for row in found["entries"] if row["name"] == one)
    assert (row["list"], row["num_images"], row["size"], row["state"]) == (
        str(noise_list),
        23,
        [4, 6],
        "complete",
    )
    assert row["calls"] == ["Resize((4, 6))"]
    assert as_json("--remove", own) == {"folder": str(folder), "entries": [], "removed": [own]}


def test_remove_takes_the_named_entries_and_no_others(entries, folder):
    one, own = entries
    result = cache("--remove", own)
    assert (result.exit_code, os.listdir(folder)) == (0, [one])
    assert result.output.startswith("1 entry, ")
    assert result.output.endswith(f"removed from {folder}\n")


def test_remove_all_leaves_what_is_not_the_caches_and_what_is_being_built(entries, folder):
    (folder / "notes.txt").write_text("mine")
    with EntryWriter(entries[0], {"list": "train.txt"}) as writer:
        result = as_json("--remove", "all")
        assert sorted(os.listdir(folder)) == sorted(["notes.txt", writer.folder.name])
    assert set(result["removed"]) == set(entries)
    assert [row["state"] for row in result["entries"]] == ["being built"]


def test_an_entry_that_is_being_built_is_not_removed_by_name(entries, folder):
    with EntryWriter(entries[0], {"list": "train.txt"}) as writer:
        result = cache("--remove", writer.folder.name)
        assert writer.folder.exists()
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"ptkit: {writer.folder.name} is being built by a running process: remove it when that"
            " process has ended\n"
        ),
    )


def test_what_a_killed_process_left_is_listed_and_removed(entries, folder):
    left = f".{entries[0]}.0123abcd"
    (folder / entries[0]).rename(folder / left)
    (folder / left / "entry.json").unlink()
    assert cache(left).output.splitlines()[1].split()[-2:] == ["left", "over"]
    assert cache("--remove", left).exit_code == 0
    assert os.listdir(folder) == entries[1:]


def test_an_empty_cache_has_no_entries(folder):
    assert cache().output == f"0 entries, 0 bytes, in {folder}\n"
    assert as_json("--remove", "all") == {"folder": str(folder), "entries": [], "removed": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--remove"],
            "ptkit: --remove needs entry names, or all: ptkit cache --remove all\n",
        ),
        (["--remove", "train-1"], "ptkit: no entry 'train-1'; `ptkit cache` lists them\n"),
        (["../photos"], "ptkit: no entry '../photos'; `ptkit cache` lists them\n"),
    ],
)
def test_wrong_names_are_a_usage_error(entries, folder, arguments, message):
    result = cache(*arguments)
    assert (result.exit_code, result.output) == (2, message)
    assert len(os.listdir(folder)) == 2


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PTKIT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert as_json()["folder"] == str(tmp_path / "elsewhere" / "ptkit")
    # Relative ones do not count.
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    assert as_json()["folder"] == str(tmp_path / ".cache" / "ptkit")
    assert cache().output == "0 entries, 0 bytes, in ~/.cache/ptkit\n"


def test_listing_loads_nothing_heavy(entries, tmp_path):
    assert modules_after("cache", cwd=tmp_path) & {"torch", "numpy", "cv2", "PIL", "rich"} == set()


def _amount(folder):
    total = sum(file.stat().st_size for file in folder.iterdir())
    return [f"{total / 1e3:.1f}", "kB"]
