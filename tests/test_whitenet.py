"""The network of the `speed` recipe: its first layer whitens images, and a run fits it."""

import numpy as np
import pytest
import torch

from ptkit.core.config.layers import resolve
from ptkit.core.models.whitenet import WhiteNet
from ptkit.core.models.zoo import build_model
from ptkit.core.training import session
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.run_place import Place
from tests.tiny_data import make_lists


@pytest.fixture
def images():
    """Smooth images: neighbouring pixels and the channels are alike, as in photographs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(60, 3, 6, 6, generator=generator) + torch.randn(
        60, 1, 6, 6, generator=generator
    )
    smooth = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    return smooth + 0.5 * torch.randn(60, 3, 16, 16, generator=generator)


def test_the_fitted_layer_whitens_patches(images):
    model = WhiteNet(4, widths=(8, 8), stride=1)
    model.fit_inputs(images)
    with torch.no_grad():
        answers = model.whiten(images)[:, :27].transpose(0, 1).flatten(1)
    assert torch.allclose(answers @ answers.T / answers.shape[1], torch.eye(27), atol=0.02)


def test_the_second_half_of_the_filters_is_the_negative_of_the_first(images):
    model = WhiteNet(4, widths=(8, 8))
    model.fit_inputs(images)
    assert torch.equal(model.whiten.weight[27:], -model.whiten.weight[:27])


def test_the_filters_are_computed_on_the_cpu_in_double_precision(images, called_of_torch):
    # Apple's devices have no float64.
    with called_of_torch() as called:
        WhiteNet(4, widths=(8, 8)).fit_inputs(images)
    assert called.index("cpu") < called.index("double") < called.index("linalg_eigh")


def test_constant_images_do_not_blow_up_the_filters():
    model = WhiteNet(4, widths=(8, 8))
    model.fit_inputs(torch.ones(20, 3, 16, 16))
    assert model.whiten.weight.abs().max() <= (5e-4) ** -0.5


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_it_takes_small_images_of_any_size(size):
    model, call = build_model("whitenet(widths=[8, 16])", num_classes=5, size=size, seed=0)
    assert (call, model(torch.zeros(2, 3, size, size)).shape) == (
        "whitenet(widths=[8, 16])",
        (2, 5),
    )


def test_a_run_fits_the_first_layer_to_its_training_images(tmp_path):
    settings = resolve(
        {
            "data": {
                "train": str(make_lists(tmp_path) / "train.txt"),
                "valid": str(tmp_path / "valid.txt"),
            },
            "model": {"call": "whitenet(widths=[8, 8], stride=1)"},
            "optimizer": {"groups": ["whiten: frozen"]},
            "train": {"epochs": 1, "batch_size": 16},
            "log": {"tensorboard": False, "pictures": False},
        }
    )
    result = session.run(settings, watch=Unwatched(), place=Place(tmp_path / "runs"), link=None)
    saved = torch.load(result.checkpoint, weights_only=True)
    normalised = _training_images(tmp_path, saved["pipeline"])
    expected = WhiteNet(3, widths=(8, 8), stride=1)
    expected.fit_inputs(normalised)
    assert torch.allclose(
        _inverse(saved["state_dict"]["whiten.weight"]), _inverse(expected.whiten.weight), atol=0.01
    )


def _inverse(weight):
    """The inverse of the patches' second moments: the same whatever the signs of the filters."""
    filters = weight.detach().flatten(1)
    return filters.T @ filters


def _training_images(folder, pipeline):
    from ptkit.core.data.images import read

    paths = [line.rsplit(" ", 1)[0] for line in (folder / "train.txt").read_text().splitlines()]
    pixels = (
        torch.from_numpy(np.stack([read(folder / path) for path in paths])).permute(0, 3, 1, 2)
        / 255
    )
    return (pixels - torch.tensor(pipeline["mean"]).view(3, 1, 1)) / torch.tensor(
        pipeline["std"]
    ).view(3, 1, 1)
