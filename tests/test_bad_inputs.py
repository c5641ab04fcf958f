"""What each kind of bad input gets, through the commands: docs/bad-inputs.md, row by row."""

import csv
import errno
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_run import write_run
from PIL import Image, ImageOps
from tiny_data import make_lists
from tiny_onnx import graph, write_onnx
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.core.data import images as decoder
from ptkit.core.data.formats import can_read
from ptkit.core.data.lists import read_list
from ptkit.core.data.statistics import find
from ptkit.core.files import write_csv
from ptkit.core.models.checkpoints import read_checkpoint
from ptkit.core.training.kernel_film import read_film

PAGE = (Path(__file__).parent.parent / "docs" / "bad-inputs.md").read_text(encoding="utf-8")
RUN = CliRunner()
PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
)  # fmt: skip

# Row of the page -> name of a case -> what runs it, in a folder with images/good.png.
Case = Callable[[], None]
ROWS: dict[str, dict[str, Case]] = {}


def row(name: str, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function the cases of a row, which gets the name of each; or its only one."""

    def add(run_case: Callable[..., None]) -> Callable[..., None]:
        own = {case: partial(run_case, case) for case in names} or {run_case.__name__: run_case}
        ROWS.setdefault(name, {}).update(own)
        return run_case

    return add


def encoded(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    # A copy: saving leaves settings of one format in an image.
    image.copy().save(file, kind, **options)
    return file.getvalue()


def run(*arguments: object, code: int, said: str = "") -> Result:
    """Run a command, which must end so, with one line on standard error if that is no success."""
    result = RUN.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert re.search(said, result.stderr), result.stderr
    if code:
        assert result.stderr.startswith("ptkit: ")
        assert len(result.stderr.splitlines()) == 1, result.stderr
    return result


def write_images(**contents: bytes) -> None:
    """Write list.txt of images/good.png and of images/NAME.jpg with these contents."""
    names = ["good.png", *(f"{name}.jpg" for name in contents)]
    for name, data in contents.items():
        Path(f"images/{name}.jpg").write_bytes(data)
    Path("list.txt").write_text("".join(f"images/{name} {k}\n" for k, name in enumerate(names)))


def here_lists() -> None:
    make_lists(Path(), train=12, valid=6, test=3)


# One epoch of a small net, with nothing drawn.
TRAIN = ("train", "--epochs", "1", "--model", "lenet", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false", "--set", "log.layers=false")  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/good.png").write_bytes(encoded("PNG"))
    return tmp_path


# ------------------------------------------------------------------------------------------ images


def claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size."""
    png = bytearray(encoded("PNG"))
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def with_corrupt_chunk() -> bytes:
    png = bytearray(encoded("PNG"))
    png[-20] ^= 1
    return bytes(png)


UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated JPEG": (lambda: encoded("JPEG")[:-100], ""),
    "truncated PNG": (lambda: encoded("PNG")[:-100], ""),
    "zero bytes": (lambda: bytes(500), "only zero bytes"),
    "empty": (lambda: b"", "the file is empty"),
    "HTML named .jpg": (lambda: b"<!DOCTYPE html>", "HTML"),
    "text named .jpg": (lambda: b"hello", "not a JPEG"),
    "0×N size": (lambda: claiming(0, 5), ""),
    "corrupt chunk": (with_corrupt_chunk, ""),
}


def check_unreadable(data: bytes, reason: str) -> None:
    write_images(bad=data)
    run("normstats", "list.txt", code=3, said=rf"cannot read images/bad\.jpg: .*{reason}")
    # Left out, and named.
    result = RUN.invoke(app, ["normstats", "list.txt", "--on-bad", "skip"])
    assert result.exit_code == 3
    assert "1 image left out:\n  cannot read images/bad.jpg" in result.stderr
    assert "1 images, own sizes" in result.stdout


@row(
    "truncated JPEG or PNG; zero bytes; HTML or text named .jpg; 0×N size; corrupt chunk",
    *UNREADABLE,
)
def unreadable(name: str) -> None:
    make, reason = UNREADABLE[name]
    check_unreadable(make(), reason)


@row(
    "truncated JPEG or PNG; zero bytes; HTML or text named .jpg; 0×N size; corrupt chunk",
    "auto", "off",
)  # fmt: skip
def before_training(cache: str) -> None:
    here_lists()
    bad = Path(Path("train.txt").read_text().split()[4])
    bad.write_bytes(bad.read_bytes()[:-60])
    run(*TRAIN, "--set", f"data.cache={cache}", code=3, said=f"cannot read {bad}: ")
    assert not Path("runs").exists()


@row("truncated JPEG or PNG; zero bytes; HTML or text named .jpg; 0×N size; corrupt chunk")
def predicted_without_it() -> None:
    write_run(Path())
    write_images(bad=b"hello")
    result = RUN.invoke(app, ["predict", "ckpt.pkl", "images", "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 3
    assert [(one["path"], "error" in one) for one in told] == [
        ("images/bad.jpg", True),
        ("images/good.png", False),
    ]


def damaged_inside(kind: str) -> bytes:
    """Return an image whose data is damaged, with an end and checksums that are right."""
    data = bytearray(encoded(kind, PICTURE.resize((200, 200))))
    middle = len(data) // 2
    data[middle : middle + 60] = b"\xff\xd0" * 30
    if kind == "PNG":
        # The pixels are in one chunk, whose checksum comes after them.
        start = data.index(b"IDAT")
        end = start + 4 + int.from_bytes(data[start - 4 : start])
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start:end]))
    return bytes(data)


@row("damage inside a JPEG's or PNG's data", "JPEG", "PNG")
def damage_inside(kind: str) -> None:
    check_unreadable(damaged_inside(kind), {"JPEG": "Corrupt JPEG data", "PNG": ""}[kind])


def flat(colour: str) -> Image.Image:
    return Image.new("RGB", (20, 24), colour)


FIRST = "with several frames (the first is used)"


def animated(kind: str, image: Image.Image) -> bytes:
    return encoded(kind, image, save_all=True, append_images=[flat("blue")])


# How it is counted, and what makes it of an image.
COUNTED: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "PNG named .jpg": ("in another format than the name says", lambda im: encoded("PNG", im)),
    "TIFF": ("TIFF", lambda im: animated("TIFF", im)),
    "AVIF": ("AVIF", lambda im: encoded("AVIF", im)),
    "HEIC": ("HEIC", lambda im: encoded("HEIF", im)),
    "GIF": (f"GIF, {FIRST}", lambda im: animated("GIF", im)),
    "animated WebP": (f"WebP, {FIRST}", lambda im: animated("WEBP", im)),
    "APNG": (f"PNG, {FIRST}", lambda im: animated("PNG", im)),
    "MPO": (f"MPO, {FIRST}", lambda im: animated("MPO", im)),
    "1×1": ("of 1×1 pixels", lambda im: encoded("PNG", im.resize((1, 1)))),
    "100:1": (
        "20 times as long as wide, or more",
        lambda im: encoded("PNG", im.resize((100, 1))),
    ),
}


@row("PNG named .jpg", "PNG named .jpg")
@row(
    "TIFF (first page), AVIF (where Pillow has it), HEIC with the extra heif",
    "TIFF", *(kind for kind in ("AVIF", "HEIC") if can_read(kind)),
)  # fmt: skip
@row("GIF, animated WebP, APNG, MPO", "GIF", "animated WebP", "APNG", "MPO")
@row("1×1 image, aspect 100:1", "1×1", "100:1")
def used_and_counted(name: str) -> None:
    if name == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener()
    kind, make = COUNTED[name]
    write_images(odd=make(flat("red")))
    assert f"1 {kind}" in run("normstats", "list.txt", code=0).stdout
    told = json.loads(run("normstats", "list.txt", "--json", code=0).stdout)
    assert told["num_images"] == 2
    assert told["odd"][kind] == 1
    # Of several frames the first.
    red = decoder.read("images/odd.jpg").mean((0, 1))
    assert np.abs(red - (255, 0, 0)).max() < 8


NOT_READ = {
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is EPS; convert it to PNG or JPEG"),
    "PSD": (b"8BPS\0\1", "it is PSD; convert"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000; convert"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", r"it is HEIC; run `pip install 'ptkit\[heif\]'`"),
}


@row("EPS, PSD, JPEG 2000, HEIC without the extra, under any name", *NOT_READ)
def not_read(kind: str) -> None:
    data, hint = NOT_READ[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        # Whoever parsed it would open it.
        patch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", None)
        patch.setattr("PIL.PsdImagePlugin.PsdImageFile._open", None)
        patch.setattr("PIL.Jpeg2KImagePlugin.Jpeg2KImageFile._open", None)
        check_unreadable(data, hint)


def write_folders(*paths: str) -> None:
    for number, path in enumerate(paths):
        file = Path("data") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            file.write_bytes(encoded("PNG", PICTURE.rotate(number)))
        else:
            file.mkdir()


GOOD = [f"{label}/{number}.png" for label in ("ant", "bee") for number in range(6)]
FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "all text": ((*GOOD, "cat/a.txt", "cat/b.txt"), "class folder data/cat can be read as an"),
    "all HEIC": ((*GOOD, "cat/a.heics", "cat/b.heics"), "class folder data/cat can be read"),
    "empty class folder": ((*GOOD, "cat/"), "the class folder data/cat is empty"),
    "images at the wrong depth": (
        (*GOOD, "1.png"),
        r"data holds 1 images outside class folders.*expected data/<class>/1\.png",
    ),
    "no images at all": (("readme.txt",), r"data has no images, only 1 \.txt; expected data/"),
    "one class only": (tuple(GOOD[:6]), "data has images of one class only, ant; expected"),
}


@row("a class folder in which nothing can be read (all HEIC, all text)", "all text", "all HEIC")
@row(
    "empty class folder; images at the wrong depth; no images at all; one class only",
    *list(FOLDERS)[2:],
)
def wrong_folders(name: str) -> None:
    paths, reason = FOLDERS[name]
    write_folders(*paths)
    run("split", "data", code=3, said=reason)
    assert not Path("train.txt").exists()


def peak_bytes() -> int:
    """Return the most memory that this process had since `forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@row("header that claims 50,000 × 50,000")
def giant_header() -> None:
    write_images(bad=claiming(50_000, 50_000))
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    said = r"cannot read images/bad\.jpg: its header claims 2,500,000,000 pixels; --max-pixels"
    run("normstats", "list.txt", code=3, said=said)
    assert peak_bytes() - before < 100e6


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@row("EXIF orientation 1 to 8; broken EXIF", *map(str, range(1, 9)))
def orientation(number: str) -> None:
    data = encoded("JPEG", exif=exif(int(number)))
    write_images(odd=data)
    assert "2 images, own sizes" in run("normstats", "list.txt", code=0).stdout
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    found = decoder.read("images/odd.jpg")
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= 4


@row("EXIF orientation 1 to 8; broken EXIF")
def broken_exif() -> None:
    write_images(odd=encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert "2 images, own sizes" in run("normstats", "list.txt", code=0).stdout
    assert decoder.read("images/odd.jpg").shape == (24, 20, 3)


MODES: dict[str, Callable[[], bytes]] = {
    **{mode: lambda mode=mode: encoded("PNG", PICTURE.convert(mode))
       for mode in ("L", "1", "P", "RGBA", "LA")},
    "CMYK": lambda: encoded("JPEG", PICTURE.convert("CMYK")),
    "palette with transparency": lambda: encoded("PNG", PICTURE.convert("P"), transparency=0),
}  # fmt: skip


@row("grey, 1-bit, CMYK, palette, palette with transparency, RGBA, LA", *MODES)
def becomes_rgb(mode: str) -> None:
    data = MODES[mode]()
    write_images(odd=data)
    assert "2 images, own sizes" in run("normstats", "list.txt", code=0).stdout
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decoder.read("images/odd.jpg").astype(int) - expected).max() <= 4


@row("grey, 1-bit, CMYK, palette, palette with transparency, RGBA, LA")
def on_white() -> None:
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    Path("images/good.png").write_bytes(encoded("PNG", clear))
    write_images()
    assert json.loads(run("normstats", "list.txt", "--json", code=0).stdout)["mean"][0] < 0.9
    told = run("normstats", "list.txt", "--alpha", "white", "--json", code=0).stdout
    assert json.loads(told)["mean"] == [1.0] * 3


@row("16-bit grey or RGB", "grey", "RGB")
def sixteen_bits(kind: str) -> None:
    values = np.linspace(0, 65535, 480 * 3).astype(np.uint16).reshape(24, 20, 3)
    stored = values[..., 0] if kind == "grey" else values
    write_images(odd=decoder.cv2.imencode(".png", stored)[1].tobytes())
    assert "2 images, own sizes" in run("normstats", "list.txt", code=0).stdout
    # OpenCV stores BGR.
    expected = np.stack([stored] * 3, axis=2) if kind == "grey" else stored[..., ::-1]
    assert (decoder.read("images/odd.jpg") == expected >> 8).all()


# ------------------------------------------------------------------------------- files and folders

FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken symlink": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "symlink to itself": (lambda path: path.symlink_to(path.name), "symbolic link"),
    "FIFO": (os.mkfifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder": (os.mkdir, "not a regular file"),
    "file that vanished": (lambda path: None, "No such file"),
}


@row("symlink to a file; to a folder that loops; broken", "broken symlink", "symlink to itself")
@row(
    "no permission; FIFO or device; file that vanishes mid-run",
    "FIFO", "device", "folder", "file that vanished",
)  # fmt: skip
def no_regular_file(name: str) -> None:
    make, reason = FILES[name]
    write_images(bad=b"")
    Path("images/bad.jpg").unlink()
    make(Path("images/bad.jpg"))
    run("normstats", "list.txt", code=3, said=rf"images/bad\.jpg.*{reason}")


@row("symlink to a file; to a folder that loops; broken")
def followed() -> None:
    write_images(link=b"")
    Path("images/link.jpg").unlink()
    Path("images/link.jpg").symlink_to("good.png")
    assert "2 images" in run("normstats", "list.txt", code=0).stdout


@row("symlink to a file; to a folder that loops; broken")
def loop() -> None:
    write_folders(*GOOD)
    Path("data/ant/again").symlink_to(Path("data/ant").resolve())
    counts = json.loads(run("split", "data", "--json", code=0).stdout)
    assert sum(counts[part] for part in ("train", "valid", "test")) == len(GOOD)


def failing_open(name: str, code: int, *, good: int, bad: int) -> Callable[..., int]:
    """Return an os.open that fails for a file: not the first `good` times, then `bad` times."""
    real, times = os.open, iter([False] * good + [True] * bad)

    def fails(path: Any, *arguments: Any, **named: Any) -> int:
        if os.fsencode(path).endswith(name.encode()) and next(times, False):
            raise OSError(code, os.strerror(code), path)
        return real(path, *arguments, **named)

    return fails


@row("no permission; FIFO or device; file that vanishes mid-run")
def no_permission() -> None:
    write_images(bad=encoded("JPEG"))
    with pytest.MonkeyPatch.context() as patch:
        # Root may read everything.
        patch.setattr(os, "open", failing_open("bad.jpg", errno.EACCES, good=0, bad=9))
        run("normstats", "list.txt", code=3, said=r"images/bad\.jpg: Permission denied")


@row("no permission; FIFO or device; file that vanishes mid-run")
def vanishes_mid_run() -> None:
    here_lists()
    path = Path("train.txt").read_text().split()[0]
    with pytest.MonkeyPatch.context() as patch:
        # Read by the survey, for its size and its transparency, for the statistics, the first
        # batch, and an epoch.
        patch.setattr(os, "open", failing_open(path, errno.ENOENT, good=7, bad=99))
        run(*TRAIN, "--epochs", 9, "--set", "data.cache=off", code=3, said=f"{path}: No such file")
    assert Path("runs/1/config.toml").exists()


@row("transient EIO/ESTALE", "EIO", "ESTALE")
def failing_disk(name: str) -> None:
    write_images()
    code = getattr(errno, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda _seconds: None)
        patch.setattr(os, "open", failing_open("good.png", code, good=0, bad=99))
        run("normstats", "list.txt", code=74, said=r"images/good\.png after three tries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda _seconds: None)
        patch.setattr(os, "open", failing_open("good.png", code, good=0, bad=2))
        run("normstats", "list.txt", code=0)


NAMES = [
    b"a b.png", b"tab\t.png", b"com,ma.png", b'quote".png', b"apo'.png", b"new\nline.png",
    b"esc\x1b[31m.png", b"-leading.png", b"=1+1.png", b"@sum.png", b"latin\xe9.png",
    "漢字.png".encode(), "🐜.png".encode(), b"end .png", b"[optimizer].png", b"%s.png",
    b"ptkit: \nptkit: warning.png", b"<script>.png",
]  # fmt: skip
NAMES_ROW = (
    "names: spaces, tabs, commas, quotes, newline, ESC, leading - or =, not UTF-8, CJK, emoji"
)


@row(NAMES_ROW)
def every_name_end_to_end() -> None:
    for label in ("one", "two"):
        for number, name in enumerate(NAMES):
            path = os.path.join(b"data", label.encode(), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            image = PICTURE.rotate(number + (100 if label == "one" else 200))
            Path(os.fsdecode(path)).write_bytes(encoded("PNG", image))
    run("split", "data", "--ratio", "1:1", code=0)
    run("normstats", "train.txt", code=0)
    write_run(Path())
    result = run("predict", "ckpt.pkl", "train.txt", "valid.txt", "--out", "told", code=0)
    assert "\x1b" not in result.output
    assert not re.search(r"^ptkit: ", result.output, re.MULTILINE)
    with open("told/predictions.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 2 * len(NAMES)
    # Spreadsheets run what begins with one of these.
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]


@row(NAMES_ROW)
def cells_that_spreadsheets_would_run() -> None:
    for name in ("=1+1.png", "@sum.png", "-1.png", "+1.png"):
        Path(name).write_bytes(encoded("PNG"))
    write_run(Path())
    run("predict", "ckpt.pkl", "--out", "told", "--", *sorted(os.listdir("."))[:4], code=0)
    with open("told/predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == ["'+1.png", "'-1.png", "'=1+1.png", "'@sum.png"]


@row(".DS_Store, Thumbs.db, __MACOSX, hidden files")
def hidden_and_foreign_files() -> None:
    write_folders(*GOOD)
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/._1.png", ".hidden.png"):
        (Path("data/ant") / name).parent.mkdir(exist_ok=True)
        (Path("data/ant") / name).write_bytes(b"not an image")
    assert "ignored: 4 (" in run("split", "data", code=0).stdout
    told = json.loads(run("split", "data", "--json", code=0).stdout)
    assert told["num_ignored"] == 4


# ------------------------------------------------------------------------------------------- lists


@row("list: CRLF, BOM, blank lines")
def crlf_bom_and_blank_lines() -> None:
    Path("list.txt").write_bytes(b"\xef\xbb\xbfimages/good.png 0\r\n\r\n\r\n")
    assert "1 images" in run("normstats", "list.txt", code=0).stdout


LISTS = {
    "UTF-16": ("images/good.png 0\n".encode("utf-16"), "line 1: this is UTF-16"),
    "binary": (b"\0\1\2\3 0\n", "line 1: a zero byte"),
    "not UTF-8": (b"images/good.png 0\nimages/\xe9.png 0\n", "line 2: not UTF-8"),
    "missing label": (b"images/good.png 0\nimages/good.png\n", "line 2: no label"),
    "label not a number": (b"images/good.png 0\nimages/good.png x\n", "x in line 2"),
    "negative": (b"images/good.png 0\nimages/good.png -1\n", "line 2: "),
    "beyond classes.txt": (b"images/good.png 0\nimages/good.png 7\n", "line 2: "),
    "two labels": (
        b"images/good.png 0\nimages/good.png 1\n",
        r"gives images/good\.png two labels, 0 in line 1 and 1 in line 2",
    ),
    "empty": (b"", "names no images"),
}


@row(
    "list: UTF-16, binary, missing label, label not a number, negative, beyond classes.txt",
    *(name for name in LISTS if name != "two labels"),
)
@row(
    "list: the same line twice; one path with two labels; the same image in train and valid",
    "two labels",
)
def wrong_list(name: str) -> None:
    content, reason = LISTS[name]
    Path("list.txt").write_bytes(content)
    Path("classes.txt").write_text("a\nb\n")
    run("normstats", "list.txt", code=3, said=rf"list\.txt.*{reason}")


@row("list: the same line twice; one path with two labels; the same image in train and valid")
def same_line_twice_and_an_image_in_both_lists() -> None:
    here_lists()
    text = Path("train.txt").read_text()
    Path("train.txt").write_text(text + text.splitlines(keepends=True)[0])
    Path("images/copy.png").write_bytes(Path(text.split()[0]).read_bytes())
    with open("valid.txt", "a") as file:
        file.write("images/copy.png 0\n")
    run(*TRAIN, code=3, said=r"images/copy\.png .*has the bytes of .*data\.allow_leak=true")
    result = run(*TRAIN, "--set", "data.allow_leak=true", code=0)
    assert "lines that repeat another: 1\n" in result.output


# ------------------------------------------------------------------------ settings and checkpoints

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
    "loss that does not fit": (
        ("--loss", "MultiMarginLoss()"),
        "does not fit these labels (several classes an image); use one of",
    ),
}


@row(
    "settings: unknown name, wrong argument, lr ≤ 0, epochs 0, batch larger than the set, size too"
    " small for the model, loss that does not fit the labels",
    *SETTINGS,
)
def wrong_setting(name: str) -> None:
    here_lists()
    if name == "loss that does not fit":
        for file in map(Path, ("train.txt", "valid.txt")):
            file.write_text(file.read_text().replace(" 1\n", " 0,1\n"))
    flags, reason = SETTINGS[name]
    result = RUN.invoke(app, ["train", *flags])
    assert result.exit_code == 2, result.output
    assert re.search(reason, result.stderr) or reason in result.stderr, result.stderr
    assert "Traceback" not in result.output
    assert not Path("runs").exists()


def changed(**keys: Any) -> bytes:
    file = io.BytesIO()
    torch.save(read_checkpoint(Path("ckpt.pkl")) | keys, file)
    return file.getvalue()


def whole_module() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


CHECKPOINTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-1000], r"sent\.pkl .*damaged"),
    "zeros": (lambda data: bytes(len(data)), "zeros from its beginning"),
    "HTML": (lambda data: b"<html>", "web page"),
    "LFS pointer": (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "bit flip": (
        lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
        r"sent\.pkl .*damaged",
    ),
    "newer format": (
        lambda _: changed(format_version=2),
        r"a newer ptkit .* wrote sent\.pkl.* update this one",
    ),
    "other architecture": (
        lambda _: changed(model={"call": "lenet()", "num_classes": 3}),
        r"checkpoint's weights do not fit lenet\(\)",
    ),
    "malicious pickle": (
        lambda _: b"\x80\x02cos\nsystem\nX\x09\0\0\0touch ran\x85R.",
        r"it asks for os.system\); nothing was run",
    ),
    "whole-module pickle": (lambda _: whole_module(), "whole pickled model .*nothing was run"),
    "empty": (lambda _: b"", "empty"),
}


@row(
    "checkpoint: truncated, zeros, HTML, LFS pointer, bit flip, newer format, other architecture,"
    " malicious pickle, whole-module pickle",
    *CHECKPOINTS,
)
def wrong_checkpoint(name: str) -> None:
    write_run(Path())
    make, reason = CHECKPOINTS[name]
    Path("sent.pkl").write_bytes(make(Path("ckpt.pkl").read_bytes()))
    run("predict", "sent.pkl", "images/good.png", code=4, said=reason)
    assert not Path("ran").exists()


ONNX_FILES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "truncated": (lambda p: p.write_bytes(write_onnx(p).read_bytes()[:300]), 4, "damaged ONNX"),
    "HTML": (lambda p: p.write_text("<html>"), 4, "not an ONNX file: it is a web page"),
    "another input": (lambda p: write_onnx(p, graph(pixels=False)), 4, "expected UINT8"),
    "without metadata": (lambda p: write_onnx(p, graph(pixels=False), None), 2, "add --mean R,G,B"),
    "newer format": (lambda p: write_onnx(p, format=2), 4, "a newer ptkit"),
}


@row("ONNX file: truncated, HTML, another input, without metadata, newer format", *ONNX_FILES)
def wrong_onnx_file(name: str) -> None:
    make, code, reason = ONNX_FILES[name]
    make(Path("sent.onnx"))
    run("predict", "sent.onnx", "images/good.png", code=code, said=reason)


# -------------------------------------------------------------------------------------------- runs


@row("output folder exists; read-only; disk full; quota")
def output_folder_exists() -> None:
    here_lists()
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/mine.txt").write_text("mine")
    run("train", "--name", "x", code=2, said="runs/x")
    assert Path("runs/x/mine.txt").read_text() == "mine"


@row("output folder exists; read-only; disk full; quota", "EROFS", "ENOSPC", "EDQUOT")
def disk_refuses(name: str) -> None:
    here_lists()
    run(*TRAIN, code=0)
    before = {file: Path(file).read_bytes() for file in ("runs/1/ckpt.pkl", "runs/1/last.pkl")}
    code, real = getattr(errno, name), os.open

    def refusing(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_CREAT and "/runs/1/" in os.path.abspath(os.fsdecode(path)):
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refusing)
        patch.setattr("builtins.open", refusing_open(code))
        result = run("train", "--resume", "runs/1", "--epochs", 2, code=74, said="runs/1")
    assert os.strerror(code) in result.stderr or "full" in result.stderr
    for file, data in before.items():
        assert Path(file).read_bytes() == data
        read_checkpoint(Path(file))


def refusing_open(code: int) -> Callable[..., Any]:
    """Return an `open` that cannot write into runs/1."""
    real = io.open

    def refusing(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        is_ours = isinstance(file, str | os.PathLike) and "runs/1/" in os.fspath(file)
        if is_ours and set(mode) & set("wxa+"):
            raise OSError(code, os.strerror(code), str(file))
        return real(file, mode, *arguments, **named)

    return refusing


@row("output folder exists; read-only; disk full; quota", "split", "train", "predict")
def folder_that_cannot_be_written(command: str) -> None:
    here_lists()
    write_run(Path())
    Path("file").write_text("a file is not a folder, whoever asks")
    arguments = {
        "split": ["images"],
        "train": ["--model", "resnet8"],
        "predict": ["ckpt.pkl", "images"],
    }[command]
    Path("images/good.png").unlink()
    run(command, *arguments, "--out", "file/below", code=74, said="file/below")


@row("loss becomes NaN or infinite")
def loss_is_no_number() -> None:
    here_lists()
    run(*TRAIN, code=0)
    kept = Path("ckpt.pkl").read_bytes()
    run(*TRAIN, "--lr", "1e30", "--batch-size", 4, "--name", "bad", code=5,
        said=r"at step \d \(epoch 1\); first in \w+")  # fmt: skip
    assert Path("ckpt.pkl").read_bytes() == kept


@row("Ctrl-C, SIGTERM, SIGKILL at any moment", "SIGINT", "SIGTERM")
def signals(name: str) -> None:
    here_lists()
    number = getattr(signal, name)

    def send() -> None:
        until = time.monotonic() + 30
        while not Path("runs/1/last.pkl").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    # The last --epochs counts.
    result = run(*TRAIN, "--epochs", 100_000, code=128 + number, said="runs/1 is saved up to")
    sender.join()
    epochs = int(re.findall(r"epoch (\d+)", result.stderr)[0])
    run("train", "--resume", "runs/1", "--epochs", epochs + 1, code=0)


# ------------------------------------------------------------------------------------ the one test

# As ENOSPC, with another word.
SLOW = {"EROFS", "EDQUOT"}
CASES = [
    pytest.param(case, id=f"{name}: {words}", marks=[pytest.mark.slow] if words in SLOW else [])
    for name, cases in ROWS.items()
    for words, case in cases.items()
]


@pytest.mark.skipif(sys.platform != "linux", reason="what decoders say is caught on Linux")
@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_what_the_page_says(case: Case, here: Path, capfd: Any) -> None:
    case()
    # libjpeg and libpng write there themselves.
    assert capfd.readouterr().err == ""


def test_every_row_of_the_page_has_its_cases() -> None:
    cells = re.findall(r"^\| (.+?) \| ", PAGE, re.MULTILINE)
    assert {cell.replace("`", "") for cell in cells if cell != "input"} == ROWS.keys()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(here: Path) -> None:
    here_lists()
    command = [sys.executable, "-m", "ptkit", *TRAIN, "--epochs", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not Path("runs/1/last.pkl").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    epochs = int(Path("runs/1/metrics.csv").read_text().splitlines()[-1].partition(",")[0])
    run("train", "--resume", "runs/1", "--epochs", epochs + 2, code=0)


# ------------------------------------------------------------------------------------- other files


@pytest.fixture
def lists(here: Path) -> Path:
    here_lists()
    return here


def test_numbers_below_0_stay_numbers(here):
    write_csv(Path("table.csv"), ["a", "b"], [["-1.5", -2], ["-1e-05", "-x"]])
    assert Path("table.csv").read_text() == "a,b\n-1.5,-2\n-1e-05,'-x\n"


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
    write_folders(*GOOD)
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
    write_folders(*GOOD)

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
    run("viz-weights", "ckpt.pkl", "--layers", "conv1", code=0)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "..", ".", "a\0b", "/tmp/x"])
def test_a_name_that_no_folder_can_have_is_one_line(name, lists):
    run("train", "--name", name, code=2, said="--name")
