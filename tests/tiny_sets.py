"""Public data sets in their own formats, with a few tiny images."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (9, 28, 28), np.uint8)
COLOURS = RANDOM.integers(0, 256, (12, 32, 32, 3), np.uint8)


def idx_bytes(values: np.ndarray) -> bytes:
    """Return an array of bytes in the format of MNIST's files."""
    return (
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    )


def make_idx(
    folder: Path, *, prefix: str = "", labels: Any = None, is_packed: bool = False
) -> Path:
    """Write six training and three test images as MNIST has them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.arange(9, dtype=np.uint8) if labels is None else np.array(labels, np.uint8)
    for part, rows in (("train", slice(6)), ("test" if prefix else "t10k", slice(6, None))):
        for kind, values in (("images-idx3", GREY[rows]), ("labels-idx1", numbers[rows])):
            content = idx_bytes(values)
            name = f"{prefix}{part}-{kind}-ubyte"
            if is_packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
    return folder


def cifar_files(code: Any = None) -> dict[str, bytes]:
    """Return CIFAR-10's batches, two images each, by name; code: what the first one would run."""
    files = {}
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = COLOURS[2 * number : 2 * number + 2].transpose(0, 3, 1, 2).reshape(2, -1)
        files[name] = pickle.dumps({"data": rows, "labels": [number, 0]})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {k}" for k in range(10)]})
    if code is not None:
        files["data_batch_1"] = pickle.dumps(code)
    return files


def cifar_archive(files: dict[str, bytes]) -> bytes:
    """Return them as cifar-10-python.tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def know_cifar(monkeypatch: Any, files: dict[str, bytes], archive: bytes, url: str = "") -> None:
    """Let torchvision take these files for CIFAR-10's own."""
    from torchvision.datasets import CIFAR10

    def hashed(name: str) -> str:
        return md5(files[name]).hexdigest()

    batches = [[f"data_batch_{k}", hashed(f"data_batch_{k}")] for k in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", batches)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashed("test_batch")]])
    meta = {**CIFAR10.meta, "md5": hashed("batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive).hexdigest())
    monkeypatch.setattr(CIFAR10, "url", url or CIFAR10.url)


def make_pets(folder: Path) -> dict[str, bytes]:
    """Write the pets of Oxford as they are unpacked, two of two breeds; returns their bytes."""
    base = folder / "oxford-iiit-pet"
    for below in ("images", "annotations"):
        (base / below).mkdir(parents=True)
    photos = {}
    for number, breed in enumerate(["Abyssinian", "great_pyrenees"] * 2):
        photos[f"{breed}_{number}"] = photo(number)
        (base / "images" / f"{breed}_{number}.jpg").write_bytes(photo(number))
    rows = [f"{name} {1 + number % 2} 1 1\n" for number, name in enumerate(photos)]
    (base / "annotations" / "trainval.txt").write_text("".join(rows[:2]))
    (base / "annotations" / "test.txt").write_text("".join(rows[2:]))
    return photos


def make_trees(folder: Path) -> None:
    """Write three sets of files as they are unpacked: EuroSAT, GTSRB and Food-101."""
    signs, food = folder / "gtsrb" / "GTSRB", folder / "food-101"
    files = [
        *(folder / "eurosat" / "2750" / name / "1.jpg" for name in ("Forest", "River")),
        *(signs / "Training" / name / "0.ppm" for name in ("00000", "00001")),
        signs / "Final_Test" / "Images" / "7.ppm",
        *(food / "images" / "ramen" / f"{number}.jpg" for number in (1, 2)),
    ]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOURS[number]).save(file)
    (folder / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n7.ppm;1\n")
    (food / "meta").mkdir()
    for number, part in enumerate(("train", "test"), 1):
        (food / "meta" / f"{part}.json").write_text(json.dumps({"ramen": [f"ramen/{number}"]}))


def photo(number: int) -> bytes:
    """Return a file; as in the sets themselves, the third is no JPEG, whatever its name says."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS[number]).save(buffer, "PNG" if number == 3 else "JPEG")
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files below a folder in the order given."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def found_in(folder: str) -> list[str]:
    """Return the files below a folder, in order."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def pixels_of(path: str) -> np.ndarray:
    """Return an image as it is in its file."""
    return np.asarray(Image.open(path))


@contextmanager
def serving(content: bytes | Path, *, cut: int = 0) -> Iterator[str]:
    """Serve bytes under any path of the URL that is yielded, or the files of a folder; cut: so many
    bytes never come.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = content
            if isinstance(data, Path):
                data = (data / Path(self.path).name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) - cut])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
