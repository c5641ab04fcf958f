"""Write docs/first_ten_minutes.ipynb: the cells below, run on a copy of data/, with what they
printed and small pictures.

    python scripts/make_notebook.py
"""

import base64
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "first_ten_minutes.ipynb"
# Pixels; a run's own pictures are larger.
WIDTH = 560
# What rich draws progress with.
_BAR = "━"
TEXT, CODE = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
CELLS = [
    TEXT(
        "# The first ten minutes\n\n"
        "From a folder of images to a trained classifier, and a look into it. The images are the"
        " digits in `data/` of the clone, 1,797 of them in folders `0` to `9`; with a folder of"
        " your own in their place every line stays the same.\n\n"
        "Lines that begin with `!` are commands of the shell: without the `!` they work in a"
        " terminal."
    ),
    CODE(
        "import os\n"
        "from pathlib import Path\n\n"
        "from IPython.display import Image\n\n"
        "# The notebook is in docs/; data/ is beside that folder.\n"
        'if not Path("data").is_dir():\n'
        '    os.chdir("..")'
    ),
    TEXT(
        "## Split\n\n"
        "Training, validation and test lists, class by class. Images that are exact copies of each"
        " other stay in one part, so that the test is honest."
    ),
    CODE("!ptkit split data/ --ratio 8:1:1"),
    TEXT(
        "## Measure\n\n"
        "Mean and standard deviation of the training images. `ptkit train` finds them in"
        " `normstats.json`."
    ),
    CODE("!ptkit normstats train.txt"),
    TEXT(
        "## What the model will see\n\n"
        "Each training image is shifted a little, differently each time. Transforms have the names"
        " that torchvision gives them."
    ),
    CODE('!ptkit viz-transforms data/3/0003.png --transform "RandomCrop(16, padding=2)"'),
    CODE('Image("ptkit-viz-transforms/transforms-0003.png")'),
    TEXT(
        "## Train\n\n"
        "The model, the optimizer and its rate are chosen to suit the images, and a line says which"
        " they are. Everything about the run is in one folder; `ckpt.pkl` leads to its best epoch."
    ),
    CODE("!ptkit train --epochs 5 --name first"),
    CODE('Image("runs/first/curves.png")'),
    TEXT(
        "## Test\n\nOn the images that nobody has looked at. The worst mistakes are drawn as well."
    ),
    CODE("!ptkit confmat ckpt.pkl test.txt"),
    CODE('Image("runs/first/confmat/confusion.png")'),
    TEXT(
        "## Look inside\n\n"
        "The kernels of the first layer, and where the model looked when it decided."
    ),
    CODE("!ptkit viz-weights ckpt.pkl --layers conv1"),
    CODE("!ptkit gradcam ckpt.pkl data/3/0003.png data/8/0008.png --layers layer2.0"),
    CODE('Image("runs/first/gradcam/gradcam-layer2.0.png")'),
    TEXT("## Is something wrong with it?\n\nIn words, with the numbers behind them."),
    CODE("!ptkit diagnose runs/first"),
    TEXT("## The same in Python"),
    CODE(
        "import ptkit\n\n"
        'model = ptkit.load("ckpt.pkl")\n'
        'print(model.predict("data/7/0007.png"))\n'
        'print(ptkit.evaluate("runs/first", "test.txt").metrics["accuracy"])'
    ),
    TEXT(
        "## And then\n\n"
        "- your own folder of photographs: `ptkit train photos/`\n"
        "- another model, optimizer or schedule: `ptkit list models`, `ptkit list optimizers`,"
        " `ptkit list schedulers`\n"
        "- the same run with one thing changed, and whether that mattered: `ptkit compare`\n"
        "- everything of the run on one page: `ptkit report runs/first`"
    ),
]


def notebook() -> nbformat.NotebookNode:
    """Return the notebook, not run."""
    book = nbformat.v4.new_notebook(cells=[cell.copy() for cell in CELLS])
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for number, cell in enumerate(book.cells):
        # nbformat draws them at random.
        cell["id"] = f"cell-{number}"
    return book


def run(book: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in a folder with a copy of data/, and put what they gave into them.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed, or a command in it.
    """
    shutil.copytree(ROOT / "data", folder / "data")
    programs = Path(sys.executable).parent
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    # A failed command of the shell is an error too.
    check = 'assert not globals().get("_exit_code"), "a command failed"'
    before = dict(os.environ)
    os.environ.update(paths)
    try:
        client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}})
        with client.setup_kernel():
            for number, cell in enumerate(book.cells):
                client.execute_cell(cell, number)
                if cell["cell_type"] == "code":
                    client.execute_cell(CODE(check), number)
                    # nbclient put the check in its place.
                    book.cells[number] = cell
    finally:
        os.environ.clear()
        os.environ.update(before)


def made_small(book: nbformat.NotebookNode) -> None:
    """Shrink the pictures, and leave out progress bars and how often cells ran."""
    for number, cell in enumerate(c for c in book.cells if c["cell_type"] == "code"):
        cell["execution_count"], cell["metadata"] = number + 1, {}
        printed = _without_bars("".join(output.get("text", "") for output in cell["outputs"]))
        others = [output for output in cell["outputs"] if output["output_type"] != "stream"]
        for output in others:
            output["execution_count"] = number + 1
            if "image/png" in output["data"]:
                output["data"]["image/png"] = _small(output["data"]["image/png"])
        stream = nbformat.v4.new_output("stream", name="stdout", text=printed)
        cell["outputs"] = [*([stream] if printed else []), *others]


def _without_bars(text: str) -> str:
    """Return what a terminal shows at the end: without colours and live lines."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
    lines = [line for line in text.splitlines() if _BAR not in line]
    # A live line that was removed leaves an empty one before each epoch's.
    kept = re.sub(r"\n+(?=epoch|run:|data:|best:)", "\n", "\n".join(lines)).strip("\n")
    kept = re.sub(r"\n{3,}", "\n\n", kept)
    return f"{kept}\n" if kept else ""


def _small(text: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.quantize(64).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    book = notebook()
    with tempfile.TemporaryDirectory() as folder:
        run(book, Path(folder))
    made_small(book)
    nbformat.write(book, FILE)


if __name__ == "__main__":
    main()
