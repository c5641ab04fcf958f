"""Make the pictures of docs/course.md by running its commands, one after the other, on data/.

    python scripts/make_course.py [FOLDER]

Above each picture of the page a comment says which file it is, and `$ ptkit ...` above that is what
writes it. FOLDER gets the pictures; by default docs/images/course. About two minutes on two cores.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "course.md"
PICTURES = ROOT / "docs" / "images" / "course"
# Wide enough to read, and small enough to stay in the repository.
MAX_WIDTH, NUM_COLORS = 1000, 192

_COMMAND = re.compile(r"^\$ ptkit (.+)$")
_SOURCE = re.compile(r"^<!-- picture: (.+) -->$")
_PICTURE = re.compile(r"^!\[.+\]\(images/course/(.+)\)$")


def main() -> None:
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    pictures = pictures.absolute()
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="course-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "data", folder / "data")
        source = ""
        for line in PAGE.read_text(encoding="utf-8").splitlines():
            if found := _COMMAND.match(line):
                run(found[1], folder)
            elif found := _SOURCE.match(line):
                source = found[1]
            elif found := _PICTURE.match(line):
                shrink(folder / source, pictures / found[1])


def run(command: str, folder: Path) -> None:
    """Run one line of the page."""
    print(f"$ ptkit {command}", flush=True)
    # The shell finds the images: `data/3/*.png`.
    words = f"{shlex.quote(sys.executable)} -m ptkit {command}"
    subprocess.run(words, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def shrink(source: Path, target: Path) -> None:
    """Write a picture with fewer pixels and colours."""
    with Image.open(source) as image:
        small = image.convert("RGB")
        small.thumbnail((MAX_WIDTH, 10 * MAX_WIDTH))
        small.quantize(NUM_COLORS).save(target, optimize=True)


if __name__ == "__main__":
    main()
