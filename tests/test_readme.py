"""What the README shows is run; what the pages in docs/ show is understood; and where they point to
exists.

Convention: in a ```console block of README.md every line that starts with `$ ` is run by a shell,
in order, in one folder that holds a copy of data/ (fewer classes and images, to be quick). Output
is shown in the ``` block that follows.
The ```python block runs after them in the same folder.
"""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.config import layers
from ptkit.core.parts.calls import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND_LINES = re.findall(
    r"^\$ (.+)$", "".join(re.findall(r"^```console\n(.*?)^```$", README, re.M | re.S)), re.M
)
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
DOC_PYTHON = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.M | re.S
)
DOC_BLOCKS = [
    block
    for page in (ROOT / "docs").glob("*.md")
    for block in re.findall(r"^```\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
]
DOC_LINES = re.findall(r"^(?:\$ )?(ptkit .+)$", "\n".join(DOC_BLOCKS), re.M)
# The page that compares ptkit with other tools has its commands in tables.
DOC_LINES += re.findall(
    r"`(ptkit [^`]+)`", (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
)
FOUR_LINES = [
    "ptkit split data/ --ratio 8:1:1",
    "ptkit normstats train.txt",
    "ptkit train",
    "ptkit viz-weights ckpt.pkl",
]
# The classes that the lines name, and one more; enough images for every part to have some of each.
CLASSES, IMAGES_PER_CLASS = ("1", "3", "7"), 10


def run(line, folder):
    """Run a line of the README in a folder and return what it prints.

    The shell only takes the line apart; the command runs in this process, which spares importing
    torch for each.
    """
    split = subprocess.run(
        f"printf '%s\\0' {line}", shell=True, cwd=folder, stdout=subprocess.PIPE, check=True
    )
    program, *arguments = split.stdout.decode().split("\0")[:-1]
    assert program == "ptkit"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.stdout


def shown_after(line):
    """Return the lines of output that README shows for a command, without `...`."""
    block = re.search(rf"^\$ {re.escape(line)}\n```\n```\n(.*?)^```$", README, re.M | re.S)
    assert block, f"README shows no output of {line}"
    return [shown for shown in block[1].splitlines() if shown != "..."]


@pytest.fixture(scope="module")
def small_clone(tmp_path_factory):
    """A folder with data/, of some classes some images."""
    small = tmp_path_factory.mktemp("readme")
    for name in CLASSES:
        target = small / "data" / name
        target.mkdir(parents=True)
        for image in sorted((ROOT / "data" / name).iterdir())[:IMAGES_PER_CLASS]:
            shutil.copy(image, target)
    return small


def test_the_readme_shows_the_four_lines_first_and_in_order():
    assert COMMAND_LINES[:4] == FOUR_LINES


# What the lines draw is tested elsewhere.
@pytest.mark.usefixtures("blank_pictures")
def test_every_shell_line_and_then_the_python_lines_of_the_readme_run(small_clone, monkeypatch):
    for line in COMMAND_LINES:
        run(line, small_clone)
    monkeypatch.chdir(small_clone)
    for block in PYTHON_BLOCKS:
        exec(compile(block, "README.md", "exec"), {})
    # One after the other, as in a notebook.
    names = {"__name__": "page"}
    for block in DOC_PYTHON:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (small_clone / "ckpt.pkl").exists()


def test_the_readme_shows_what_split_and_normstats_print(tmp_path):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    for line in FOUR_LINES[:2]:
        printed = run(line, tmp_path).splitlines()
        assert [shown for shown in shown_after(line) if shown not in printed] == []


def test_python_in_the_documents_imports_only_what_is_public():
    imports = re.findall(
        r"^ *(?:from|import) +(ptkit[\w.]*)", "\n".join(PYTHON_BLOCKS + DOC_PYTHON), re.M
    )
    assert set(imports) == {"ptkit"}


def test_the_python_of_the_readme_fits_into_five_lines():
    assert [
        block for block in PYTHON_BLOCKS if len([line for line in block.splitlines() if line]) > 5
    ] == []
    assert PYTHON_BLOCKS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.fixture(scope="module")
def commands():
    return get_command(app).commands


@pytest.mark.parametrize("line", DOC_LINES)
def test_every_command_line_in_the_docs_has_flags_and_values_that_ptkit_takes(line, commands):
    program, name, *arguments = shlex.split(line)
    assert program == "ptkit"
    command = commands[name]
    given = command.make_context(name, arguments).params
    assert layers.gather(layers.parse_assignments(given.get("assignments") or ()))
    for key in ("optimizer", "scheduler", "loss", "model"):
        assert given.get(key) is None or parse(given[key])


def test_the_settings_table_in_the_docs_is_that_of_the_code():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert page == runpy.run_path(str(ROOT / "scripts" / "make_settings_table.py"))["with_table"](
        page
    )


FOLDERS = ("ptkit", "tests", "benchmarks", "constraints", "scripts", "data", "docs")


def file_tree():
    """Return the folders of README's tree, each with the lines about it and its files."""
    block = README.partition("## Where things are")[2].split("```\n")[1]
    folders, open_folders = {}, []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        # Files, and lines that continue a text, belong to the innermost folder they are inside.
        while open_folders and open_folders[-1][0] >= indent:
            open_folders.pop()
        name = re.match(r" *(\w+)/", line)
        if name:
            parent = open_folders[-1][1] if open_folders else ROOT
            open_folders.append((indent, parent / name[1]))
            folders[parent / name[1]] = ""
        folders[open_folders[-1][1]] += f"{line}\n"
    return folders


def named_in(text):
    return set(re.findall(r"\b\w+\.(?:py|md|sh)\b", text))


def test_every_folder_is_in_the_file_tree_and_every_folder_of_the_tree_exists():
    existing = {ROOT / name for name in FOLDERS}
    for name in ("ptkit", "tests", "benchmarks", "docs"):
        existing |= {file.parent for file in (ROOT / name).rglob("*.*") if file.is_file()}
    # Old runs are named as a whole, caches are nobody's.
    hidden = {folder for folder in existing if "__pycache__" in folder.parts}
    inside = {folder for folder in existing if ROOT / "tests" / "old_runs" in folder.parents}
    assert set(file_tree()) == existing - hidden - inside


def test_every_file_that_the_tree_names_is_in_that_folder():
    elsewhere = {
        str(folder.relative_to(ROOT)): sorted(absent)
        for folder, text in file_tree().items()
        if (absent := {name for name in named_in(text) if not (folder / name).is_file()})
    }
    # A sentence may name a page by its path.
    assert elsewhere == {"benchmarks": ["speed.md"]}


def test_every_module_is_in_the_tree_unless_its_folder_has_one_file_per_item():
    absent = {
        str(folder.relative_to(ROOT)): sorted(modules - named_in(text))
        for folder, text in file_tree().items()
        if ROOT / "ptkit" in (folder, *folder.parents) and " one file per " not in text
        and (modules := {file.name for file in folder.glob("[!_]*.py")}) - named_in(text)
    }  # fmt: skip
    assert absent == {}


def test_every_public_function_is_in_the_table_of_the_python_page():
    import ptkit

    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    missing = [name for name in ptkit.__all__ if f"`ptkit.{name}(" not in page]
    assert [name for name in missing if name not in ("__version__", "ListDataset")] == []
