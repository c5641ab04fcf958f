"""A finished run looked into, once, with its best weights: pictures beside the run and the same to
its recorders.

Kernels and what layers give, the first kernels as a film, features of the validation images,
precision against recall, and where the network looked when it decided. What a model does not have
is left out, with a note.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.loading.batches import Batches, batches_at
from ptkit.core.data.sampling import spread
from ptkit.core.data.transforms.pipeline import denormalise
from ptkit.core.errors import PtkitError, UsageError
from ptkit.core.files import write_atomically
from ptkit.core.models.gradcam import explained_layer, gradcam, top_region
from ptkit.core.models.hooks import default_layers, evaluating, record_activations, trace_layers
from ptkit.core.models.zoo import find_head
from ptkit.core.training.events import MAX_SPRITE
from ptkit.core.training.kernel_film import read_film
from ptkit.core.training.observers import (
    Boxes,
    Embedding,
    Film,
    Item,
    Picture,
    PrCounts,
    PrCurve,
    Text,
)
from ptkit.looking.some_images import squares, to_explain
from ptkit.plots.embedding import embedding_figure
from ptkit.plots.feature_maps import feature_map_figure
from ptkit.plots.gradcam import Explained, gradcam_figure
from ptkit.plots.kernel_film import film_frames, gif_bytes
from ptkit.plots.kernels import kernel_figure, output_mosaics
from ptkit.plots.pr_curves import micro_counts, pr_figure, precision_recall
from ptkit.plots.saving import file_names, pixels

# How much is looked at: whole layers; images of each; points of the embedding; classes with a curve
# in TensorBoard.
_NUM_LAYERS, _NUM_EXPLAINED, _NUM_INPUTS, _NUM_POINTS, _NUM_CURVES = 2, 8, 4, 1000, 100
# Above so many probabilities some images are enough for the curves.
_MAX_SCORES = 5_000_000
_THUMBNAIL = 64
# A box and its name need this many pixels to be read.
_BOXED = 224


@dataclass(frozen=True)
class _Run:
    """What all parts look at. probabilities, labels: of the whole list; see `show`."""

    folder: Path
    show: Callable[[Item, int], None]
    model: nn.Module
    batches: Batches
    probabilities: npt.NDArray[np.float32]
    labels: np.ndarray
    label_kind: str
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    epoch: int

    @property
    def footer(self) -> str:
        return (
            f"{self.batches.images.file.name}, n = {len(self.labels):,}, epoch {self.epoch} of"
            f" {self.folder}"
        )

    def names_of(self, index: int) -> str:
        """Return the label of an image in words."""
        label = self.labels[index]
        if self.label_kind == REGRESSION:
            return ", ".join(f"{value:.4g}" for value in label)
        if self.label_kind == SINGLE:
            return self.class_names[label]
        return " + ".join(self.class_names[k] for k in np.flatnonzero(label).tolist()) or "no class"


def show(
    run_folder: Path,
    record: Callable[[Item, int], None],
    model: nn.Module,
    batches: Batches,
    *,
    probabilities: npt.NDArray[np.float32],
    labels: np.ndarray,
    label_kind: str,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    epoch: int,
) -> tuple[Path, ...]:
    """Draw everything into the run folder and hand it to the run's recorders; return the paths of
    the files.

    batches: of the validation list. probabilities: (N, K), or numbers (N, D). labels:
    ImageList.labels. label_kind: see ImageList. mean, std: of Normalize, empty
    without. epoch: that of the model's weights.
    The model is left in evaluation mode and without gradients.

    Raises:
        DataError: an image that cannot be read any more.
        StorageError: the disk refused.
    """
    run = _Run(run_folder, record, model, batches, probabilities, labels, label_kind, class_names,
               mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0), epoch)  # fmt: skip
    files: list[Path] = []
    notes: list[str] = []
    for name, part in PARTS.items():
        if label_kind == REGRESSION and name in _OF_CLASSES:
            continue
        try:
            with evaluating(model, keeps_random_state=True):
                files += part(run)
        except UsageError as error:
            notes.append(str(error))
        except PtkitError:
            raise
        except (
            Exception
        ) as error:  # a user's model may do anything, and hours of training lie behind
            notes.append(f"{name}: {type(error).__name__}: {error}")
    if notes:
        record(Text("left_out", "\n".join(notes)), epoch)
    model.eval()
    model.zero_grad(set_to_none=True)
    return tuple(files)


def _show_kernels(run: _Run) -> Iterator[Path]:
    """Whole layers, first and last among them, and each output channel of the first."""
    layers = {name: m for name, m in run.model.named_modules() if isinstance(m, nn.Conv2d)}
    if not layers:
        raise UsageError("kernels: the model has no convolutions")
    chosen = spread(list(layers), _NUM_LAYERS)
    for name, file_name in zip(chosen, file_names("", chosen), strict=True):
        weight = layers[name].weight.detach().float().cpu().numpy()
        figure = kernel_figure(
            weight, layer=name, footer=f"n = {len(weight):,} output channels, {run.footer}"
        )
        yield _saved(run, figure, f"kernels/{name}", f"kernels/{file_name}.png")
        if name == chosen[0]:
            for channel, picture in output_mosaics(weight):
                run.show(Picture(f"kernels_of_{name}/{channel}", picture), run.epoch)


def _show_film(run: _Run) -> Iterator[Path]:
    film = read_film(run.folder)
    if film is None:
        return
    frames = film_frames(
        film.kernels,
        film.epochs,
        layer=film.layer,
        num_outputs=film.num_outputs,
        footer=str(run.folder),
    )
    file = run.folder / "kernels.gif"
    write_atomically(file, gif_bytes(frames))
    run.show(Film("kernels_by_epoch", file), film.epochs[-1])
    yield file


def _show_feature_maps(run: _Run) -> Iterator[Path]:
    """The last layer of some resolutions, on a few images."""
    indices = spread(range(len(run.labels)), _NUM_INPUTS)
    images = _images(run, indices)
    traced = trace_layers(run.model, images)
    if not any(layer.is_map for layer in traced):
        raise UsageError("feature maps: no layer of the model gives maps")
    chosen = default_layers(traced, limit=_NUM_LAYERS)
    maps = record_activations(run.model, images, chosen)
    inputs, names = (
        denormalise(images, run.mean, run.std),
        [run.names_of(index) for index in indices],
    )
    for name, file_name in zip(chosen, file_names("", chosen), strict=True):
        figure = feature_map_figure(maps[name], inputs, layer=name, names=names, footer=run.footer)
        yield _saved(run, figure, f"feature_maps/{name}", f"feature_maps/{file_name}.png")


def _show_regions(run: _Run) -> Iterator[Path]:
    """Grad-CAM of what was predicted, wrong answers first."""
    chosen, is_wrong = to_explain(
        run.probabilities, run.labels, label_kind=run.label_kind, count=_NUM_EXPLAINED
    )
    images = _images(run, chosen)
    classes = (
        run.probabilities[chosen].argmax(axis=1)
        if run.label_kind != REGRESSION
        else np.zeros(len(chosen), int)
    )
    sign = _sign_of_scores(run, images, classes)
    layer = explained_layer(run.model, images, classes.tolist(), sign=sign)
    heats = gradcam(run.model, images, classes.tolist(), layer=layer, sign=sign)
    inputs, explained = denormalise(images, run.mean, run.std), []
    for rank, (index, image, heat) in enumerate(zip(chosen, inputs, heats, strict=True)):
        said = run.class_names[classes[rank]]
        lines = [
            run.batches.images.listed_path(index),
            f"true: {run.names_of(index)}",
            f"explained: {said}",
        ]
        if run.label_kind != REGRESSION:
            # Of several labels the explained one need not be above its threshold.
            word = "predicted" if run.label_kind == SINGLE else "most probable"
            lines[-1] = f"{word}: {said}, {run.probabilities[index].max():.1%}"
        one = Explained(image, heat, top_region(heat), lines, is_wrong=bool(is_wrong[index]))
        explained.append(one)
        zoom = max(1, _BOXED // max(image.shape[:2]))
        x1, y1, x2, y2 = (end * zoom for end in one.box or (0, 0, 0, 0))
        boxes = {lines[-1]: (x1, y1, x2, y2)} if one.box else {}
        enlarged = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
        run.show(Boxes(f"gradcam/{rank + 1}", enlarged, boxes), run.epoch)
    figure = gradcam_figure(explained, layer=layer, footer=run.footer)
    yield _saved(run, figure, "gradcam", "gradcam.png")


def _show_embedding(run: _Run) -> Iterator[Path]:
    """What goes into the head, for at most a thousand images."""
    indices = spread(range(len(run.labels)), _NUM_POINTS)
    try:
        head: str | None = find_head(run.model, len(run.class_names))
    except (
        UsageError
    ):  # a network that learned an embedding has no head; what it gives is the embedding
        head = None
    side = min(_THUMBNAIL, MAX_SPRITE // math.ceil(math.sqrt(len(indices))))
    features, squared = [], []
    for images in batches_at(run.batches, indices):
        features.append(_features(run.model, images, head).float().cpu().numpy())
        squared.append(squares(denormalise(images, run.mean, run.std), side))
    points, pictures = np.concatenate(features), np.concatenate(squared)
    if not np.isfinite(points).all() or points.ndim != 2:
        raise UsageError("embedding: the features are not finite numbers, one row an image")
    paths = [run.batches.images.listed_path(index) for index in indices]
    rows = [
        ("true", "image"),
        *((run.names_of(index), path) for index, path in zip(indices, paths, strict=True)),
    ]
    thumbnails = pictures.transpose(0, 3, 1, 2) / np.float32(255)
    run.show(Embedding("features", points, rows, thumbnails), run.epoch)
    figure = embedding_figure(
        points,
        run.labels[indices],
        list(pictures),
        class_names=run.class_names,
        layer=head or "the loss",
        footer=run.footer,
    )
    yield _saved(run, figure, "embedding", "embedding.png")


def _show_curves(run: _Run) -> Iterator[Path]:
    """Precision against recall: every class, at most a hundred, and all together."""
    num_classes = len(run.class_names)
    if run.probabilities.shape[1] != num_classes:
        raise UsageError(
            f"PR curves: {run.probabilities.shape[1]} probabilities an image for {num_classes}"
            " classes"
        )
    rows = spread(range(len(run.labels)), max(1, _MAX_SCORES // num_classes))
    scores, labels = run.probabilities[rows], run.labels[rows]
    truth = labels[:, None] == np.arange(num_classes) if run.label_kind == SINGLE else labels
    known = np.flatnonzero(truth.any(axis=0)).tolist()
    if not known:
        raise UsageError("PR curves: no image has a class")
    by_ap = sorted(known, key=lambda k: precision_recall(truth[:, k], scores[:, k]).ap)
    for k in sorted(by_ap[:_NUM_CURVES]):
        run.show(PrCurve(f"pr_curve/{run.class_names[k]}", truth[:, k], scores[:, k]), run.epoch)
    run.show(PrCounts("pr_curve_micro_average", micro_counts(truth, scores)), run.epoch)
    figure = pr_figure(truth, scores, class_names=run.class_names, footer=run.footer)
    yield _saved(run, figure, "pr_curves", "pr_curves.png")


def _saved(run: _Run, figure: Figure, tag: str, name: str) -> Path:
    """Draw a figure once, for the recorders and as a PNG."""
    drawn = pixels(figure)
    run.show(Picture(tag, drawn), run.epoch)
    write_atomically(
        run.folder / name, lambda file: Image.fromarray(drawn).save(file, "PNG", compress_level=4)
    )
    return run.folder / name


def _sign_of_scores(run: _Run, images: Tensor, classes: np.ndarray) -> float:
    """Return 1 where the largest output wins, -1 where the smallest does."""
    if run.label_kind == REGRESSION:
        return 1.0
    with torch.no_grad():
        outputs = run.model(images).float().cpu().numpy()
    for sign in (1.0, -1.0):
        if (
            outputs.shape[1] == len(run.class_names)
            and ((sign * outputs).argmax(axis=1) == classes).mean() > 0.5
        ):
            return sign
    raise UsageError("Grad-CAM: the outputs are not one score a class")


def _features(model: nn.Module, images: Tensor, head: str | None) -> Tensor:
    """Return what goes into the head (n, D), or what the model gives; of maps and tokens the mean
    over the places.
    """
    seen: list[Tensor] = []
    hook = (
        model.get_submodule(head).register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        if head
        else None
    )
    try:
        with torch.no_grad():
            outputs = model(images)
    finally:
        if hook is not None:
            hook.remove()
    found = seen[-1] if seen else outputs
    return (
        found.flatten(2).mean(dim=2)
        if found.ndim == 4
        else found.mean(dim=1)
        if found.ndim == 3
        else found
    )


def _images(run: _Run, indices: Sequence[int]) -> Tensor:
    return torch.cat(list(batches_at(run.batches, indices)))


# What is shown, in this order, and what of it only labels that are classes have.
PARTS: dict[str, Callable[[_Run], Iterator[Path]]] = {
    "kernels": _show_kernels,
    "film": _show_film,
    "feature maps": _show_feature_maps,
    "Grad-CAM": _show_regions,
    "embedding": _show_embedding,
    "PR curves": _show_curves,
}
_OF_CLASSES = {"embedding", "PR curves"}
