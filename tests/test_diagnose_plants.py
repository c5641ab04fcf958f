"""One seed of every fault that benchmarks/bench_diagnose.py plants, and of its clean recipes."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "bench_diagnose.py"
SPEC = importlib.util.spec_from_file_location("bench_diagnose", FILE)
BENCH = sys.modules["bench_diagnose"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BENCH)


@pytest.mark.slow
@pytest.mark.parametrize("plant", [*BENCH.PLANTS, *BENCH.CLEAN], ids=lambda plant: plant.name)
def test_a_planted_fault_is_the_headline_and_a_clean_run_has_none(plant):
    assert BENCH.headline(plant, seed=0).partition(" ")[2] == plant.rule
