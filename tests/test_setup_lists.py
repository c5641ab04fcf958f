"""The lists of a run: names of classes in them, and how they must agree."""

import pytest
from tiny_data import CLASS_NAMES, make_lists

import ptkit
from ptkit.core.config.settings import DataSettings
from ptkit.core.errors import DataError
from ptkit.core.training.setup_lists import read_lists


@pytest.fixture
def here(tmp_path, monkeypatch):
    """train.txt, valid.txt and test.txt that name their classes, and no classes.txt."""
    monkeypatch.chdir(make_lists(tmp_path, train=12, valid=6, test=6))
    for file in tmp_path.glob("*.txt"):
        lines = [line.rsplit(" ", 1) for line in file.read_text().splitlines() if " " in line]
        file.write_text("".join(f"{path} {CLASS_NAMES[int(label)]}\n" for path, label in lines))
    (tmp_path / "classes.txt").unlink()
    return tmp_path


def test_both_lists_mean_the_classes_of_the_training_list(here):
    (here / "valid.txt").write_text("images/square/valid2.png square\n")
    train, valid = read_lists(DataSettings())
    assert train.class_names == valid.class_names == CLASS_NAMES
    assert valid.labels.tolist() == [2]


def test_a_class_that_the_training_list_lacks_is_an_error(here):
    (here / "valid.txt").write_text("images/square/valid2.png squares\n")
    with pytest.raises(
        DataError, match=r"line 1: squares is none of the classes bar, cross, square;"
    ):
        read_lists(DataSettings())


@pytest.mark.parametrize("name", ["train", "valid"])
def test_one_list_of_names_and_one_of_numbers_are_an_error(here, name):
    count = {"train": 12, "valid": 6}[name]
    lines = [f"images/{CLASS_NAMES[k % 3]}/{name}{k}.png {k % 3}\n" for k in range(count)]
    (here / f"{name}.txt").write_text("".join(lines))
    with pytest.raises(DataError, match="must both name the classes or both have their indices"):
        read_lists(DataSettings())


def test_a_model_is_trained_and_tested_on_lists_of_names(here, blank_pictures):
    ptkit.train(epochs=1, batch_size=4, tensorboard=False, pictures=False)
    (here / "test.txt").write_text("images/square/test2.png square\nimages/bar/test0.png bar\n")
    found = ptkit.evaluate("ckpt.pkl", "test.txt")
    assert (found.class_names, found.labels.tolist()) == (CLASS_NAMES, [2, 0])
    (here / "test.txt").write_text("images/square/test2.png circle\n")
    with pytest.raises(DataError, match="circle is none of the classes"):
        ptkit.evaluate("ckpt.pkl", "test.txt")


def test_weights_that_do_not_know_the_names_ask_for_them(here, blank_pictures):
    import torch

    ptkit.train(epochs=1, batch_size=4, tensorboard=False, pictures=False, model="resnet8")
    saved = torch.load("ckpt.pkl", weights_only=True)
    torch.save(saved["state_dict"], "bare.pt")
    answers = {"model": "resnet8(num_classes=3)", "mean": "0,0,0", "std": "1,1,1", "size": 16}
    with pytest.raises(DataError, match="pass --classes FILE"):
        ptkit.evaluate("bare.pt", "test.txt", **answers)
    (here / "names").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    assert (
        ptkit.evaluate("bare.pt", "test.txt", classes="names", **answers).class_names == CLASS_NAMES
    )
