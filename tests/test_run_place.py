"""The folder of a new run is one run's alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.errors import StorageError, UsageError
from ptkit.core.training.run_place import Place


@pytest.mark.parametrize("name", [None, "one"])
def test_of_many_that_ask_at_once_each_folder_goes_to_one(tmp_path, name):
    def ask(_number):
        try:
            return Place(tmp_path / "runs", name).folder()
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(40)))
    folders = [folder for folder in found if isinstance(folder, Path)]
    assert len(folders) == len(set(folders)) == (40 if name is None else 1)
    taken = {text for text in found if isinstance(text, str)}
    assert taken == (
        set()
        if name is None
        else {f"the run {folders[0]} exists: choose another --name, or --resume {folders[0]}"}
    )


def test_a_name_that_no_disk_takes_is_refused():
    result = CliRunner().invoke(app, ["train", "data", "--name", "n" * 300])
    assert (result.exit_code, result.stderr) == (
        2,
        "ptkit: --name is longer than 255 bytes: choose a shorter one\n",
    )


def test_a_folder_of_runs_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StorageError, match=r"cannot list the folder .*runs: Permission denied"):
        Place(tmp_path / "runs").folder()


@pytest.mark.parametrize("method", ["iterdir", "exists"])
def test_a_folder_of_runs_that_cannot_be_looked_into_is_an_error_of_the_disk(
    tmp_path, monkeypatch, method
):
    def refuse(_path, **_more):
        raise PermissionError(13, "Permission denied")

    place = Place(tmp_path, None if method == "iterdir" else "one")
    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(StorageError, match=r"cannot list the folder .*: Permission denied"):
        place.folder()
