"""Sets of torchvision as it unpacks them, two or three tiny images for each part.

Where it knows the MD5 of files, it is told theirs.
"""

import bz2
import io
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
from tiny_sets import COLOURS, GREY, make_idx, photo, write_files

# As USPS and STL-10 have them.
BLACK_AND_WHITE = np.where(GREY[:4, :16, :16] > 127, 255, 0).astype(np.uint8)
LARGE = np.tile(COLOURS[:4], (1, 3, 3, 1))


def make_flowers(folder: Path, monkeypatch: Any) -> None:
    """Write six flowers; they are counted from 1, and so are their classes."""
    from torchvision.datasets import Flowers102

    lists = {
        "imagelabels.mat": mat_bytes(labels=np.array([[74, 1, 102, 1, 74, 102]], np.uint8)),
        "setid.mat": mat_bytes(
            trnid=np.array([[4, 1]], np.uint16),
            valid=np.array([[3, 2]], np.uint16),
            tstid=np.array([[5, 6]], np.uint16),
        ),
    }
    photos = numbered((f"jpg/image_{number:05d}" for number in range(1, 7)), "jpg")
    write_files(folder / "flowers-102", photos | lists)
    known = {
        **Flowers102._file_dict,
        "label": ("imagelabels.mat", hashed(lists["imagelabels.mat"])),
        "setid": ("setid.mat", hashed(lists["setid.mat"])),
    }
    monkeypatch.setattr(Flowers102, "_file_dict", known)


def make_textures(folder: Path, _monkeypatch: Any) -> None:
    """Write six textures of DTD; the second partition is another."""
    kinds = ("zigzagged", "banded", "zigzagged", "zigzagged", "banded", "zigzagged")
    names = [f"{kind}/{kind}_{number:04d}" for number, kind in enumerate(kinds, 1)]
    lists = {"train1": names[:2], "val1": names[2:4], "test1": names[4:], "train2": names[2:]}
    write_files(
        folder / "dtd" / "dtd",
        numbered((f"images/{name}" for name in names), "jpg")
        | {
            f"labels/{part}.txt": "".join(f"{name}.jpg\n" for name in listed)
            for part, listed in lists.items()
        },
    )


def make_aircraft(folder: Path, _monkeypatch: Any) -> None:
    """Write six aircraft."""
    write_files(
        folder / "fgvc-aircraft-2013b" / "data",
        numbered((f"images/{number:07d}" for number in range(1, 7)), "jpg")
        | {
            "variants.txt": "707-320\nCessna 172\nF-16A/B\n",
            "images_variant_train.txt": "0000002 F-16A/B\n0000001 707-320\n",
            "images_variant_val.txt": "0000003 F-16A/B\n0000004 Cessna 172\n",
            "images_variant_test.txt": "0000006 707-320\n0000005 Cessna 172\n",
        },
    )


def make_imagenette(folder: Path, _monkeypatch: Any) -> None:
    """Write four photos of Imagenette in its folders, which are no names."""
    names = [
        "train/n01440764/n01440764_1",
        "train/n02102040/n02102040_2",
        "val/n02102040/ILSVRC2012_val_3",
        "val/n02102040/ILSVRC2012_val_4",
    ]
    write_files(folder / "imagenette2-320", numbered(names, "JPEG"))


def make_countries(folder: Path, _monkeypatch: Any) -> None:
    """Write six photos of Country211."""
    names = ["train/AD/1", "train/ZW/1", "valid/AD/1", "valid/ZW/2", "test/ZW/1", "test/ZW/2"]
    write_files(folder / "country211", numbered(names, "jpg"))


def make_places(folder: Path, _monkeypatch: Any) -> None:
    """Write four photos of SUN397, in no order."""
    names = ["t/track/outdoor/sun_d", "a/abbey/sun_b", "t/track/outdoor/sun_a",
             "t/track/indoor/sun_a"]  # fmt: skip
    classes = {"ClassName.txt": "/a/abbey\n/t/track/indoor\n/t/track/outdoor\n"}
    write_files(folder / "SUN397", numbered(names, "jpg") | classes)


def make_kmnist(folder: Path, _monkeypatch: Any, *, first: int = 0) -> None:
    """Write six training and three test images of KMNIST; first: the class of the first."""
    make_idx(folder / "KMNIST" / "raw", labels=[first, *range(1, 9)])


def make_usps(folder: Path, _monkeypatch: Any, *, first: int = 10) -> None:
    """Write four images of USPS as lines of libsvm, where classes are counted from 1.

    first: the class of the first.
    """
    lines = []
    for label, pixels in zip((first, 1, 7, 2), BLACK_AND_WHITE, strict=True):
        values = enumerate(pixels.ravel() / 255 * 2 - 1, 1)
        lines.append(" ".join([str(label), *(f"{column}:{value:g}" for column, value in values)]))
    packed = [bz2.compress("\n".join(part).encode()) for part in (lines[:2], lines[2:])]
    write_files(folder, dict(zip(("usps.bz2", "usps.t.bz2"), packed, strict=True)))


def make_svhn(folder: Path, monkeypatch: Any) -> None:
    """Write five images of SVHN, where the class of a nought is 10."""
    from torchvision.datasets import SVHN

    known = {}
    for part, rows, labels in (("train", slice(3), (10, 1, 9)), ("test", slice(3, 5), (9, 10))):
        # Rows, columns, colours, images.
        images = COLOURS[rows].transpose(1, 2, 3, 0)
        content = mat_bytes(X=images, y=np.array(labels, np.uint8)[:, None])
        url, name, _ = SVHN.split_list[part]
        known[part] = [url, name, hashed(content)]
        write_files(folder, {name: content})
    monkeypatch.setattr(SVHN, "split_list", known)


def make_stl10(folder: Path, monkeypatch: Any) -> None:
    """Write four images of STL-10, where classes are counted from 1."""
    from torchvision.datasets import STL10

    # Colours, columns, rows.
    images = LARGE.transpose(0, 3, 2, 1)
    files = {
        "train_X.bin": images[:2].tobytes(),
        "train_y.bin": bytes([10, 1]),
        "unlabeled_X.bin": images[:1].tobytes(),
        "test_X.bin": images[2:].tobytes(),
        "test_y.bin": bytes([2, 10]),
    }
    write_files(folder / "stl10_binary", files)
    known = [[name, hashed(content)] for name, content in files.items()]
    monkeypatch.setattr(STL10, "train_list", known[:3])
    monkeypatch.setattr(STL10, "test_list", known[3:])


def numbered(names: Iterable[str], suffix: str) -> dict[str, bytes | str]:
    """Return files with the photos 1, 2 and so on."""
    return {f"{name}.{suffix}": photo(number) for number, name in enumerate(names, 1)}


def mat_bytes(**values: Any) -> bytes:
    """Return arrays as a file of MATLAB."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, values)
    return buffer.getvalue()


def hashed(content: bytes) -> str:
    return md5(content).hexdigest()
