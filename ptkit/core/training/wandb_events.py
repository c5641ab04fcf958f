"""The same numbers and pictures to Weights & Biases. The one user of wandb, which is an extra."""

import html
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.config.settings import LogSettings
from ptkit.core.errors import UsageError
from ptkit.core.training import observers
from ptkit.core.training.events import charts, scalars
from ptkit.core.training.histograms import finite_values, parameter_copies
from ptkit.core.training.observers import EpochResult, Item, Pixels, Recorder, Write
from ptkit.core.wording import reason_of

# Where WANDB_PROJECT does not name another.
_PROJECT = "ptkit"


def check_wandb() -> None:
    """Check before a run that Weights & Biases would take it: online it needs a key.

    Raises:
        UsageError: the package or the key is missing.
    """
    try:
        import wandb
    except ImportError as error:
        raise UsageError("log.wandb needs the package wandb: pip install 'ptkit[wandb]'") from error
    mode = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
    if mode == "online" and not wandb.login(prompt=False):
        raise UsageError(
            "log.wandb: you are not logged in: run `wandb login`, or set WANDB_MODE=offline"
        )


class WandbEvents(Recorder):
    """A run at Weights & Biases; its files are in `wandb/` of the run folder.

    A resumed run keeps its id. The model's graph is left out: recording it would hook every layer.
    """

    def __init__(self, run: Path, settings: LogSettings) -> None:
        import wandb

        self.settings, self._wandb = settings, wandb
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=run.name,
                dir=str(run),
                id=_earlier_id(run),
                resume="allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UsageError(
                f"Weights & Biases: {reason_of(error)}; WANDB_MODE=offline sends nothing"
            ) from error

    def start(
        self, model: nn.Module, example: Tensor, texts: Mapping[str, str], input_image: Pixels
    ) -> None:
        """Send the settings, the texts and the picture of the input."""
        self._run.config.update(tomllib.loads(texts.get("config", "")), allow_val_change=True)
        found = {f"text/{tag}": self._html(text) for tag, text in texts.items()}
        if self.settings.pictures:
            found["input"] = self._wandb.Image(input_image)
        self._run.log(found, step=0)

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Copy weights and gradients; send one epoch, whose number is the step."""
        copies = parameter_copies(model) if self.settings.histograms else {}
        return lambda: self._send(result, copies)

    def _send(self, result: EpochResult, copies: Mapping[str, Tensor]) -> None:
        found: dict[str, Any] = scalars(result)
        for chart, lines in charts(result).items():
            found |= {f"{chart}/{line}": value for line, value in lines.items()}
        finite = {tag: finite_values(tensor) for tag, tensor in copies.items()}
        found |= {tag: self._wandb.Histogram(v) for tag, v in finite.items() if v.size}
        self._run.log(found, step=result.epoch)

    def show(self, item: Item, step: int) -> None:
        """Send one item."""
        # Steps may not decrease, and the best epoch is past: items go to the newest step, with
        # their epoch.
        value = self._value_of(item)
        tag = f"text/{item.tag}" if isinstance(item, observers.Text) else item.tag
        self._run.log({tag: value, f"{tag}_epoch": step}, commit=False)

    def close(self) -> None:
        """Send what is still waiting and end."""
        self._run.finish()

    def _value_of(self, item: Item) -> Any:
        match item:
            case observers.Text(_, text):
                return self._html(text)
            case observers.Picture(_, pixels):
                return self._wandb.Image(pixels)
            case observers.Figure(_, figure):
                return self._wandb.Image(_drawn(figure))
            case observers.Boxes(_, pixels, boxes):
                drawn = [_box(number, *named) for number, named in enumerate(boxes.items())]
                regions = {"box_data": drawn, "class_labels": dict(enumerate(boxes))}
                return self._wandb.Image(pixels, boxes={"regions": regions})
            case observers.Film(_, gif):
                return self._wandb.Video(str(gif), format="gif")
            case observers.Embedding():
                return self._embedding_table(item)
            case observers.PrCurve(tag, truth, scores):
                return self._pr_plot(tag, _counts(truth, scores))
            case observers.PrCounts(tag, counts):
                return self._pr_plot(tag, counts)
            case _:
                assert_never(item)

    def _html(self, text: str) -> Any:
        return self._wandb.Html(f"<pre>{html.escape(text)}</pre>")

    def _embedding_table(self, item: observers.Embedding) -> Any:
        """Return a table for the projector: per image its words, thumbnail and features."""
        heading, *cells = item.rows
        pictures = (item.thumbnails * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        columns = [f"feature{k}" for k in range(item.features.shape[1])]
        table = self._wandb.Table(columns=[*heading, "thumbnail", *columns])
        for words, picture, values in zip(cells, pictures, item.features.tolist(), strict=True):
            table.add_data(*words, self._wandb.Image(picture), *values)
        return table

    def _pr_plot(self, tag: str, counts: Mapping[str, npt.NDArray[Any]]) -> Any:
        recall = counts["tp"] / np.maximum(counts["tp"] + counts["fn"], 1)
        precision = counts["tp"] / np.maximum(counts["tp"] + counts["fp"], 1)
        points = [[float(r), float(p)] for r, p in zip(recall, precision, strict=True)]
        table = self._wandb.Table(data=points, columns=["recall", "precision"])
        return self._wandb.plot.line(table, "recall", "precision", title=tag)


def _drawn(figure: Any) -> Pixels:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _counts(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """Return tp, fp, fn, tn (127,) at evenly spaced thresholds, as many as TensorBoard has."""
    above = scores[:, None] >= np.linspace(0, 1, 127)
    tp, fp = (above & truth[:, None]).sum(axis=0), (above & ~truth[:, None]).sum(axis=0)
    return {"tp": tp, "fp": fp, "fn": truth.sum() - tp, "tn": (~truth).sum() - fp}


def _earlier_id(run: Path) -> str | None:
    """Return the id under which a run was recorded before; its folder's name ends in it."""
    folders = sorted(run.glob("wandb/*run-*-*"), key=lambda folder: folder.stat().st_mtime_ns)
    return folders[-1].name.rpartition("-")[2] if folders else None


def _box(number: int, name: str, corners: observers.Box) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    position = {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}
    return {"position": position, "domain": "pixel", "class_id": number, "box_caption": name}
