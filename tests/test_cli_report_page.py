"""A run's page in a real browser."""

import re

import pytest
from browser import PROGRAM, Browser
from tiny_report import write_run
from typer.testing import CliRunner

from ptkit.commands.app import app

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

SHOWN = "[...document.querySelectorAll('#images-shown figure')].filter(f => f.offsetParent)"
CELLS = f"{SHOWN}.map(f => f.dataset.cell).join(' ')"
HEADING = "document.getElementById('shown').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder runs/ of two runs, each with its page, and with the page of both."""
    folder = tmp_path_factory.mktemp("pages")
    write_run(folder)
    other = write_run(folder / "other", is_done=False)
    other.rename(folder / "runs" / "2")
    # Relative to the run.
    (folder / "runs/data").symlink_to(folder / "data")
    for place in ("1", "2", ""):
        done = CliRunner().invoke(app, ["report", str(folder / "runs" / place), "--quiet"])
        assert done.exit_code == 0, done.output
    return folder / "runs"


@pytest.mark.parametrize("name", ["1/report.html", "2/report.html", "report.html"])
def test_a_page_loads_without_a_word_in_the_console(browser, pages, name):
    browser.open(pages / name)
    assert browser.run("document.querySelector('h1').textContent") != ""
    assert browser.problems == []
    # Every picture is one that the browser can show.
    assert browser.run("[...document.images].filter(i => !i.hidden && i.complete && "
                       "!i.naturalWidth).length") == 0  # fmt: skip


def test_the_policy_of_a_page_runs_no_other_script(browser, pages):
    browser.open(pages / "1/report.html")
    browser.run("document.body.append(Object.assign(document.createElement('script'), "
                "{textContent: 'window.isBroken = true'}))")  # fmt: skip
    assert browser.run("window.isBroken") is None
    assert "Content Security Policy" in "".join(browser.problems)


def test_a_click_on_a_cell_shows_its_images_and_a_second_one_the_worst(browser, pages):
    browser.open(pages / "1/report.html")
    assert browser.run(CELLS) == "0-1 1-0 0-1 1-0"
    browser.run("document.querySelector('.matrix [data-cell=\"1-1\"]').click()")
    assert browser.run(CELLS) == "1-1 1-1 1-1 1-1"
    assert browser.run(HEADING) == 'bees", right: 4 images'
    browser.run("document.querySelector('.pairs [data-cell=\"0-1\"]').click()")
    assert browser.run(CELLS) == "0-1 0-1"
    assert browser.run(HEADING) == '<b>ants taken for bees": 2 images'
    browser.run("document.querySelector('.matrix [data-cell=\"0-1\"]').click()")
    assert browser.run(CELLS) == "0-1 1-0 0-1 1-0"
    assert browser.run(HEADING) == "Worst mistakes"


def test_cells_are_reached_by_the_keyboard(browser, pages):
    browser.open(pages / "1/report.html")
    browser.run("document.querySelector('.matrix [data-cell=\"0-0\"]').focus()")
    browser.key("Tab")
    browser.key("Enter")
    assert browser.run(CELLS) == "0-1 0-1"
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize("name", ["1/report.html", "report.html"])
def test_a_phone_scrolls_no_page_sideways(browser, pages, name):
    browser.open(pages / name, width=360)
    assert browser.run("document.documentElement.scrollWidth") == 360
    assert browser.run("Math.min(...[...document.querySelectorAll('p')].map("
                       "p => parseFloat(getComputedStyle(p).fontSize)))") >= 12.8  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_cells_has_contrast(browser, pages, scheme):
    browser.open(pages / "1/report.html", scheme=scheme)
    colors = browser.run("[...document.querySelectorAll('.matrix td')].map(c => "
                         "[getComputedStyle(c.firstElementChild ?? c).color, "
                         "getComputedStyle(c).backgroundColor])")  # fmt: skip
    page = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(page) < 0.1) == (scheme == "dark")
    shaded = [(text, ground) for text, ground in colors if "0, 0, 0, 0" not in ground]
    assert len(shaded) == 4
    assert min(contrast(text, ground) for text, ground in shaded) >= 4.5


def test_print_is_light_and_has_pages(browser, pages):
    browser.open(pages / "1/report.html", scheme="dark")
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.printed().startswith(b"%PDF")


def test_a_click_on_a_heading_sorts_the_table_both_ways(browser, pages):
    browser.open(pages / "report.html")
    names = "[...document.querySelectorAll('tbody th')].map(h => h.textContent).join(' ')"
    head = "document.querySelectorAll('thead th')[0]"
    orders = []
    for _ in range(2):
        browser.run(f"{head}.querySelector('button').click()")
        orders.append((browser.run(f"{head}.getAttribute('aria-sort')"), browser.run(names)))
    assert orders == [("descending", "2 1"), ("ascending", "1 2")]


def luminance(color):
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first, second):
    """Return the contrast ratio of two colours."""
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)
