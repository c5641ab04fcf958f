"""What the site has beside docs/: pages made of README.md, CHANGELOG.md, CONTRIBUTING.md and the
notebook. mkdocs calls these functions (`hooks` in mkdocs.yml).
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# What follows in README.md is about the clone.
END = "## Where things are"
# Other files of the clone that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/first_ten_minutes.ipynb": "first_ten_minutes.md",
}
DECISIONS = "decisions/index.md"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of other files."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = as_page(text) if source.endswith(".md") else of_notebook(json.loads(text))
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, DECISIONS, content=decisions()))
    return files


def decisions() -> str:
    """Return the list of the pages in docs/decisions/."""
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for page in pages]
    rows = (f"- [{title}]({page.name})\n" for title, page in zip(titles, pages, strict=True))
    return f"# Why things are as they are\n\n{''.join(rows)}"


def on_page_markdown(markdown: str, page: Any, **_rest: Any) -> str:
    """Let links to the notebook lead to its page, name pages without the ending of a file, and take
    the backslash off a | in code, which only other readers of Markdown need.
    """
    markdown = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), markdown)
    markdown = markdown.replace("first_ten_minutes.ipynb)", "first_ten_minutes.md)")
    return re.sub(r"\[(?:docs/)?([\w.]+)\.md\]\(", r"[\1](", markdown)


def as_page(text: str) -> str:
    """Return the text of a file in the clone's root as a page of docs/: links lead to pages, and
    those to other files are text.
    """
    return _LINK.sub(_moved, text.partition(END)[0])


def _moved(link: re.Match[str]) -> str:
    mark, text, target = link.groups()
    target = PAGES.get(target, target.removeprefix("docs/"))
    if target == "decisions/":
        target = DECISIONS
    is_made = target in (*PAGES.values(), DECISIONS)
    is_there = is_made or (ROOT / "docs" / target.partition("#")[0]).is_file()
    return f"{mark}[{text}]({target})" if is_there else text


def of_notebook(notebook: dict[str, Any]) -> str:
    """Return a notebook's cells as Markdown, with what they printed."""
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        language = "sh" if source.startswith("!") else "python"
        blocks.append(f"```{language}\n{re.sub('^!', '', source, flags=re.M)}\n```")
        for output in cell["outputs"]:
            blocks.append(_shown(output))
    return "\n\n".join(blocks) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if picture := data.get("image/png"):
        return f"![](data:image/png;base64,{''.join(picture).strip()})"
    printed = "".join(output.get("text", data.get("text/plain", "")))
    return f"```\n{printed.rstrip()}\n```"
