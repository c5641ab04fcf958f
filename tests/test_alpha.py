"""Transparency, dropped or put on white: one answer from training to prediction."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.data import images
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.keeping import key_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transparency import alpha_for
from ptkit.core.errors import UsageError
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.training.observers import Unwatched
from ptkit.looking import label_review
from ptkit.looking.label_review import review_labels
from ptkit.looking.reporting import answers
from ptkit.looking.subject import load_subject
from ptkit.plots.saving import PictureFolder

pytestmark = pytest.mark.usefixtures("blank_pictures")

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
QUIET = {"batch_size": 4, "tensorboard": False, "pictures": False, "log_layers": False,
         "model": "lenet", "epochs": 1}  # fmt: skip


def encoded(pixels, kind, mode=None, **options):
    image, target = Image.fromarray(pixels), io.BytesIO()
    (image if mode is None else image.convert(mode)).save(target, kind, **options)
    return target.getvalue()


def on_white(pixels):
    """Return what the definition of "over" makes of RGBA on white (Porter and Duff 1984)."""
    share = pixels[..., 3:] / 255
    return np.round(share * pixels[..., :3] + (1 - share) * 255)


GREY = np.stack([PICTURE[..., 0]] * 3 + [PICTURE[..., 3]], axis=2)
HOLES = np.dstack([PICTURE[..., :3], np.where(PICTURE[..., 3] < 128, 0, 255).astype(np.uint8)])
SEEN = {
    "PNG of RGBA": (encoded(PICTURE, "PNG"), on_white(PICTURE)),
    "PNG of LA": (encoded(GREY, "PNG", "LA"), on_white(GREY)),
    "palette PNG": (encoded(np.zeros((2, 2), np.uint8), "PNG", "P", transparency=0), 255),
    "PNG of a transparent colour": (
        encoded(np.full((2, 2, 3), 7, np.uint8), "PNG", transparency=(7, 7, 7)),
        255,
    ),
    "WebP": (encoded(HOLES, "WebP", lossless=True, exact=True), on_white(HOLES)),
    "TIFF": (encoded(PICTURE, "TIFF"), on_white(PICTURE)),
    "GIF": (encoded(np.zeros((2, 2), np.uint8), "GIF", "P", transparency=0), 255),
    "opaque PNG": (encoded(PICTURE[..., :3].copy(), "PNG"), PICTURE[..., :3]),
}


@pytest.mark.parametrize("name", SEEN)
def test_transparent_images_are_put_on_white(name):
    data, expected = SEEN[name]
    found = images.decode(data, alpha="white")
    assert found.dtype == np.uint8
    # Pillow rounds once more.
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_transparency_is_dropped_by_default():
    data, _ = SEEN["PNG of RGBA"]
    assert np.array_equal(images.decode(data), PICTURE[..., :3])


def test_jpegs_and_16_bits_are_read_as_ever():
    deep = io.BytesIO()
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(deep, "PNG", transparency=40_000)
    for data in (encoded(PICTURE[..., :3].copy(), "JPEG"), deep.getvalue()):
        assert np.array_equal(images.decode(data, alpha="white"), images.decode(data))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Sixteen transparent images in two lists, and the same put on white beforehand."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    for index in range(16):
        pixels = random.integers(0, 256, (16, 16, 4), dtype=np.uint8)
        pixels[..., :3] //= 3
        pixels[4 + index % 2 * 8 :, :, 3] = 0
        Image.fromarray(pixels).save(f"{index}.png")
        Image.fromarray(images.read(f"{index}.png", alpha="white")).save(f"white{index}.png")
    rows = [(f"{index}.png", index % 2) for index in range(16)]
    write_list(tmp_path / "train.txt", rows[:8])
    write_list(tmp_path / "valid.txt", rows[8:])
    return tmp_path


@pytest.mark.parametrize(
    "cache",
    [
        "disk",
        pytest.param("off", marks=pytest.mark.slow),
        pytest.param("ram", marks=pytest.mark.slow),
    ],
)
def test_a_model_sees_what_it_was_trained_on(here, monkeypatch, cache):
    monkeypatch.setenv("PTKIT_CACHE", str(here / "cache"))
    run = ptkit.train(alpha="white", cache=cache, **QUIET)
    assert read_checkpoint(run.checkpoint)["pipeline"]["alpha"] == "white"
    assert ptkit.evaluate(run.run, "valid.txt").metrics["accuracy"] == run.best["accuracy"]
    model = ptkit.load(run.checkpoint)
    rows = [
        [(row["class"], row["probability"]) for row in found]
        for found in (
            ptkit.predict(run.run, ["9.png"]).rows,
            ptkit.predict(run.run, ["white9.png"]).rows,
        )
    ]
    assert rows[0] == rows[1]
    one, other = model.predict("9.png"), model.predict(Image.open("9.png"))
    assert one[0]["probability"] == pytest.approx(rows[0][0][1], abs=1e-6)
    assert other[0]["probability"] == one[0]["probability"]
    dropped = ptkit.train(cache=cache, **QUIET)
    # The same seed: only the pixels differ.
    assert dropped.best["loss"] != run.best["loss"]


def test_finetune_goes_on_as_the_weights_were_trained(here):
    first = ptkit.train(alpha="white", **QUIET)
    options = {name: value for name, value in QUIET.items() if name != "model"}
    for given, expected in (({}, "white"), ({"alpha": "drop"}, "drop")):
        tuned = ptkit.finetune(first.checkpoint, **options, **given)
        assert read_checkpoint(tuned.checkpoint)["pipeline"]["alpha"] == expected


def test_kept_pixels_and_statistics_are_of_one_kind(here):
    listed = read_list(here / "train.txt")
    keys = {
        key_of(listed, Pipeline.parse(["ToTensor()"], alpha=alpha)) for alpha in ("drop", "white")
    }
    assert len(keys) == 2
    done = CliRunner().invoke(app, ["normstats", "train.txt", "--alpha", "white", "--json"])
    assert json.loads((here / "normstats.json").read_text())["alpha"] == "white"
    white = json.loads(done.stdout)["mean"]
    assert ptkit.train(alpha="white", **QUIET).run
    used = read_checkpoint(here / "ckpt.pkl")["pipeline"]["mean"]
    assert used == white
    ptkit.train(**QUIET)
    assert read_checkpoint(here / "ckpt.pkl")["pipeline"]["mean"] != white


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["normstats", "train.txt", "--alpha", "black"], "--alpha must be one of drop, white"),
        (["normstats", "train.txt", "--alpha", "white", "--whiten", "zca"], "leave out --alpha"),
        (
            ["train", "--alpha", "black"],
            "--alpha must be one of auto, drop, white, found 'black'",
        ),
        (["predict", "none.pkl", "9.png", "--alpha", "no"], "--alpha must be one of drop, white"),
    ],
)
def test_a_wrong_choice_is_an_error(here, words, said):
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_a_checkpoint_knows_it_and_bare_weights_are_told(here):
    run = ptkit.train(**QUIET)
    with pytest.raises(UsageError, match="already stores this: leave out --alpha"):
        load_subject(run.checkpoint, alpha="white")
    torch.save(read_checkpoint(run.checkpoint)["state_dict"], "bare.pt")
    answers = {"model": "lenet", "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "size": 16}
    pipeline = load_subject("bare.pt", alpha="white", **answers).parse_pipeline()
    one, other = (pipeline.read_image(name) for name in ("9.png", "white9.png"))
    assert torch.equal(one, other)


@pytest.fixture
def icons(tmp_path, monkeypatch):
    """Class folders of black signs on nothing: squares and lines."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(2)
    for number in range(24):
        pixels = np.zeros((16, 16, 4), np.uint8)
        row, column = random.integers(1, 6, 2)
        height, width = ((8, 8), (2, 9))[number % 2]
        pixels[row : row + height, column : column + width, 3] = 255
        file = tmp_path / "icons" / ["square", "line"][number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    assert CliRunner().invoke(app, ["split", "icons", "--ratio", "2:1"]).exit_code == 0
    return tmp_path


class Listening(Unwatched):
    """Keeps what is said."""

    def __init__(self, said):
        self.said = said

    def say(self, line):
        self.said.append(line)


def test_what_shows_only_in_transparency_is_trained_on_white(icons):
    said = []
    run = ptkit.train(watch=Listening(said), **QUIET)
    assert read_checkpoint(run.checkpoint)["pipeline"]["alpha"] == "white"
    assert "alpha: white, as without their transparency the images are of one colour" in said
    # A resumed run has no weights to ask, and the config of a run repeats it.
    assert 'alpha = "white"' in (run.run / "config.toml").read_text()
    dropped = ptkit.train(alpha="drop", **QUIET)
    assert read_checkpoint(dropped.checkpoint)["pipeline"]["alpha"] == "drop"
    with pytest.raises(
        UsageError, match="images on white; save the images on white, and pass --alpha drop"
    ):
        ptkit.eject("script.py", **QUIET)
    with pytest.raises(UsageError, match=r"data\.alpha=white; save the images on white, and"):
        ptkit.eject("script.py", alpha="white", **QUIET)


@pytest.mark.parametrize(
    ("alpha", "colour", "is_blank"), [("drop", 0, True), ("white", 255, True), ("white", 0, False)]
)
def test_images_that_show_nothing_are_not_trained_on_in_silence(icons, alpha, colour, is_blank):
    drawn_in(lambda _: colour, Path("icons").rglob("*.png"))
    said = []
    ptkit.train(watch=Listening(said), alpha=alpha, **QUIET)
    words = "all of them one and the same colour, `ptkit check train.txt` looks closer"
    assert any(words in line for line in said) == is_blank


def test_own_transforms_are_tried_on_what_is_trained_on(icons):
    Path("own.py").write_text(
        "def inverted(pixels):\n"
        "    if pixels.min() == pixels.max():\n"
        "        raise ValueError('of one colour')\n"
        "    return 255 - pixels\n"
    )
    assert ptkit.train(transforms=['Lambda("own.py:inverted")'], workers=1, **QUIET).run


def test_a_run_from_before_white_was_chosen_goes_on_as_it_was(icons):
    run = ptkit.train(alpha="drop", **QUIET).run
    for file in (run / "last.pkl", run / "ckpt.pkl"):
        state = torch.load(file, weights_only=True)
        state["config"]["data"]["alpha"] = "auto"
        torch.save(state, file)
    config = run / "config.toml"
    config.write_text(config.read_text().replace('alpha = "drop"', 'alpha = "auto"'))
    with pytest.raises(UsageError, match=r"--alpha \(data.alpha\) is white, was drop"):
        ptkit.train(resume=run, epochs=2, alpha="white")
    again = ptkit.train(resume=run, epochs=2)
    assert read_checkpoint(again.run / "last.pkl")["pipeline"]["alpha"] == "drop"


def test_a_report_shows_what_is_hidden(icons, monkeypatch):
    run = ptkit.train(alpha="drop", **QUIET).run
    # Of the data this page shows only what the check-up found.
    monkeypatch.setattr(answers, "thumbnails", lambda images, **_: [None] * len(images))
    done = CliRunner().invoke(app, ["report", str(run), "--check", "--out", "page.html"])
    assert done.exit_code == 0, done.output
    found = re.findall(
        r'src="data:image/png;base64,([^"]+)" alt="icons', Path("page.html").read_text()
    )
    assert len(found) >= 8
    for uri in found:
        assert is_a_sign(np.array(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")))


def test_one_photograph_among_icons_keeps_what_all_images_are_read_with(icons):
    listed = read_list(icons / "train.txt")
    assert alpha_for(listed) == "white"
    noise = np.random.default_rng(3).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    (icons / listed.image_path(0)).write_bytes(encoded(noise, "PNG"))
    assert alpha_for(listed) == "drop"


def test_the_check_up_sees_icons_as_training_does(icons):
    found = ptkit.check("icons")
    rules = {finding.rule.name for finding in found.findings.findings}
    assert (found.alpha, rules & {"constant", "transparent"}) == ("white", set())
    found = ptkit.check("icons", alpha="drop")
    [finding] = [f for f in found.findings.findings if f.rule.name == "transparent"]
    assert (finding.verdict, len(finding.found.images)) == ("FAIL", 24)
    assert "constant" not in {f.rule.name for f in found.findings.findings}
    done = CliRunner().invoke(app, ["check", "icons", "--alpha", "drop"])
    assert "24 images are of one colour without transparency" in done.stdout
    # On the sheet and in a report they can be seen.
    assert all(is_a_sign(found.pixels(row)) for row in finding.found.images)
    done = CliRunner().invoke(app, ["check", "icons", "--json"])
    assert json.loads(done.stdout)["alpha"] == "white"


def is_a_sign(pixels):
    return set(np.unique(pixels)) == {0, 255}


def drawn_in(colour, files):
    """Give signs another colour, and their ground too."""
    for number, file in enumerate(files):
        pixels = np.array(Image.open(file))
        pixels[..., :3] = colour(number)
        Image.fromarray(pixels).save(file)


@pytest.mark.parametrize(("alpha", "num_dark"), [("drop", 19), ("white", 0)])
def test_signs_in_white_are_to_be_saved_on_another_colour_and_not_deleted(icons, alpha, num_dark):
    drawn_in(lambda _: 255, sorted(Path("icons").rglob("*.png"))[:5])
    found = ptkit.check("icons", alpha=alpha)
    by_rule = {finding.rule.name: finding for finding in found.findings.findings}
    assert "constant" not in by_rule
    finding = by_rule["transparent"]
    white = "5 images are of one colour without transparency and on white, as signs drawn in white"
    dark = "19 images are of one colour without transparency, which is dropped: train with"
    assert (white in finding.found.text, dark in finding.found.text) == (True, bool(num_dark))
    assert (finding.rule.action, len(finding.found.images)) == ("fix", num_dark + 5)
    assert all(is_a_sign(found.pixels(row)) for row in finding.found.images)


def test_white_signs_alone_are_no_reason_for_white(icons):
    drawn_in(lambda _: 255, Path("icons").rglob("*.png"))
    assert alpha_for(read_list(Path("train.txt"))) == "drop"


def test_what_is_hidden_on_white_alone_is_to_be_dropped(icons):
    # White signs, whose ground is black below its transparency.
    for file in Path("icons").rglob("*.png"):
        pixels = np.array(Image.open(file))
        pixels[..., :3] = pixels[..., 3:]
        Image.fromarray(pixels).save(file)
    assert ptkit.check("icons").alpha == "drop"
    found = ptkit.check("icons", alpha="white")
    [finding] = [f for f in found.findings.findings if f.rule.name == "transparent"]
    assert "24 images are of one colour on white: train with --alpha drop" in finding.found.text
    assert all(is_a_sign(found.pixels(row)) for row in finding.found.images)


@pytest.mark.parametrize("colour", [lambda _: 0, lambda number: 9 * number])
def test_statistics_without_what_images_show_say_so(icons, colour):
    drawn_in(colour, Path("icons").rglob("*.png"))
    run = CliRunner().invoke
    done = run(app, ["normstats", "train.txt"])
    assert "each image is of one colour; `ptkit train` puts them on white: pass --" in done.stderr
    assert not run(app, ["normstats", "train.txt", "--alpha", "white"]).stderr
    done = run(app, ["normstats", "train.txt", "--whiten", "zca"])
    assert (done.exit_code, "save them on white first" in done.stderr) == (2, True)


def test_statistics_of_other_transparent_images_have_no_note(here):
    assert not CliRunner().invoke(app, ["normstats", "train.txt"]).stderr


def test_near_duplicates_among_icons_stay_on_one_side(icons):
    icon = Image.open("icons/square/0.png")
    copies = {f"copy{level}.png" for level in range(6)}
    for level, name in enumerate(sorted(copies)):
        icon.save(f"icons/square/{name}", compress_level=level)
    flags = ["--ratio", "1:1", "--near-duplicates", "--out", "again"]
    assert CliRunner().invoke(app, ["split", "icons", *flags]).exit_code == 0
    valid = read_list(icons / "again/valid.txt")
    names = {Path(valid.image_path(row)).name for row in range(len(valid))}
    assert names & copies in (set(), copies)


def test_labels_are_reviewed_on_images_as_the_run_saw_them(icons, monkeypatch):
    run = ptkit.train(**{**QUIET, "epochs": 3, "log_layers": True, "alpha": "white"}).run
    review = replace(review_labels(run), rows=np.arange(3), margins=-np.ones(3),
                     suggested=np.zeros(3, int))  # fmt: skip
    drawn = []
    sheet = label_review.contact_sheet
    monkeypatch.setattr(
        label_review,
        "contact_sheet",
        lambda images, *given, **how: drawn.extend(images) or sheet(images, *given, **how),
    )
    with PictureFolder(Path("seen"), command="check") as pictures:
        label_review.draw_review(review, pictures)
    assert len(drawn) == 3
    assert all(map(is_a_sign, drawn))


def test_a_review_takes_no_other_transparency_than_the_run_had(icons):
    done = CliRunner().invoke(app, ["check", "--run", "runs/1", "--alpha", "white"])
    assert (done.exit_code, "leave --alpha out" in done.stderr) == (2, True)


def test_resuming_keeps_what_the_weights_were_trained_with(icons):
    first = ptkit.train(alpha="drop", **QUIET)
    tuned = ptkit.finetune(
        first.checkpoint, epochs=1, **{k: QUIET[k] for k in QUIET if k not in ("model", "epochs")}
    )
    assert read_checkpoint(tuned.checkpoint)["pipeline"]["alpha"] == "drop"
    again = ptkit.train(resume=tuned.run, epochs=2)
    assert read_checkpoint(again.run / "last.pkl")["pipeline"]["alpha"] == "drop"
