"""What the benchmarks say of their figures: goals, rows that could not be measured, the table, the
page.
"""

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_data import make_lists

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ANSWERS = (
    "for _ in map(input, ['READY\\n'] + [f'FIGURE {k}\\n' for k in (1.0, 2.0, 3.0, 4.0)]): pass\n"
)


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("common")


@pytest.fixture
def contest(common: ModuleType) -> ModuleType:
    return importlib.import_module("contest")


@pytest.fixture
def table(common: ModuleType) -> ModuleType:
    return importlib.import_module("table")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_OUT", str(tmp_path / "rows.jsonl"))
    return tmp_path / "rows.jsonl"


def read(rows: Path) -> list[dict]:
    return [json.loads(line) for line in rows.read_text().splitlines()]


@pytest.mark.parametrize(
    ("goal", "limit", "reached"),
    [
        ("at_least", 2.0, True),
        ("at_least", 2.1, False),
        ("at_most", 2.0, True),
        ("at_most", 1.9, False),
    ],
)
def test_a_goal_is_reached_on_its_own_side_of_the_limit(common, rows, goal, limit, reached):
    common.report(
        "work",
        [2.0, 8.0, 30.0],
        [1.0, 10.0, 15.0],
        against="peer",
        goal=getattr(common, goal)(limit),
    )
    assert [(row["ratio"], row["reached"]) for row in read(rows)] == [(2.0, reached)]


def test_what_could_not_be_measured_stands_in_the_table_with_its_reason(common, rows):
    common.report("work", [2.0], "peer is not installed", against="peer", goal=common.at_most(1))
    assert [common.as_markdown(row) for row in read(rows)] == [
        "| work | peer | – | – | – | ≤ 1; not measured: peer is not installed |"
    ]


def test_a_part_measured_again_replaces_its_rows_and_no_others(common, table, rows):
    for part, figure in (("small", 1.0), ("large", 2.0), ("small", 3.0)):
        common.begin("batches", part)
        common.report(part, [figure], [1.0], against="peer")
    found = table.by_section(read(rows))
    assert {
        name: [(row["part"], row["ratio"]) for row in some] for name, some in found.items()
    } == {"batches": [("small", 3.0), ("large", 2.0)]}


def test_a_page_gets_the_rows_between_its_markers_and_keeps_the_rest(common, table, rows):
    common.begin("split")
    common.report("split", [1.0], [2.0], against="peer", goal=common.at_most(1))
    page = (
        "a\n<!-- bench split -->\nold\n<!-- end -->\nb\n<!-- bench train -->\nkept\n<!-- end -->\n"
    )
    filled = table.filled(page, table.by_section(read(rows)), {})
    row = "| split | peer | 1 s | 2 s | 0.5 | ≤ 1: yes |"
    assert filled == page.replace("old", f"{common.HEADER}\n{row}")


def test_every_section_of_rows_has_its_place_on_the_page():
    page = (BENCHMARKS.parent / "docs/speed.md").read_text(encoding="utf-8")
    sources = [file.read_text(encoding="utf-8") for file in BENCHMARKS.glob("bench_*.py")]
    sections = {name for text in sources for name in re.findall(r'begin\(\s*"([^"]+)"', text)}
    assert sections == set(re.findall(r"<!-- bench (.+) -->\n", page))


@pytest.mark.parametrize("before", ["", "input('READY\\n')\n"])
def test_a_program_that_fails_gives_its_reason_and_leaves_the_others_their_figures(
    contest, tmp_path, before
):
    (tmp_path / "good.py").write_text(ANSWERS)
    (tmp_path / "bad.py").write_text(f"{before}raise SystemExit('no such file')\n")
    programs = {name: contest.Program(str(tmp_path / f"{name}.py"), ()) for name in ("good", "bad")}
    assert contest.contest(programs, rounds=2) == {
        "good": [2.0, 3.0],
        "bad": "bad.py failed: no such file",
    }


def test_rounds_begin_with_each_program_in_turn(contest, tmp_path):
    log = tmp_path / "order.txt"
    (tmp_path / "side.py").write_text(
        "import sys\n"
        "print('READY', flush=True)\n"
        "for _ in sys.stdin:\n"
        f"    open({str(log)!r}, 'a').write(sys.argv[1])\n"
        "    print('FIGURE 1', flush=True)\n"
    )
    programs = {name: contest.Program(str(tmp_path / "side.py"), (name,)) for name in "abc"}
    contest.contest(programs, rounds=6)
    rounds = re.findall("...", log.read_text())
    # The first one does not count; the others are all orders that there are.
    assert rounds == ["cba", "abc", "bac", "cab", "acb", "bca", "cba"]


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 6])
def test_each_program_has_every_place_of_a_round_equally_often(contest, num):
    names = [str(number) for number in range(num)]
    times = 1 if num % 2 == 0 else 2
    orders = [contest.turns_of(number, names) for number in range(times * num)]
    assert [order[0] for order in orders] == names * times
    assert all(sorted(place) == sorted(names * times) for place in zip(*orders, strict=True))


def test_a_contest_of_slow_programs_has_fewer_rounds_and_says_where_it_is(
    contest, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(contest, "CONTEST_S", 0)
    (tmp_path / "good.py").write_text(ANSWERS)
    program = contest.Program(str(tmp_path / "good.py"), ())
    assert contest.contest({"good": program}, rounds=8) == {"good": [2.0]}
    assert capsys.readouterr().err == "round 0 of 8\nround 1 of 8\n"


def test_a_program_whose_library_is_missing_is_not_started(contest, tmp_path):
    program = contest.Program(str(tmp_path / "none.py"), (), module="no_such_library")
    found = contest.contest({"peer": program}, rounds=1)
    assert found == {"peer": f"no_such_library is not installed for {program.python}"}


def test_what_benchmarks_and_scripts_import_of_ptkit_is_there():
    missing = []
    for file in (*BENCHMARKS.rglob("*.py"), *BENCHMARKS.parent.glob("scripts/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ptkit"):
                names = {alias.name for alias in node.names}
                module = importlib.import_module(node.module)
                # A package has its modules only once somebody imports them.
                within = pkgutil.iter_modules(getattr(module, "__path__", []))
                found = {*dir(module), *(one.name for one in within)}
                missing += [f"{file.name}: {node.module}.{name}" for name in names - found]
    assert missing == []


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return make_lists(tmp_path, train=90)


def result_of(*command: object, word: str = "round") -> str:
    """Return what a program printed."""
    environment = os.environ | {"PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}/sides"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        input=f"{word}\n",
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_our_side_of_the_contests_runs(lists: Path) -> None:
    train = lists / "train.txt"
    batches = [train, 32, 4, "ram", "cpu", "RandomHorizontalFlip()"]
    assert "FIGURE" in result_of(BENCHMARKS / "sides/ptkit_batches.py", *batches)
    assert "FIGURE" in result_of(BENCHMARKS / "sides/ptkit_train.py", train, "lenet", 4, 32, "cpu")
    for word in ("recorded", "unwritten"):
        command = BENCHMARKS / "sides/records.py", train, "lenet", 4, 32, "cpu"
        assert "FIGURE" in result_of(*command, word=word)


@pytest.mark.slow
def test_what_grows_and_what_waits_is_measured(
    lists: Path, common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = importlib.import_module("bench_memory").GROWTH
    assert float(result_of("-c", growth, lists / "train.txt", lists / "train.txt", 4)) < 1000
    slow_disk = importlib.import_module("bench_slow_disk")
    paths = [str(path) for path in sorted(lists.rglob("*.png"))]
    share, _ = slow_disk.measured(paths, len(paths), rate=1e6, latency_s=0.001)
    assert 0 < share <= 1.05
