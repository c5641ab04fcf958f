"""The rules of `ptkit diagnose`: silent on a healthy run, and each on its own fault."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import CLASS_NAMES, make_lists
from tiny_records import NAMES, NUM_STEPS, make_run, outputs
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.calibration.temperature import expected_calibration_error
from ptkit.core.diagnosis.recorded import read_records
from ptkit.core.diagnosis.rules import BY_NAME, RULES, findings, open_findings
from ptkit.core.errors import DataError
from ptkit.core.training.recording.layers import sampled_steps
from ptkit.looking import diagnosis as diagnosis_module
from ptkit.looking.diagnosis import continuation, diagnose
from ptkit.looking.reporting.findings import verdicts_section
from ptkit.looking.reporting.gather import gather_run

RUN = CliRunner()


def headlines(folder: Path) -> list[str]:
    found = open_findings(findings(read_records(folder)))
    return [f"{finding.verdict} {finding.rule}" for finding in found]


def every_epoch(**values):
    """Return a change that puts values into every epoch."""
    return lambda first, epochs: [epoch.update(values) for epoch in epochs]


def in_start(**values):
    return lambda first, epochs: first["initial"].update(values)


def of_weight(name, key, value):
    """Return a change of one weight's norms at every sample."""

    def change(first, epochs):
        for epoch in epochs:
            epoch["weights"][name][key] = [value] * NUM_STEPS

    return change


def far_layers(first, epochs):
    of_weight(NAMES[0], "gradient", 1e-6)(first, epochs)
    of_weight(NAMES[0], "update", 1e-6)(first, epochs)
    first["weights"][NAMES[0]]["weight_decay"] = 0.0


def small_steps(first, epochs):
    for name in NAMES:
        of_weight(name, "update", 1e-4)(first, epochs)


def rising(first, epochs):
    for epoch in epochs[2:]:
        epoch["loss"] = [2.0] * NUM_STEPS


def spiked(first, epochs):
    for epoch in epochs[2:4]:
        epoch["grad_norm"][10] = 500.0
        epoch["loss"][10:15] = [0.9] * 5


def crushed(first, epochs):
    for about in first["weights"].values():
        about["weight_decay"] = 1.0
    for k, epoch in enumerate(epochs):
        epoch["loss"] = [0.3 + 0.2 * k] * NUM_STEPS
        for name in NAMES:
            epoch["weights"][name]["weight"] = [10.0 / 5**k] * NUM_STEPS
            epoch["weights"][name]["update"] = [0.01 / 5**k] * NUM_STEPS


FAULTS = [
    ("FAIL non-finite", every_epoch(loss=[None] * NUM_STEPS)),
    ("WARN initial loss", in_start(loss=1.2)),
    ("FAIL initial loss", in_start(loss=70.0)),
    ("WARN initial signal", in_start(layer_std={"conv1": 1.0, "fc": 1e-4})),
    ("WARN input", in_start(input={"mean": [120.0], "std": [60.0], "max": 255.0})),
    ("FAIL softmax before the loss", in_start(outputs_are_probabilities=True)),
    ("FAIL lr too high", rising),
    ("WARN lr too low", small_steps),
    ("FAIL vanishing gradient", far_layers),
    ("WARN gradient spikes", spiked),
    ("WARN layer imbalance", of_weight(NAMES[2], "update", 1e-5)),
    ("FAIL not updated", of_weight(NAMES[2], "update", 0.0)),
    ("FAIL weight decay", crushed),
    (
        "FAIL dead units",
        every_epoch(activations={"conv1": {"units": 8, "dead": 8, "std": 0.0}}),
    ),
    ("WARN frozen statistics", every_epoch(frozen_statistics={"bn1": 0.0, "bn2": 0.3})),
    ("WARN data-bound", every_epoch(wait_s=[0.02] * NUM_STEPS)),
]


def test_a_healthy_run_has_no_finding(tmp_path):
    assert headlines(make_run(tmp_path / "run")) == []
    verdicts = {f.rule: f.verdict for f in findings(read_records(tmp_path / "run"))}
    unknown = ("too good", "frozen statistics")
    assert verdicts == {rule.name: "n/a" if rule.name in unknown else "ok" for rule in RULES}


@pytest.mark.parametrize(("rule", "change"), FAULTS)
def test_a_fault_is_found_by_its_name(tmp_path, rule, change):
    assert headlines(make_run(tmp_path / "run", change))[0] == rule


@pytest.mark.parametrize(
    ("rule", "metrics"),
    [
        ("FAIL not learning", {"train_loss": [0.7] * 5, "valid_accuracy": [0.5] * 5}),
        ("WARN overfitting that costs", {"valid_accuracy": [0.9, 0.95, 0.8, 0.75, 0.7]}),
        (
            "WARN overfitting that costs",
            {
                "valid_loss": [0.3, 0.3, 0.5, 0.6, 0.7],
                "train_accuracy": [0.9, 0.95, 1.0, 1.0, 1.0],
                "valid_accuracy": [0.7] * 5,
            },
        ),
    ],
)
def test_a_fault_of_the_curves_is_found_by_its_name(tmp_path, rule, metrics):
    assert rule in headlines(make_run(tmp_path / "run", metrics=metrics))


def test_outputs_that_boast_are_overconfident_and_a_temperature_mends_them(tmp_path):
    values, _ = outputs()
    run = read_records(make_run(tmp_path / "run", values=values * 5))
    (found,) = [f for f in findings(run) if f.rule == "overconfident"]
    assert found.verdict == "WARN"
    before, after = map(float, re.findall(r"ECE ([\d.]+) to ([\d.]+)", found.judgement.effect)[0])
    assert after < before


def test_a_class_that_is_answered_too_often_is_told_with_what_a_shift_would_bring(tmp_path):
    values, _ = outputs()
    weak = values * 0.5 + np.array([0, 0.9], np.float32)
    rng = np.random.default_rng(1)
    weak[:100, 1] += (rng.random(100) < 0.6) * 1.2
    run = read_records(make_run(tmp_path / "run", values=weak))
    (found,) = [f for f in findings(run) if f.rule == "output bias"]
    assert (found.verdict, found.judgement.where) == ("WARN", ("0",))
    assert "macro recall" in found.judgement.effect


def test_answers_of_one_class_are_a_collapse(tmp_path):
    values = np.tile(np.array([[2.0, -2.0]], np.float32), (200, 1))
    config = "[train]\nepochs = 5\n"
    folder = make_run(
        tmp_path / "run",
        lambda first, epochs: first.update(class_counts=[590, 10]),
        values=values,
        config=config,
        metrics={"valid_accuracy": [0.5] * 5, "train_loss": [0.05] * 5},
    )
    assert "FAIL collapse" in headlines(folder)


def test_labels_that_the_model_contradicts_are_noise(tmp_path):
    _, labels = outputs()
    z = np.where(np.arange(200) < 12, 4.2, 4.0)[:, None]
    sure = np.where(labels[:, None] == np.arange(2), z, -z).astype(np.float32)
    # Twelve of 200 images, of both classes, look like the other one.
    sure[94:106] = sure[94:106, ::-1]
    assert "WARN label noise" in headlines(make_run(tmp_path / "run", values=sure))


def test_a_cause_mutes_what_follows_from_it(tmp_path):
    metrics = {"train_loss": [0.7] * 5, "valid_accuracy": [0.5] * 5}
    run = read_records(make_run(tmp_path / "run", rising, metrics=metrics))
    found = {f.rule: f for f in findings(run)}
    assert found["not learning"].verdict == "FAIL"
    assert found["not learning"].muted_by == "lr too high"


def test_the_first_cause_is_named(tmp_path):
    def dying(first, epochs):
        rising(first, epochs)
        every_epoch(activations={"conv1": {"units": 8, "dead": 8, "std": 0.0}})(first, epochs)

    run = read_records(make_run(tmp_path / "run", dying, metrics={"train_loss": [0.7] * 5}))
    found = {f.rule: f.muted_by for f in findings(run)}
    # Its units died of the rate, and it does not learn because they did.
    assert (found["dead units"], found["not learning"]) == ("lr too high", "lr too high")


def test_layers_that_are_meant_to_move_slowly_have_no_vanishing_gradient(tmp_path):
    def slow(first, epochs):
        of_weight(NAMES[0], "update", 2e-5)(first, epochs)
        first["weights"][NAMES[0]]["lr_scale"] = 0.001

    config = '[optimizer]\ncall = "AdamW()"\nlr = 0.001\nlayer_decay = 0.1\n'
    assert headlines(make_run(tmp_path / "slow", slow, config=config)) == []
    # At the run's own rate the same layer stands still.
    found = headlines(make_run(tmp_path / "still", far_layers, config=config))
    assert found[0] == "FAIL vanishing gradient"


@pytest.mark.parametrize(
    ("call", "verdict"), [("AdamW()", "ok"), ("Muon()", "ok"), ("Adam()", "FAIL")]
)
def test_decay_that_is_no_part_of_a_gradient_moves_weights_by_itself_only(tmp_path, call, verdict):
    # At a rate of 0.1 and a decay of 1e-3 that is 1e-4; the layer moves twice as far.
    far = of_weight(NAMES[0], "update", 2e-3)
    others = {name: of_weight(name, "update", 1.0) for name in NAMES[1:]}

    def change(first, epochs):
        for each in (far, *others.values()):
            each(first, epochs)

    config = f'[optimizer]\ncall = "{call}"\nlr = 0.1\n'
    run = read_records(make_run(tmp_path / "run", change, config=config))
    assert {f.rule: f.verdict for f in findings(run)}["vanishing gradient"] == verdict


def test_a_rate_that_is_too_high_at_its_peak_is_found_in_a_single_short_epoch(tmp_path):
    # Four samples would be at the steps 1, 14, 26 and 39: beside the peak.
    corners = {1: 0.0, 10: 0.55, 14: 0.6, 16: 1.0, 24: 1.0, 26: 0.6, 30: 0.55, 39: 0.0}
    rates = np.interp(range(1, 40), list(corners), list(corners.values()))

    def change(_first, epochs):
        del epochs[1:]
        sampled = sampled_steps(len(rates), epochs=1)
        # Above the limit of 1 % at the peak alone.
        updates = 0.0145 * rates[np.array(sampled) - 1]
        constant = {"weight": [10.0] * len(sampled), "gradient": [0.1] * len(sampled)}
        weights = {name: {**constant, "update": (10 * updates).tolist()} for name in NAMES}
        epochs[0].update(
            lr=rates.tolist(), loss=[0.7] * len(rates), sampled=sampled, weights=weights
        )

    run = read_records(make_run(tmp_path / "run", change))
    assert {f.rule: f.verdict for f in findings(run)}["lr too high"] == "FAIL"


def test_layers_that_images_fill_may_move_little_and_get_no_other_first_weights(tmp_path):
    def fitted(first, epochs):
        far_layers(first, epochs)
        first["fitted"] = [NAMES[0]]
        first["initial"]["layer_std"] = {"conv1": 1.0, "fc": 1e-4}
        # Further from the usual spread than the other layers.
        epochs[0]["weights"][NAMES[0]]["weight"][0] = 1e4

    run = read_records(make_run(tmp_path / "run", fitted))
    found = {f.rule: f.judgement for f in findings(run)}
    assert [found[rule].verdict for rule in ("vanishing gradient", "layer imbalance")] == ["ok"] * 2
    assert found["initial signal"].where == ("conv2",)


def test_the_calibration_error_of_calibrated_answers_is_small_and_of_others_their_gap():
    sure = np.full(3000, 0.8)
    right = np.arange(3000) % 5 != 0
    assert expected_calibration_error(sure, right) == pytest.approx(0, abs=0.01)
    assert expected_calibration_error(sure, ~right) == pytest.approx(0.6, abs=0.01)


def test_a_line_that_a_kill_cut_off_is_left_out_and_damage_inside_is_refused(tmp_path):
    file = make_run(tmp_path / "run") / "layers.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-40])
    assert len(read_records(tmp_path / "run").epochs) == 4
    file.write_text(whole.replace('"kind": "epoch"', '"kind": "epo', 1))
    with pytest.raises(DataError, match=r"layers\.jsonl, line 2: damaged"):
        read_records(tmp_path / "run")


def test_a_run_that_recorded_nothing_or_no_epoch_says_so_of_each_rule(tmp_path):
    folder = make_run(tmp_path / "run")
    first = (folder / "layers.jsonl").read_text().partition("\n")[0] + "\n"
    (folder / "layers.jsonl").write_text(first)
    found = {f.rule: f.judgement.text or f.verdict for f in findings(read_records(folder))}
    before = ["softmax before the loss", "input", "initial loss", "initial signal"]
    others = {rule.name for rule in RULES}.difference(before)
    wanted = dict.fromkeys(before, "ok") | dict.fromkeys(others, "no epoch was finished")
    assert found == wanted
    (folder / "layers.jsonl").unlink()
    reasons = {f.judgement.text.partition(":")[0] for f in findings(read_records(folder))}
    assert reasons == {"the run recorded nothing"}


def test_labels_without_an_accuracy_are_judged_by_what_they_have(tmp_path):
    folder = make_run(
        tmp_path / "run",
        lambda first, epochs: first.update(guessing=None, valid_counts=None),
        metrics={"valid_accuracy": [np.nan] * 5},
        config='[loss]\ncall = "BCEWithLogitsLoss()"\n',
    )
    (folder / "valid_outputs.npz").unlink()
    verdicts = {f.rule: f.verdict for f in findings(read_records(folder))}
    without = {"softmax before the loss", "initial loss", "too good", "not learning", "collapse",
               "overfitting that costs", "output bias", "label noise", "overconfident",
               "frozen statistics"}  # fmt: skip
    assert {rule for rule, verdict in verdicts.items() if verdict == "n/a"} == without
    assert headlines(folder) == []


def test_every_rule_that_mutes_names_rules_that_there_are():
    assert {name for rule in RULES for name in rule.mutes} <= BY_NAME.keys()


# ------------------------------------------------------------------------------------ the command


def test_a_trained_run_is_diagnosed(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    quick = ["--set", "log.pictures=false", "--set", "log.tensorboard=false"]
    assert RUN.invoke(app, ["train", "--epochs", "3", "--name", "a", *quick]).exit_code == 0
    result = RUN.invoke(app, ["diagnose", "runs/a", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [finding["rule"] for finding in found["findings"]] == [rule.name for rule in RULES]
    # The images and the model are there, so this rule can look.
    assert {f["rule"]: f["verdict"] for f in found["findings"]}["too good"] == "ok"
    wrong = RUN.invoke(app, ["diagnose", "runs/a", "--device", "cuda:77"])
    assert (wrong.exit_code, "cuda:77" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(("num_steps", "expected"), [(39, False), (40, True)])
def test_a_value_to_clip_at_is_named_where_a_tenth_of_the_steps_is_several(
    tmp_path, num_steps, expected
):
    def shorten(_first, epochs):
        epochs[0]["grad_norm"] = [1.0] * num_steps
        for epoch in epochs[1:]:
            epoch["grad_norm"] = []

    result = RUN.invoke(app, ["diagnose", str(make_run(tmp_path / "run", shorten))])
    assert ("train.clip_grad=1" in result.stdout) is expected


def test_a_run_that_diverged_says_at_which_step(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    quick = ["--set", "log.pictures=false", "--set", "log.tensorboard=false", "--lr", "1e30"]
    assert RUN.invoke(app, ["train", "--name", "a", *quick]).exit_code == 5
    result = RUN.invoke(app, ["diagnose", "runs/a", "--strict"])
    assert result.exit_code == 5
    assert result.stdout.startswith("FAIL  non-finite: the loss became NaN or infinite at step ")
    assert result.stderr == "ptkit: 1 finding, the first: non-finite\n"


def test_a_rule_is_explained_and_a_wrong_name_refused():
    result = RUN.invoke(app, ["diagnose", "--explain", "input"])
    assert result.stdout.splitlines()[0] == "input"
    assert "LeCun" in result.stdout
    wrong = RUN.invoke(app, ["diagnose", "--explain", "inputs"])
    assert (wrong.exit_code, "did you mean input?" in wrong.stderr) == (2, True)
    assert RUN.invoke(app, ["diagnose"]).exit_code == 2
    assert RUN.invoke(app, ["diagnose", "runs/a", "--explain", "input"]).exit_code == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    result = RUN.invoke(app, ["diagnose", str(tmp_path)])
    assert (result.exit_code, "is not a run folder" in result.stderr) == (3, True)


def test_frozen_norms_that_stay_are_fine(tmp_path):
    run = make_run(tmp_path / "run", every_epoch(frozen_statistics={"bn1": 0.0}))
    verdicts = {f.rule: f.verdict for f in findings(read_records(run))}
    assert verdicts["frozen statistics"] == "ok"
    assert headlines(run) == []


def test_a_loss_scaler_that_gave_up_has_no_step_and_is_told(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "layers.jsonl").open("a") as file:
        file.write('{"kind": "diverged", "step": null, "where": null}\n')
    (found,) = [f for f in findings(read_records(run)) if f.rule == "non-finite"]
    assert found.verdict == "FAIL"
    assert "however small the loss was scaled for fp16" in found.judgement.text
    assert found.judgement.command.endswith("--precision bf16")


def test_a_class_that_is_not_told_apart_yet_is_no_bias(tmp_path):
    rng = np.random.default_rng(0)
    # The right class leads by little, and one of the two by a little less.
    lead = 0.04 * np.where(np.arange(200) < 100, 1, -1) + rng.normal(0, 0.02, 200) + 0.05
    weak = np.stack([np.zeros(200), -lead], axis=1)
    run = read_records(make_run(tmp_path / "run", values=weak))
    (found,) = [f for f in findings(run) if f.rule == "output bias"]
    assert (found.verdict, found.judgement.where) == ("INFO", ("1",))
    assert "its mean probability is 48" in found.judgement.text


def test_too_few_validation_images_cannot_tell_that_nothing_was_learned(tmp_path):
    def few(first, epochs):
        first["valid_counts"] = [13, 12]

    columns = {"valid_accuracy": [0.5, 0.6, 0.64, 0.64, 0.64]}
    run = make_run(tmp_path / "run", few, metrics=columns)
    (found,) = [f for f in findings(read_records(run)) if f.rule == "not learning"]
    assert found.verdict == "INFO"
    assert found.judgement.text.endswith("25 images are too few to tell")


def test_a_single_epoch_that_began_at_guessing_has_learned_where_its_accuracy_says_so(tmp_path):
    def one_epoch(first, epochs):
        del epochs[1:]

    columns = {"epoch": [1], "train_loss": [0.7], "train_accuracy": [0.6], "valid_loss": [0.6]}
    for accuracy, verdict in ((0.7, "ok"), (0.5, "WARN")):
        metrics = {**columns, "valid_accuracy": [accuracy]}
        run = read_records(make_run(tmp_path / str(accuracy), one_epoch, metrics=metrics))
        assert {f.rule: f.verdict for f in findings(run)}["not learning"] == verdict


def test_a_new_head_on_a_trained_body_may_go_further(tmp_path):
    far = of_weight("fc.weight", "update", 2.0)
    scratch = make_run(tmp_path / "scratch", far)
    tuned = make_run(tmp_path / "tuned", far, config='[model]\nweights = "resnet18"\n')
    assert "WARN layer imbalance" in headlines(scratch)
    assert "WARN layer imbalance" not in headlines(tuned)


def test_a_few_steps_that_a_loss_scaler_skipped_are_no_finding(tmp_path):
    def skipped(first, epochs):
        first["precision"] = "fp16"
        epochs[0]["grad_norm"][:2] = [None, None]

    assert headlines(make_run(tmp_path / "run", skipped)) == []


def test_many_skipped_steps_are_one(tmp_path):
    def skipped(first, epochs):
        epochs[0]["grad_norm"][:12] = [None] * 12

    assert headlines(make_run(tmp_path / "run", skipped)) == ["WARN non-finite"]


def test_lists_are_read_as_the_run_read_them(tmp_path, monkeypatch, blank_pictures):
    monkeypatch.chdir(make_lists(tmp_path))
    for name in ("train.txt", "valid.txt"):
        lines = Path(name).read_text().splitlines()
        named = [f"{path} {CLASS_NAMES[int(label)]}\n" for path, label in map(str.split, lines)]
        Path(name).write_text("".join(named))
    # In another order than that of their names, elsewhere; and the images are elsewhere too.
    Path("classes.txt").unlink()
    Path("names").write_text("square\nbar\ncross\n")
    os.renames("images", "moved/images")
    ptkit.train(epochs=15, classes="names", root="moved", tensorboard=False, pictures=False)
    recorded, _ = diagnose(Path("runs/1"))
    assert recorded.evidence.num_clean == 48
    assert recorded.evidence.clean_train_accuracy > 0.7
    reported = gather_run(Path("runs/1"), check=False, counting=None)
    assert reported.predictions.names == ("square", "bar", "cross")
    assert all(Path(path).is_file() for path in reported.places.values())


def test_a_gpu_that_a_training_fills_costs_what_the_images_would_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    ptkit.train(epochs=1, tensorboard=False, pictures=False)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(diagnosis_module, "_clean_accuracy", full)
    # A CPU has no other device to go to.
    with pytest.raises(torch.OutOfMemoryError):
        diagnose(Path("runs/1"), device="cpu")
    monkeypatch.setattr(diagnosis_module, "choose_device", lambda _: torch.device("cuda"))
    recorded, found = diagnose(Path("runs/1"))
    assert recorded.evidence.why_none == "out of memory: use --device cpu"
    assert {f.rule: f.verdict for f in found}["too good"] == "n/a"


def test_images_of_a_later_split_are_not_said_to_have_been_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    ptkit.train(epochs=1, tensorboard=False, pictures=False)
    kept = {name: Path(name).read_text() for name in ("train.txt", "valid.txt")}
    Path("runs/1/.running").touch()
    assert continuation(diagnose(Path("runs/1"))[0]) == "ptkit train --resume runs/1"
    for name, part, other in (
        ("train.txt", "training", "valid.txt"),
        ("valid.txt", "validation", "train.txt"),
    ):
        Path(name).write_text(kept[other])
        recorded, found = diagnose(Path("runs/1"))
        assert recorded.evidence.why_none == f"the {part} list was changed after the run"
        assert continuation(recorded) is None
        assert {f.rule: f.verdict for f in found}["too good"] == "n/a"
        Path(name).write_text(kept[name])
    assert diagnose(Path("runs/1"))[0].evidence.num_leaked == 0


def test_images_that_cannot_be_read_cost_what_they_would_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    ptkit.train(epochs=2, tensorboard=False, pictures=False)
    run, first = Path("runs/1"), Path("train.txt").read_text().split()[0]
    whole = diagnose(run)[0].evidence
    assert (whole.num_clean, whole.num_leaked, whole.num_looked_at) == (48, 0, 21)
    content = Path(first).read_bytes()
    Path(first).write_bytes(b"")
    assert diagnose(run)[0].evidence.num_clean == 47
    Path(first).write_bytes(content)
    os.rename("images", "moved")
    gone, found = diagnose(run)
    assert gone.evidence.why_none.startswith("no training image can be read; the first: cannot ")
    reason = "no training image can be read"
    for with_images in (True, False):
        page = str(
            verdicts_section(gather_run(run, with_images=with_images, check=False, counting=None))
        )
        assert (reason in page, first in page) == (with_images, with_images)
    assert {f.rule: f.verdict for f in found}["too good"] == "n/a"
    assert diagnose(run, root=Path("moved"))[0].evidence == whole
    reported = gather_run(run, root=Path("moved"), check=False, counting=None)
    assert {f.rule: f.verdict for f in reported.findings}["too good"] != "n/a"
