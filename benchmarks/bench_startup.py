"""Start-up: `ptkit --help` and `ptkit split` on 1,000 files against a bare Typer app's `--help`, whole processes.

python benchmarks/bench_startup.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

from common import HEADER, in_turns, machine, report, run_process

BARE_APP = '''
import typer

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    """Say hello."""
    print(name)


@app.command()
def bye(name: str) -> None:
    """Say good-bye."""
    print(name)


app()
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        scratch = Path(name)
        make_images(scratch / "images")
        (scratch / "bare.py").write_text(BARE_APP)
        print(f"{machine()}; {options.rounds} rounds\n\n{HEADER}")
        compare(scratch, rounds=options.rounds)


def make_images(folder: Path) -> None:
    """Write 1,000 different files of 500 bytes in ten class folders; split does not decode them."""
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number in range(100):
            (folder / str(label) / f"{number}.png").write_bytes(b"%-500d" % (label * 100 + number))


def compare(scratch: Path, *, rounds: int) -> None:
    python = sys.executable
    ptkit = [python, "-m", "ptkit"]
    seconds = in_turns(
        {
            "bare": lambda _: run_process([python, "bare.py", "--help"], cwd=scratch),
            "help": lambda _: run_process([*ptkit, "--help"], cwd=scratch),
            "split": lambda _: run_process([*ptkit, "split", "images", "--out", "lists"], cwd=scratch),
        },
        rounds=rounds,
    )
    report("`ptkit --help`, a bare Typer app's `--help`", seconds["help"], seconds["bare"], goal=1.3)
    report("`ptkit split` on 1,000 files, a bare Typer app's `--help`", seconds["split"], seconds["bare"], goal=1.3)


if __name__ == "__main__":
    main()
