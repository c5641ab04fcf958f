"""`ptkit report`: a page of its own, whatever names say, and what a click does in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from tiny_data import write_list
from tiny_records import make_run
from typer.testing import CliRunner

from ptkit.cli import app

RUN = CliRunner()
BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
EVIL = '<script>alert("1")</script>\n"x\u202e'
# Tags that have no end.
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Collects the tags of a page, and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of six validation images of two classes, one wrong; a class has an evil name."""
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "runs" / "a")
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(f"{number}.png")
    write_list(Path("valid.txt"), [(f"{number}.png", number % 2) for number in range(6)])
    evil = EVIL.replace('"', '""')
    answers = ["cat", EVIL, "cat", EVIL, "cat", "cat"]
    said = [answer.replace('"', '""') for answer in answers]
    lines = "".join(
        f'{number}.png,"{evil if number % 2 else "cat"}","{said[number]}",1,1\n'
        for number in range(6)
    )
    header = "path,true,predicted,probability,probability_of_true\n"
    (folder / "valid_predictions.csv").write_text(header + lines)
    (folder / "config.toml").write_text(
        (folder / "config.toml").read_text() + '[data]\nvalid = "../../valid.txt"\n'
    )
    return folder


def page_of(*arguments) -> str:
    result = RUN.invoke(app, ["report", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    file = re.search(r'"file": "([^"]+)"', result.stdout)
    assert file is not None
    return Path(file[1]).read_text(encoding="utf-8")


def test_a_page_is_whole_loads_nothing_and_runs_no_name(run):
    page = page_of(run)
    outline = Outline(page)
    assert outline.open == []
    sources = [attrs["src"] for _, attrs in outline.tags if "src" in attrs]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://", page)
    # Its own script alone.
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert "alert(&quot;1&quot;)" in page


def test_a_page_without_images_has_no_path_and_no_picture_of_the_data(run):
    page = page_of(run, "--no-images", "--out", "page.html")
    assert "data:image/jpeg" not in page
    assert not re.search(r"\d\.png", page)
    assert "Confusion matrix" in page


def test_a_run_that_was_killed_has_a_page_that_says_so(run):
    (run / "valid_predictions.csv").unlink()
    page = page_of(run)
    assert "did not reach its end" in page
    assert "Confusion matrix" not in page


def test_runs_are_a_table_of_what_differs(run, tmp_path):
    make_run(tmp_path / "runs" / "b", config="[train]\nepochs = 99\n")
    page = page_of(tmp_path / "runs")
    heads = re.findall(r'<th class="sortable">([^<]+)</th>', page)
    assert heads[:2] == ["run", "epochs"]
    assert "train.epochs" in heads
    assert Outline(page).open == []


def test_a_folder_that_is_no_run_and_has_none_is_refused(tmp_path):
    result = RUN.invoke(app, ["report", str(tmp_path)])
    assert (result.exit_code, "is not a run folder and holds none" in result.stderr) == (2, True)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_click_on_a_cell_shows_its_images_and_the_console_stays_empty(run, tmp_path):
    # In the order of the names, the evil one first: row 0, column 1 is its image taken for a cat.
    click = "<script>document.querySelector('button[data-cell=\"0-1\"]').click()</script></body>"
    page = page_of(run).replace("</body>", click)
    (tmp_path / "clicked.html").write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu",
               "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}",
               "--dump-dom", (tmp_path / "clicked.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    figures = [attrs for tag, attrs in Outline(done.stdout).tags if tag == "figure"]
    images = [attrs for attrs in figures if "data-cell" in attrs]
    assert [attrs["data-cell"] for attrs in images if "hidden" not in attrs] == ["0-1"]
    assert len(images) == 6
