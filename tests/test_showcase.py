"""The pictures at the end of a run: what is drawn of which model, and what the recorders get."""

import copy
import io
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from tiny_data import CLASS_NAMES, make_lists
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from ptkit.core.config.settings import LogSettings
from ptkit.core.data.keyed import Sampling, spread
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches, batches_at
from ptkit.core.data.loading.decoding import decode_all
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError
from ptkit.core.training.events import Events
from ptkit.core.training.kernel_film import KernelFilm
from ptkit.core.training.prediction import Predicted
from ptkit.looking.showcase import PICTURES, draw_pictures, squares, to_explain
from ptkit.plots.numbers import numbers_figure

MEAN, STD = (0.2, 0.3, 0.4), (0.3, 0.2, 0.1)
NORMALISED = ["Resize((16, 16))", "ToTensor()", f"Normalize({list(MEAN)}, {list(STD)})"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return make_lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture
def batches(lists):
    """The 21 images of the validation list, bar, cross, square, bar, ..."""
    images, pipeline = read_list(lists / "valid.txt"), Pipeline.parse(NORMALISED)
    return Batches(images, pipeline, Sampling(8), kept=decode_all(images, pipeline))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "7").mkdir()
    return tmp_path / "7"


@pytest.fixture
def only(monkeypatch):
    """A function that leaves only some parts of the show: drawing all takes a second."""

    def leave(*names):
        for name in PICTURES.keys() - set(names):
            monkeypatch.delitem(PICTURES, name)

    return leave


def outputs_of(model, batches):
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch.images[:: batch.num_crops]) for batch in batches.epoch()])


def with_labels(batches, labels, class_names):
    images = replace(batches.images, labels=labels, class_names=class_names)
    return Batches(images, batches.pipeline, Sampling(8), kept=batches.kept)


def show_run(
    run,
    model,
    batches,
    *,
    probabilities=None,
    labels=None,
    class_names=CLASS_NAMES,
):
    """Show epoch 3 of a run and return the files' names and what its TensorBoard holds."""
    if probabilities is None:
        probabilities = outputs_of(model, batches).softmax(dim=1).numpy()
    if labels is not None:
        batches = with_labels(batches, labels, class_names)
    events = Events(run, LogSettings())
    finished = SimpleNamespace(
        folder=run,
        show=events.show,
        training=SimpleNamespace(model=model, valid=batches),
        data=SimpleNamespace(settings=SimpleNamespace(mean=MEAN, std=STD)),
        history=SimpleNamespace(valid_features=None),
        best={"epoch": 3},
    )
    with closing(events):
        files = draw_pictures(finished, Predicted(probabilities, probabilities))
    assert all(file.stat().st_size for file in files)
    recorded = EventAccumulator(
        str(events.folder), size_guidance={"images": 0, "tensors": 0}
    ).Reload()
    return {file.relative_to(run).as_posix() for file in files}, recorded


def notes_of(recorded):
    if "left_out/text_summary" not in recorded.Tags()["tensors"]:
        return ""
    return recorded.Tensors("left_out/text_summary")[0].tensor_proto.string_val[0].decode()


def image_of(recorded, tag):
    (event,) = recorded.Images(tag)
    assert event.step == 3
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


# ------------------------------------------------------------------------------ a model with it all


def test_everything_is_drawn_and_recorded(run, network, batches):
    film = KernelFilm(run)
    film.start(network, torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
    files, recorded = show_run(run, network, batches)
    assert files == {
        "kernels/0.png", "kernels/3.png", "kernels.gif", "feature_maps/2.png",
        "feature_maps/4.png", "gradcam.png", "gradcam.csv", "embedding.png",
            "embedding.csv", "pr_curves.png", "pr_curves.csv",
    }  # fmt: skip
    assert set(recorded.Tags()["images"]) == {
        "kernels/0", "kernels/3", *(f"kernels_of_0/{k}" for k in range(4)), "kernels_by_epoch",
        "feature_maps/2", "feature_maps/4", *(f"gradcam/{k}" for k in range(1, 9)), "gradcam",
        "embedding", "pr_curves",
    }  # fmt: skip
    curves = {f"pr_curve/{name}" for name in CLASS_NAMES}
    assert set(recorded.Tags()["tensors"]) == {*curves, "pr_curve_micro_average"}
    for tag, file in [
        ("kernels/3", "kernels/3.png"),
        ("gradcam", "gradcam.png"),
        ("embedding", "embedding.png"),
    ]:
        np.testing.assert_array_equal(image_of(recorded, tag), np.asarray(Image.open(run / file)))


def test_the_model_is_left_evaluating_without_gradients_and_unchanged(run, network, batches, only):
    only("Grad-CAM")
    network.train()
    network[7].weight.grad = torch.ones(3, 6)
    before, state = copy.deepcopy(network.state_dict()), torch.default_generator.get_state()
    probabilities = np.full((21, 3), 1 / 3, np.float32)
    show_run(run, network.train(), batches, probabilities=probabilities)
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())
    assert torch.equal(state, torch.default_generator.get_state())


def test_the_embedding_is_what_goes_into_the_head(run, network, batches, only):
    only("embedding")
    show_run(run, network, batches)
    folder = run / "tensorboard" / "00003" / "features"
    features = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(features, outputs_of(network[:7], batches).numpy(), atol=1e-5)
    rows = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    images = batches.images
    assert rows == [
        ["true", "image"],
        *([CLASS_NAMES[k % 3], images.listed_path(k)] for k in range(21)),
    ]
    # Five thumbnails a side, each pixel of an image four by four; the first is the first image.
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (320, 320, 3)
    np.testing.assert_allclose(sprite[:64:4, :64:4].astype(int), batches.kept.pixels[0], atol=1)


def test_pr_curves_count_every_class_and_all_together(run, network, batches, only):
    only("PR curves")
    probabilities = np.zeros((21, 3), np.float32)
    probabilities[np.arange(21), np.arange(21) % 3] = 0.8
    probabilities[:3] = (0.0, 0.0, 0.9)
    _, recorded = show_run(run, network, batches, probabilities=probabilities)
    at_half = {
        tag: make_ndarray(recorded.Tensors(tag)[0].tensor_proto)[:4, 63].tolist()
        for tag in recorded.Tags()["tensors"]
    }
    assert at_half == {
        "pr_curve/bar": [6, 0, 14, 1],
        "pr_curve/cross": [6, 0, 14, 1],
        "pr_curve/square": [7, 2, 12, 0],
        "pr_curve_micro_average": [19, 2, 40, 2],
    }


def test_boxes_lie_on_enlarged_images(run, network, batches, only):
    only("Grad-CAM")
    _, recorded = show_run(run, network, batches)
    drawn = [image_of(recorded, f"gradcam/{rank}") for rank in range(1, 9)]
    assert {picture.shape for picture in drawn} == {(224, 224, 3)}
    is_red = [(picture == (255, 0, 0)).all(axis=2).any() for picture in drawn]
    assert any(is_red)


# ------------------------------------------------------------------------------------- other models


def test_of_a_model_without_convolutions_the_rest_is_shown(run, batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    files, recorded = show_run(run, model, batches)
    assert files == {"embedding.png", "embedding.csv", "pr_curves.png", "pr_curves.csv"}
    notes = notes_of(recorded)
    assert "kernels: the model has no convolutions" in notes
    assert "feature maps: no layer of the model gives maps" in notes
    assert "Sequential has no layer with maps" in notes


def test_a_transformer_is_shown_whole(run, batches, only):
    only("kernels", "feature maps", "Grad-CAM")
    torch.manual_seed(0)
    model = VisionTransformer(
        16, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )
    nn.init.normal_(model.heads.head.weight)
    files, recorded = show_run(run, model, batches)
    assert files == {
        "kernels/conv_proj.png",
        "feature_maps/encoder.png",
        "gradcam.png",
        "gradcam.csv",
    }
    assert notes_of(recorded) == ""


def test_a_model_that_raises_costs_no_run(run, network, batches, only):
    only("Grad-CAM", "PR curves")

    class Fragile(nn.Sequential):
        def forward(self, images):
            if torch.is_grad_enabled():
                raise KeyError("no gradients here")
            return super().forward(images)

    files, recorded = show_run(run, Fragile(*network), batches)
    assert files == {"pr_curves.png", "pr_curves.csv"}
    assert "Grad-CAM: KeyError: 'no gradients here'" in notes_of(recorded)


def test_a_network_whose_lowest_output_wins_is_explained_by_it(run, network, batches, only):
    only("Grad-CAM")
    network[7].weight.data *= 20
    files, _ = show_run(
        run, network, batches, probabilities=(-outputs_of(network, batches)).softmax(dim=1).numpy()
    )
    assert {"gradcam.png", "gradcam.csv"} <= files


def test_outputs_that_are_no_scores_of_classes_have_no_regions(run, network, batches, only):
    only("Grad-CAM", "embedding")
    network[7] = nn.Linear(6, 4)
    probabilities = np.full((21, 3), 1 / 3, np.float32)
    files, recorded = show_run(run, network, batches, probabilities=probabilities)
    assert {"embedding.png", "embedding.csv"} <= files
    assert "Grad-CAM: the outputs are not one score a class" in notes_of(recorded)
    features = np.loadtxt(
        run / "tensorboard" / "00003" / "features" / "tensors.tsv", delimiter="\t"
    )
    np.testing.assert_allclose(features, outputs_of(network, batches).numpy(), atol=1e-5)


def test_an_image_that_vanished_ends_it_with_its_path(run, network, batches, lists, tmp_path, only):
    only("Grad-CAM")
    gone = tmp_path / "valid.txt"
    gone.write_text("gone.png 0\n")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    missing = Batches(read_list(gone), batches.pipeline, Sampling(8))
    with pytest.raises(DataError, match=r"gone\.png"):
        show_run(run, network, missing, probabilities=np.full((1, 3), 1 / 3, np.float32))


# ------------------------------------------------------------------------- labels, crops, selection


def test_several_labels_have_curves_and_words(run, network, batches, only):
    only("Grad-CAM", "embedding", "PR curves")
    labels = np.zeros((21, 3), bool)
    labels[::2, 0] = labels[1::4, 1] = labels[2::4, 1] = True
    probabilities = outputs_of(network, batches).sigmoid().numpy()
    files, recorded = show_run(run, network, batches, probabilities=probabilities, labels=labels)
    assert {
        "embedding.png",
        "embedding.csv",
        "pr_curves.png",
        "pr_curves.csv",
        "gradcam.png",
        "gradcam.csv",
    } <= files
    # The third class has no images, so it has no curve.
    assert set(recorded.Tags()["tensors"]) == {
        "pr_curve/bar",
        "pr_curve/cross",
        "pr_curve_micro_average",
    }
    rows = (run / "tensorboard" / "00003" / "features" / "metadata.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows[1:5]] == ["bar", "cross", "bar + cross", "no class"]


@pytest.mark.slow
def test_numbers_have_kernels_feature_maps_and_regions_but_no_curves(run, network, batches):
    network[7] = nn.Linear(6, 2)
    numbers = np.linspace(0, 1, 42, dtype=np.float32).reshape(21, 2)
    files, recorded = show_run(
        run,
        network,
        batches,
        probabilities=numbers,
        labels=numbers,
        class_names=("x", "y"),
    )
    assert files == {
        "kernels/0.png",
        "kernels/3.png",
        "feature_maps/2.png",
        "feature_maps/4.png",
        "gradcam.png",
        "gradcam.csv",
        "numbers.png",
    }
    assert notes_of(recorded) == ""


def test_of_several_crops_the_first_is_shown(run, network, lists, only):
    only("Grad-CAM")
    images = read_list(lists / "valid.txt")
    crops = Pipeline.parse(["FiveCrop(12)", *NORMALISED[1:]])
    batches = Batches(images, crops, Sampling(8))
    corner = [c for batch in batches.epoch() for c in batch.images[::5]]
    shown = torch.cat(list(batches_at(batches, range(21))))
    assert torch.equal(shown, torch.stack(corner))
    files, recorded = show_run(run, network, batches)
    assert ("gradcam.png" in files, notes_of(recorded)) == (True, "")


def test_images_are_found_by_their_place_whether_kept_or_not(batches, lists):
    chosen = [20, 3, 3, 11]
    kept = torch.cat(list(batches_at(batches, chosen)))
    decoded = torch.cat(
        list(batches_at(Batches(batches.images, batches.pipeline, Sampling(3)), chosen))
    )
    everything = torch.cat([batch.images for batch in batches.epoch()])
    assert torch.equal(kept, everything[chosen])
    assert torch.equal(decoded, everything[chosen])


def test_items_are_spread_from_first_to_last():
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert spread("ab", 5) == ["a", "b"]


def test_thumbnails_are_square():
    images = np.zeros((1, 4, 8, 3), np.uint8)
    images[:, :, 4:] = 200
    assert squares(images, 16)[0, :, :, 0].tolist() == [[0] * 8 + [200] * 8] * 16
    assert squares(images, 2)[0, :, :, 0].tolist() == [[0, 200]] * 2


def test_wrong_answers_are_explained_first_the_surest_of_them_before_the_others():
    labels = np.arange(21) % 3
    probabilities = np.eye(3, dtype=np.float32)[labels] * 0.7 + 0.1
    probabilities[4] = (0.1, 0.3, 0.6)
    probabilities[9] = (0.05, 0.9, 0.05)
    chosen, is_wrong = to_explain(probabilities, labels, label_kind="single-label", count=6)
    assert chosen == [9, 4, 0, 7, 14, 20]
    assert np.flatnonzero(is_wrong).tolist() == [4, 9]


def test_half_of_what_is_explained_is_right_where_there_is_any():
    labels = np.zeros(20, int)
    probabilities = np.tile(np.float32([0.2, 0.8]), (20, 1))
    all_wrong, _ = to_explain(probabilities, labels, label_kind="single-label", count=6)
    probabilities[13:] = (0.8, 0.2)
    some_right, _ = to_explain(probabilities, labels, label_kind="single-label", count=6)
    assert (all_wrong, some_right) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 13, 16, 19])


def test_of_several_labels_the_image_with_the_worst_answer_comes_first():
    labels = np.array([[1, 0], [1, 1], [0, 0]], bool)
    probabilities = np.float32([[0.9, 0.2], [0.4, 0.9], [0.3, 0.95]])
    chosen, is_wrong = to_explain(probabilities, labels, label_kind="multi-label", count=8)
    assert (chosen, is_wrong.tolist()) == ([2, 1, 0], [False, True, True])


def test_numbers_are_drawn_against_the_true_ones_at_any_magnitude():
    true = np.outer(np.arange(5.0), [1e-9, 1e12])
    figure = numbers_figure(true, true + np.array([2e-9, 0]), names=["width", "x" * 200])
    words = [text.get_text() for text in figure.texts]
    assert "“width” is off by 2e−9 on average" in " ".join(words)
    assert "#1 " + "x" * 60 in " ".join(words)
    ticks = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()]
    assert {"3e−9", "3e12"} <= set(ticks)
