import json
import runpy
from pathlib import Path

import pytest

for _name in ("nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(_name)

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_notebook.py"))
WRITTEN = json.loads((ROOT / "docs" / "first_ten_minutes.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in WRITTEN["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_the_cells_of_its_script():
    # python scripts/make_notebook.py writes it.
    assert ["".join(cell["source"]) for cell in WRITTEN["cells"]] == [
        cell["source"] for cell in SCRIPT["CELLS"]
    ]


def test_the_notebook_was_run_without_an_error_and_is_small():
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    # The first cell prints nothing.
    assert all(cell["outputs"] for cell in CODE[1:])
    assert (ROOT / "docs" / "first_ten_minutes.ipynb").stat().st_size < 300_000


@pytest.mark.slow
# Of Jupyter's own.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(tmp_path):
    book = SCRIPT["notebook"]()
    SCRIPT["run"](book, tmp_path)
    assert (tmp_path / "runs" / "first" / "ckpt.pkl").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_command_that_fails_ends_the_notebook(tmp_path):
    from nbclient.exceptions import CellExecutionError

    book = SCRIPT["notebook"]()
    book.cells = [SCRIPT["CODE"]("!ptkit split nowhere")]
    with pytest.raises(CellExecutionError, match="a command failed"):
        SCRIPT["run"](book, tmp_path)
