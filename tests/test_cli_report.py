import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny_records
from tiny_data import make_lists
from tiny_report import CLASSES, HOSTILE, write_run, write_table
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.errors import DataError
from ptkit.looking.reporting import gather
from ptkit.looking.reporting.examples import Example, chosen

VOID = {"meta", "link", "img", "line", "polyline", "circle"}


class Page(HTMLParser):
    """A page's elements, each with its attributes; refuses tags that do not close in order."""

    def __init__(self, file):
        super().__init__()
        self.found, self.open, self.text = [], [], []
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def as_json(*arguments):
    result = report(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sections(page):
    return [each["id"] for each in page.all("section")]


def test_a_run_becomes_one_page_that_loads_nothing(here):
    write_run(here)
    told = as_json("runs/1")
    file = here / "runs/1/report.html"
    text, page = file.read_text(encoding="utf-8"), Page(file)
    assert told == {
        "file": "runs/1/report.html",
        "bytes": len(file.read_bytes()),
        "num_runs": 1,
        "left_out": told["left_out"],
        "changed_lists": None,
    }
    assert set(told["left_out"]) == {
        "Feature maps", "Embedding", "Layers over the epochs", "Further figures"
    }  # fmt: skip
    assert sections(page) == [
        "summary", "verdicts", "curves", "matrix", "images", "pairs", "classes", "kernels",
        "regions", "check", "settings", "repeat", "left-out",
    ]  # fmt: skip
    sources = [each["src"] for each in page.all("img")]
    assert len(sources) > 12
    assert all(source.startswith("data:image/") for source in sources)
    assert {each["href"][:1] for each in page.all("a")} == {"#"}
    assert [each["href"] for each in page.all("link")] == ["data:,"]
    assert re.findall(r"https?:|@import|url\(", text) == []
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    words = " ".join(" ".join(page.text).split())
    assert "66.7% accuracy in validation, 95% interval 39.1% to 86.2%, 12 images" in words
    assert (
        'Always answering "<b>ants" would be right for 50.0% of them: the run is not told' in words
    )
    assert "ptkit train --config runs/1/config.toml" in words


def test_long_lists_are_checked_where_it_is_asked_for(here, monkeypatch):
    run = write_run(here)
    monkeypatch.setattr(gather, "MAX_CHECKED", 23)
    assert as_json(run)["left_out"]["The data"] == (
        f"24 images take their time: `ptkit report {run} --check` looks at them"
    )
    assert "The data" not in as_json(run, "--check")["left_out"]
    monkeypatch.setattr(gather, "MAX_CHECKED", 24)
    assert "The data" not in as_json(run)["left_out"]
    assert as_json(run, "--no-check")["left_out"]["The data"] == "left out, as --no-check asks"


def test_lists_that_were_changed_after_the_run_are_told(here):
    make_lists(here)
    ptkit.train(epochs=1, tensorboard=False, pictures=False)

    def told(*flags):
        result = report("runs/1", *flags)
        page = " ".join(" ".join(Page(here / "runs/1/report.html").text).split())
        found = re.search(r"[Tt]he [a-z ]+ after the run(?=: its results)", result.output)
        assert ("after the run: its results are of the lists as they were" in page) == bool(found)
        return found and found[0]

    assert told() is None
    lists = {name: (here / name).read_text() for name in ("train.txt", "valid.txt")}
    # One image fewer.
    (here / "valid.txt").write_text(lists["valid.txt"].split("\n", 1)[1])
    assert told("--no-check") == "the validation list was changed after the run"
    (here / "train.txt").write_text(lists["valid.txt"])
    both = "the training and validation lists were changed after the run"
    assert told("--no-images") == both
    assert as_json("runs/1")["changed_lists"] == ["training", "validation"]
    for name, text in lists.items():
        (here / name).write_text(text)
    assert told() is None
    assert as_json("runs/1")["changed_lists"] == []


def test_images_of_a_changed_list_are_not_shown_as_those_of_a_run_that_was_killed(here):
    make_lists(here)
    ptkit.train(epochs=1, tensorboard=False, pictures=False)
    # Its answers are numbers alone, without paths.
    (here / "runs/1/valid_predictions.csv").unlink()
    assert "Images" not in as_json("runs/1")["left_out"]
    lines = (here / "valid.txt").read_text().splitlines()
    labels = [line.rsplit(" ", 1)[1] for line in lines]
    other = labels.index(labels[0], 1)
    lines[0], lines[other] = lines[other], lines[0]
    (here / "valid.txt").write_text("\n".join(lines))
    reason = as_json("runs/1")["left_out"]["Images"]
    told = "the validation list was changed after the run"
    assert reason == f"the run has not reached its end, and {told}"


def test_changed_corrections_of_labels_are_not_laid_to_the_list(here):
    make_lists(here)
    first = (here / "train.txt").read_text().split()[0]
    fixes = here / "fixes.txt"
    fixes.write_text(f"{first} square\n")
    ptkit.train(relabel=fixes, epochs=1, tensorboard=False, pictures=False)
    fixes.write_text(f"{first} cross\n")
    told = "the training list or the corrections were changed after the run"
    assert told in report("runs/1").stderr
    # What it is in the list: they change nothing any more.
    fixes.write_text(f"{first} bar\n")
    assert told in report("runs/1").stderr
    told = r"^train\.txt is not the list that runs/1 was trained with, or corrected by .*fixes\.txt"
    with pytest.raises(DataError, match=told):
        ptkit.train(resume="runs/1", epochs=2)


def test_without_the_training_list_corrections_cannot_be_compared(here):
    make_lists(here)
    first = (here / "valid.txt").read_text().split()[0]
    (here / "fixes.txt").write_text(f"{first} square\n")
    ptkit.train(relabel="fixes.txt", epochs=1, tensorboard=False, pictures=False)
    assert as_json("runs/1")["changed_lists"] == []
    (here / "train.txt").unlink()
    assert as_json("runs/1")["changed_lists"] is None


@pytest.mark.parametrize("flag", ["--check", "--no-check", "--root"])
def test_a_table_of_runs_has_no_lists_to_check(here, flag):
    write_run(here)
    result = report("runs", flag, *([here] if flag == "--root" else []))
    assert result.exit_code == 2
    assert result.output == (
        f"ptkit: {flag} is for the page of one run, and runs is a folder of runs\n"
    )


def test_the_same_run_gives_the_same_page(here):
    run = write_run(here)
    as_json(run)
    first = (run / "report.html").read_bytes()
    as_json(run)
    assert (run / "report.html").read_bytes() == first


def test_cells_and_images_of_the_matrix_belong_together(here):
    write_run(here)
    as_json("runs/1")
    page = Page(here / "runs/1/report.html")
    cells = {each["data-cell"]: int(each["data-count"]) for each in page.all("button")
             if "data-cell" in each}  # fmt: skip
    figures = [each for each in page.all("figure") if "data-cell" in each]
    assert cells == {"0-0": 4, "0-1": 2, "1-0": 2, "1-1": 4}
    assert {cell: sum(f["data-cell"] == cell for f in figures) for cell in cells} == cells
    # The worst mistakes are there without a click.
    assert {f["data-cell"] for f in figures if "hidden" not in f} == {"0-1", "1-0"}


def test_names_cannot_become_markup(here):
    write_run(here)
    as_json("runs/1")
    page = Page(here / "runs/1/report.html")
    assert len(page.all("script")) == 1
    assert page.all("b") == []
    assert [a for _, a in page.found if any(name.startswith("on") for name in a)] == []
    shown = [each["title"] for each in page.all("span") if "title" in each]
    escaped = HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert escaped in shown
    assert "\u202e" not in (here / "runs/1/report.html").read_text(encoding="utf-8")


def test_without_images_nothing_of_the_data_but_its_classes_is_in_the_page(here):
    write_run(here)
    told = as_json("runs/1", "--no-images")
    text = (here / "runs/1/report.html").read_text(encoding="utf-8")
    page = Page(here / "runs/1/report.html")
    assert set(told["left_out"]) >= {"Images", "Feature maps", "Where it looked", "Embedding"}
    assert [each["alt"] for each in page.all("img")] == ["conv1"]
    assert [word for word in ("valid1", "train1", "data/", "valid.txt", "train.txt") if word in text
            ] == []  # fmt: skip
    assert [each for each in page.all("button") if "data-cell" in each] == []


def test_verdicts_of_a_run_are_in_its_page_with_the_command_to_try(here):
    run = write_run(here)
    lines = [tiny_records.start(), *map(tiny_records.epoch, range(1, 4))]
    (run / "layers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    # Five times as sure as it may be.
    values, labels = tiny_records.outputs()
    np.savez(run / "valid_outputs.npz", labels=labels, best=5 * values)
    for flags, shown in (((), "data/valid.txt"), (("--no-images",), "VALID_LIST")):
        as_json(run, *flags)
        words = " ".join(" ".join(Page(run / "report.html").text).split())
        assert "WARN overconfident : probabilities are off by" in words
        assert re.search(f"try: ptkit calibrate [^ ]* [^ ]*{shown} --only temperature", words)
    assert "valid.txt" not in words


def test_a_run_that_was_killed_has_its_curves_and_says_what_is_missing(here):
    run = write_run(here, is_done=False)
    told = as_json(run)
    assert told["left_out"]["Confusion matrix"] == "the run has not reached its end"
    page = Page(run / "report.html")
    assert {"summary", "curves", "settings", "repeat"} <= set(sections(page))
    (run / ".running").touch()
    as_json(run)
    words = " ".join(" ".join(Page(run / "report.html").text).split())
    assert f"to continue it: ptkit train --resume {run}" in words
    (run / "metrics.csv").unlink()
    left_out = as_json(run)["left_out"]
    assert left_out["Curves"] == left_out["Feature maps"] == "no epoch was finished"


def test_a_run_that_was_killed_shows_the_answers_of_its_best_epoch(here):
    run = write_run(here, is_done=False)
    labels = np.arange(12) % 2
    outputs = np.where(labels[:, None] == [0, 1], 2.0, 0.0)
    outputs[3] = outputs[3, ::-1]
    np.savez(run / "valid_outputs.npz", labels=labels, best=outputs, last=outputs)
    assert {"Confusion matrix", "Images"}.isdisjoint(as_json(run)["left_out"])
    figures = [f for f in Page(run / "report.html").all("figure") if "data-cell" in f]
    assert [f["data-cell"] for f in figures if "hidden" not in f] == ["1-0"]
    # The fifth image was left out.
    rows = np.delete(np.arange(12), 4)
    np.savez(run / "valid_outputs.npz", labels=labels[rows], best=outputs[rows], rows=rows)
    assert {"Confusion matrix", "Images"}.isdisjoint(as_json(run)["left_out"])
    figures = [f for f in Page(run / "report.html").all("figure") if "data-cell" in f]
    assert len(figures) == 11
    np.savez(run / "valid_outputs.npz", labels=1 - labels, best=outputs, last=outputs)
    reason = as_json(run)["left_out"]["Confusion matrix"]
    assert reason.endswith("and the validation list was changed after the run")


def test_data_that_are_gone_cost_the_images_only(here):
    run = write_run(here)
    (here / "data/valid.txt").unlink()
    left_out = as_json(run)["left_out"]
    assert "valid.txt" in left_out["Images"]
    assert "valid.txt" in left_out["The data"]
    assert "Confusion matrix" not in left_out


def test_images_that_were_moved_are_found_by_root(here):
    run = write_run(here)
    (here / "moved").mkdir()
    for file in (here / "data").glob("*.png"):
        file.rename(here / "moved" / file.name)
    as_json(run, "--root", here / "moved")
    page = Page(run / "report.html")
    assert sum(each["alt"].startswith("true: ") for each in page.all("img")) == 12
    # The settings are still the run's own.
    assert "data.root - " in " ".join(" ".join(page.text).split())


@pytest.mark.parametrize(
    ("header", "rows", "left_out", "words"),
    [
        (
            ["path", "true a", "probability of a", "true b", "probability of b"],
            [["x.png", 1, 0.9, 0, 0.8], ["y.png", 0, 0.2, 1, 0.7]],
            {"Confusion matrix", "Most confused pairs"},
            "true a answered a, b",
        ),
        (
            ["path", "true age", "predicted age"],
            [["x.png", 30, 35.5], ["y.png", 20, 21]],
            {"Confusion matrix", "Most confused pairs", "Classes"},
            "true 30 answered 35.5",
        ),
    ],
)
def test_several_labels_and_numbers_have_what_they_can(here, header, rows, left_out, words):
    run = write_run(here)
    metric = "mae" if "predicted age" in header else "map"
    (run / "metrics.csv").write_text(f"epoch,valid_loss,valid_{metric}\n1,0.5,0.5\n")
    write_table(run / "valid_predictions.csv", [header, *rows])
    assert set(as_json(run)["left_out"]) >= left_out
    assert words in " ".join(" ".join(Page(run / "report.html").text).split())


def test_many_classes_have_pairs_and_no_matrix(here):
    run = write_run(here)
    names = [f"class {k}" for k in range(60)]
    rows = [[f"{k}.png", names[k % 60], names[(k + (k < 3)) % 60], 0.9, 0.4] for k in range(120)]
    header = ["path", "true", "predicted", "probability", "probability_of_true"]
    write_table(run / "valid_predictions.csv", [header, *rows])
    left_out = as_json(run)["left_out"]
    assert left_out["Confusion matrix"] == "60 classes; the most confused pairs are below"
    buttons = [b["data-words"] for b in Page(run / "report.html").all("button") if "data-cell" in b]
    assert buttons == ["class 0 taken for class 1", "class 1 taken for class 2",
                       "class 2 taken for class 3"]  # fmt: skip


def test_a_page_stays_below_five_megabytes(here):
    from PIL import Image

    run = write_run(here, num=200)
    rng = np.random.default_rng(0)
    for k in range(8):
        noise = rng.integers(0, 256, (400, 400, 3), np.uint8)
        Image.fromarray(noise).save(run / "kernels" / f"layer{k}.png")
    assert as_json(run)["bytes"] < 5_000_000
    assert "left out for the size" in (run / "report.html").read_text(encoding="utf-8")


def test_a_folder_of_runs_becomes_a_table_of_what_differs(here):
    for name, lr in (("1", 0.1), ("2", 0.2), ("10", 0.1)):
        run = write_run(here / name, is_done=name != "10")
        (here / "runs").mkdir(exist_ok=True)
        run.rename(here / "runs" / name)
        with (here / "runs" / name / "config.toml").open("a") as file:
            file.write(f"[optimizer]\nlr = {lr}\n")
    (here / "runs/bad").mkdir()
    (here / "runs/bad/config.toml").write_text("[nonsense]\n")
    as_json("runs/1")
    told = as_json("runs")
    assert (told["file"], told["num_runs"]) == ("runs/report.html", 3)
    page = Page(here / "runs/report.html")
    assert [each["href"] for each in page.all("a")] == ["1/report.html"]
    words = " ".join(" ".join(page.text).split())
    assert "run epochs accuracy macro_f1 balanced_accuracy optimizer.lr 1 3 66.7%" in words
    assert "10 3 of 15, not finished" in words
    assert "runs/bad cannot be read" in words


def test_out_names_the_page_and_other_files_are_left_alone(here):
    run = write_run(here)
    assert as_json(run, "--out", "pages/first.html")["file"] == "pages/first.html"
    assert not (run / "report.html").exists()
    Path("mine.html").write_text("<p>mine")
    result = report(run, "--out", "mine.html")
    assert result.exit_code == 2
    assert "mine.html exists and is no report: move it away or pass another --out" in result.stderr
    assert Path("mine.html").read_text() == "<p>mine"
    assert report(run, "--out", "pages").exit_code == 2


@pytest.mark.parametrize("place", ["missing", "data"])
def test_a_place_without_a_run_is_an_error_of_data(here, place):
    write_run(here)
    result = report(place)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"ptkit: {place} ")
    assert result.stderr.count("\n") == 1


def test_classes_without_an_answer_stay_in_the_matrix(here):
    run = write_run(here)
    (here / "data/classes.txt").write_text("".join(f"{name}\n" for name in (*CLASSES, "wasps")))
    as_json(run)
    heads = [each for each in Page(run / "report.html").all("th") if each.get("class") == "name"]
    assert len(heads) == 6


def test_every_cell_has_images_where_wrong_answers_alone_would_fill_the_page(here):
    cells = [(a, b) for a in range(10) for b in range(10)]
    found = [Example(f"{a}{b}{k}.png", str(a), str(b), a == b, 1 - k / 100, None, (a, b))
             for a, b in cells for k in range(20)]  # fmt: skip
    found.sort(key=lambda each: (bool(each.is_right), -each.badness))
    kept = chosen(found)
    assert len(kept) == 600
    counts = Counter(each.cell for each in kept)
    assert set(counts) == set(cells)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert kept == [each for each in found if each in kept]
    # Without cells those that are shown at first are all.
    assert len(chosen([replace(each, cell=None) for each in found])) == 24


def test_a_device_that_is_not_there_is_an_error(here):
    result = report(write_run(here), "--device", "cuda:77")
    assert (result.exit_code, "cuda:77" in result.stderr) == (2, True)
