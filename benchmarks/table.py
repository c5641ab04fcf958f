"""Turn the JSON lines of the benchmarks into one table, Markdown and JSON, and fill in pages.

    python benchmarks/table.py ROWS.jsonl FOLDER [--docs PAGE.md] [--peers PYTHON]

Writes FOLDER/table.md and FOLDER/results.json: machine, date, versions of ptkit's libraries and of
the peers, all rows. If a section was measured again, its later rows count. In PAGE.md the text
between `<!-- bench SECTION -->` and `<!-- end -->` is replaced by the rows of the section, that
after `<!-- bench -->` by machine, date and versions.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import HEADER, ROOT, as_markdown

PEERS = ("torch", "timm", "lightning", "ultralytics", "split-folders", "simplejpeg")
VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version

found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--peers", default=ROOT / ".bench-venv/bin/python")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    sections = by_section(lines)
    about = facts(lines, options.peers)
    options.folder.mkdir(parents=True, exist_ok=True)
    results = {**about, "rows": [row for rows in sections.values() for row in rows]}
    (options.folder / "results.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    )
    rows = [as_markdown(row) for some in sections.values() for row in some]
    text = "\n".join(
        ["# Benchmarks", "", in_words(about), "", *counts(results["rows"]), "", HEADER, *rows, ""]
    )
    (options.folder / "table.md").write_text(text, encoding="utf-8")
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        options.docs.write_text(filled(page, sections, about), encoding="utf-8")
    print(text)


def by_section(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of each section; those of a part that was begun again only once."""
    parts: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        key = (line["section"], line["part"])
        if line["kind"] == "begin":
            parts[key] = []
        else:
            parts.setdefault(key, []).append(line)
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for (section, _), rows in parts.items():
        sections.setdefault(section, []).extend(rows)
    return sections


def facts(lines: Sequence[Mapping[str, Any]], peers: str | Path) -> dict[str, Any]:
    """Return machine, dates and versions."""
    begun = [line for line in lines if line["kind"] == "begin"]
    dates = sorted(line["date"][:10] for line in begun)
    found: dict[str, str] = {}
    if Path(peers).exists():
        done = subprocess.run(
            [peers, "-c", VERSIONS, *PEERS], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
    return {
        "machine": sorted({line["machine"] for line in begun}),
        "date": dates[0] if dates[:1] == dates[-1:] else f"{dates[0]} to {dates[-1]}",
        "versions": begun[-1]["versions"],
        "peers": found,
    }


def in_words(about: Mapping[str, Any]) -> str:
    """Return machine, date and versions in a sentence each."""
    ours, peers = (
        ", ".join(f"{name} {number}" for name, number in about[k].items())
        for k in ("versions", "peers")
    )
    return (
        f"{'; '.join(about['machine'])}. {about['date']}. ptkit with {ours}. Peers:"
        f" {peers or 'not installed'}."
    )


def counts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many goals are reached."""
    asked = [row for row in rows if row["goal"]]
    reached = sum(bool(row.get("reached")) for row in asked)
    skipped = sum("skipped" in row for row in asked)
    return [f"{reached} of {len(asked)} goals reached, {skipped} not measured."]


def filled(
    page: str, sections: Mapping[str, Sequence[Mapping[str, Any]]], about: Mapping[str, Any]
) -> str:
    """Return the page with new text between its markers; a section without rows stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name and name not in sections:
            return match[0]
        text = "\n".join([HEADER, *map(as_markdown, sections[name])]) if name else in_words(about)
        return f"{match['begin']}\n{text}\n<!-- end -->"

    return re.sub(
        r"(?P<begin><!-- bench ?(?P<name>[\w ]*?) -->)\n.*?<!-- end -->",
        replaced,
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    main()
