"""What each kind of bad input gets, through the commands: the table of what ptkit promises, row by
row.
"""

import csv
import errno
import io
import json
import os
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from example_run import write_run
from PIL import Image
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.cli import app
from ptkit.core.data import images as decoder
from ptkit.core.data.formats import can_read
from ptkit.core.data.lists import read_list
from ptkit.core.data.statistics import find
from ptkit.core.files import write_csv
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.training.kernel_film import read_film

RUN = CliRunner()
PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
)  # fmt: skip


def encoded(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def claiming(width, height):
    """Return a PNG whose header claims a size."""
    png = bytearray(encoded("PNG"))
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def with_corrupt_chunk():
    png = bytearray(encoded("PNG"))
    png[-20] ^= 1
    return bytes(png)


def damaged_inside():
    jpeg = bytearray(encoded("JPEG", PICTURE.resize((200, 200))))
    middle = len(jpeg) // 2
    jpeg[middle : middle + 60] = b"\xff\xd0" * 30
    return bytes(jpeg)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/good.png").write_bytes(encoded("PNG"))
    return tmp_path


def run(*arguments, code, said=""):
    """Run a command, which must end so, with one line of words at most."""
    result = RUN.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert re.search(said, result.stderr), result.stderr
    if code:
        assert result.stderr.startswith("ptkit: ")
        assert len(result.stderr.splitlines()) == 1, result.stderr
    return result


def write_list(*names):
    Path("list.txt").write_text("".join(f"images/{name} {k}\n" for k, name in enumerate(names)))


# ------------------------------------------------------------------------------------------ images

UNREADABLE = {
    "truncated JPEG": (lambda: encoded("JPEG")[:-100], ""),
    "truncated PNG": (lambda: encoded("PNG")[:-100], ""),
    "zero bytes": (lambda: bytes(500), "only zero bytes"),
    "empty": (lambda: b"", "the file is empty"),
    "HTML named .jpg": (lambda: b"<!DOCTYPE html>", "HTML"),
    "text named .jpg": (lambda: b"hello", "not a JPEG"),
    "0×N size": (lambda: claiming(0, 5), ""),
    "corrupt chunk": (with_corrupt_chunk, ""),
    "damage inside a JPEG's data": (damaged_inside, "Corrupt JPEG data"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is EPS; convert it to PNG or JPEG"),
    "PSD": (lambda: b"8BPS\0\1", "it is PSD; convert"),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000; convert"),
    "header that claims 50,000 × 50,000": (
        lambda: claiming(50_000, 50_000),
        "its header claims 2,500,000,000 pixels; --max-pixels",
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="what decoders say is caught on Linux")
@pytest.mark.parametrize("row", UNREADABLE)
def test_an_image_that_cannot_be_read_is_named_with_the_reason(row, here, capfd):
    make, reason = UNREADABLE[row]
    Path("images/bad.jpg").write_bytes(make())
    write_list("good.png", "bad.jpg")
    run("normstats", "list.txt", code=3, said=rf"cannot read images/bad\.jpg: .*{reason}")
    # Left out, and named.
    result = RUN.invoke(app, ["normstats", "list.txt", "--on-bad", "skip"])
    assert result.exit_code == 3
    assert "1 image left out:\n  cannot read images/bad.jpg" in result.stderr
    assert "1 images, own sizes" in result.stdout
    # libjpeg and libpng write there themselves.
    assert capfd.readouterr().err == ""


def test_heic_without_the_extra_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Path("images/bad.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    write_list("good.png", "bad.jpg")
    run("normstats", "list.txt", code=3, said=r"it is HEIC; run `pip install 'ptkit\[heif\]'`")


def sixteen_bits():
    grey = np.linspace(0, 65535, 480).astype(np.uint16).reshape(24, 20)
    return decoder.cv2.imencode(".png", grey)[1].tobytes()


ANIMATED = {"save_all": True, "append_images": [PICTURE.transpose(0)]}
READ = {
    "PNG named .jpg": lambda: encoded("PNG"),
    "TIFF (first page)": lambda: encoded("TIFF", **ANIMATED),
    "EXIF orientation 6": lambda: encoded("JPEG", exif=exif(6)),
    "broken EXIF": lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    **{mode: lambda mode=mode: encoded("PNG", PICTURE.convert(mode))
       for mode in ("L", "1", "P", "RGBA", "LA")},
    "CMYK": lambda: encoded("JPEG", PICTURE.convert("CMYK")),
    "palette with transparency": lambda: encoded("PNG", PICTURE.convert("P"), transparency=0),
    "16-bit grey": sixteen_bits,
    "GIF": lambda: encoded("GIF", **ANIMATED),
    "animated WebP": lambda: encoded("WEBP", **ANIMATED),
    "APNG": lambda: encoded("PNG", **ANIMATED),
    "MPO": lambda: encoded("MPO", **ANIMATED),
    "1×1 image": lambda: encoded("PNG", Image.new("RGB", (1, 1))),
    "aspect 100:1": lambda: encoded("PNG", Image.new("RGB", (100, 1))),
}  # fmt: skip
if can_read("AVIF"):
    READ["AVIF"] = lambda: encoded("AVIF")


@pytest.mark.parametrize("row", READ)
def test_an_unusual_image_is_read(row, here):
    Path("images/odd.jpg").write_bytes(READ[row]())
    write_list("good.png", "odd.jpg")
    assert "2 images, own sizes" in run("normstats", "list.txt", code=0).stdout


FILES = {
    "broken symlink": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "symlink to itself": (lambda path: path.symlink_to(path.name), "symbolic link"),
    "FIFO": (os.mkfifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder": (os.mkdir, "not a regular file"),
    "file that vanishes": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("row", FILES)
def test_a_file_that_is_no_regular_one_never_blocks(row, here):
    make, reason = FILES[row]
    make(Path("images/bad.jpg"))
    write_list("good.png", "bad.jpg")
    run("normstats", "list.txt", code=3, said=rf"images/bad\.jpg.*{reason}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(here):
    Path("images/bad.jpg").write_bytes(encoded("JPEG"))
    Path("images/bad.jpg").chmod(0)
    write_list("good.png", "bad.jpg")
    run("normstats", "list.txt", code=3, said="Permission denied")


def test_a_symlink_to_a_file_is_followed(here):
    Path("images/link.png").symlink_to("good.png")
    write_list("good.png", "link.png")
    assert "2 images" in run("normstats", "list.txt", code=0).stdout


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_three_times_ends_with_74(code, here, monkeypatch):
    write_list("good.png")
    real = os.open

    def failing(path, *arguments):
        if str(path).endswith("good.png'") or os.fsencode(path).endswith(b"good.png"):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", failing)
    run("normstats", "list.txt", code=74, said=r"images/good\.png after three tries")


# ------------------------------------------------------------------------------------------- names

NAMES = [
    b"a b.png", b"tab\t.png", b"com,ma.png", b'quote".png', b"apo'.png", b"new\nline.png",
    b"esc\x1b[31m.png", b"-leading.png", b"=1+1.png", b"@sum.png", b"latin\xe9.png",
    "漢字.png".encode(), "🐜.png".encode(), b"end .png", b"[optimizer].png", b"%s.png",
    b"ptkit: \nptkit: warning.png", b"<script>.png",
]  # fmt: skip


def test_every_name_works_end_to_end_and_is_printed_escaped(here):
    for label in ("one", "two"):
        for number, name in enumerate(NAMES):
            path = os.path.join(b"data", label.encode(), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            image = PICTURE.rotate(number + (100 if label == "one" else 200))
            Path(os.fsdecode(path)).write_bytes(encoded("PNG", image))
    run("split", "data", "--ratio", "1:1", code=0)
    run("normstats", "train.txt", code=0)
    write_run(here)
    result = run("predict", "ckpt.pkl", "train.txt", "valid.txt", "--out", "told", code=0)
    assert "\x1b" not in result.output
    assert not re.search(r"^ptkit: ", result.output, re.MULTILINE)
    with open("told/predictions.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 2 * len(NAMES)
    # Spreadsheets run what begins with one of these.
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_a_cell_that_spreadsheets_would_run_is_a_text(here):
    for name in ("=1+1.png", "@sum.png", "-1.png", "+1.png"):
        Path(name).write_bytes(encoded("PNG"))
    write_run(here)
    run("predict", "ckpt.pkl", "--out", "told", "--", *sorted(os.listdir("."))[:4], code=0)
    with open("told/predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == ["'+1.png", "'-1.png", "'=1+1.png", "'@sum.png"]


def test_numbers_below_0_stay_numbers(here):
    write_csv(Path("table.csv"), ["a", "b"], [["-1.5", -2], ["-1e-05", "-x"]])
    assert Path("table.csv").read_text() == "a,b\n-1.5,-2\n-1e-05,'-x\n"


# ----------------------------------------------------------------------------------------- folders


def folders(*paths):
    for number, path in enumerate(paths):
        file = Path("data") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/x"):
            file.write_bytes(encoded("PNG", PICTURE.rotate(number)))


GOOD = [f"{label}/{number}.png" for label in ("ant", "bee") for number in range(6)]
FOLDERS = {
    "empty class folder": ((*GOOD, "cat/x"), r"cat"),
    "a class folder in which nothing can be read": ((*GOOD, "cat/a.txt", "cat/b.txt"), r"cat"),
    "images outside class folders": ((*GOOD, "1.png"), r"outside|class folders"),
    "no images at all": (("readme.txt",), "no images"),
    "one class only": (GOOD[:6], "one class|ant"),
}


@pytest.mark.parametrize("row", FOLDERS)
def test_folders_of_the_wrong_form_are_named(row, here):
    paths, reason = FOLDERS[row]
    folders(*paths)
    run("split", "data", code=3, said=reason)
    assert not Path("train.txt").exists()


def test_a_folder_that_loops_is_visited_once(here):
    folders(*GOOD)
    Path("data/ant/again").symlink_to(Path("data/ant").resolve())
    result = run("split", "data", "--json", code=0)
    counts = json.loads(result.stdout)
    assert sum(counts[part] for part in ("train", "valid", "test")) == len(GOOD)


def test_hidden_and_foreign_files_are_ignored_and_counted(here):
    folders(*GOOD)
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/._1.png", ".hidden.png"):
        (Path("data/ant") / name).parent.mkdir(exist_ok=True)
        (Path("data/ant") / name).write_bytes(b"not an image")
    assert "ignored: 4 (" in run("split", "data", code=0).stdout


# ------------------------------------------------------------------------------------------- lists

LISTS = {
    "UTF-16": ("images/good.png 0\n".encode("utf-16"), "line 1: this is UTF-16"),
    "binary": (b"\0\1\2\3 0\n", "line 1: a zero byte"),
    "not UTF-8": (b"images/good.png 0\nimages/\xe9.png 0\n", "line 2: not UTF-8"),
    "missing label": (b"images/good.png 0\nimages/good.png\n", "line 2: no label"),
    "label not a number": (b"images/good.png 0\nimages/good.png x\n", "line 2"),
    "negative label": (b"images/good.png 0\nimages/good.png -1\n", "line 2"),
    "label beyond classes.txt": (b"images/good.png 0\nimages/good.png 7\n", "line 2"),
    "one path with two labels": (b"images/good.png 0\nimages/good.png 1\n", "two labels"),
    "empty": (b"", "names no images"),
}


@pytest.mark.parametrize("row", LISTS)
def test_a_wrong_list_is_told_with_its_line(row, here):
    content, reason = LISTS[row]
    Path("list.txt").write_bytes(content)
    Path("classes.txt").write_text("a\nb\n")
    run("normstats", "list.txt", code=3, said=reason)


def test_crlf_bom_and_blank_lines_are_read(here):
    Path("list.txt").write_bytes(b"\xef\xbb\xbfimages/good.png 0\r\n\r\n\r\n")
    assert "1 images" in run("normstats", "list.txt", code=0).stdout


# ------------------------------------------------------------------------------ training: settings


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_lists(tmp_path, train=12, valid=6, test=3)


SETTINGS = {
    "unknown name": (("--optimizer", "SDG()"), "did you mean SGD"),
    "unknown loss": (("--loss", "CrossEntropy()"), "did you mean CrossEntropyLoss"),
    "unknown setting": (("--set", "train.epoch=3"), "epochs"),
    "unknown flag value": (("--precision", "fp17"), "fp16|bf16"),
    "wrong argument": (("--optimizer", "SGD(momentun=0.9)"), "did you mean momentum"),
    "lr ≤ 0": (("--lr", "0"), "lr"),
    "lr is not a number": (("--lr", "nan"), "lr"),
    "epochs 0": (("--epochs", "0"), "epochs"),
    "batch larger than the set": (
        ("--batch-size", "13"),
        r"13, larger than the training list \(12 images\)",
    ),
    "size too small for the model": (
        ("--size", "1", "--model", "lenet"),
        "size must be 16 pixels or larger",
    ),
}


@pytest.mark.parametrize("row", SETTINGS)
def test_a_wrong_setting_is_one_line_with_the_nearest_name(row, lists):
    flags, reason = SETTINGS[row]
    result = RUN.invoke(app, ["train", *flags])
    assert result.exit_code == 2, result.output
    assert re.search(reason, result.stderr), result.stderr
    assert "Traceback" not in result.output


def test_a_loss_that_does_not_fit_the_labels_is_refused(lists):
    for name in ("train.txt", "valid.txt"):
        Path(name).write_text(Path(name).read_text().replace(" 1\n", " 0,1\n"))
    result = RUN.invoke(app, ["train", "--loss", "MultiMarginLoss()"])
    assert result.exit_code == 2
    assert "does not fit these labels (several classes an image); use one of" in result.stderr


def test_the_same_line_twice_is_counted(lists):
    text = Path("train.txt").read_text()
    Path("train.txt").write_text(text + text.splitlines(keepends=True)[0])
    result = RUN.invoke(
        app, ["train", "--epochs", "1", "--model", "lenet", "--set", "log.pictures=false"]
    )
    assert result.exit_code == 0, result.output
    assert "lines that repeat another: 1\n" in result.output


def test_an_image_in_both_lists_is_refused_by_content(lists):
    path = Path("train.txt").read_text().split()[0]
    Path("images/copy.png").write_bytes(Path(path).read_bytes())
    with open("valid.txt", "a") as file:
        file.write("images/copy.png 0\n")
    run("train", "--epochs", "1", code=3, said="has the bytes of .*data.allow_leak=true")


def test_a_loss_that_is_no_number_ends_with_5(lists):
    result = RUN.invoke(app, ["train", "--epochs", "2", "--lr", "1e30", "--model", "resnet8"])
    assert result.exit_code == 5, result.output
    assert "Traceback" not in result.output


# ------------------------------------------------------------------------------------- checkpoints


def flipped(data):
    return data[:5000] + bytes([data[5000] ^ 4]) + data[5001:]


def newer(_data):
    contents = read_checkpoint(Path("ckpt.pkl")) | {"format_version": 2}
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


def other_architecture(_data):
    contents = read_checkpoint(Path("ckpt.pkl"))
    file = io.BytesIO()
    torch.save(contents | {"model": contents["model"] | {"call": "lenet()"}}, file)
    return file.getvalue()


def whole_module(_data):
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


def malicious(_data):
    return b"\x80\x02cos\nsystem\nX\x09\0\0\0touch ran\x85R."


CHECKPOINTS = {
    "truncated": (lambda data: data[:-1000], "damaged"),
    "zeros": (lambda data: bytes(len(data)), "zeros from its beginning"),
    "HTML": (lambda data: b"<html>", "web page"),
    "LFS pointer": (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "bit flip": (flipped, "damaged"),
    "newer format": (newer, "a newer ptkit .* update this one"),
    "other architecture": (other_architecture, "do not fit|not of one model|weights"),
    "malicious pickle": (malicious, r"it asks for os.system\); nothing was run"),
    "whole-module pickle": (whole_module, "whole pickled model .*nothing was run"),
    "empty": (lambda data: b"", "empty"),
}


@pytest.mark.parametrize("row", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used_says_what_it_is(row, here):
    write_run(here)
    make, reason = CHECKPOINTS[row]
    Path("sent.pkl").write_bytes(make(Path("ckpt.pkl").read_bytes()))
    run("predict", "sent.pkl", "images/good.png", code=4, said=reason)
    assert not Path("ran").exists()


# ------------------------------------------------------------------------------------- other files

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [DEEP, '{"mean": ' + DEEP, "null", "[]", '{"mean": [1, 2, 3], "std": [0, 0, 0]}',
     '{"mean": [NaN, 1, 1], "std": [1, 1, 1], "num_images": 1, "size": null, "list_sha256": "SHA"}',
     '{"mean": "abc", "std": {}}', "\xff\xfe", "1" * 5000],
)  # fmt: skip
def test_statistics_that_cannot_be_used_are_measured_anew(content, lists):
    images = read_list(Path("train.txt"))
    text = content.replace("SHA", images.sha256)
    Path("normstats.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert find(Path("train.txt"), list_sha256=images.sha256, size=16) is None


@pytest.mark.parametrize(
    "content", [DEEP, "null", '{"format": "ptkit.split"}', "{", '{"sha256": []}']
)
def test_lists_beside_a_record_that_is_none_are_not_replaced(content, here):
    folders(*GOOD)
    Path("split.json").write_text(content)
    Path("train.txt").write_text("mine")
    run("split", "data", code=2, said="--overwrite")
    assert Path("train.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    ["x = " + DEEP, "x = 1" + "0" * 5000, "[data", "data = 3", "[train]\nepochs = 'x'",
     "[train]\nepochs = [[1]]", "[data]\ntransforms = 3", "[[data]]", "\0", "[train]\nlr = nan"],
)  # fmt: skip
def test_a_config_that_is_none_is_one_line(content, lists):
    Path("own.toml").write_text(content)
    run("train", "--config", "own.toml", code=2)


def test_json_lines_that_are_nested_without_end_are_one_line(here):
    Path("table.jsonl").write_text('{"path": ' + DEEP)
    run("split", "table.jsonl", code=3, said="line 1: not JSON")


FILMS = {
    "not a zip": lambda: b"PK\3\4",
    "gigabytes of zeros": lambda: packed(kernels=np.zeros((1, 100 << 20), np.uint8)),
    "objects": lambda: packed(kernels=np.array([{}], object)),
    "other shapes": lambda: packed(kernels=np.zeros((2, 3), np.float32)),
    "other names": lambda: packed(nothing=np.zeros(3)),
    "epochs that are texts": lambda: packed(
        kernels=np.zeros((1, 1, 1, 1, 1), np.float32), epochs=np.array(["a"])
    ),
}


def packed(**arrays):
    file = io.BytesIO()
    whole = {"layer": "conv1", "num_outputs": 1, "epochs": np.array([0])} | arrays
    np.savez_compressed(file, **whole)
    return file.getvalue()


@pytest.mark.parametrize("row", FILMS)
def test_frames_that_cannot_be_read_are_none(row, here):
    Path("kernels.npz").write_bytes(FILMS[row]())
    assert read_film(here) is None


# ----------------------------------------------------------------------------------------- outputs


def test_a_full_disk_is_not_the_images_fault(here, monkeypatch):
    folders(*GOOD)

    def full(source, target):
        # As shutil's fast way raises it.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    monkeypatch.setattr("shutil.copyfile", full)
    run("split", "data", "--copy", "copies", code=74, said="^ptkit: the disk of copies is full")
    assert not Path("copies").exists()


def test_a_list_of_pictures_leads_to_no_other_files(here):
    write_run(here)
    folder, mine = Path("runs/1/viz-weights"), Path("runs/mine.txt")
    folder.mkdir()
    mine.write_text("mine")
    names = ["../mine.txt", "../../mine.txt", "..", ".", "", "a\0b", str(mine.resolve()), 3, None]
    (folder / ".ptkit-files.json").write_text(json.dumps({"viz-weights": names}))
    run("viz-weights", "ckpt.pkl", code=0)
    assert mine.read_text() == "mine"


def test_an_output_folder_that_exists_is_refused(lists):
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/mine.txt").write_text("mine")
    run("train", "--name", "x", code=2, said="runs/x")
    assert Path("runs/x/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "..", ".", "a\0b", "/tmp/x"])
def test_a_name_that_no_folder_can_have_is_one_line(name, lists):
    run("train", "--name", name, code=2, said="--name")


@pytest.mark.parametrize("command", ["split", "train", "predict"])
def test_a_folder_that_cannot_be_written_ends_with_74(command, lists):
    write_run(lists)
    Path("file").write_text("a file is no folder, whoever asks")
    arguments = {
        "split": ["images"],
        "train": ["--model", "resnet8"],
        "predict": ["ckpt.pkl", "images"],
    }[command]
    result = RUN.invoke(app, [command, *arguments, "--out", "file/below"])
    assert result.exit_code == 74, result.output
    assert len(result.stderr.splitlines()) == 1
