"""scripts/walk.py on a made-up package: what it follows, what it counts, what it does not find."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "walk.py"
FILES = {
    "cli.py": """
from ptkit.work import run

def main():
    run(Settings())

def other():
    unrelated()
""",
    "config.py": """
class Section:
    rate: float

class Settings:
    section: Section
""",
    "work.py": """
from ptkit.config import Settings
from ptkit.parts import Engine, TABLE, build

def run(settings: Settings) -> None:
    engine = build(settings.section)
    engine.turn()
    finish(settings, "text")
    TABLE["first"](1)

def finish(options: Settings, text: str) -> None:
    text.strip()
    print(options.section)
""",
    "parts.py": """
from ptkit.config import Section
from ptkit.deep import first, save
from ptkit import deep

class Engine:
    def __init__(self, part: Section) -> None:
        self.part = part

    def turn(self) -> None:
        map(self.sound, [save])

    def sound(self, value: int) -> None: ...

class Loud(Engine):
    def sound(self, value: int) -> None:
        deep.shout()

def build(part: Section) -> "Engine | None":
    return Engine(part)

TABLE = {"first": first}
""",
    "deep.py": """
from __future__ import annotations

def save(path): ...
def first(number): ...
def shout(): ...
""",
    "unused.py": "import ptkit.deep\n",
}


@pytest.fixture(scope="module")
def walk():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    (folder / "ptkit").mkdir()
    for name, text in FILES.items():
        (folder / "ptkit" / name).write_text(text)
    return folder


@pytest.fixture
def package(walk, root):
    return walk["read_package"](root)


def passed(walk, package, stations):
    files, missing = walk["walk"](package, stations)
    return {module.removeprefix("ptkit."): names for module, names in files.items()}, missing


def test_calls_are_followed_by_imports_annotations_and_tables(walk, package):
    files, missing = passed(walk, package, "main run Engine.turn deep.save deep.first")
    assert files == {
        "cli": ["main"],
        "work": ["run"],
        "parts": ["Engine.turn", "TABLE"],
        "deep": ["save", "first"],
    }
    assert missing == []


def test_only_the_files_on_the_shortest_chains_count(walk, package):
    assert passed(walk, package, "run build") == ({"work": ["run"], "parts": ["build"]}, [])


def test_a_method_leads_to_what_overrides_it(walk, package):
    assert passed(walk, package, "Engine.turn shout")[0] == {
        "parts": ["Engine.turn", "Engine.sound", "Loud.sound"],
        "deep": ["shout"],
    }


def test_what_is_not_there_or_not_called_is_reported(walk, package):
    assert passed(walk, package, "main gone other") == ({"cli": ["main"]}, ["gone", "other"])
    assert passed(walk, package, "main old_name|run")[1] == []


def test_an_ambiguous_station_is_refused(walk, package):
    with pytest.raises(SystemExit, match=r"ambiguous: ptkit.parts.Engine.sound"):
        walk["walk"](package, "main sound")


def test_settings_are_followed_by_type_whatever_they_are_called(walk, package):
    path = walk["handed_on"](package, "ptkit.work.run", "ptkit.config.Settings")
    assert path == ["ptkit.work", "ptkit.parts", "ptkit.work"]
    height = walk["heights"](package)
    assert height["ptkit.work"] > height["ptkit.parts"] > height["ptkit.config"] == 0


def test_the_closure_holds_every_import(walk, package):
    found = walk["closure"](package, "ptkit.cli")
    assert found == {f"ptkit.{name}" for name in ("cli", "work", "config", "parts", "deep")}


@pytest.mark.slow
def test_every_station_of_every_walk_is_passed():
    printed = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "not found" not in printed
    assert [line.split(":")[0] for line in printed.splitlines()][:4] == [
        "train",
        "image",
        "confmat",
        "loss",
    ]
