"""The description of the package: README.md without what leads nowhere outside the clone.

Everything else is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

# What comes after this heading is about the clone.
END = "## Where things are"


def description() -> str:
    """Return README.md up to its file tree, without pictures, and with the text of links to files
    in place of the links.
    """
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    text = readme.partition(END)[0]
    text = re.sub(r"^!\[[^\]]*\]\((?!https:)[^)]*\)\n+", "", text, flags=re.M)
    return re.sub(r"\[([^\]]*)\]\((?!https:)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    setup(long_description=description(), long_description_content_type="text/markdown")
