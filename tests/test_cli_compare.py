import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny_records import make_run
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.comparing.differences import metric_text
from ptkit.core.comparing.runs import read_run, run_folders
from ptkit.core.shares import interval

pytestmark = pytest.mark.usefixtures("blank_pictures")

NAMES = ("ants", "bees")


def write_run(
    folder, *, wrong=(), num=40, lr=0.1, seed=0, is_done=True, names="valid", accuracies=(0.5, 0.6)
):
    """Write what a run with these wrong answers leaves: settings, epochs, answers."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[optimizer]\nlr = {lr}\n[train]\nseed = {seed}\n")
    rows = [f"{k},0.7,{1 - a},{a}" for k, a in enumerate(accuracies, 1)]
    (folder / "metrics.csv").write_text(
        "\n".join(["epoch,train_loss,valid_loss,valid_accuracy", *rows, ""])
    )
    if is_done:
        lines = [
            f"{names}{k}.png,{NAMES[k % 2]},{NAMES[(k + (k in wrong)) % 2]},0.9,0.9"
            for k in range(num)
        ]
        header = "path,true,predicted,probability,probability_of_true"
        (folder / "valid_predictions.csv").write_text("\n".join([header, *lines, ""]))
    return folder


def write_columns(folder, header, rows):
    """Write a run of several labels or of numbers."""
    write_run(folder, is_done=False)
    metric = "mae" if "predicted" in header else "map"
    (folder / "metrics.csv").write_text(f"epoch,valid_loss,valid_{metric}\n1,0.5,0.5\n")
    (folder / "valid_predictions.csv").write_text("\n".join([header, *rows, ""]))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def as_json(*arguments):
    result = compare(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_two_runs_are_tested_on_the_images_that_one_has_right(here):
    write_run(here / "a", wrong=range(12))
    write_run(here / "b", wrong=[0, 1, 38])
    found = as_json("a", "b")
    (difference,) = found["differences"]
    assert (difference["mended"], difference["broke"]) == (10, 1)
    assert difference["p"] == pytest.approx(stats.binomtest(1, 11).pvalue)
    assert difference["is_clear"]
    low, high = interval(37, 40)
    assert found["runs"][1]["intervals"]["accuracy"] == pytest.approx([low, high])
    (words,) = found["verdicts"]
    assert words.startswith("b is better than a, with 40 images: accuracy 92.5% against 70.0%")
    with Path("ptkit-compare/images.csv").open() as file:
        changes = [(row["change"], row["path"]) for row in csv.DictReader(file)]
    mended = [("mended", f"valid{k}.png") for k in range(2, 12)]
    assert changes == [*mended, ("broke", "valid38.png")]


def test_a_small_difference_is_not_distinguishable_and_says_what_would_be_needed(here):
    write_run(here / "a", wrong=range(6))
    write_run(here / "b", wrong=[*range(3), 20, 21])
    result = compare("a", "b")
    assert result.exit_code == 0
    assert "not distinguishable with 40 images: b and a, accuracy 87.5% against 85.0%" in (
        result.stdout
    )
    assert "about 1,568 images would be needed" in result.stdout


def test_of_three_runs_the_best_is_tested_against_all_with_holms_correction(here):
    write_run(here / "runs/1", wrong=range(10))
    write_run(here / "runs/2", wrong=[])
    write_run(here / "runs/10", wrong=range(8))
    found = as_json("runs")
    assert [run["run"] for run in found["runs"]] == ["runs/1", "runs/2", "runs/10"]
    pairs = [(d["first"], d["second"], d["p_adjusted"]) for d in found["differences"]]
    first, last = (stats.binomtest(0, count).pvalue for count in (10, 8))
    assert pairs == [
        ("runs/1", "runs/2", pytest.approx(2 * first)),
        ("runs/10", "runs/2", pytest.approx(last)),
    ]
    assert all("Holm's correction" in words for words in found["verdicts"])


def test_settings_that_differ_are_shown(here):
    write_run(here / "a", lr=0.1)
    write_run(here / "b", lr=0.2, seed=1)
    assert as_json("a", "b")["differing"] == {"optimizer.lr": [0.1, 0.2], "train.seed": [0, 1]}


def test_seeds_of_one_setting_are_pooled(here):
    for seed, (mine, other) in enumerate([(2, 10), (3, 12), (2, 11)]):
        write_run(here / f"a/seed-{seed}", wrong=range(mine), seed=seed)
        write_run(here / f"b/seed-{seed}", wrong=range(other), seed=seed, lr=0.5)
    found = as_json("a", "b", "--by", "setting")
    ours = [1 - n / 40 for n in (2, 3, 2)]
    theirs = [1 - n / 40 for n in (10, 12, 11)]
    accuracy = found["settings"][0]["metrics"]["accuracy"]
    assert accuracy["values"] == pytest.approx(ours)
    assert accuracy["std"] == pytest.approx(stats.tstd(ours))
    expected = stats.t.interval(0.95, 2, loc=accuracy["mean"], scale=stats.sem(ours))
    assert accuracy["interval"] == pytest.approx(expected)
    (difference,) = found["differences"]
    welch = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
    assert difference["p"] == pytest.approx(welch)
    assert found["verdicts"][0].startswith("a is better than b, with 3 runs: accuracy 94.2%")
    # The settings that differ are of the settings, not of one run of each.
    lines = compare("a", "b", "--by", "setting").stdout.splitlines()
    (heading,) = (line for line in lines if line.startswith("setting that differs"))
    assert heading.split()[-2:] == ["a", "b"]


def test_a_run_repeated_with_its_seed_counts_once(here):
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        write_run(here / f"runs/{name}", seed=seed)
    found = as_json("runs", "--by", "setting")
    assert [each["runs"] for each in found["settings"]] == [["runs/1", "runs/3"]]
    assert found["left_out"] == ["runs/2 repeats runs/1 with the same seed, and is counted once"]


def test_other_validation_lists_are_said_and_not_tested(here):
    write_run(here / "a")
    write_run(here / "b", names="other", num=30)
    found = as_json("a", "b")
    assert found["differences"][0]["p"] is None
    assert (
        "no test: the validation lists differ (40 and 30 images, 0 in both)"
        in (found["verdicts"][0])
    )


def test_a_killed_run_shows_its_best_epoch_and_is_not_tested(here):
    write_run(here / "a")
    write_run(here / "b", is_done=False, accuracies=(0.5, 0.8, 0.7))
    result = compare("a", "b")
    assert "80.0% (not finished)" in result.stdout
    assert "finish it with `ptkit train --resume b`" in result.stdout


def test_several_labels_are_right_where_all_are(here):
    header = "path,true cat,probability of cat,true dog,probability of dog"
    write_columns(here / "a", header, [f"{k}.png,1,0.2,{k % 2},0.{k}" for k in range(1, 9)])
    write_columns(here / "b", header, [f"{k}.png,1,0.8,{k % 2},0.{k}" for k in range(1, 9)])
    found = as_json("a", "b")
    assert set(found["runs"][0]["metrics"]) == {"map", "f1", "precision", "recall"}
    assert (found["differences"][0]["mended"], found["differences"][0]["broke"]) == (4, 0)
    assert "every label right: 4 mended" in found["verdicts"][0]


def test_numbers_are_compared_by_a_paired_t_test_of_their_errors(here):
    header = "path,true age,predicted age"
    near, far = [0.1, 0.2, 0.1, 0.3], [1.0, 2.0, 1.5, 1.0]
    write_columns(here / "a", header, [f"{k}.png,{k},{k + e}" for k, e in enumerate(far)])
    write_columns(here / "b", header, [f"{k}.png,{k},{k + e}" for k, e in enumerate(near)])
    found = as_json("a", "b")
    expected = stats.ttest_rel(near, far).pvalue
    assert found["differences"][0]["p"] == pytest.approx(expected, rel=1e-4)
    assert found["differences"][0]["mended"] is None


def test_runs_of_other_kinds_of_labels_cannot_be_compared(here):
    write_run(here / "a")
    write_columns(here / "b", "path,true age,predicted age", ["1.png,1,2"])
    result = compare("a", "b")
    assert result.exit_code == 2
    assert "a is judged by accuracy and b by mae" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "compare needs two different runs with a finished epoch, found only a; name"),
        (["a", "a"], "found only a; name another run, or a folder of runs such as runs/"),
        (["a", "link"], "found only a; name another run, or a folder of runs such as runs/"),
        (["a", "begun"], "found only a (begun is left out: it has no finished epoch); name"),
        (["a", "nowhere"], "nowhere does not exist"),
        (["a", "a", "--by", "seed"], "--by must be one of run, setting, found 'seed'"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(here, arguments, message):
    write_run(here / "a")
    Path("link").symlink_to("a")
    Path("begun").mkdir()
    Path("begun/config.toml").touch()
    result = compare(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_answers_that_are_not_a_table_of_ptkit_are_refused(here):
    write_run(here / "a")
    write_run(here / "b")
    (here / "b/valid_predictions.csv").write_text("what,is\nthis,1\n")
    result = compare("a", "b")
    assert result.exit_code == 3
    assert "b/valid_predictions.csv is not as `ptkit train` writes it" in result.stderr


def test_the_best_epoch_is_that_of_the_runs_own_metric(tmp_path):
    columns = {
        "valid_loss": [0.6, 0.4, 0.3, 0.25, 0.2],
        "valid_accuracy": [0.5, 0.7, 0.9, 0.8, 0.9],
    }
    assert read_run(make_run(tmp_path / "a", metrics=columns)).best["epoch"] == 5
    columns["valid_accuracy"][2] = 0.95
    assert read_run(make_run(tmp_path / "b", metrics=columns)).best["epoch"] == 3
    by_loss = make_run(tmp_path / "c", metrics=columns, config='[train]\nmetric = "loss"\n')
    assert read_run(by_loss).best["epoch"] == 5


def test_auroc_and_top_5_are_tested_on_the_same_images(here):
    rng, num = np.random.default_rng(0), 60
    labels = np.arange(num) % 6
    names = [f"class{k}" for k in range(6)]
    for run, skill in (("a", 0.5), ("b", 3.0)):
        outputs = rng.normal(size=(num, 6)) + skill * np.eye(6)[labels]
        folder, answers = write_run(here / run, is_done=False), outputs.argmax(axis=1)
        # The second list has the images in another order.
        order = np.arange(num) if run == "a" else np.arange(num)[::-1]
        rows = [f"{k}.png,{names[labels[k]]},{names[answers[k]]},0.9,0.9" for k in order]
        header = "path,true,predicted,probability,probability_of_true"
        (folder / "valid_predictions.csv").write_text("\n".join([header, *rows, ""]))
        np.savez(folder / "valid_outputs.npz", best=outputs[order], labels=labels[order])
    found = as_json("a", "b")
    for run in found["runs"]:
        assert {"auroc", "top5"} <= run["metrics"].keys()
        low, high = run["intervals"]["auroc"]
        assert 0 < low < run["metrics"]["auroc"] < high <= 1
    area, top = found["ranked"]
    assert (area["metric"], area["test"], area["num"]) == ("auroc", "DeLong, paired", 60)
    assert area["second_value"] > area["first_value"]
    assert area["is_clear"]
    assert (top["metric"], top["test"]) == ("top5", "McNemar, exact")
    assert "b is better; p < 0.0001 (DeLong, paired)" in found["verdicts"][1]
    with Path("ptkit-compare/differences.csv").open() as file:
        assert [row["metric"] for row in csv.DictReader(file)] == ["accuracy", "auroc", "top5"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100.0%"), (0.9998, "99.98%"), (0.999999, "99.9999%"), (0.9994, "99.9%"), (0.0, "0.0%")],
)
def test_a_share_that_is_not_all_does_not_read_100_percent(value, text):
    assert metric_text("auroc", value) == text


def test_series_in_folders_of_their_own_are_found_below_one_folder(here):
    for setting in ("b", "a"):
        for seed in (10, 2):
            write_run(here / f"sweep/{setting}/1/seed-{seed}", seed=seed)
    names = [str(folder.relative_to(here)) for folder in run_folders(here / "sweep")]
    assert names == [f"sweep/{name}/1/seed-{seed}" for name in "ab" for seed in (2, 10)]


def test_runs_that_have_not_reached_their_end_are_not_pooled(here):
    for seed in range(3):
        write_run(here / f"a/seed-{seed}", wrong=[seed], seed=seed, is_done=seed < 2)
    found = as_json("a", "--by", "setting")
    assert [each["runs"] for each in found["settings"]] == [["a/seed-0", "a/seed-1"]]
    assert found["left_out"] == [
        "a/seed-2 is left out: it has not reached its end; `ptkit train --resume a/seed-2`"
        " continues it"
    ]
    for seed in range(2):
        (here / f"a/seed-{seed}/valid_predictions.csv").unlink()
    result = compare("a", "--by", "setting")
    assert (result.exit_code, "no run has reached its end" in result.stderr) == (2, True)


def test_an_unfinished_run_does_not_take_metrics_from_the_others(here):
    write_run(here / "a")
    write_run(here / "b", wrong=[1])
    write_run(here / "c", is_done=False)
    lines = compare("a", "b", "c").stdout.splitlines()
    assert lines[0].split() == ["run", "accuracy", "macro_f1", "balanced_accuracy"]
    assert lines[3].split()[-2:] == ["-", "-"]


def test_settings_in_the_table_read_as_on_the_screen(here):
    for name in ("a", "b"):
        write_run(here / name)
    with (here / "b/config.toml").open("a") as file:
        file.write('[model]\ninit = ["fc=zeros_", "conv1=ones_"]\n')
    assert "fc=zeros_, conv1=ones_" in compare("a", "b").stdout
    with Path("ptkit-compare/settings.csv").open() as file:
        assert list(csv.reader(file))[1] == ["model.init", "", "fc=zeros_, conv1=ones_"]
