import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from ptkit.core.data.dataset import ListDataset
from ptkit.core.data.images import read
from ptkit.core.errors import DataError


def test_dataset_gives_the_pixels_and_labels_of_the_list(noise_list):
    dataset = ListDataset(noise_list)
    assert len(dataset) == 23
    image, label = dataset[4]
    assert (image.dtype, tuple(image.shape), label) == (torch.uint8, (3, 8, 8), 1)
    assert np.array_equal(image.permute(1, 2, 0), read(noise_list.parent / "4.png"))


def test_dataset_ends_where_the_list_ends(noise_list):
    assert [label for _, label in ListDataset(str(noise_list))] == [
        index % 3 for index in range(23)
    ]


def test_transforms_are_applied_to_image_and_label(noise_list):
    dataset = ListDataset(
        noise_list, transform=v2.Resize((4, 5)), target_transform=lambda label: label * 10
    )
    image, label = dataset[2]
    assert (tuple(image.shape), label) == ((3, 4, 5), 20)


def test_any_data_loader_takes_it(noise_list):
    images, labels = next(iter(DataLoader(ListDataset(noise_list), batch_size=23)))
    assert tuple(images.shape) == (23, 3, 8, 8)
    assert labels.tolist() == [index % 3 for index in range(23)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "0.png 0,2\n1.png 1\n2.png ,\n",
            torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool),
        ),
        ("0.png 0.5,7\n1.png -1,2.25\n2.png 3,4.0\n", torch.tensor([[0.5, 7], [-1, 2.25], [3, 4]])),
    ],
    ids=["several labels", "numbers"],
)
def test_several_labels_and_numbers_come_as_tensors(noise_list, tmp_path, lines, expected):
    (tmp_path / "list.txt").write_text(lines.replace("0.png", str(noise_list.parent / "0.png"), 1))
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes((noise_list.parent / name).read_bytes())
    _, labels = next(iter(DataLoader(ListDataset(tmp_path / "list.txt"), batch_size=3)))
    assert torch.equal(labels, expected)


def test_class_names_come_from_beside_the_list(noise_list, tmp_path):
    (tmp_path / "list.txt").write_text(f"{noise_list.parent / '0.png'} 1\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert ListDataset(tmp_path / "list.txt").class_names == ("cat", "dog")
    assert ListDataset(noise_list).class_names == ("0", "1", "2")


def test_missing_list_and_broken_image_are_data_errors(tmp_path):
    with pytest.raises(DataError, match=r"no .*list\.txt here"):
        ListDataset(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("broken.png 0\n")
    (tmp_path / "broken.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"broken\.png: it is HTML"):
        ListDataset(tmp_path / "list.txt")[0]


NORMALIZE = v1.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
PIL_FIRST = {
    "the course's": v1.Compose([v1.Resize(10), v1.RandomCrop(8), v1.ToTensor(), NORMALIZE]),
    "alone": v1.ToTensor(),
    "nested": v1.Compose([v1.Compose([v1.Resize(8)]), v1.Compose([v1.PILToTensor()])]),
    "v2": v2.Compose([v2.Resize(8), v2.PILToTensor()]),
    "sequential": nn.Sequential(v2.Resize(8), v2.PILToTensor()),
}
TENSOR_FIRST = {
    "nothing to convert": v1.Resize(8),
    "v2": v2.Compose([v2.ToImage(), v2.Resize(8), v2.ToDtype(torch.float32, scale=True)]),
    "back and forth": v1.Compose([v1.ToPILImage(), v1.Resize(8), v1.ToTensor()]),
    "a function": lambda image: image[:, ::2],
}


@pytest.mark.parametrize("transform", PIL_FIRST.values(), ids=PIL_FIRST)
def test_a_transform_that_converts_pil_images_gets_one(noise_list, transform):
    dataset = ListDataset(noise_list, transform)
    image = Image.fromarray(read(dataset.images.image_path(3)))
    torch.manual_seed(0)
    expected = transform(image)
    torch.manual_seed(0)
    assert torch.equal(dataset[3][0], expected)


@pytest.mark.parametrize("transform", TENSOR_FIRST.values(), ids=TENSOR_FIRST)
def test_any_other_transform_gets_a_tensor(noise_list, transform):
    plain, dataset = ListDataset(noise_list), ListDataset(noise_list, transform)
    assert torch.equal(dataset[3][0], transform(plain[3][0]))


def test_images_that_were_moved_are_found_below_the_root(noise_list, tmp_path):
    lines = noise_list.read_text().splitlines()
    (tmp_path / "list.txt").write_text("".join(f"/gone/{line}\n" for line in lines))
    moved = ListDataset(tmp_path / "list.txt", root=noise_list.parent)
    assert torch.equal(moved[3][0], ListDataset(noise_list)[3][0])
