"""`ptkit data`: sets in torchvision's own formats, from files and a server, to class folders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
import torchvision
from tiny_sets import (
    COLOURS,
    GREY,
    cifar_archive,
    cifar_files,
    found_in,
    know_cifar,
    make_idx,
    make_pets,
    make_trees,
    pixels_of,
)
from typer.testing import CliRunner, Result

from ptkit.commands.app import app
from ptkit.core.data.sets.exporting import export_set

CLOTHES = ["Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker",
           "T-shirt_top", "Trouser"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ptkit(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_idx_files_become_class_folders_that_split_and_train_take() -> None:
    make_idx(Path("mine/FashionMNIST/raw"))
    result = ptkit("data", "fashion-mnist", "--from", "mine", "--out", "clothes")
    assert result.exit_code == 0
    assert "9 images of 9 classes in clothes (train 6, test 3)" in result.stdout
    assert "licence: MIT\n" in result.stdout
    assert result.stdout.endswith("next: ptkit train clothes, or ptkit split clothes\n")
    # The first of each part; "T-shirt/top" would be two folders.
    names = found_in("clothes")
    assert names[:4] == ["test/Bag/2.png", "test/Shirt/0.png", "test/Sneaker/1.png",
                         "train/Coat/4.png"]  # fmt: skip
    assert {name.split("/")[1] for name in names} == set(CLOTHES) - {"Ankle boot"}
    np.testing.assert_array_equal(pixels_of("clothes/train/T-shirt_top/0.png"), GREY[0])
    # Nothing beside it, and what was there is as it was.
    assert sorted(os.listdir()) == ["clothes", "mine"]
    assert len(found_in("mine")) == 4


def test_given_parts_are_kept_by_split() -> None:
    make_idx(Path("mine/MNIST/raw"), labels=[0, 0, 0, 1, 1, 1, 0, 1, 0])
    assert ptkit("data", "mnist", "--from", "mine").exit_code == 0
    result = ptkit("split", "mnist", "--allow-missing")
    assert (result.exit_code, len(Path("test.txt").read_text().splitlines())) == (0, 3)


def test_letters_stand_upright_and_are_named(here: Path) -> None:
    # Labels begin with 1; rows and columns are exchanged in the files.
    folder = make_idx(here / "EMNIST" / "raw", prefix="emnist-letters-", labels=range(1, 10))
    assert len(list(folder.iterdir())) == 4
    assert ptkit("data", "emnist-letters", "--from", ".", "--out", "letters").exit_code == 0
    np.testing.assert_array_equal(pixels_of("letters/train/b/1.png"), GREY[1].T)


def test_archives_from_a_folder_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    make_idx(Path("mine/below"), is_packed=True)
    result = ptkit("data", "mnist", "--from", "mine")
    assert result.exit_code == 3
    assert (
        "train-images-idx3-ubyte.gz in mine is damaged or does not belong to mnist: its MD5"
        in result.stderr
    )
    assert os.listdir() == ["mine"]
    know_mnist(monkeypatch, Path("mine/below"))
    result = ptkit("data", "mnist", "--from", "mine", "--json")
    assert json.loads(result.stdout)["parts"] == {"train": 6, "test": 3}
    np.testing.assert_array_equal(pixels_of("mnist/test/7/1.png"), GREY[7])


def test_a_set_is_downloaded_and_its_archive_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    archive = cifar_archive(files)
    with tiny_sets.serving(archive) as url:
        know_cifar(monkeypatch, files, archive, f"{url}/cifar-10-python.tar.gz")
        result = ptkit("data", "cifar10")
    assert result.exit_code == 0
    assert os.listdir() == ["cifar10"]
    assert found_in("cifar10")[:3] == ["test/class 0/1.png", "test/class 5/0.png",
                                       "train/class 0/00.png"]  # fmt: skip
    np.testing.assert_array_equal(pixels_of("cifar10/train/class 3/06.png"), COLOURS[6])


def test_the_archive_itself_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    archive = cifar_archive(files)
    know_cifar(monkeypatch, files, archive)
    Path("cifar-10-python.tar.gz").write_bytes(archive)
    assert ptkit("data", "cifar10", "--from", "cifar-10-python.tar.gz").exit_code == 0
    assert len(found_in("cifar10")) == 12
    Path("other.tar.gz").write_bytes(archive)
    result = ptkit("data", "cifar10", "--from", "other.tar.gz", "--out", "again")
    assert result.exit_code == 3
    assert "other.tar.gz is not cifar-10-python.tar.gz, which cifar10 needs" in result.stderr


def test_without_a_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    # Nobody listens there any more.
    with tiny_sets.serving(b"") as url:
        pass
    know_cifar(monkeypatch, files, b"", f"{url}/cifar-10-python.tar.gz")
    result = ptkit("data", "cifar10", "--json")
    assert (result.exit_code, result.stdout, os.listdir()) == (74, "", [])
    assert "cannot download cifar10 (" in result.stderr
    assert f"put {url}/cifar-10-python.tar.gz into a folder" in result.stderr
    assert result.stderr.count("\n") == 1


def know_mnist(monkeypatch: pytest.MonkeyPatch, folder: Path, *mirrors: str) -> None:
    """Let torchvision take the archives in a folder for MNIST's own, and ask these for them."""
    from hashlib import md5

    from torchvision.datasets import MNIST

    known = [(name, md5((folder / name).read_bytes()).hexdigest()) for name, _ in MNIST.resources]
    monkeypatch.setattr(MNIST, "resources", known)
    monkeypatch.setattr(MNIST, "mirrors", mirrors or MNIST.mirrors)


def test_what_one_mirror_gives_damaged_another_is_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_idx(here / "theirs", is_packed=True)
    with (
        tiny_sets.serving(b"<html>log in first</html>") as bad,
        tiny_sets.serving(files) as good,
    ):
        know_mnist(monkeypatch, files, f"{bad}/", f"{good}/")
        result = ptkit("data", "mnist", "--json")
    if torchvision.__version__.startswith("0.21."):
        # It asks no other mirror then; the next try asks the first one again.
        assert "arrived damaged" in result.stderr
        assert os.listdir() == ["theirs"]
        return
    assert json.loads(result.stdout)["parts"] == {"train": 6, "test": 3}
    assert sorted(os.listdir()) == ["mnist", "theirs"]


def test_what_arrived_whole_is_kept_for_this_set(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_idx(here / "theirs", is_packed=True)
    last = files / "t10k-labels-idx1-ubyte.gz"
    with tiny_sets.serving(files) as url:
        know_mnist(monkeypatch, files, f"{url}/")
        content = last.read_bytes()
        last.unlink()
        assert ptkit("data", "mnist", "--out", "digits").exit_code == 74
        # Other sets have files of these names.
        assert sorted(os.listdir()) == [".digits.mnist.downloads", "theirs"]
        for name in files.iterdir():
            name.unlink()
        last.write_bytes(content)
        assert ptkit("data", "mnist", "--out", "digits").exit_code == 0
    assert sorted(os.listdir()) == ["digits", "theirs"]


def test_where_no_mirror_answers_all_are_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_idx(here / "theirs", is_packed=True)
    with tiny_sets.serving(b"") as first, tiny_sets.serving(b"") as second:
        pass
    know_mnist(monkeypatch, files, f"{first}/", f"{second}/")
    result = ptkit("data", "mnist")
    assert result.exit_code == 74
    name = "train-images-idx3-ubyte.gz"
    assert f"put {first}/{name} or {second}/{name} into a folder" in result.stderr


def test_of_several_files_of_one_name_none_is_chosen(here: Path) -> None:
    for name in ("mnist", "kmnist"):
        make_idx(here / "mine" / name, is_packed=True)
    result = ptkit("data", "mnist", "--from", "mine")
    assert result.exit_code == 3
    several = "mine/kmnist/train-images-idx3-ubyte.gz, mine/mnist/train-images-idx3-ubyte.gz"
    assert f"mine has several train-images-idx3-ubyte.gz ({several}): name" in result.stderr


def test_an_archive_writes_nowhere_but_into_its_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import tarfile

    with tarfile.open("fgvc-aircraft-2013b.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("../../../out.txt")
        archive.addfile(entry, io.BytesIO())
    result = ptkit("data", "aircraft", "--from", "fgvc-aircraft-2013b.tar.gz")
    assert result.exit_code == 3
    assert os.listdir() == ["fgvc-aircraft-2013b.tar.gz"]
    # As it was.
    assert tarfile.TarFile.extraction_filter is None
    assert not list(here.parent.rglob("out.txt"))


def test_the_working_directory_does_not_become_the_set(here: Path) -> None:
    make_idx(here / "mine/MNIST/raw")
    Path("empty").mkdir()
    os.chdir("empty")
    result = ptkit("data", "mnist", "--from", "../mine", "--out", ".")
    assert result.exit_code == 2
    assert ". is the working directory: name a new folder in it" in result.stderr
    assert os.listdir() == []


def test_a_download_that_ends_early_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    archive = cifar_archive(files)
    with tiny_sets.serving(archive, cut=9) as url:
        know_cifar(monkeypatch, files, archive, f"{url}/cifar-10-python.tar.gz")
        result = ptkit("data", "cifar10")
    assert (result.exit_code, os.listdir()) == (74, [])
    assert f"of {len(archive):,} bytes" in result.stderr


def test_a_damaged_download_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files()
    with tiny_sets.serving(b"something else") as url:
        know_cifar(monkeypatch, files, b"", f"{url}/cifar-10-python.tar.gz")
        result = ptkit("data", "cifar10")
    assert (result.exit_code, os.listdir()) == (74, [])
    assert "cifar-10-python.tar.gz arrived damaged" in result.stderr


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


def test_code_in_a_pickle_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = cifar_files(), cifar_files(Code())
    know_cifar(monkeypatch, good, cifar_archive(good))
    folder = Path("mine/cifar-10-batches-py")
    folder.mkdir(parents=True)
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Path("mine/cifar-10-python.tar.gz").write_bytes(cifar_archive(bad))
    for source in ("mine", "mine/cifar-10-batches-py", "mine/cifar-10-python.tar.gz"):
        assert ptkit("data", "cifar10", "--from", source).exit_code == 3
    assert os.listdir() == ["mine"]


def test_files_of_a_set_stay_as_they_are() -> None:
    photos = make_pets(Path("mine"))
    assert ptkit("data", "pets", "--from", "mine").exit_code == 0
    names = found_in("pets")
    assert names == [
        "test/Abyssinian/Abyssinian_2.jpg",
        "test/Great Pyrenees/great_pyrenees_3.png",
        "train/Abyssinian/Abyssinian_0.jpg",
        "train/Great Pyrenees/great_pyrenees_1.jpg",
    ]
    assert [Path("pets", name).read_bytes() for name in names] == [
        photos[Path(name).stem] for name in names
    ]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        # It has no parts.
        ("eurosat", ["Forest/1.jpg", "River/1.jpg"]),
        # ptkit reads no PPM.
        ("gtsrb", ["test/00001/7.png", "train/00000/0.png", "train/00001/0.png"]),
        ("food101", ["test/ramen/2.jpg", "train/ramen/1.jpg"]),
    ],
)
def test_unpacked_sets_of_files_keep_their_names(name: str, files: list[str]) -> None:
    make_trees(Path("mine"))
    assert ptkit("data", name, "--from", "mine").exit_code == 0
    assert found_in(name) == files
    if name == "gtsrb":
        np.testing.assert_array_equal(pixels_of("gtsrb/test/00001/7.png"), COLOURS[4])


def test_an_interrupt_leaves_nothing(here: Path) -> None:
    make_idx(Path("mine/MNIST/raw"))

    class Stopping:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, _count):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_set("mnist", source=Path("mine"), counting=lambda _what, _total: Stopping())
    assert os.listdir() == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fashionmnist"], 2, "no data set is called fashionmnist; did you mean fashion-mnist?"),
        (["mnist", "--out", "full"], 2, "full exists and is not an empty folder"),
        (["hf::config"], 2, "hf: needs the name of a data set"),
        (["hf:owner/.."], 2, "hf: needs the name of a data set"),
        (["mnist", "--label-column", "x"], 2, "--label-column is for the sets of the Hugging"),
        (["mnist", "--from", "nowhere"], 3, "--from nowhere is neither a file nor a folder"),
        (["mnist", "--from", "full"], 3, "full has no train-images-idx3-ubyte.gz, which mnist"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: list[str], code: int, message: str) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    result = ptkit("data", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert message in result.stderr
    assert found_in(".") == ["full/mine.txt"]
