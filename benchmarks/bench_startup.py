"""Start-up: `ptkit --help` and `ptkit split` on 1,000 files, against a bare Typer app's `--help`;
`ptkit train` up to its first step, images decoded, against importing torch and a first kernel.

python benchmarks/bench_startup.py [--device cuda]
"""

import sys
import tempfile
from pathlib import Path

from common import ROOT, arguments, at_most, begin, in_turns, report, run_process

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
    options = arguments(__doc__, rounds=30).parse_args()
    begin("startup", note="whole processes")
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        scratch = Path(name)
        make_images(scratch / "images")
        (scratch / "bare.py").write_text(BARE_APP)
        compare(scratch, rounds=options.rounds)
        compare_first_step(scratch, rounds=max(options.rounds // 3, 1), device=options.device)


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
            "split": lambda _: run_process(
                [*ptkit, "split", "images", "--out", "lists"], cwd=scratch
            ),
        },
        rounds=rounds,
    )
    against = "a bare Typer app's `--help`"
    report("`ptkit --help`", seconds["help"], seconds["bare"], against=against, goal=at_most(1.3))
    report(
        "`ptkit split` on 1,000 files",
        seconds["split"],
        seconds["bare"],
        against=against,
        goal=at_most(1.3),
    )


def compare_first_step(scratch: Path, *, rounds: int, device: str) -> None:
    """Compare `ptkit train` on the digits of data/ up to the end of its first step."""
    python, sides = sys.executable, ROOT / "benchmarks" / "sides"
    lists = scratch / "digits"
    run_process([python, "-m", "ptkit", "split", ROOT / "data", "--out", lists], cwd=scratch)
    train = ["train", "--model", "lenet", "--size", "32", "--device", device]
    seconds = in_turns(
        {
            "step": lambda _: run_process([python, sides / "first_step.py", *train], cwd=lists),
            "kernel": lambda _: run_process([python, sides / "first_kernel.py", device]),
        },
        rounds=rounds,
    )
    report(
        f"from the start of `ptkit train` to its first step, `lenet`, {device}",
        seconds["step"],
        seconds["kernel"],
        against="import torch and torchvision, first kernel",
        goal=at_most(1.3),
    )


if __name__ == "__main__":
    main()
