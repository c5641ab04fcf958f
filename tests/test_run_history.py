import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ptkit.core.training import distributions
from ptkit.core.training.distributions import (
    KINDS,
    NUM_BINS,
    PERCENTILES,
    DistributionLog,
    read_distributions,
)
from ptkit.looking.run_history import history_pictures
from ptkit.plots.saving import pixels


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def record(run, model, epochs, *, up_to_epoch=None):
    log = DistributionLog(run, up_to_epoch=up_to_epoch)
    if up_to_epoch is None:
        log.start(model, torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
    for epoch in epochs:
        with torch.no_grad():
            model[0].weight.fill_(epoch)
            model[2].weight.grad = torch.arange(12.0).reshape(3, 4) * epoch
        log.epoch(SimpleNamespace(epoch=epoch), model)()
    return read_distributions(run)


def test_the_first_distributions_wait_for_what_a_gpu_copies(tmp_path, model, late_copies):
    late_copies(distributions)
    found = record(tmp_path, model, [])
    smallest, largest = found.percentiles[0, 0, 0, [0, -1]]
    weights = model[0].weight.detach().numpy()
    assert (smallest, largest) == (weights.min(), weights.max())


def write_log(run, num_epochs, *, num_outputs=3, update=1e-3):
    start = {"kind": "start", "clip_grad": 2.0}
    weights = {name: {"weight": [2.0, 2.0], "update": [update, 3 * update]} for name in "ab"}
    epochs = [
        {
            "kind": "epoch",
            "epoch": epoch,
            "grad_norm": [1.0, None, 3.0],
            "weights": weights,
            "output_bias": [epoch * k for k in range(num_outputs)],
        }
        for epoch in range(1, num_epochs + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in (start, *epochs))
    # A run that was killed leaves half a line.
    (run / "layers.jsonl").write_text(text + text[:20])


def drawn(run, names=("x", "y", "z")):
    return {p.name: p for p in history_pictures(run, class_names=names, footer="runs/1")}


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_distributions_are_those_of_numpy_and_of_the_first_and_last_layer(tmp_path, model):
    found = record(tmp_path, model, [1, 2])
    assert (found.epochs, found.layers) == ((0, 1, 2), ("0.weight", "2.weight"))
    gradient = np.arange(12.0) * 2
    assert (found.percentiles[2, 1, 1] == np.percentile(gradient, PERCENTILES)).all()
    assert (found.counts[2, 1, 1] == np.histogram(gradient, NUM_BINS)[0]).all()
    assert np.isnan(found.percentiles[0, :, 1]).all()
    assert found.counts[0, :, 1].sum() == 0


def test_distributions_of_a_run_cut_and_resumed_are_the_same_file(tmp_path, model):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    torch.manual_seed(1)
    record(tmp_path / "whole", model, [1, 2, 3])
    model[0].weight.grad = model[2].weight.grad = None
    torch.manual_seed(0)
    again = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    record(tmp_path / "cut", again, [1, 2])
    record(tmp_path / "cut", again, [2, 3], up_to_epoch=1)
    whole, cut = (tmp_path / name / "distributions.npz" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing more"])
def test_damaged_distributions_are_left_out(tmp_path, content):
    (tmp_path / "distributions.npz").write_bytes(content)
    assert drawn(tmp_path) == {}


def test_every_picture_has_its_numbers_beside_it(tmp_path, model):
    record(tmp_path, model, [1, 2])
    write_log(tmp_path, 2)
    found = drawn(tmp_path)
    assert list(found) == ["distributions", "gradient_flow", "output_bias"]
    assert all(pixels(picture.figure).std() > 0 for picture in found.values())
    assert found["gradient_flow"].rows == [(e, name, 0.001) for e in (1, 2) for name in "ab"]
    biases = [(1, "x", 0.0), (1, "y", 1.0), (1, "z", 2.0), (2, "x", 0.0), (2, "y", 2.0)]
    assert found["output_bias"].rows == [*biases, (2, "z", 4.0)]
    kinds = [(row[0], row[1], row[2]) for row in found["distributions"].rows]
    assert kinds[:3] == [
        (0, "0.weight", KINDS[0]),
        (0, "2.weight", KINDS[0]),
        (1, "0.weight", KINDS[0]),
    ]
    assert "“z” 4, least “x” 0" in texts(found["output_bias"].figure)
    assert "a least, by 0.001 of its weights" in texts(found["gradient_flow"].figure)


def test_a_frozen_network_and_one_epoch_are_drawn(tmp_path):
    write_log(tmp_path, 1, update=0.0)
    found = drawn(tmp_path)
    assert pixels(found["gradient_flow"].figure).std() > 0
    assert found["gradient_flow"].rows[0][2] == 0


def test_many_outputs_are_drawn_and_six_are_named(tmp_path):
    write_log(tmp_path, 3, num_outputs=200)
    figure = drawn(tmp_path, [f"class {k}" for k in range(200)])["output_bias"].figure
    assert "Bias of each of 200 outputs; 6 are named." in texts(figure)
    assert "597  class 199" in texts(figure)


def test_a_run_without_records_has_no_pictures(tmp_path):
    assert drawn(tmp_path) == {}
    (tmp_path / "layers.jsonl").write_text(json.dumps({"kind": "start", "x": math.pi}))
    assert drawn(tmp_path) == {}


def test_layers_that_are_not_trained_are_no_answer_to_how_far_a_step_moves_them(tmp_path):
    write_log(tmp_path, 3)
    lines = [json.loads(line) for line in (tmp_path / "layers.jsonl").read_text().splitlines()[:4]]
    trained = {
        "a": {"trained": False},
        "b": {"trained": True},
        "c": {"trained": True, "from_epoch": 3},
    }
    lines[0]["weights"] = trained
    for line in lines[1:]:
        still = {"weight": [2.0, 2.0], "update": [0.0, 0.0]}
        moves = line["weights"]["b"]
        line["weights"] = {"a": still, "b": moves, "c": moves if line["epoch"] == 3 else still}
    (tmp_path / "layers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = drawn(tmp_path)["gradient_flow"].rows
    assert [row for row in rows if row[1] == "c"][:2] == [(1, "c", None), (2, "c", None)]
    assert {row[1] for row in rows if row[2] is not None} == {"b", "c"}


def test_a_log_that_cannot_be_read_costs_its_pictures_only(tmp_path):
    (tmp_path / "layers.jsonl").mkdir()
    assert drawn(tmp_path) == {}
