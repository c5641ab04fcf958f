"""The package as it is given away: what is in it, and that it works where it was installed, away
from the clone.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import ptkit

ROOT = Path(__file__).parent.parent
FOUR_LINES = [
    "ptkit split data/ --ratio 8:1:1",
    "ptkit normstats train.txt",
    "ptkit train",
    "ptkit viz-weights ckpt.pkl",
]
# Enough for every class to have images in each part.
IMAGES_PER_CLASS = 10


def outside(**more):
    """Return an environment in which nothing of the clone is found."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The wheel and the source package, built from a copy of the clone."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml asks for it")
    copy = tmp_path_factory.mktemp("build") / "clone"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", str(copy)],
        check=True,
        capture_output=True,
        cwd=copy.parent,
        env=outside(),
    )
    return sorted((copy / "dist").iterdir())


@pytest.fixture(scope="module")
def installed(packages, tmp_path_factory):
    """The programs of an environment that has the wheel; the libraries are those of the tests."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    wheel = next(file for file in packages if file.suffix == ".whl")
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, env=outside())
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Behind the environment's own: a ptkit among them is not seen.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site.stdout.strip(), "libraries.pth").write_text("\n".join(libraries))
    return place / "bin"


def test_the_description_of_the_package_leads_nowhere_but_to_the_web():
    text = runpy.run_path(str(ROOT / "setup.py"))["description"]()
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if ":" not in link] == []
    assert "![" not in text
    assert all(line in text for line in FOUR_LINES)


def test_python_m_ptkit_says_the_version_that_stands_in_one_place():
    assert '\nversion = "' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ptkit", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == f"ptkit {ptkit.__version__}\n"


def test_what_the_workflows_run_exists_and_their_pythons_are_those_of_the_package():
    folder = ROOT / ".github" / "workflows"
    texts = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yml")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"run: make (\w+)", texts))
    assert targets >= {"check", "package", "site"}
    assert {t for t in targets if not re.search(rf"^{t}:", makefile, re.M)} == set()
    programs = re.findall(r"run: (?:sh )?((?:scripts|\.ci)/\S+)", texts)
    assert [program for program in programs if not (ROOT / program).is_file()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrices = re.findall(r"python: (\[.*\])", texts)
    assert [json.loads(matrix) for matrix in matrices] == [known] * len(matrices) != []


def test_the_container_is_given_what_it_copies():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    given = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in names} <= set(given)
    assert {name for name in names if not (ROOT / name).exists()} == set()


@pytest.mark.slow
def test_the_packages_hold_all_of_ptkit_and_neither_tests_nor_data(packages):
    sources = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "ptkit").rglob("*.*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    source_package, wheel = sorted(packages, key=lambda file: file.suffix)
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    about = f"ptkit-{ptkit.__version__}"
    assert {name for name in in_wheel if not name.startswith(f"{about}.dist-info/")} == sources
    with tarfile.open(source_package) as archive:
        in_source = {name.removeprefix(f"{about}/") for name in archive.getnames()}
    folders = {"ptkit", "ptkit.egg-info"}
    others = {name for name in in_source if name.partition("/")[0] not in folders | {about}}
    assert others == {
        "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml",
        "setup.cfg", "setup.py",
    }  # fmt: skip
    assert sources <= in_source


@pytest.mark.slow
def test_an_index_takes_the_packages_and_shows_their_description(packages):
    pytest.importorskip("twine")
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, packages)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.stdout.count("PASSED") == len(packages) == 2


@pytest.mark.slow
def test_the_four_lines_run_where_the_wheel_is_installed(installed, tmp_path):
    for images in sorted((ROOT / "data").glob("?")):
        (tmp_path / "data" / images.name).mkdir(parents=True)
        for image in sorted(images.iterdir())[:IMAGES_PER_CLASS]:
            shutil.copy(image, tmp_path / "data" / images.name)
    environment = outside(PATH=f"{installed}{os.pathsep}{os.environ['PATH']}")
    where = subprocess.run(
        [installed / "python", "-c", "import ptkit; print(ptkit.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    for line in FOUR_LINES:
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert (done.returncode, done.stderr) == (0, ""), line
    assert (tmp_path / "runs" / "1" / "viz-weights").is_dir()
