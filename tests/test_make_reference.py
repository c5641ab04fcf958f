import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_reference.py"))
PAGES = SCRIPT["pages"]()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_command_has_its_help_and_flags_of_today(name):
    # python scripts/make_reference.py writes them.
    written = (ROOT / "docs" / "commands" / name).read_text(encoding="utf-8")
    assert written == PAGES[name]


def test_the_site_lists_every_page_and_no_other_is_there():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert site == SCRIPT["with_commands"](site)
    assert {file.name for file in (ROOT / "docs" / "commands").glob("*.md")} == PAGES.keys()


def test_every_example_of_the_script_is_of_a_command():
    assert SCRIPT["EXAMPLES"].keys() - SCRIPT["COMMANDS"].keys() == set()


def test_what_looks_like_markup_in_help_stays_text():
    assert SCRIPT["_marked"]("a*b <c> `d*e` --f-g|h") == r"a\*b &lt;c> `d*e` `--f-g`\|h"


@pytest.mark.slow
def test_all_examples_run_one_after_the_other(tmp_path):
    printed = SCRIPT["run_examples"](tmp_path)
    assert [name for name, output in printed.items() if not output.strip()] == []
