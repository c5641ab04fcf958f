"""The pictures at the end of a run, of its best weights: files in the run folder, and the same
pictures to its recorders.

A picture is a generator: it is given the run and its predictions, hands items to `run.show`, and
yields the files that it wrote. A row in PICTURES adds one. What a model does not have raises
UsageError, is left out and noted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from ptkit.core.data.keyed import spread
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.lists import ImageList
from ptkit.core.data.loading.batches import batches_at
from ptkit.core.data.transforms.conversions import denormalise
from ptkit.core.errors import PtkitError, UsageError
from ptkit.core.files import write_atomically, write_csv
from ptkit.core.models.features import features, mean_over_places
from ptkit.core.models.gradcam import explained_layer, gradcam, top_region
from ptkit.core.models.hooks import default_layers, evaluating, record_activations, trace_layers
from ptkit.core.models.zoo import find_head
from ptkit.core.training.events import MAX_SPRITE
from ptkit.core.training.kernel_film import read_film
from ptkit.core.training.observers import Boxes, Embedding, Film, Picture, PrCounts, PrCurve, Text
from ptkit.core.training.prediction import Predicted
from ptkit.core.training.run_folder import Run
from ptkit.looking.feature_maps import layer_figures
from ptkit.looking.run_history import history_pictures
from ptkit.looking.weights import kernel_figures
from ptkit.plots.embedding import embedding_figure, principal_axes
from ptkit.plots.gradcam import Explained, gradcam_figure
from ptkit.plots.kernel_film import film_frames, gif_bytes
from ptkit.plots.kernels import output_mosaics
from ptkit.plots.numbers import numbers_figure
from ptkit.plots.pr_curves import micro_counts, pr_figure, precision_recall, thinned
from ptkit.plots.saving import numbered, pixels, save_pixels
from ptkit.plots.tiles import enlarged

# How much is looked at: whole layers; images of each; points of the embedding; classes with a curve
# in TensorBoard.
_NUM_LAYERS, _NUM_EXPLAINED, _NUM_INPUTS, _NUM_POINTS, _NUM_CURVES = 2, 8, 4, 1000, 100
# Above so many probabilities some images are enough for the curves.
_MAX_SCORES = 5_000_000
_THUMBNAIL = 64
# A box and its name need this many pixels to be read.
_BOXED = 224


def draw_pictures(run: Run, found: Predicted) -> tuple[Path, ...]:
    """Draw all PICTURES into the run folder, hand them to the recorders, and return the files.

    found: for the images of the validation list. The model has the weights of the best epoch, and
    is left in evaluation mode and without gradients.

    Raises:
        DataError: an image that cannot be read any more.
        StorageError: the disk refused.
    """
    model = run.training.model
    files: list[Path] = []
    notes: list[str] = []
    for name, draw in PICTURES.items():
        try:
            with evaluating(model, keeps_random_state=True):
                files += draw(run, found)
        except UsageError as error:
            notes.append(str(error))
        except PtkitError:
            raise
        except Exception as error:
            # A user's model may raise anything, and hours of training would be lost.
            notes.append(f"{name}: {type(error).__name__}: {error}")
    if notes:
        run.show(Text("left_out", "\n".join(notes)), epoch_of(run))
    model.eval()
    model.zero_grad(set_to_none=True)
    return tuple(files)


def _draw_kernels(run: Run, _found: Predicted) -> Iterator[Path]:
    """Whole layers, first and last among them, and each output channel of the first."""
    named = run.training.model.named_modules()
    layers = {name: m.weight for name, m in named if isinstance(m, nn.Conv2d)}
    if not layers:
        raise UsageError("kernels: the model has no convolutions")
    chosen = spread(list(layers), _NUM_LAYERS)
    kernels = {name: layers[name].detach().float().cpu().numpy() for name in chosen}
    for name, file_name, figure in kernel_figures(kernels, source=footer_of(run)):
        yield _saved(run, figure, f"kernels/{name}", f"kernels/{file_name}.png")
    for channel, picture in output_mosaics(kernels[chosen[0]]):
        run.show(Picture(f"kernels_of_{chosen[0]}/{channel}", picture), epoch_of(run))


def _draw_film(run: Run, _found: Predicted) -> Iterator[Path]:
    film = read_film(run.folder)
    if film is None:
        return
    layer, count, footer = film.layer, film.num_outputs, str(run.folder)
    frames = film_frames(film.kernels, film.epochs, layer=layer, num_outputs=count, footer=footer)
    file = run.folder / "kernels.gif"
    write_atomically(file, gif_bytes(frames))
    run.show(Film("kernels_by_epoch", file), film.epochs[-1])
    yield file


def _draw_feature_maps(run: Run, _found: Predicted) -> Iterator[Path]:
    """The last layer of some resolutions, on a few images."""
    listed, model = run.training.valid.images, run.training.model
    indices = spread(range(len(listed)), _NUM_INPUTS)
    images = _images(run, indices)
    traced = trace_layers(model, images)
    if not any(layer.is_map for layer in traced):
        raise UsageError("feature maps: no layer of the model gives maps")
    maps = record_activations(model, images, default_layers(traced, limit=_NUM_LAYERS))
    names = [label_text(listed, index) for index in indices]
    footer = footer_of(run, num_drawn=len(indices))
    drawn = layer_figures(maps, _pixels(run, images), names=names, footer=footer)
    for name, file_name, figure in drawn:
        yield _saved(run, figure, f"feature_maps/{name}", f"feature_maps/{file_name}.png")


def _draw_regions(run: Run, found: Predicted) -> Iterator[Path]:
    """Grad-CAM of what was predicted, wrong answers first."""
    listed, model = run.training.valid.images, run.training.model
    names, kind = listed.class_names, listed.label_kind
    rows, values, labels = found.rows, found.values, listed.labels
    ranked, is_wrong = to_explain(values[rows], labels[rows], label_kind=kind, count=_NUM_EXPLAINED)
    chosen = rows[ranked].tolist()
    images = _images(run, chosen)
    classes, sign = np.zeros(len(chosen), int), 1.0
    if kind != REGRESSION:
        classes = values[chosen].argmax(axis=1)
        sign = _sign_of_scores(model, images, classes, len(names))
    layer = explained_layer(model, images, classes.tolist(), sign=sign)
    heats = gradcam(model, images, classes.tolist(), layer=layer, sign=sign)
    explained = []
    for rank, index in enumerate(chosen):
        answer = f"explained: {names[classes[rank]]}"
        if kind != REGRESSION:
            # Of several labels the explained one need not be above its threshold.
            word = "predicted" if kind == SINGLE else "most probable"
            answer = f"{word}: {names[classes[rank]]}, {values[index].max():.1%}"
        lines = [listed.listed_path(index), f"true: {label_text(listed, index)}", answer]
        image, heat = _pixels(run, images[rank]), heats[rank]
        one = Explained(image, heat, top_region(heat), lines, is_wrong=bool(is_wrong[ranked[rank]]))
        explained.append(one)
        zoom = max(1, _BOXED // max(image.shape[:2]))
        x1, y1, x2, y2 = (end * zoom for end in one.box or (0, 0, 0, 0))
        boxes = {answer: (x1, y1, x2, y2)} if one.box else {}
        run.show(Boxes(f"gradcam/{rank + 1}", enlarged(image, zoom), boxes), epoch_of(run))
    of = "the predicted class"
    footer = footer_of(run, num_drawn=len(explained))
    figure = gradcam_figure(explained, layer=layer, of=of, footer=footer)
    yield _saved(run, figure, "gradcam", "gradcam.png")
    table = [
        (listed.listed_path(index), layer, names[k], *(one.box or (None,) * 4))
        for index, k, one in zip(chosen, classes.tolist(), explained, strict=True)
    ]
    yield _table(run, "gradcam", ["path", "layer", "class", "x1", "y1", "x2", "y2"], table)


def _draw_embedding(run: Run, _found: Predicted) -> Iterator[Path]:
    """What goes into the head, for at most a thousand images."""
    listed, model = run.training.valid.images, run.training.model
    names = listed.class_names
    if listed.label_kind == REGRESSION:
        return
    indices = spread(range(len(listed)), _NUM_POINTS)
    try:
        of, layer = features(model, num_classes=len(names)), find_head(model, len(names))
    except UsageError:
        # A network that learned an embedding has no head; its output is the embedding.
        of, layer = (lambda images: mean_over_places(model(images)).float()), "the loss"
    side = min(_THUMBNAIL, MAX_SPRITE // math.ceil(math.sqrt(len(indices))))
    known, found, thumbnails = run.history.valid_features, [], []
    for images in batches_at(run.training.valid, indices):
        if known is None:
            with torch.no_grad():
                found.append(of(images).cpu().numpy())
        thumbnails.append(squares(_pixels(run, images), side))
    points = np.concatenate(found) if known is None else known.numpy()[indices]
    pictures = np.concatenate(thumbnails)
    if not np.isfinite(points).all() or points.ndim != 2:
        raise UsageError("embedding: the features are not finite numbers, one row an image")
    rows = [(label_text(listed, index), listed.listed_path(index)) for index in indices]
    shares = pictures.transpose(0, 3, 1, 2) / np.float32(255)
    run.show(Embedding("features", points, [("true", "image"), *rows], shares), epoch_of(run))
    labels, footer = listed.labels[indices], footer_of(run, num_drawn=len(indices))
    figure = embedding_figure(
        points, labels, list(pictures), class_names=names, layer=layer, footer=footer
    )
    yield _saved(run, figure, "embedding", "embedding.png")
    places, _ = principal_axes(points)
    table = [(path, label, *xy) for (label, path), xy in zip(rows, places.tolist(), strict=True)]
    yield _table(run, "embedding", ["path", "true", "component1", "component2"], table)


def _draw_curves(run: Run, found: Predicted) -> Iterator[Path]:
    """Precision against recall: every class, at most a hundred, and all together."""
    listed = run.training.valid.images
    names, num_classes = listed.class_names, len(listed.class_names)
    if listed.label_kind == REGRESSION:
        return
    if found.values.shape[1] != num_classes:
        raise UsageError(
            f"PR curves: {found.values.shape[1]} probabilities an image for {num_classes} classes"
        )
    rows = spread(found.rows.tolist(), max(1, _MAX_SCORES // num_classes))
    scores, labels = found.values[rows], listed.labels[rows]
    truth = labels[:, None] == np.arange(num_classes) if listed.label_kind == SINGLE else labels
    known = np.flatnonzero(truth.any(axis=0)).tolist()
    if not known:
        raise UsageError("PR curves: no image has a class")
    by_ap = sorted(known, key=lambda k: precision_recall(truth[:, k], scores[:, k]).ap)
    for k in sorted(by_ap[:_NUM_CURVES]):
        run.show(PrCurve(f"pr_curve/{names[k]}", truth[:, k], scores[:, k]), epoch_of(run))
    run.show(PrCounts("pr_curve_micro_average", micro_counts(truth, scores)), epoch_of(run))
    figure = pr_figure(truth, scores, class_names=names, footer=footer_of(run))
    yield _saved(run, figure, "pr_curves", "pr_curves.png")
    points = [
        (names[k], truth[:, k].sum(), curve.ap, recall, precision)
        for k in known
        for curve in [precision_recall(truth[:, k], scores[:, k])]
        for recall, precision in thinned(curve)
    ]
    yield _table(run, "pr_curves", ["class", "images", "ap", "recall", "precision"], points)


def _draw_numbers(run: Run, found: Predicted) -> Iterator[Path]:
    """Predicted against true; the numbers are in valid_predictions.csv."""
    listed = run.training.valid.images
    if listed.label_kind == REGRESSION:
        names, footer = listed.class_names, footer_of(run)
        figure = numbers_figure(listed.labels, found.values, names=names, footer=footer)
        yield _saved(run, figure, "numbers", "numbers.png")


def _draw_history(run: Run, _found: Predicted) -> Iterator[Path]:
    """Distributions, gradient flow and the bias of the outputs, over the epochs."""
    names, footer = run.training.valid.images.class_names, str(run.folder)
    for picture in history_pictures(run.folder, class_names=names, footer=footer):
        yield _saved(run, picture.figure, picture.name, f"{picture.name}.png")
        yield _table(run, picture.name, picture.header, picture.rows)


# What is drawn, in this order.
PICTURES: dict[str, Callable[[Run, Predicted], Iterator[Path]]] = {
    "kernels": _draw_kernels,
    "film": _draw_film,
    "feature maps": _draw_feature_maps,
    "Grad-CAM": _draw_regions,
    "embedding": _draw_embedding,
    "PR curves": _draw_curves,
    "numbers": _draw_numbers,
    "history": _draw_history,
}


def epoch_of(run: Run) -> int:
    """Return the epoch of the best weights."""
    assert run.best is not None
    return int(run.best["epoch"])


def footer_of(run: Run, *, num_drawn: int | None = None) -> str:
    """Return what a picture says below: the list, its images, the epoch and the run.

    num_drawn: how many images it shows, where not all.
    """
    listed = run.training.valid.images
    count = f"{len(listed):,}"
    if num_drawn not in (None, len(listed)):
        count = f"{num_drawn:,} of {count}"
    return f"{listed.file.name}, n = {count}, epoch {epoch_of(run)} of {run.folder}"


def to_explain(
    values: npt.NDArray[np.float32], labels: np.ndarray, *, label_kind: str, count: int
) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """Return which images to explain, at most `count`, and which of all images are mistakes, bool
    (N,).

    Mistakes come first, the surest before the others, at most half of them unless there is nothing
    else; then right answers, spread over the list. values: as in Predicted.
    """
    rows = np.arange(len(labels))
    if label_kind == REGRESSION:
        return spread(rows.tolist(), count), np.zeros(len(rows), bool)
    if label_kind == SINGLE:
        is_wrong, badness = values.argmax(axis=1) != labels, 1 - values[rows, labels]
    else:
        is_wrong = ((values >= 0.5) != labels).any(axis=1)
        badness = np.abs(labels - values).max(axis=1)
    worst = np.argsort(-badness, kind="stable")
    wrong = worst[is_wrong[worst]].tolist()
    right = np.flatnonzero(~is_wrong).tolist()
    wrong = wrong[: max(count // 2, count - len(right))]
    return wrong + spread(right, count - len(wrong)), is_wrong


def squares(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return images (n, H, W, 3) as squares (n, side, side, 3); small ones are enlarged by
    repeating pixels.
    """
    tensor = torch.from_numpy(images).movedim(-1, 1).float()
    how = "area" if max(images.shape[1:3]) > side else "nearest"
    resized = F.interpolate(tensor, (side, side), mode=how)
    return resized.round().to(torch.uint8).movedim(1, -1).numpy()


def label_text(images: ImageList, index: int) -> str:
    """Return the label of an image in words."""
    label = images.labels[index]
    if images.label_kind == REGRESSION:
        return ", ".join(f"{value:.4g}" for value in label)
    if images.label_kind == SINGLE:
        return images.class_names[int(label)]
    return " + ".join(images.class_names[k] for k in np.flatnonzero(label).tolist()) or "no class"


def _images(run: Run, indices: Sequence[int]) -> Tensor:
    return torch.cat(list(batches_at(run.training.valid, indices)))


def _pixels(run: Run, images: Tensor) -> npt.NDArray[np.uint8]:
    """Return (..., C, H, W) as the network sees it, in pixels (..., H, W, 3)."""
    data = run.data.settings
    return denormalise(images, data.mean or (0.0,), data.std or (1.0,))


def _saved(run: Run, figure: Figure, tag: str, name: str) -> Path:
    """Draw a figure once, for the recorders and as a PNG."""
    drawn = pixels(figure)
    run.show(Picture(tag, drawn), epoch_of(run))
    save_pixels(drawn, run.folder / name)
    return run.folder / name


def _table(run: Run, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write the numbers of a picture beside it."""
    file = run.folder / f"{name}.csv"
    write_csv(file, header, numbered(rows))
    return file


def _sign_of_scores(
    model: nn.Module, images: Tensor, classes: np.ndarray, num_classes: int
) -> float:
    """Return 1 where the largest output wins, -1 where the smallest does."""
    with torch.no_grad():
        outputs = model(images).float().cpu().numpy()
    if outputs.shape[1] == num_classes:
        for sign in (1.0, -1.0):
            if ((sign * outputs).argmax(axis=1) == classes).mean() > 0.5:
                return sign
    raise UsageError("Grad-CAM: the outputs are not one score a class")
