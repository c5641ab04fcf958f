"""The same numbers and pictures to Weights & Biases. The one user of wandb, which is an extra."""

import html
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ptkit.core.config import LogSettings
from ptkit.core.errors import UsageError
from ptkit.core.training.events import Box, NoEvents, Pixels, charts, scalars, tensors_of

if TYPE_CHECKING:
    from ptkit.core.training.loop import EpochResult

# Where WANDB_PROJECT does not name another.
_PROJECT = "ptkit"


def check_wandb() -> None:
    """Find out before a run whether Weights & Biases would take it: online it wants a key.

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


class WandbEvents(NoEvents):
    """A run at Weights & Biases; its files lie in `wandb/` of the run folder. WANDB_MODE=offline
    sends nothing.

    A resumed run goes on under the same id. The model's graph is left out: recording it would hook
    every layer.
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
            reason = " ".join(str(error).split())
            raise UsageError(
                f"Weights & Biases: {reason}; WANDB_MODE=offline sends nothing"
            ) from error

    def start(
        self,
        model: nn.Module,
        example: torch.Tensor,
        texts: Mapping[str, str],
        input_image: Pixels | None = None,
    ) -> None:
        """Send the settings, the texts and the picture of the input."""
        self._run.config.update(tomllib.loads(texts.get("config", "")), allow_val_change=True)
        found = {f"text/{tag}": self._html(text) for tag, text in texts.items()}
        if input_image is not None and self.settings.pictures:
            found["input"] = self._wandb.Image(input_image)
        self._run.log(found, step=0)

    def epoch(self, result: "EpochResult", model: nn.Module) -> None:
        """Send one epoch, whose number is the step."""
        lines = {
            f"{chart}/{line}": value
            for chart, pair in charts(result).items()
            for line, value in pair.items()
        }
        found: dict[str, Any] = {**lines, **scalars(result)}
        if self.settings.histograms:
            found |= {tag: self._wandb.Histogram(values) for tag, values in tensors_of(model)}
        self._run.log(found, step=result.epoch)

    def text(self, tag: str, text: str, step: int) -> None:
        """Send a text."""
        self._log({f"text/{tag}": self._html(text)}, step)

    def figure(self, tag: str, figure: Any, step: int) -> None:
        """Send a figure as a picture."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.image(tag, np.asarray(canvas.buffer_rgba())[..., :3].copy(), step)

    def image(self, tag: str, image: Pixels, step: int) -> None:
        """Send a picture."""
        self._log({tag: self._wandb.Image(image)}, step)

    def boxes(self, tag: str, image: Pixels, boxes: Mapping[str, Box], step: int) -> None:
        """Send a picture and its boxes, which the viewer draws."""
        drawn = [
            _box(number, name, corners) for number, (name, corners) in enumerate(boxes.items())
        ]
        named = {"box_data": drawn, "class_labels": dict(enumerate(boxes))}
        self._log({tag: self._wandb.Image(image, boxes={"regions": named})}, step)

    def film(self, tag: str, gif: Path, step: int) -> None:
        """Send a film."""
        self._log({tag: self._wandb.Video(str(gif), format="gif")}, step)

    def embedding(
        self,
        tag: str,
        features: np.ndarray,
        rows: Sequence[Sequence[str]],
        thumbnails: np.ndarray,
        step: int,
    ) -> None:
        """Send a table with a row an image: its words, its thumbnail, its features, for the
        projector.
        """
        heading, *cells = rows
        pictures = (thumbnails * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        table = self._wandb.Table(
            columns=[*heading, "thumbnail", *(f"feature{k}" for k in range(features.shape[1]))]
        )
        for words, picture, values in zip(cells, pictures, features.tolist(), strict=True):
            table.add_data(*words, self._wandb.Image(picture), *values)
        self._log({tag: table}, step)

    def pr_curve(self, tag: str, truth: np.ndarray, scores: np.ndarray, step: int) -> None:
        """Send precision against recall at 127 thresholds."""
        thresholds = np.linspace(0, 1, 127)
        above = scores[:, None] >= thresholds
        tp, fp = (above & truth[:, None]).sum(axis=0), (above & ~truth[:, None]).sum(axis=0)
        self.pr_curve_of_counts(
            tag, {"tp": tp, "fp": fp, "fn": truth.sum() - tp, "tn": (~truth).sum() - fp}, step
        )

    def pr_curve_of_counts(self, tag: str, counts: Mapping[str, np.ndarray], step: int) -> None:
        """Send precision against recall from counts."""
        recall = counts["tp"] / np.maximum(counts["tp"] + counts["fn"], 1)
        precision = counts["tp"] / np.maximum(counts["tp"] + counts["fp"], 1)
        points = [[float(r), float(p)] for r, p in zip(recall, precision, strict=True)]
        table = self._wandb.Table(data=points, columns=["recall", "precision"])
        self._log({tag: self._wandb.plot.line(table, "recall", "precision", title=tag)}, step)

    def close(self) -> None:
        """Send what is still waiting and end."""
        self._run.finish()

    def _html(self, text: str) -> Any:
        return self._wandb.Html(f"<pre>{html.escape(text)}</pre>")

    def _log(self, found: Mapping[str, Any], step: int) -> None:
        # Steps may not go back, and the best epoch lies behind: pictures go to the newest step,
        # with their epoch.
        tags = {f"{tag}_epoch": step for tag in found}
        self._run.log({**found, **tags}, commit=False)


def _earlier_id(run: Path) -> str | None:
    """Return the id under which a run was recorded before; its folder's name ends in it."""
    folders = sorted(run.glob("wandb/*run-*-*"), key=lambda folder: folder.stat().st_mtime_ns)
    return folders[-1].name.rpartition("-")[2] if folders else None


def _box(number: int, name: str, corners: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    position = {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}
    return {"position": position, "domain": "pixel", "class_id": number, "box_caption": name}
