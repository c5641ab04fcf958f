import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))


def test_links_of_the_readme_lead_to_pages_of_the_site_or_are_text():
    text = (
        "[a](docs/looking.md#x) [b](CHANGELOG.md) [c](tests/test_x.py) [d](https://e.org) [e](#f)"
    )
    assert SCRIPT["as_page"](text) == (
        "[a](looking.md#x) [b](changes.md) c [d](https://e.org) [e](#f)"
    )


def test_a_notebook_becomes_commands_output_and_pictures():
    picture = {"image/png": "QQ==", "text/plain": "<Image object>"}
    cells = [
        {"cell_type": "markdown", "source": ["# T\n", "text"]},
        {"cell_type": "code", "source": "!ptkit x", "outputs": [{"text": ["out\n"]}]},
        {"cell_type": "code", "source": "1", "outputs": [{"data": picture}]},
    ]
    assert SCRIPT["of_notebook"]({"cells": cells}) == (
        "# T\ntext\n\n```sh\nptkit x\n```\n\n```\nout\n```\n\n```python\n1\n```\n\n"
        "![](data:image/png;base64,QQ==)\n"
    )


def test_every_page_of_the_docs_is_in_the_navigation():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if not re.search(rf" {re.escape(page)}$", site, re.M)} == set()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    loaded = re.compile(r'(?:src|href)="https?://[^"]*\.(?:css|js|woff2?|png|svg)"')
    assert [page for page in tmp_path.rglob("*.html") if loaded.search(page.read_text())] == []
    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any(entry["location"].startswith("commands/train") for entry in index["docs"])
