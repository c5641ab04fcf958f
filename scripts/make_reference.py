"""Write docs/commands/: a page per command with its help, its flags and an example with the output
that it had, and their place in mkdocs.yml.

    python scripts/make_reference.py          after a change of help or flags, or a new command
    python scripts/make_reference.py --run    runs the examples too, on a copy of data/

A page keeps its output as long as the example is the same. A test keeps texts and flags true to the
code; a slow one runs the examples.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from ptkit.commands.app import app
from ptkit.core.config.settings import FLAGS, KEYWORDS

ROOT = Path(__file__).resolve().parent.parent
FOLDER, SITE = ROOT / "docs" / "commands", ROOT / "mkdocs.yml"
BEGIN = "      # commands: written by scripts/make_reference.py\n"
END = "      # end of commands\n"
COMMANDS: Mapping[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
# Examples on data/, one after the other in one folder. Of other commands the one of their help.
EXAMPLES = {
    "split": "ptkit split data/ --ratio 8:1:1",
    "check": "ptkit check train.txt valid.txt test.txt",
    "normstats": "ptkit normstats train.txt",
    "train": "ptkit train --epochs 5",
    "finetune": "ptkit finetune ckpt.pkl --epochs 2",
    "probe": "ptkit probe --backbone runs/1",
    "viz-featuremaps": 'ptkit viz-featuremaps runs/1 data/3/0003.png --layers "layer2.*"',
    "viz-transforms": 'ptkit viz-transforms data/3/0003.png --transform "RandomRotation(10)"',
    "gradcam": 'ptkit gradcam runs/1 data/3/0003.png --layers "layer2.*"',
    "confmat": "ptkit confmat runs/1 test.txt",
    "calibrate": "ptkit calibrate runs/2 valid.txt",
    "compare": "ptkit compare runs/1 runs/2",
    "diagnose": "ptkit diagnose runs/1",
    "report": "ptkit report runs/1",
    "summary": "ptkit summary runs/1",
    "predict": "ptkit predict runs/1 data/3/0003.png data/7/0007.png",
    "convert": "ptkit convert runs/1 --to safetensors --out weights.safetensors",
    "list": 'ptkit list optimizers "Ada*"',
    "cache": "ptkit cache",
}
# What an example without a network cannot show.
NOT_RUN = ("data",)
# Where a page of the guide says more.
GUIDES = re.compile(r"^\| `ptkit ([\w-]+)[^|]*\|[^|]*\| \[[^\]]*\]\(docs/([^)]*)\)", re.MULTILINE)
# What a type's name begins with, in whichever version of Typer.
KINDS = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT", "text": "TEXT", "path": "PATH"}


def pages() -> dict[str, str]:
    """Return the text of every page, by the name of its file."""
    guides = dict(GUIDES.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    found = {f"{name}.md": page(name, guide=guides.get(name)) for name in COMMANDS}
    return {"index.md": _index(), **found}


def page(name: str, *, guide: str | None) -> str:
    """Return the page of one command; guide: the page of the docs that explains it."""
    command = COMMANDS[name]
    *texts, _example = command.help.strip().split("\n\n")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    flags = [p for p in command.params if p.param_type_name == "option"]
    words = " ".join(["ptkit", name, *(a.metavar or a.name.upper() for a in arguments), "[FLAGS]"])
    blocks = [
        f"# ptkit {name}",
        f"```\n{words}\n```",
        *(_marked(" ".join(text.split())) for text in texts),
        f"More in the guide: [{guide.removesuffix('.md')}](../{guide})." if guide else "",
        f"## Example\n\n```console\n{shown_example(name)}```",
        _table("Arguments", [(f"`{a.metavar or a.name.upper()}`", a.help) for a in arguments]),
        _table("Flags", [(_flag(flag), _meaning(flag)) for flag in flags]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def example(name: str) -> str:
    """Return the line that a page shows."""
    own = COMMANDS[name].help.strip().rpartition("Example: ")[2]
    return EXAMPLES.get(name, " ".join(own.split()))


def shown_example(name: str) -> str:
    """Return the example with the output that the page has of it, if it has."""
    line, file = f"$ {example(name)}\n", FOLDER / f"{name}.md"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    block = re.search(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block[1] if block and block[1].startswith(line) else line


def with_commands(site: str) -> str:
    """Return the text of mkdocs.yml with the list of the commands' pages renewed."""
    before, begin, rest = site.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"mkdocs.yml needs the line {BEGIN}"
    assert end, f"mkdocs.yml needs the line {END}"
    lines = "".join(f"      - {name}: commands/{name}.md\n" for name in COMMANDS)
    return f"{before}{BEGIN}{lines}{END}{after}"


def run_examples(folder: Path) -> dict[str, str]:
    """Run all examples in a folder, where data/ is copied to, and return what each printed.

    Raises:
        subprocess.CalledProcessError: one failed.
    """
    shutil.copytree(ROOT / "data", folder / "data")
    # Paths of this machine are not shown: the cache is below the home folder, which is ~.
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".config" / "matplotlib")),
        "PYTHON": sys.executable,
        "COLUMNS": "100",
    }
    printed = {}
    for name in (name for name in COMMANDS if name not in NOT_RUN):
        script = f'ptkit() {{ "$PYTHON" -m ptkit "$@"; }}\n{example(name)}'
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            sys.stderr.write(done.stdout)
            done.check_returncode()
        shown = done.stdout.replace(str(folder.resolve()), "~").replace(str(folder), "~")
        printed[name] = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    return printed


def _index() -> str:
    rows = [
        (f"[`ptkit {name}`]({name}.md)", " ".join(command.help.split("\n\n")[0].split()))
        for name, command in COMMANDS.items()
    ]
    text = (
        "The same as `ptkit COMMAND --help`, each with an example that was run on the digits in"
        " `data/`, one after the other; but for `ptkit data`, which downloads."
    )
    return f"# Commands\n\n{text}\n\n{_rows(('command', 'what it does'), rows)}\n"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return (
        f"## {title}\n\n{_rows((title.removesuffix('s').lower(), 'meaning'), rows)}" if rows else ""
    )


def _rows(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    body = (f"| {cell} | {_marked(text)} |" for cell, text in rows)
    return "\n".join([f"| {' | '.join(head)} |", "|---|---|", *body])


def _flag(flag: Any) -> str:
    name = ", ".join(flag.opts)
    if flag.is_flag:
        return f"`{name}`"
    kinds = (word for start, word in KINDS.items() if flag.type.name.startswith(start))
    value = flag.metavar or next(kinds, "VALUE")
    return f"`{name} {value}`".replace("|", r"\|")


def _meaning(flag: Any) -> str:
    default = flag.default
    if default is None:
        settings = (KEYWORDS[k][1] for k, name in FLAGS.items() if name in flag.opts)
        # A command's own flag may have the name of a setting's.
        default = next((s.default for s in settings if s.metadata["meaning"] in flag.help), None)
    if flag.is_flag or default in (None, "", (), []) or callable(default):
        return str(flag.help)
    return f"{flag.help} Default: `{default}`."


def _marked(text: str) -> str:
    """Return a text of the help as Markdown: code in it is what is in backticks, and flags."""
    parts = text.split("`")
    parts[::2] = [_without_markup(part) for part in parts[::2]]
    return "`".join(parts)


def _without_markup(text: str) -> str:
    parts = re.split(r"(?<![\w-])(--[a-z][a-z-]*)", text)
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", p).replace("<", "&lt;") for p in parts[::2]]
    parts[1::2] = [f"`{flag}`" for flag in parts[1::2]]
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/commands/.")
    parser.add_argument("--run", action="store_true", help="run the examples and show the output")
    is_run = parser.parse_args().run
    FOLDER.mkdir(exist_ok=True)
    if is_run:
        with tempfile.TemporaryDirectory() as folder:
            printed = run_examples(Path(folder))
        for name, output in printed.items():
            text = f"```console\n$ {example(name)}\n{output}```\n"
            (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    written = pages()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for file in FOLDER.glob("*.md"):
        if file.name not in written:
            file.unlink()
    SITE.write_text(with_commands(SITE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
