import json

import pytest
from typer.testing import CliRunner

from ptkit.cli import app
from ptkit.commands.list import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_with_its_arguments(kind: str) -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", kind, "--json"]).stdout)
    assert len(rows) >= 10
    assert all(row["call"].startswith(f"{row['name']}(") and row["summary"] for row in rows)


def test_arguments_are_pytorchs_own_without_those_the_run_gives() -> None:
    text = CliRunner().invoke(app, ["list", "optimizers"]).stdout
    assert "SGD(momentum=0, dampening=0, weight_decay=0, nesterov=False" in text
    assert "params" not in text


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["list", "optimisers"])
    assert result.exit_code == 2
    assert "did you mean optimizers?" in result.stderr
