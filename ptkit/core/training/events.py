"""TensorBoard's events of a run, made by tensorboardX."""

import contextlib
import io
import itertools
import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from torch import Tensor, nn

from ptkit.core.config.settings import LogSettings
from ptkit.core.files import check_no_link, write_atomically
from ptkit.core.models.hooks import evaluating
from ptkit.core.training import observers
from ptkit.core.training.event_files import PREFIX, EventFile, cut_back, event_files, refused
from ptkit.core.training.histograms import finite_values, histogram_of, parameter_copies
from ptkit.core.training.observers import EpochResult, Item, Pixels, Recorder, Write

# TensorBoard's viewer does not load a larger picture of all thumbnails.
MAX_SPRITE = 8192
# In an events folder outside the run: the path from there to the run.
_MARKER = "run.txt"


def charts(result: EpochResult) -> dict[str, dict[str, float]]:
    """Return the charts that compare training and validation: chart -> line -> value."""
    accuracies = {"train": result.train_accuracy, "valid": result.valid.get("accuracy")}
    known = {line: value for line, value in accuracies.items() if value is not None}
    found = {"loss": {"train": result.train_loss, "valid": result.valid_loss}}
    return found | ({"accuracy": known} if known else {})


def scalars(result: EpochResult) -> dict[str, float]:
    """Return the charts with one line: the rate of every group, throughput, the other metrics."""
    rates = {f"learning_rate/{_group_words(name)}": rate for name, rate in result.lrs.items()}
    metrics = {f"valid/{name}": value for name, value in result.valid.items() if name != "accuracy"}
    return {**rates, "images_per_s": result.images_per_s, **metrics}


def _group_words(name: str) -> str:
    """Return what a group of parameters is called in a tag, which has no `=`."""
    return re.sub(r"\bweight_decay=0(?![.\d])", "no weight decay", name).replace("=", " ")


def gradient_norms(result: EpochResult) -> Iterator[tuple[int, float]]:
    """Yield the total gradient norm before clipping, of each step of the epoch that was recorded;
    steps are those of the run.
    """
    if result.recorded is not None:
        norms = result.recorded.grad_norm
        yield from enumerate(norms, start=result.recorded.step - len(norms) + 1)


class Events(Recorder):
    """TensorBoard events of one run, and `scalars.json` in the run folder.

    up_to_epoch: the last epoch that a resumed run keeps; None for a new run. lengths: of the event
    files up to there, to which they are cut back; None where these are not known: what is later is
    then hidden.
    """

    def __init__(
        self,
        run: Path,
        settings: LogSettings,
        *,
        up_to_epoch: int | None = None,
        lengths: Mapping[str, int] | None = None,
    ) -> None:
        self.settings = settings
        is_resumed = up_to_epoch is not None or lengths is not None
        self.folder = events_folder(run, settings, is_resumed=is_resumed)
        if settings.folder is None:
            check_no_link(self.folder, inside=run)
        if up_to_epoch is not None and not any(PREFIX in name for name in lengths or ()):
            # It went on without events in between: what they hold is not known to be later.
            lengths = None
        if lengths is not None:
            with refused(self.folder):
                cut_back(self.folder, lengths)
        self._writer = _writer(self.folder, suffix=settings.filename_suffix)
        self._json = run / "scalars.json"
        # A resumed run has it from before.
        self._has_layout = bool(up_to_epoch)
        self._scalars = {} if up_to_epoch is None else _read_scalars(self._json, up_to_epoch)
        if settings.folder is not None:
            write_atomically(self.folder / _MARKER, _path_to(run, self.folder))
        if up_to_epoch is not None and lengths is None:
            self._hide_later(up_to_epoch + 1)

    def start(
        self, model: nn.Module, example: Tensor, texts: Mapping[str, str], input_image: Pixels
    ) -> None:
        """Write the texts, the input as a picture and the model's graph, traced on one example."""
        for tag, text in texts.items():
            self.show(observers.Text(tag, text), 0)
        if self.settings.pictures:
            self.show(observers.Picture("input", input_image), 0)
        if self.settings.graph:
            _add_graph(self._writer, model, example)

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Copy weights and gradients; write an epoch's charts and histograms, then scalars.json."""
        copies = parameter_copies(model) if self.settings.histograms else {}
        return lambda: self._write(result, copies)

    def _write(self, result: EpochResult, copies: Mapping[str, Tensor]) -> None:
        pairs = charts(result)
        self._lay_out(
            {chart: [f"{chart}/{line}" for line in lines] for chart, lines in pairs.items()}
        )
        values = {
            f"{c}/{line}": value for c, lines in pairs.items() for line, value in lines.items()
        }
        values |= scalars(result)
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, result.epoch)
        for step, norm in gradient_norms(result):
            self._writer.add_scalar("gradient/total_norm", norm, step)
        if copies:
            self._add_histograms(copies, result.epoch)
        self._writer.flush()
        self._remember(values, result.epoch)

    def lengths(self) -> dict[str, int]:
        """Return the bytes of every event file, all of them on the disk."""
        with refused(self.folder):
            self._writer.flush()
            return {
                file.relative_to(self.folder).as_posix(): file.stat().st_size
                for file in event_files(self.folder)
            }

    def show(self, item: Item, step: int) -> None:
        """Write one item."""
        # The projector's files are written by tensorboardX.
        with refused(self.folder):
            self._show(item, step)

    def _show(self, item: Item, step: int) -> None:
        writer = self._writer
        match item:
            case observers.Text(tag, text):
                # Indented, so that it is not taken for Markdown.
                writer.add_text(tag, f"    {text.replace(chr(10), chr(10) + '    ')}", step)
            case observers.Picture(tag, pixels):
                writer.add_image(tag, pixels, step, dataformats="HWC")
            case observers.Figure(tag, figure):
                writer.add_figure(tag, figure, step, close=False)
            case observers.Boxes(tag, pixels, boxes):
                # The writer's own font has few letters; a name that it lacks must not end the run.
                names = [name.encode("ascii", "replace").decode() for name in boxes]
                corners = np.array(list(boxes.values()), np.int64).reshape(-1, 4)
                writer.add_image_with_boxes(
                    tag, pixels, corners, step, dataformats="HWC", labels=names
                )
            case observers.Film():
                self._add_film(item, step)
            case observers.Embedding():
                self._add_embedding(item, step)
            case observers.PrCurve(tag, truth, scores):
                writer.add_pr_curve(_one_line(tag), truth, scores.clip(0, 1), step)
            case observers.PrCounts(tag, counts):
                tp, fp, tn, fn = (counts[k].astype(np.float64) for k in ("tp", "fp", "tn", "fn"))
                precision, recall = tp / np.maximum(tp + fp, 1), tp / np.maximum(tp + fn, 1)
                writer.add_pr_curve_raw(
                    _one_line(tag), tp, fp, tn, fn, precision, recall, step, num_thresholds=len(tp)
                )
            case _:
                assert_never(item)

    def close(self) -> None:
        """End the files; nothing waits to be written."""
        self._writer.close()

    def _lay_out(self, lines: dict[str, list[str]]) -> None:
        """Describe, once, the charts with several lines: add_scalars would make a run of each."""
        if not self._has_layout:
            layout = {chart: ["Multiline", tags] for chart, tags in lines.items()}
            self._writer.add_custom_scalars({"training and validation": layout})
            self._has_layout = True

    def _hide_later(self, step: int) -> None:
        """Hide what is of `step` or later from TensorBoard."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start, writers = SessionLog(status=SessionLog.START), self._writer.all_writers
        # Runs of an earlier ptkit have a folder for each line.
        for folder in {str(file.parent) for file in event_files(self.folder)} - set(writers):
            check_no_link(Path(folder), inside=self.folder)
            writers[folder] = _file_writer(Path(folder), self.settings.filename_suffix)
        for writer in writers.values():
            writer.add_event(Event(step=step, session_log=start))

    def _add_histograms(self, copies: Mapping[str, Tensor], step: int) -> None:
        """Write all histograms in one event, which takes a tenth of the time."""
        from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

        summary = Summary()
        for name, tensor in copies.items():
            found = histogram_of(finite_values(tensor))
            if found is None:
                continue
            histogram = HistogramProto(
                min=found.min, max=found.max, num=found.num, sum=found.sum,
                sum_squares=found.sum_squares, bucket_limit=found.limits, bucket=found.counts,
            )  # fmt: skip
            # As tensorboardX writes names.
            tag = re.sub(r"[^-/\w.]", "_", name)
            summary.value.add(tag=tag, histo=histogram)
        self._writer.file_writer.add_summary(summary, step)

    def _add_film(self, film: observers.Film, step: int) -> None:
        """Write what `add_video` would, which needs moviepy: an image that is a GIF."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(film.gif) as first:
            width, height = first.size
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=film.gif.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag=film.tag, image=image)])
        self._writer.file_writer.add_summary(summary, step)

    def _add_embedding(self, item: observers.Embedding, step: int) -> None:
        """Write features for the projector, with their rows and a sprite of all thumbnails."""
        thumbnails = item.thumbnails
        side, columns = thumbnails.shape[-1], math.ceil(math.sqrt(len(thumbnails)))
        assert columns * side <= MAX_SPRITE
        heading, *cells = [[_one_line(cell) for cell in row] for row in item.rows]
        # One embedding per run: that of a resumed run replaces the earlier one.
        (self.folder / "projector_config.pbtxt").unlink(missing_ok=True)
        # add_embedding prints where the folder exists, and leaves the rest of the sprite
        # uninitialised.
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            self._writer.add_embedding(
                item.features, cells, thumbnails, step, item.tag, metadata_header=heading
            )
        sprite = self.folder / f"{step:05d}" / item.tag / "sprite.png"
        _blank_rest(sprite, side * -(-len(thumbnails) // columns))

    def _remember(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars.json whole, so that it survives an interruption."""
        now = time.time()
        for tag, value in values.items():
            # JSON knows no NaN.
            point = [now, step, value if math.isfinite(value) else None]
            self._scalars.setdefault(tag, []).append(point)
        write_atomically(self._json, json.dumps(self._scalars).encode())


def events_folder(run: Path, settings: LogSettings, *, is_resumed: bool = False) -> Path:
    """Return where a run's events go: into the run, or below log.folder into a folder of its name.

    There a number is added if another run had the same name; a resumed run finds its own again.
    """
    if settings.folder is None:
        return run / f"tensorboard{settings.comment}"
    name = Path(settings.folder) / f"{run.name}{settings.comment}"
    names = itertools.chain([name], (Path(f"{name}-{number}") for number in itertools.count(2)))
    return next(
        folder
        for folder in names
        if not folder.exists() or (is_resumed and _marker_of(folder) == _path_to(run, folder))
    )


def write_images(folder: Path, images: Mapping[str, Pixels], step: int = 0) -> None:
    """Write pictures, uint8 (H, W, 3), as TensorBoard images into an event file of `folder`.

    Raises:
        StorageError: the disk refused.
    """
    writer = _writer(folder)
    for tag, image in images.items():
        writer.add_image(tag, image, step, dataformats="HWC")
    writer.close()


def _marker_of(folder: Path) -> bytes | None:
    file = folder / _MARKER
    return file.read_bytes() if file.is_file() else None


def _path_to(run: Path, folder: Path) -> bytes:
    return os.fsencode(f"{os.path.relpath(run, folder)}\n")


def _writer(folder: Path, *, suffix: str = "") -> Any:
    """Return a SummaryWriter whose event files are ours."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), write_to_disk=False)
    writer.file_writer = _file_writer(folder, suffix)
    writer.all_writers = {str(folder): writer.file_writer}
    writer._get_file_writer = lambda: writer.file_writer
    return writer


def _file_writer(folder: Path, suffix: str) -> Any:
    from tensorboardX.writer import FileWriter

    # Its __init__ would start the thread that `EventFile` does without.
    writer = FileWriter.__new__(FileWriter)
    writer.event_writer, writer._default_metadata = EventFile(folder, suffix), {}
    return writer


def _read_scalars(file: Path, up_to_epoch: int) -> dict[str, list[list[Any]]]:
    """Return what a resumed run has written to scalars.json; nothing if that cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {
            tag: [point for point in points if point[1] <= up_to_epoch]
            for tag, points in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}


def _one_line(text: str) -> str:
    """Return a text that fits into a cell of a table whose cells end at tabs."""
    return " ".join(text.encode("utf-8", "replace").decode().split()) or "-"


def _blank_rest(sprite: Path, used: int) -> None:
    from PIL import Image

    with Image.open(sprite) as picture:
        pixels = np.array(picture)
    pixels[used:] = 255
    Image.fromarray(pixels).save(sprite)


def _add_graph(writer: Any, model: nn.Module, example: Tensor) -> None:
    # The tracer warns about every shape that a model looks at, and prints where it fails.
    quiet = warnings.catch_warnings(action="ignore")
    silent = contextlib.redirect_stdout(io.StringIO())
    with quiet, silent, evaluating(model, keeps_random_state=True):
        try:
            writer.add_graph(model, example)
        except Exception:  # a model that cannot be traced still trains; its graph is left out
            writer.add_text("graph", "this model cannot be traced, so there is no graph of it")
