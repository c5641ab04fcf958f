"""Write ptkit/commands/completion_names.json: the names that shell completion offers, which the
catalogues know only with torch.

    python scripts/make_completion_names.py [FILE]

A test keeps the file equal to the catalogues of the newest libraries.
"""

import json
import sys
from pathlib import Path

from ptkit.commands.list import CATALOGUES, KINDS
from ptkit.core.diagnosis.rules import RULES
from ptkit.core.parts.catalogue import load_function

FILE = Path(__file__).resolve().parent.parent / "ptkit" / "commands" / "completion_names.json"


def names() -> dict[str, list[str]]:
    """Return the names of each kind, as the libraries that are installed have them."""
    catalogues = {kind: load_function(place) for kind, place in CATALOGUES.items()}
    # Which models there are is asked of a function.
    found = {k: list((c() if callable(c) else c).parts) for k, c in catalogues.items()}
    return found | {"kinds": list(KINDS), "rules": ["all", *(rule.name for rule in RULES)]}


def text() -> str:
    """Return the text of the file."""
    return json.dumps(names(), indent=1) + "\n"


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
