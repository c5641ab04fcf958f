import runpy
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The digits as the script writes them now."""
    pytest.importorskip("sklearn", reason="only who changes the digits needs scikit-learn")
    folder = tmp_path_factory.mktemp("digits")
    runpy.run_path(str(ROOT / "scripts/make_digits.py"))["write_digits"](folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_digits_are_what_the_script_writes(made):
    assert made == {
        path.relative_to(ROOT / "data"): path.read_bytes()
        for path in (ROOT / "data").rglob("*.png")
    }


def test_there_are_1797_grey_digits_of_8_by_8():
    images = [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (ROOT / "data").rglob("*.png")
    ]
    assert len(images) == 1797
    assert {(image.shape, image.dtype.name) for image in images} == {((8, 8), "uint8")}
