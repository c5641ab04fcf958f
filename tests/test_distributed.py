"""Several processes of gloo on this machine: as one would be."""

import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tiny_data import make_lists
from torch import nn
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core import distributed
from ptkit.core.config.layers import resolve
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batch, Batches
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.distributed import lost
from ptkit.core.errors import UsageError
from ptkit.core.ranks import Rank, being, rank_of_environment
from ptkit.core.sharding import blocks_of
from ptkit.core.training.setup_ranks import for_ranks

# Without BatchNorm, whose statistics are of each process's own images.
RUN = """
import json, sys
import ptkit
from matplotlib.figure import Figure
from ptkit.core.ranks import here
from ptkit.core.distributed import joined

# What is drawn is not looked at.
Figure.draw = lambda figure, renderer: None

with joined():
    result = ptkit.train(
        epochs=2, model="lenet", batch_size=10, lr=0.05, name=sys.argv[1], link=None,
        loss="CrossEntropyLoss(weight=[1, 2, 3])", metric="auroc", tensorboard=False,
        pictures=False, device="cpu", out="runs", transforms=["RandomCrop(16, padding=2)"],
    )
    found = ptkit.evaluate(result.run, "valid.txt", device="cpu")
    rows = ptkit.predict(result.run, ["valid.txt", "broken.png"], device="cpu").rows
    if here().is_main:
        told = {"matrix": found.matrix.tolist(), "rows": rows, "trained_on": found.num_trained_on}
        print(json.dumps(told))
"""

OTHERS = """
import sys
import ptkit
from ptkit.core.distributed import joined

with joined():
    # One step: later ones choose other triplets where rounding differs. Its last batch has two
    # images.
    usual = dict(
        epochs=1, model="lenet", batch_size=23, link=None, tensorboard=False, pictures=False,
        device="cpu", out="runs", accumulate=3, log_layers=False,
    )
    mixed = ["RandomCrop(16, padding=2)", "RandomChoice([MixUp(alpha=0.4), CutMix()])"]
    ptkit.train(name=sys.argv[1] + "-mixed", transforms=mixed, **usual)
    for loss in ("TripletMarginLoss(margin=0.5)", "CosineEmbeddingLoss()"):
        ptkit.train(name=sys.argv[1] + "-" + loss[:7], loss=loss, lr=0.01, **usual)
"""


def start(command: Sequence[str], folder: Path, *, num_ranks: int) -> list[subprocess.Popen[str]]:
    """Start a command as several ranks, as torchrun does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks),
           "LOCAL_WORLD_SIZE": str(num_ranks), "OMP_NUM_THREADS": "1", "COLUMNS": "200",
           "PTKIT_RANK_TIMEOUT": "20"}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return exit status, output and errors of each rank."""
    said = [process.communicate(timeout=150) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_lists(tmp_path_factory.mktemp("ranks"))
    (made / "broken.png").write_bytes(b"")
    return made


def told_by(folder: Path, num_ranks: int) -> dict[str, Any]:
    """Return what RUN tells, and the loss of its epochs."""
    name = f"of{num_ranks}"
    (status, out, errors), *others = ended(start(["-c", RUN, name], folder, num_ranks=num_ranks))
    assert (status, errors) == (0, ""), errors
    assert others == [(0, "", "")] * (num_ranks - 1)
    return json.loads(out) | {"numbers": numbers_of(folder / "runs" / name)}


def numbers_of(run: Path) -> list[list[float]]:
    """Return the numbers of each epoch that do not depend on the time."""
    lines = (run / "metrics.csv").read_text().splitlines()[1:]
    # Mixed images have no one right answer.
    return [[float(cell or 0) for cell in line.split(",")[:5]] for line in lines]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process tells: this one, as starting takes longer than training."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["-c", "of1"])
        # RUN sets it too.
        patch.setattr(Figure, "draw", Figure.draw)
        exec(RUN, {})
    return json.loads(out.getvalue()) | {"numbers": numbers_of(folder / "runs/of1")}


@pytest.fixture(scope="module")
def of_two(folder: Path) -> dict[str, Any]:
    return told_by(folder, 2)


# 48 images in batches of 10: the last one has 8; 21 are validated.
def test_two_processes_are_as_one(
    alone: dict[str, Any], of_two: dict[str, Any], folder: Path
) -> None:
    check_like(alone, of_two, folder / "runs/of2")


@pytest.mark.slow
def test_four_processes_are_as_one(alone: dict[str, Any], folder: Path) -> None:
    check_like(alone, told_by(folder, 4), folder / "runs/of4")


# What one process mixes or compares, several do too: each image with one of another process.
@pytest.mark.slow
def test_images_of_different_processes_are_mixed_and_compared_as_in_one(folder: Path) -> None:
    for num_ranks in (1, 2, 4):
        ranks = ended(start(["-c", OTHERS, f"of{num_ranks}"], folder, num_ranks=num_ranks))
        assert ranks == [(0, "", "")] * num_ranks
    for kind in ("mixed", "Triplet", "CosineE"):
        for several in ("of2", "of4"):
            check_same_run(folder / f"runs/of1-{kind}", folder / f"runs/{several}-{kind}")


def check_same_run(one: Path, other: Path) -> None:
    """Compare losses and weights of two runs, to rounding."""
    np.testing.assert_allclose(numbers_of(other), numbers_of(one), rtol=2e-4, atol=1e-6)
    check_close(last_of(other)["state_dict"], last_of(one)["state_dict"])


def check_like(alone: dict[str, Any], several: dict[str, Any], run: Path) -> None:
    np.testing.assert_allclose(several["numbers"], alone["numbers"], rtol=2e-4)
    # Integer for integer.
    assert np.sum(alone["matrix"]) == 21
    assert several["matrix"] == alone["matrix"]
    assert several["trained_on"] == alone["trained_on"] == 0
    # Each image once, in the list's order, and what cannot be read with its reason.
    assert [row["path"] for row in several["rows"]] == [row["path"] for row in alone["rows"]]
    assert several["rows"][-1] == alone["rows"][-1]
    assert "broken.png" in several["rows"][-1]["error"]
    one, other = (
        torch.load(folder / "last.pkl", weights_only=True)["state_dict"]
        for folder in (run.parent / "of1", run)
    )
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)
    # What is recorded is of the whole batch too.
    ours, theirs = (recorded_by(folder) for folder in (run.parent / "of1", run))
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name], values, rtol=2e-3, atol=1e-3, err_msg=name)


def recorded_by(run: Path) -> dict[str, Any]:
    """Return loss and gradient norm of each step, margins and outputs."""
    lines = [json.loads(line) for line in (run / "layers.jsonl").read_text().splitlines()[1:]]
    steps = {name: [line[name] for line in lines] for name in ("loss", "grad_norm")}
    margins, outputs = np.load(run / "margins.npz"), np.load(run / "valid_outputs.npz")
    return {**steps, **margins, "last": outputs["last"], "labels": outputs["labels"]}


def run_of(folder: Path, flags: Sequence[str], *, num_ranks: int = 2) -> str:
    """Return what the first of several ranks prints, all of which succeed."""
    (status, out, errors), *others = ended(start([*TRAIN, *flags], folder, num_ranks=num_ranks))
    assert (status, errors) == (0, ""), errors
    assert others == [(0, "", "")] * (num_ranks - 1)
    return out


def last_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "last.pkl", weights_only=True)
    return found


def check_close(found: Any, expected: Any) -> None:
    """Compare the tensors of two states, by name."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_close(found[key], value)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


needs_cpu_shards = pytest.mark.skipif(
    torch.__version__ < "2.8", reason="FSDP2 needs torch 2.8 on CPUs"
)


@needs_cpu_shards
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD(momentum=0.9)", "AdamW()"])
def test_a_model_in_parts_trains_as_a_whole_one_and_any_number_resumes(
    optimizer: str, folder: Path
) -> None:
    flags = ["--epochs", "2", "--optimizer", optimizer, "--set", "train.ema=0.9",
             "--set", "train.clip_grad=1", "--set", "train.accumulate=2"]  # fmt: skip
    whole, parts = f"whole {optimizer}", f"parts {optimizer}"
    run_of(folder, [*flags, "--name", whole])
    out = run_of(folder, [*flags, "--name", parts, "--set", "train.shard=true"])
    assert "each of 2 processes has a part of the model" in out
    runs = folder / "runs"
    one, other = last_of(runs / whole), last_of(runs / parts)
    check_close(other["state_dict"], one["state_dict"])
    check_close(other["train"]["raw_state_dict"], one["train"]["raw_state_dict"])
    check_close(other["train"]["optimizer"]["state"], one["train"]["optimizer"]["state"])
    np.testing.assert_allclose(numbers_of(runs / parts), numbers_of(runs / whole), rtol=2e-4)
    for num_ranks, epochs in ((3, 3), (1, 4)):
        for name in (whole, parts):
            resume = ["-m", "ptkit", "train", "--resume", f"runs/{name}", "--epochs", str(epochs)]
            ranks = ended(start(resume, folder, num_ranks=num_ranks))
            assert [(status, errors) for status, _, errors in ranks] == [(0, "")] * num_ranks
        check_close(last_of(runs / parts)["state_dict"], last_of(runs / whole)["state_dict"])


@needs_cpu_shards
@pytest.mark.slow
def test_blocks_in_parts_give_the_weights_of_whole_ones(folder: Path) -> None:
    flags = ["--epochs", "1", "--model", "resnet18", "--lr", "0.001"]
    run_of(folder, [*flags, "--name", "resnet"])
    run_of(folder, [*flags, "--name", "resnet in parts", "--set", "train.shard=true"])
    states = [
        last_of(folder / "runs" / name)["state_dict"] for name in ("resnet in parts", "resnet")
    ]
    check_close(*states)


def test_blocks_are_children_of_rows_with_enough_parameters() -> None:
    attention = nn.MultiheadAttention(8, 2)
    row = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)), attention)
    model = nn.ModuleDict({"row": row, "head": nn.Linear(8, 8), "small": nn.Linear(8, 1)})
    found = blocks_of(model, least=72)
    # Attention reads the weights of its last layer without calling it.
    assert found == [row[0], row[1][0], attention, model["head"]]


def test_blocks_keep_no_parameter_that_dividing_replaces() -> None:
    gc.collect()
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    blocks_of(model, least=72)
    before = weakref.ref(model[0].weight)
    model[0].weight = nn.Parameter(torch.zeros(8, 8))
    # Without a search for cycles, which may come late.
    assert before() is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), True),
        (RuntimeError("NCCL communicator was aborted on rank 1"), True),
        (RuntimeError("NCCL error: Duplicate GPU detected : rank 1 and rank 0"), False),
        (RuntimeError("NCCL error: out of memory"), False),
        (RuntimeError("shapes do not agree"), False),
    ],
)
def test_only_an_error_of_another_process_is_told_as_one(error: Exception, expected: bool) -> None:
    assert (lost(error) is not None) is expected


@pytest.mark.parametrize("fails", [False, True])
def test_after_an_error_no_process_on_a_gpu_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    left = []
    monkeypatch.setattr(distributed, "rank_of_environment", lambda: Rank(0, 2))
    monkeypatch.setattr(distributed, "_begin", lambda _: None)
    monkeypatch.setattr(distributed, "_said_once", nullcontext)
    monkeypatch.setattr(distributed, "_has_nccl", lambda: True)
    for name in ("destroy_process_group", "distributed_c10d._abort_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda name=name: left.append(name))
    with suppress(ValueError), distributed.joined():
        if fails:
            raise ValueError("not an image")
    assert left == ["distributed_c10d._abort_process_group" if fails else "destroy_process_group"]


def test_a_batch_size_that_one_process_measures_waits_for_no_other() -> None:
    asked = resolve({"train": {"batch_size": "auto", "sync_batchnorm": True}})
    assert for_ranks(asked) is asked
    with being(Rank(0, 2)), pytest.raises(UsageError, match=r"sync_batchnorm waits for all"):
        for_ranks(asked)


TRAIN = ["-m", "ptkit", "train", "--model", "lenet", "--batch-size", "10", "--device", "cpu",
         "--set", "log.tensorboard=false", "--set", "log.pictures=false"]  # fmt: skip


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_another_number_resumes(
    folder: Path,
) -> None:
    command = [*TRAIN, "--epochs", "100000", "--name", "stopped"]
    processes = start(command, folder, num_ranks=2)
    metrics, until = folder / "runs/stopped/metrics.csv", time.monotonic() + 30
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    (status, _, errors), (other, out, silent) = ended(processes)
    assert (status, other, out, silent) == (143, 143, "", "")
    saved = re.search(r"runs/stopped is saved up to (step \d+ of )?epoch (\d+)", errors)
    assert errors.count("\n") == 1
    assert saved is not None
    epochs = str(int(saved[2]) + 1)
    again = ["-m", "ptkit", "train", "--resume", "runs/stopped", "--epochs", epochs]
    (status, out, errors), *_ = ended(start(again, folder, num_ranks=1))
    assert (status, errors) == (0, "")
    assert "changed: world size (2 to 1 processes)" in out


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_with_what_is_safe(folder: Path) -> None:
    processes = start([*TRAIN, "--epochs", "100000", "--name", "lost"], folder, num_ranks=2)
    state, until = folder / "runs/lost/last.pkl", time.monotonic() + 30
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].kill()
    (status, _, errors), _ = ended(processes)
    assert status == 74
    assert re.fullmatch(
        r"ptkit: another process of the job has ended, or does not answer; runs/lost is saved up to"
        r" epoch \d+; continue it with: ptkit train --resume runs/lost\n",
        errors,
    )


@pytest.mark.slow
def test_a_compiled_model_trains_in_two_processes_as_a_plain_one_in_one(folder: Path) -> None:
    flags = ["--epochs", "2", "--set", "train.accumulate=2"]
    run_of(folder, [*flags, "--name", "plain"], num_ranks=1)
    command = [*TRAIN, *flags, "--set", "train.compile=true", "--name", "compiled"]
    (status, out, errors), *_ = ended(start(command, folder, num_ranks=2))
    # torch's compiler may warn of what it has found on the machine.
    assert status == 0, errors
    assert "model compiled" in out
    check_same_run(folder / "runs/plain", folder / "runs/compiled")


@pytest.mark.slow
def test_the_batch_size_is_measured_once_for_all(folder: Path) -> None:
    flags = ["--epochs", "1", "--batch-size", "auto", "--loss", "CrossEntropyLoss(weight=[1,2,3])"]
    out = run_of(folder, [*flags, "--name", "measured"])
    found = re.search(r"batch size: (\d+), (\d+) in each process, of those measured", out)
    assert found is not None, out
    assert int(found[1]) == 2 * int(found[2])
    assert f"batch_size = {found[1]}" in (folder / "runs/measured/config.toml").read_text()


def test_no_process_waits_for_ever_to_leave(folder: Path) -> None:
    # The last exchange leaves tensors to a thread of gloo.
    code = """
import os, sys
from ptkit.core.distributed import from_main, joined
for port in sys.argv[1:]:
    os.environ["MASTER_PORT"] = port
    with joined():
        assert from_main(lambda: port) == port
"""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(12)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in sockets]
    assert ended(start(["-c", code, *ports], folder, num_ranks=2)) == [(0, "", "")] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1"], "train.batch_size is 1, the images of a step in all 2 processes"),
        (["--set", "train.shard=true", "--batch-size", "auto"], "--batch-size auto is measured"),
        (["--set", "train.shard=true", "--set", "train.compile=true"], "train.compile is for a"),
        (["--set", "train.shard=true", "--optimizer", "Muon()"], "train.shard is for optimizers"),
        (["--set", "train.shard=true", "--precision", "fp16"], "train.shard is for --precision"),
        (["images"], "images is split by one process, and there are 2"),
    ],
)
@pytest.mark.slow
def test_what_several_processes_cannot_do_is_refused_once(
    flags: list[str], message: str, folder: Path
) -> None:
    (status, _, errors), (other, out, silent) = ended(start([*TRAIN, *flags], folder, num_ranks=2))
    assert (status, other, out, silent) == (2, 2, "", "")
    assert errors.startswith(f"ptkit: {message}")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_restarted_job_goes_on_with_its_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    command = [*TRAIN, "--epochs", "100000", "--out", "mine"]
    processes = start(command, folder, num_ranks=2)
    # The last of an epoch that is written.
    state, until = folder / "mine/1/last.pkl", time.monotonic() + 30
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.02)
    processes[0].kill()
    ended(processes)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    before = state.stat().st_mtime_ns
    processes = start(command, folder, num_ranks=4)
    until = time.monotonic() + 40
    while state.stat().st_mtime_ns == before and time.monotonic() < until:
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGTERM)
    (status, out, _), *_ = ended(processes)
    assert status == 143
    assert "resuming mine/1 after " in out
    assert [path.name for path in (folder / "mine").iterdir()] == ["1"]


def test_a_command_that_knows_of_no_ranks_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["split", "nowhere"])
    assert result.exit_code == 2
    assert "ptkit split is the work of one process, and WORLD_SIZE is 2" in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "--bogus"], 2, "No such option"),
        (["--bogus"], 2, "No such option"),
        (["train", "--help"], 0, "Usage"),
    ],
)
def test_flags_are_answered_by_the_first_rank_alone(
    arguments: list[str], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "0")
    first = CliRunner().invoke(app, arguments)
    monkeypatch.setenv("RANK", "1")
    other = CliRunner().invoke(app, arguments)
    assert (first.exit_code, other.exit_code, other.output) == (status, status, "")
    assert said in first.output


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="WORLD_SIZE is 2, and RANK is not set"):
        rank_of_environment()


@pytest.mark.parametrize("mixer", ["MixUp()", "CutMix()", "RandomChoice([MixUp(), CutMix()])"])
@pytest.mark.parametrize("num_ranks", [2, 3, 7])
def test_the_mixed_images_of_all_ranks_are_those_of_one(
    mixer: str, num_ranks: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    images = read_list(Path("train.txt"))
    pipeline = Pipeline.parse(["RandomCrop(16, padding=2)", "ToTensor()", mixer])

    def batches(rank: Rank) -> list[Batch]:
        sampling = Sampling(9, shuffle=True, rank=rank)
        return list(Batches(images, pipeline, sampling, workers=1).epoch(1))

    # Of 48 images the last batch has 3: of seven ranks four have none of it.
    several = [batches(Rank(number, num_ranks)) for number in range(num_ranks)]
    for number, whole in enumerate(batches(Rank())):
        parts = [each[number] for each in several if not each[number].is_stand_in]
        assert np.concatenate([part.indices for part in parts]).tolist() == whole.indices.tolist()
        for found, expected in (
            ([part.images for part in parts], whole.images),
            ([part.labels for part in parts], whole.labels),
            ([part.mixed.partner_labels for part in parts if part.mixed], partners_of(whole)),
            ([part.mixed.share for part in parts if part.mixed], whole.mixed.share),
        ):
            assert torch.equal(torch.cat(found), expected)


def partners_of(batch: Batch) -> torch.Tensor:
    return batch.labels.roll(1, 0)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7])
def test_the_parts_of_a_batch_are_the_batch(num_ranks: int) -> None:
    sampling = [Sampling(5, rank=Rank(number, num_ranks)) for number in range(num_ranks)]
    # Of 12 images the last batch has 2.
    for batch, size in enumerate((5, 5, 2)):
        parts = [each.part_of_batch(batch, 12) for each in sampling]
        mine = [list(range(12))[part.places] for part in parts if not part.is_stand_in]
        assert [*chain.from_iterable(mine)] == list(range(batch * 5, batch * 5 + size))
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
        assert {part.batch_size for part in parts} == {size}
