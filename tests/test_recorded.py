"""What `ptkit diagnose` reads of a run, and the commands that it advises."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_diagnosis import FAULTS, every_epoch, of_weight
from tiny_records import NAMES, make_run, outputs
from typer.main import get_command
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.calibration.temperature import two_halves
from ptkit.core.config.layers import gather, with_assignments
from ptkit.core.diagnosis.recorded import Evidence, read_records
from ptkit.core.diagnosis.rules import findings

COMMANDS = get_command(app).commands
OVERFITTED = "overfitting that costs"
OWN = """[model]
init = ["Linear=zeros_"]
[optimizer]
call = "SGD(momentum=0.9)"
lr = 0.1
groups = ["conv2: weight_decay=0"]
"""
# A run and lists whose names a shell would take apart.
LISTS = '[data]\ntrain = "my train.txt"\nvalid = "it\'s.txt"\nmean = [0.5]\nstd = [0.5]\n'


def judged(folder, rule):
    """Return the judgement of a rule."""
    return {found.rule: found.judgement for found in findings(read_records(folder))}[rule]


def without_learning(update):
    """Return a change: the loss is that of guessing all along, and each step is so large."""

    def change(first, epochs):
        every_epoch(loss=[0.69] * 30)(first, epochs)
        for name in NAMES:
            of_weight(name, "update", update)(first, epochs)

    return change


def parsed(command):
    """Return the values that the command line makes of a command."""
    program, name, *words = shlex.split(command)
    assert program == "ptkit"
    return name, COMMANDS[name].make_context(name, words).params


def settings_of(command):
    """Return the settings that `ptkit train` would have."""
    name, values = parsed(command)
    assert name == "train"
    values = {key: value for key, value in values.items() if value not in (None, (), [])}
    values = {key: value for key, value in values.items() if value is not False}
    config, asks = Path(values.pop("config")), values.pop("preflight", None)
    flags = with_assignments(values.pop("assignments", ()), values)
    return gather(flags, config=config), asks


@pytest.mark.parametrize(("rule", "change"), FAULTS)
def test_what_is_advised_is_a_command_that_changes_the_run_and_keeps_its_lines(
    tmp_path, rule, change
):
    folder = make_run(tmp_path / "my run", change, config=LISTS + OWN)
    command = judged(folder, rule.partition(" ")[2]).command
    own = read_records(folder).settings
    if command.startswith("ptkit train"):
        settings, asks = settings_of(command)
        assert asks or settings != own
        # What was dead from the first epoch on is laid to --init.
        kept = () if rule == "FAIL dead units" else own.model.init
        assert settings.model.init[: len(own.model.init)] == kept
        new = (*settings.model.init[1:], *settings.optimizer.groups[1:])
        names = [re.split("[=:]", line)[0].removesuffix(".weight") for line in new]
        # A line that fits nothing of a model is refused.
        assert {f"{name}.weight" for name in names} <= {*NAMES, "*.weight"}
        assert settings.optimizer.groups[: len(own.optimizer.groups)] == own.optimizer.groups
        assert settings.data.train == own.data.train
    else:
        # What no command can mend.
        assert command.startswith(("take the softmax", "keep bn2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": 5}, ["calibrate", "{run}", "{run}/it's.txt", "--only", "temperature"]),
        ({"evidence": Evidence(0.6, 500)}, ["check", "{run}/my train.txt", "{run}/it's.txt"]),
    ],
)
def test_commands_on_lists_name_them_as_a_shell_wants_them(tmp_path, change, words):
    values, _ = outputs()
    values = values * change.get("values", 1)
    folder = make_run(tmp_path / "my run", values=values, config=LISTS)
    run = replace(read_records(folder), evidence=change.get("evidence", Evidence()))
    (command,) = [f.judgement.command for f in findings(run) if f.verdict == "WARN"]
    assert shlex.split(command) == ["ptkit", *(word.format(run=folder) for word in words)]
    parsed(command)


def test_a_layer_gets_the_rate_at_which_it_moves_like_the_others(tmp_path):
    def slow(first, epochs):
        of_weight(NAMES[2], "update", 2e-5)(first, epochs)
        first["weights"][NAMES[2]]["lr_scale"] = 0.001

    group = '[optimizer]\ncall = "SGD()"\nlr = 0.1\ngroups = ["conv3: lr=0.001x"]\n'
    by_group = judged(make_run(tmp_path / "a", slow, config=group), "layer imbalance")
    # Of five layers one moves a thousandth as far: of the mean 0.001 ** 0.8.
    factor = float(f"{0.001 / 0.001**0.8:.2g}")
    assert settings_of(by_group.command)[0].optimizer.groups[-1] == f"conv3.weight: lr={factor}x"
    at_one_rate = judged(
        make_run(tmp_path / "b", of_weight(NAMES[2], "update", 2e-5)), "layer imbalance"
    )
    assert settings_of(at_one_rate.command)[0].optimizer.groups == ("conv3.weight: lr=250x",)


def test_layers_that_wait_for_their_epoch_are_no_fault(tmp_path):
    def waiting(epoch):
        def change(first, epochs):
            for name in NAMES[:2]:
                first["weights"][name]["from_epoch"] = epoch
                for each in epochs[: epoch - 1]:
                    for what in ("gradient", "update"):
                        each["weights"][name][what] = [0.0] * len(each["sampled"])

        return change

    for epoch in (4, 9):
        run = read_records(make_run(tmp_path / str(epoch), waiting(epoch)))
        assert [f.rule for f in findings(run) if f.verdict in ("FAIL", "WARN")] == []


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(0.9, 500, 5, 200), "FAIL"),
        (Evidence(0.9, 500, 2, 200), "ok"),
        (Evidence(0.6, 500), "WARN"),
        (Evidence(0.87, 500), "ok"),
        (Evidence(why_none="cannot read a.png: it is cut short"), "n/a"),
    ],
)
def test_answers_are_too_good_where_images_were_trained_on_or_training_ones_are_worse(
    tmp_path, evidence, verdict
):
    run = replace(read_records(make_run(tmp_path / "run")), evidence=evidence)
    (found,) = [f for f in findings(run) if f.rule == "too good"]
    assert found.verdict == verdict
    assert found.judgement.text.startswith(evidence.why_none)


def test_a_calibrated_model_is_not_told_to_be_calibrated(tmp_path):
    values, _ = outputs()
    run = read_records(make_run(tmp_path / "run", values=values * 5))
    for temperature, verdict in ((None, "WARN"), (5.0, "ok")):
        known = replace(run, evidence=Evidence(temperature=temperature))
        assert {f.rule: f.verdict for f in findings(known)}["overconfident"] == verdict


def test_no_temperature_is_advised_that_makes_probabilities_worse(tmp_path):
    _, labels = outputs()
    fitted, scored = two_halves(len(labels))
    sure, answers = np.full(len(labels), 1.2), labels.copy()
    # The half that a temperature is fitted on boasts and is often wrong; the other one keeps what
    # it promises.
    sure[fitted], answers[fitted[::3]] = 9.0, 1 - labels[fitted[::3]]
    answers[scored[::12]] = 1 - labels[scored[::12]]
    values = np.where(answers[:, None] == np.arange(2), sure[:, None], -sure[:, None])
    found = judged(make_run(tmp_path / "run", values=values), "overconfident")
    before, after = map(float, re.findall(r"ECE ([\d.]+) to ([\d.]+)", found.effect)[0])
    assert (found.verdict, after > before, found.command) == ("WARN", True, "")


def noisy():
    """Return outputs that are sure of another class than that of twelve of the 200 images."""
    _, labels = outputs()
    z = np.where(np.arange(200) < 12, 4.2, 4.0)[:, None]
    sure = np.where(labels[:, None] == np.arange(2), z, -z).astype(np.float32)
    sure[94:106] = sure[94:106, ::-1]
    return sure


def test_labels_are_looked_at_by_what_the_run_left(tmp_path):
    folder = make_run(tmp_path / "run", values=noisy(), config=LISTS)
    # Images were mixed: it has no margins.
    command = judged(folder, "label noise").command
    assert shlex.split(command) == ["ptkit", "confmat", str(folder), f"{folder}/it's.txt"]
    (folder / "margins.npz").touch()
    assert judged(folder, "label noise").command == f"ptkit check --run {folder}"


@pytest.mark.parametrize(("own", "advised"), [(None, 5), (8, 5), (5, None), (3, None)])
def test_no_patience_is_advised_that_the_run_has(tmp_path, own, advised):
    config = f"[train]\npatience = {own}\n" if own else ""
    falling = {"valid_accuracy": [0.9, 0.95, 0.8, 0.75, 0.7]}
    found = judged(make_run(tmp_path / "run", metrics=falling, config=config), OVERFITTED)
    assert found.verdict == "WARN"
    assert bool(found.command) is (advised is not None)
    assert not advised or settings_of(found.command)[0].train.patience == advised


@pytest.mark.parametrize("rule", ["WARN gradient spikes", "FAIL non-finite"])
def test_gradients_are_not_clipped_at_more_than_the_run_does(tmp_path, rule):
    for own, is_clipped_at_less in ((400.0, True), (0.8, False)):
        config = f"[train]\nclip_grad = {own}\n"

        def change(first, epochs):
            dict(FAULTS)[rule](first, epochs)
            for epoch in epochs:
                epoch["grad_norm"] = [norm if norm > 100 else 0.7 for norm in epoch["grad_norm"]]
                epoch["grad_norm"][:5] = [1.2] * 5

        folder = make_run(tmp_path / f"{rule} {own}", change, config=config)
        settings, _ = settings_of(judged(folder, rule.partition(" ")[2]).command)
        assert (settings.train.clip_grad < own) is is_clipped_at_less
        assert settings.train.clip_grad <= own
        assert is_clipped_at_less or settings.optimizer.lr < 0.1


def test_classes_that_are_drawn_alike_get_other_advice(tmp_path):
    one_class = np.tile(np.array([[2.0, -2.0]], np.float32), (200, 1))

    def uneven(first, epochs):
        first["class_counts"] = [590, 10]

    for sampler in ("none", "balanced"):
        folder = make_run(
            tmp_path / sampler,
            uneven,
            values=one_class,
            config=f'[data]\nsampler = "{sampler}"\n',
            metrics={"valid_accuracy": [0.5] * 5, "train_loss": [0.05] * 5},
        )
        is_told = "sampler=balanced" in judged(folder, "collapse").command
        assert is_told is (sampler == "none")


def test_no_groups_are_advised_to_an_optimizer_without(tmp_path):
    config = '[optimizer]\ncall = "LBFGS()"\nlr = 0.1\n'
    folder = make_run(tmp_path / "run", of_weight(NAMES[2], "update", 1e-5), config=config)
    found = judged(folder, "layer imbalance")
    assert (found.verdict, found.command) == ("WARN", "")


def test_a_run_names_its_classes_itself(tmp_path):
    def named(first, epochs):
        first["class_names"] = ["a b", "\ufeffc"]

    assert read_records(make_run(tmp_path / "a", named)).class_names == ("a b", "\ufeffc")
    # Of an earlier version.
    assert read_records(make_run(tmp_path / "b")).class_names == ("0", "1")


def test_the_epoch_of_the_best_accuracy_is_told_where_rows_are_lost(tmp_path):
    columns = {"epoch": [3, 4, 5, 6, 7], "valid_accuracy": [0.9, 0.95, 0.8, 0.75, 0.7]}
    found = judged(make_run(tmp_path / "run", metrics=columns), "overfitting that costs")
    assert found.text == "accuracy fell from 95.0% (epoch 4) to 70.0%"


def test_a_loss_of_0_from_the_start_has_nothing_to_gain(tmp_path):
    far = every_epoch(loss=[0.0] * 30)
    assert judged(make_run(tmp_path / "run", far), "lr too high").verdict == "ok"


def test_images_that_wait_although_they_are_kept_have_other_advice(tmp_path):
    config = '[data]\ncache = "disk"\nworkers = 1\n'
    folder = make_run(tmp_path / "run", every_epoch(wait_s=[0.02] * 30), config=config)
    assert settings_of(judged(folder, "data-bound").command)[0].data.workers == 0


def test_images_that_are_in_memory_are_not_kept_on_disk_too(tmp_path):
    def waiting(first, epochs):
        every_epoch(wait_s=[0.02] * 30)(first, epochs)
        first["images_kept"] = True

    found = judged(make_run(tmp_path / "run", waiting), "data-bound")
    assert (found.verdict, found.command) == ("WARN", "")


def test_a_collapse_of_a_run_that_still_learns_is_given_more_epochs(tmp_path):
    values = np.tile(np.array([[2.0, -2.0]], np.float32), (200, 1))
    losses = {"still": [0.6, 0.5, 0.4, 0.3, 0.2], "done": [0.3, 0.2, 0.2, 0.2, 0.2]}
    for name, train in losses.items():
        metrics = {"train_loss": train, "valid_accuracy": [0.8] * 5}
        folder = make_run(
            tmp_path / name, values=values, config="[train]\nepochs = 5\n", metrics=metrics
        )
        found = judged(folder, "collapse")
        assert found.verdict == ("WARN" if name == "still" else "FAIL")
        assert ("--epochs 10" in found.command) == (name == "still")
    # It learns its training images by heart.
    metrics = {"train_loss": losses["still"], "train_accuracy": [1.0] * 5}
    metrics["valid_accuracy"] = [0.5] * 5
    folder = make_run(tmp_path / "fits", values=values, metrics=metrics)
    found = judged(folder, "collapse")
    assert (found.verdict, parsed(found.command)[0]) == ("FAIL", "confmat")
    # Five epochs of eight.
    (tmp_path / "still/config.toml").write_text(
        (tmp_path / "still/config.toml").read_text().replace("epochs = 5", "epochs = 8")
    )
    command = judged(tmp_path / "still", "collapse").command
    assert command == f"ptkit train --resume {tmp_path / 'still'}"
    # Of one that ended by patience there is nothing to resume.
    with (tmp_path / "still/config.toml").open("a") as file:
        file.write("patience = 3\n")
    assert judged(tmp_path / "still", "collapse").command.endswith("--epochs 16")


def test_a_collapse_after_a_single_epoch_is_given_more(tmp_path):
    def one_epoch(first, epochs):
        del epochs[1:]

    columns = {"epoch": [1], "train_loss": [0.65], "train_accuracy": [0.7], "valid_loss": [0.6],
               "valid_accuracy": [0.7]}  # fmt: skip
    folder = make_run(
        tmp_path / "run",
        one_epoch,
        values=np.tile(np.array([[2.0, -2.0]], np.float32), (200, 1)),
        config="[train]\nepochs = 1\n",
        metrics=columns,
    )
    assert settings_of(judged(folder, "collapse").command)[0].train.epochs == 2


def test_a_bias_of_classes_that_are_drawn_alike_is_looked_at(tmp_path):
    values, _ = outputs()
    weak = values * 0.5 + np.array([0, 0.9], np.float32)
    rng = np.random.default_rng(1)
    weak[:100, 1] += (rng.random(100) < 0.6) * 1.2
    done, still = [0.3, 0.2, 0.2, 0.2, 0.2], [0.6, 0.5, 0.4, 0.3, 0.2]
    uneven, even = [460, 140], [300, 300]
    for number, (sampler, counts, train, words) in enumerate([
        ("none", uneven, done, "--set data.sampler=balanced"),
        ("balanced", uneven, done, "ptkit confmat"),
        ("none", even, done, "ptkit confmat"),
        ("none", even, still, "ptkit train --resume"),
    ]):  # fmt: skip
        folder = make_run(
            tmp_path / str(number),
            lambda first, _, counts=counts: first.update(class_counts=counts),
            values=weak,
            config=f'[data]\nsampler = "{sampler}"\n',
            metrics={"train_loss": train},
        )
        found = judged(folder, "output bias")
        assert found.verdict == "WARN"
        assert words in found.command


def test_too_few_steps_to_learn_want_more_or_another_rate_where_it_shows(tmp_path):
    def few(update, losses):
        def change(first, epochs):
            del epochs[1:]
            for name in NAMES:
                of_weight(name, "update", update)(first, epochs)
            for key in ("loss", "lr", "wait_s", "grad_norm"):
                epochs[0][key] = epochs[0][key][:8]
            epochs[0]["loss"] = losses
            epochs[0]["sampled"] = list(range(1, 9))
            for norms in epochs[0]["weights"].values():
                for key in norms:
                    norms[key] = norms[key][:8]

        return change

    metrics = {"train_loss": [0.7], "valid_accuracy": [0.5], "epoch": [1], "valid_loss": [0.7],
               "train_accuracy": [0.5]}  # fmt: skip
    flat, rising = [0.7] * 8, np.linspace(0.7, 1.4, 8).tolist()
    for number, (update, losses, verdict, lr, num_epochs) in enumerate([
        # Norms are 10. A rate of 10 would make these steps usual, but is never one to advise.
        (1e-4, flat, "FAIL", 1.0, 1),
        (0.1, rising, "FAIL", 0.01, 1),
        (0.2, flat, "WARN", 0.1, 2),
        (0.02, flat, "WARN", 0.1, 2),
        # Single batches with another loss are no rise.
        (0.02, [0.5, *flat[1:]], "WARN", 0.1, 2),
        (0.02, [*flat[1:], 1.4], "WARN", 0.1, 2),
    ]):  # fmt: skip
        folder = make_run(
            tmp_path / str(number),
            few(update, losses),
            metrics=metrics,
            config="[train]\nepochs = 1\n",
        )
        found = judged(folder, "not learning")
        settings = settings_of(found.command)[0]
        assert found.verdict == verdict
        assert (settings.optimizer.lr, settings.train.epochs) == (lr, num_epochs)


def test_a_few_dead_units_in_a_run_with_usual_steps_want_no_lower_rate(tmp_path):
    def some(update):
        def change(first, epochs):
            every_epoch(activations={"conv1": {"units": 8, "dead": 2, "std": 1.0}})(first, epochs)
            for name in NAMES:
                of_weight(name, "update", update)(first, epochs)

        return change

    for update, verdict in ((0.02, "INFO"), (0.5, "WARN")):
        found = judged(make_run(tmp_path / str(update), some(update)), "dead units")
        assert (found.verdict, bool(found.command)) == (verdict, verdict == "WARN")


def test_a_rate_at_which_nothing_is_learned_is_not_suspected_before_init(tmp_path):
    for update, rule in ((0.5, "lr too high"), (1e-6, "lr too low")):
        found = judged(make_run(tmp_path / rule, without_learning(update), config=OWN), rule)
        assert found.verdict == "FAIL"
        assert settings_of(found.command)[0].model.init == ()


def test_a_layer_that_began_small_has_further_to_go(tmp_path):
    def far(begin):
        def change(first, epochs):
            of_weight(NAMES[0], "update", 2.0)(first, epochs)
            epochs[0]["weights"][NAMES[0]]["weight"][0] = begin

        return change

    for begin, verdict in ((10.0, "WARN"), (1.0, "ok"), (0.0, "ok")):
        folder = make_run(tmp_path / str(begin), far(begin))
        assert judged(folder, "layer imbalance").verdict == verdict
    assert "grew" not in judged(tmp_path / "0.0", "weight decay").text


def test_a_schedule_that_never_gives_a_rate_is_named(tmp_path):
    def still(first, epochs):
        every_epoch(lr=[0.0] * 30)(first, epochs)
        for name in NAMES:
            of_weight(name, "update", 0.0)(first, epochs)

    config = "[scheduler]\ncall = \"LambdaLR('0 * epoch')\"\n"
    found = judged(make_run(tmp_path / "run", still, config=config), "not updated")
    assert found.text == "the rate was 0 at every step, with LambdaLR('0 * epoch')"
    assert settings_of(found.command)[0].scheduler.call == "CosineAnnealingLR()"


def test_what_learns_nothing_at_a_usual_rate_is_laid_to_the_labels(tmp_path):
    for update, accuracy, is_told in (
        (0.02, 0.5, True),
        (0.5, 0.5, False),
        (0.003, 0.5, False),
        # It learns, and slowly.
        (0.02, 0.7, False),
    ):
        metrics = {"train_loss": [0.69] * 5, "valid_accuracy": [accuracy] * 5}
        folder = make_run(
            tmp_path / f"{update} {accuracy}", without_learning(update), metrics=metrics
        )
        found = judged(folder, "not learning")
        assert ("labels and images may not belong together" in found.text) == is_told
        assert found.verdict == ("FAIL" if accuracy == 0.5 else "WARN")
        assert ("--resume" in found.command) == (accuracy > 0.5)
        # Steps of a third of the usual size.
        assert ("--lr 1" in found.command) == (update == 0.003)
    # Images are looked at where training recorded what it made of their labels.
    folder = make_run(
        tmp_path / "margins",
        without_learning(0.02),
        metrics={**metrics, "valid_accuracy": [0.5] * 5},
    )
    (folder / "margins.npz").write_bytes(b"")
    command = judged(folder, "not learning").command
    assert command == f"ptkit check --run {folder}"


def test_steps_of_the_users_own_are_looked_at_where_the_input_is_off(tmp_path):
    off = dict(FAULTS)["WARN input"]
    own = '[data]\ntransforms = ["Resize(16)", "ToTensor()"]\n'
    command = judged(make_run(tmp_path / "own", off, config=own), "input").command
    assert command == f"ptkit viz-transforms IMAGE --config {tmp_path / 'own/config.toml'}"
    # Else the statistics are: they are measured anew.
    given = "[data]\nmean = [0.1, 0.1, 0.1]\nstd = [1.0, 1.0, 1.0]\n"
    command = judged(make_run(tmp_path / "given", off, config=given), "input").command
    assert settings_of(command)[0].data.mean == ()


def test_units_that_die_later_or_by_large_steps_are_laid_to_the_rate(tmp_path):
    def dying(update, died_in):
        def change(first, epochs):
            dict(FAULTS)["FAIL dead units"](first, epochs[died_in - 1 :])
            for name in NAMES:
                of_weight(name, "update", update)(first, epochs)

        return change

    def later(first, epochs):
        dying(0.02, 1)(first, epochs)
        for epoch in epochs:
            epoch["epoch"] += 10

    without = OWN.replace('init = ["Linear=zeros_"]\n', "")
    for number, (change, config, lr) in enumerate([
        (dying(0.02, 1), OWN, 0.1),
        (dying(0.02, 2), OWN, 0.0333),
        (dying(0.5, 1), OWN, 0.0333),
        (dying(0.02, 1), without, 0.0333),
        # Recording began when the run was resumed.
        (later, OWN, 0.0333),
        (dying(0.02, 1), OWN.replace("[model]", '[model]\nweights = "old.pkl"'), 0.0333),
    ]):  # fmt: skip
        command = judged(
            make_run(tmp_path / str(number), change, config=config), "dead units"
        ).command
        if "old.pkl" in config:
            assert command == ""
            continue
        settings = settings_of(command)[0]
        assert settings.optimizer.lr == lr
        assert (lr < 0.1) == ("model.init" not in command)


def test_a_rate_that_is_far_too_high_is_brought_down_at_once(tmp_path):
    def far(update):
        def change(first, epochs):
            dict(FAULTS)["FAIL lr too high"](first, epochs)
            for name in NAMES:
                of_weight(name, "update", update)(first, epochs)

        return change

    # Norms are 10: steps of a thousandth are usual.
    for update, lr in ((0.02, 0.01), (10.0, 0.0001)):
        found = judged(make_run(tmp_path / str(lr), far(update)), "lr too high")
        assert settings_of(found.command)[0].optimizer.lr == lr


def dead_from(epoch):
    """Return a change in which seven of eight units are dead from an epoch on."""

    def change(first, epochs):
        for each in epochs[epoch - 1 :]:
            each["activations"] = {"conv1": {"units": 8, "dead": 7, "std": 1.0}}

    return change


def test_units_that_trained_weights_had_dead_are_no_fault_of_the_run(tmp_path):
    tuned = '[model]\nweights = "resnet18"\n'
    for name, epoch, config, verdict in (
        ("scratch", 1, "", "FAIL"),
        ("tuned", 1, tuned, "INFO"),
        ("died", 2, tuned, "FAIL"),
    ):
        found = judged(make_run(tmp_path / name, dead_from(epoch), config=config), "dead units")
        assert (found.verdict, bool(found.command)) == (verdict, verdict == "FAIL")


def test_dead_units_explain_no_rate_that_is_too_low(tmp_path):
    def both(first, epochs):
        dead_from(1)(first, epochs)
        dict(FAULTS)["WARN lr too low"](first, epochs)

    found = {f.rule: f for f in findings(read_records(make_run(tmp_path / "run", both)))}
    assert found["dead units"].verdict == "FAIL"
    assert (found["lr too low"].verdict, found["lr too low"].muted_by) == ("WARN", None)


@pytest.mark.parametrize(
    ("call", "advised"),
    [
        ("OneCycleLR(max_lr=0.3, pct_start=0.2)", "OneCycleLR(max_lr=0.03, pct_start=0.2)"),
        ("OneCycleLR(0.3, pct_start=0.2)", "OneCycleLR(max_lr=0.03, pct_start=0.2)"),
        ("OneCycleLR(max_lr=[0.3, 0.6])", "OneCycleLR(max_lr=[0.03, 0.06])"),
        ("OneCycleLR(max_lr=(0.3, 1e-4))", "OneCycleLR(max_lr=[0.03, 1e-05])"),
        ("OneCycleLR(pct_start=0.2)", None),
        ("CosineAnnealingLR()", None),
    ],
)
def test_a_rate_is_advised_where_the_schedule_takes_it_from(tmp_path, call, advised):
    config = f'[scheduler]\ncall = "{call}"\n'
    rising = dict(FAULTS)["FAIL lr too high"]
    settings, _ = settings_of(
        judged(make_run(tmp_path / "run", rising, config=config), "lr too high").command
    )
    assert settings.scheduler.call == (advised or call)
    # A max_lr is the run's rate: the one beside it goes.
    assert settings.optimizer.lr == (None if advised else pytest.approx(0.01))


@pytest.mark.parametrize(("step", "flag"), [(1, "preflight"), (2, "lr_find"), (50, None)])
def test_of_a_run_that_diverged_at_once_the_rate_is_to_be_found(tmp_path, step, flag):
    folder = make_run(tmp_path / "run")
    (folder / ".running").touch()
    with (folder / "layers.jsonl").open("a") as file:
        file.write(f'{{"kind": "diverged", "step": {step}, "where": "conv1.weight"}}\n')
    command = judged(folder, "non-finite").command
    # Before the first step nothing has moved, at any rate.
    values = parsed(command)[1]
    assert [name for name in ("preflight", "lr_find") if values[name]] == ([flag] if flag else [])
    # It would diverge again.
    assert "its end" not in CliRunner().invoke(app, ["diagnose", str(folder)]).stdout


def test_decay_for_growing_weights_is_not_advised_where_it_is_divided_by_its_size(tmp_path):
    def growing(first, epochs):
        for k, epoch in enumerate(epochs):
            epoch["weights"][NAMES[1]]["weight"] = [10.0 * (1 + k)] * len(epoch["sampled"])

    for call, has_advice in (("SGD()", True), ("AdamW()", True), ("Adam()", False)):
        config = f'[optimizer]\ncall = "{call}"\nlr = 0.1\n'
        found = judged(make_run(tmp_path / call, growing, config=config), "weight decay")
        assert (found.verdict, bool(found.command)) == ("INFO", has_advice)


@pytest.mark.parametrize(
    ("schedule", "takes_rates", "takes_decay"),
    [
        ("OneCycleLR()", True, True),
        # One rate for all groups.
        ("OneCycleLR(max_lr=0.1)", False, True),
        # And one for each of those that there are.
        ("OneCycleLR(max_lr=[0.1, 0.2])", False, False),
    ],
)
def test_groups_are_advised_where_the_schedule_takes_more_of_them(
    tmp_path, schedule, takes_rates, takes_decay
):
    def growing(first, epochs):
        of_weight(NAMES[2], "update", 1e-6)(first, epochs)
        for k, epoch in enumerate(epochs):
            epoch["weights"][NAMES[1]]["weight"] = [10.0 * (1 + k)] * len(epoch["sampled"])

    config = f'[optimizer]\ncall = "SGD()"\nlr = 0.1\n\n[scheduler]\ncall = "{schedule}"\n'
    folder = make_run(tmp_path / "run", growing, config=config)
    imbalance, decay = judged(folder, "layer imbalance"), judged(folder, "weight decay")
    assert (imbalance.verdict, bool(imbalance.command)) == ("WARN", takes_rates)
    assert (decay.verdict, bool(decay.command)) == ("INFO", takes_decay)


def test_layers_are_not_compared_after_a_few_steps(tmp_path):
    def few(first, epochs):
        of_weight(NAMES[2], "update", 1e-5)(first, epochs)
        del epochs[1:]
        epochs[0]["loss"] = epochs[0]["loss"][:19]

    columns = {"epoch": [1], "train_loss": [0.5], "train_accuracy": [0.7], "valid_loss": [0.6],
               "valid_accuracy": [0.7]}  # fmt: skip
    found = judged(make_run(tmp_path / "run", few, metrics=columns), "layer imbalance")
    assert (found.verdict, found.text) == ("n/a", "fewer than 20 steps")


def test_frozen_weights_of_a_run_from_scratch_are_told(tmp_path):
    def frozen(first, epochs):
        for name in NAMES[:3]:
            first["weights"][name]["trained"] = False

    groups = '[optimizer]\ncall = "SGD()"\nlr = 0.1\ngroups = ["conv[123]: frozen"]\n'
    found = judged(make_run(tmp_path / "scratch", frozen, config=groups), "not updated")
    assert (found.verdict, found.where) == ("WARN", NAMES[:3])
    run = read_records(make_run(tmp_path / "few", frozen, config=groups))
    run.start["weights"][NAMES[0]]["trained"] = True
    assert {f.rule: f.verdict for f in findings(run)}["not updated"] == "ok"
    tuned = groups + '[model]\nweights = "resnet18"\n'
    assert judged(make_run(tmp_path / "tuned", frozen, config=tuned), "not updated").verdict == "ok"


def test_a_run_that_ended_early_names_what_continues_it(tmp_path):
    folder = make_run(tmp_path / "my run")
    (folder / ".running").touch()
    result = CliRunner().invoke(app, ["diagnose", str(folder)])
    command = f"ptkit train --resume '{folder}'"
    assert f"the run has not reached its end: `{command}` continues it" in result.stdout
    found = json.loads(CliRunner().invoke(app, ["diagnose", str(folder), "--json"]).stdout)
    assert found["continue"] == command
    (folder / ".running").unlink()
    assert "its end" not in CliRunner().invoke(app, ["diagnose", str(folder)]).stdout


def test_a_folder_of_runs_is_no_run_and_names_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/2"))
    make_run(Path("runs/1"))
    result = CliRunner().invoke(app, ["diagnose", "runs"])
    assert result.exit_code == 3
    assert "no config.toml; it holds runs, such as runs/1" in result.stderr
    missing = CliRunner().invoke(app, ["diagnose", "runs/7"])
    assert (missing.exit_code, "runs/7 does not exist" in missing.stderr) == (3, True)
