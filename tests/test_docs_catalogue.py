"""docs/catalogue.md is what the tables say, and its commands can be given."""

import runpy
from pathlib import Path

import pytest

from ptkit.core.parts.calls import parse
from ptkit.core.parts.catalogue import Catalogue

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_catalogue.py"))
EXAMPLES = [
    (kind.catalogue, SCRIPT["example"](kind, name))
    for kind in SCRIPT["KINDS"]
    for name in kind.catalogue.parts
    # The others need a run's parameters; LinearTransformation a whole list
    # (test_linear_transformation.py).
    if kind.title in ("Transforms", "Losses") and name != "LinearTransformation"
]


def test_the_page_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8") == SCRIPT["page"]()


@pytest.mark.parametrize(("catalogue", "call"), EXAMPLES, ids=[call for _, call in EXAMPLES])
def test_the_calls_of_the_page_can_be_built(
    catalogue: Catalogue, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("augment.py").write_text("def invert(image):\n    return 255 - image\n")
    assert catalogue.build(parse(call)) is not None


def test_every_argument_says_what_it_may_be() -> None:
    catalogues = [kind.catalogue for kind in SCRIPT["KINDS"]]
    assert [
        a for c in catalogues for name in c.parts for a in c.arguments(name) if not a.allowed_text
    ] == []
