"""Who follows a run: watchers show it on a screen, recorders keep it in files.

Both only look: they draw no random numbers, change no weight and leave no gradient behind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ptkit.core.errors import DivergedError
from ptkit.core.models.transfer import TransferReport

if TYPE_CHECKING:
    # viz-weights writes events too and must not wait for what the loop imports.
    from ptkit.core.training.loop import Progress
    from ptkit.core.training.recording.gauge import Recorded

# uint8 (H, W, 3).
Pixels = npt.NDArray[np.uint8]
# x1, y1, x2, y2.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Text:
    """A text, shown as it is."""

    tag: str
    text: str


@dataclass(frozen=True)
class Picture:
    tag: str
    pixels: Pixels


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure; it stays open."""

    tag: str
    figure: Any


@dataclass(frozen=True)
class Boxes:
    """A picture with named boxes on it."""

    tag: str
    pixels: Pixels
    boxes: Mapping[str, Box]


@dataclass(frozen=True)
class Film:
    """An animated GIF."""

    tag: str
    gif: Path


@dataclass(frozen=True)
class Embedding:
    """features: (n, D). rows: a heading, then one per image. thumbnails: 0..1, (n, C, S, S)."""

    tag: str
    features: npt.NDArray[Any]
    rows: Sequence[Sequence[str]]
    thumbnails: npt.NDArray[Any]


@dataclass(frozen=True)
class PrCurve:
    """truth: bool (n,). scores: probabilities (n,)."""

    tag: str
    truth: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PrCounts:
    """counts: tp, fp, tn, fn, each (T,), at rising thresholds."""

    tag: str
    counts: Mapping[str, npt.NDArray[Any]]


# What an epoch has left to write.
Write = Callable[[], None]

Item = Text | Picture | Figure | Boxes | Film | Embedding | PrCurve | PrCounts


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Losses are means over images; rates are those of the last step.

    train_accuracy: None where an image has no single right answer: with MixUp and CutMix, and for
    labels other than one class. valid: the metrics of the task, the main one first. lrs: by the
    names of the parameter groups. unfrozen: names of the groups that began to train. recorded: what
    was measured in the model, with log.layers. is_best: so far, where the run has decided it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    valid_loss: float
    valid: Mapping[str, float]
    lrs: Mapping[str, float]
    unfrozen: tuple[str, ...]
    seconds: float
    images_per_s: float
    recorded: "Recorded | None" = None
    is_best: bool = False


class Recorder:
    """Records nothing; subclasses override what they keep of a run."""

    def start(
        self, model: nn.Module, example: Tensor, texts: Mapping[str, str], input_image: Pixels
    ) -> None:
        """Record the beginning: one input (1, C, H, W), texts by tag, the input as a picture."""

    def epoch(self, result: EpochResult, model: nn.Module) -> Write:
        """Copy what is recorded of an epoch, and return what writes it, in another thread.

        The model still has the gradients of its last step; it is trained on while the copies are
        written. Those of a GPU have arrived by then.
        """
        return lambda: None

    def diverged(self, error: DivergedError) -> None:
        """Record that training ended because the loss was not finite any more."""

    def lengths(self) -> Mapping[str, int]:
        """Return what a resumed run cuts its log back to: file -> bytes that are on the disk."""
        return {}

    def show(self, item: Item, step: int) -> None:
        """Record one item; step is its epoch."""

    def close(self) -> None:
        """End the recording."""


class Watcher(Protocol):
    """What a run calls to be shown on a screen; here each method shows nothing.

    A protocol: a command's screen has these methods without importing torch to inherit them.
    """

    # Each returns: mypy takes a method without a body for one that must be overridden.

    def say(self, text: str) -> None:
        """Show one line on what was decided."""
        return

    def warn(self, text: str) -> None:
        """Show one line on what may surprise."""
        return

    def transferred(self, report: TransferReport) -> None:
        """Show what was taken from old weights."""
        return

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a pass over `total` images; call the function with how many more are done."""
        yield lambda _count: None

    def begin(self, run: Path, *, epochs: int, num_steps: int, faster: Sequence[str] = ()) -> None:
        """Show that training begins. num_steps: of an epoch. faster: what would make it shorter."""
        return

    def step(self, progress: "Progress") -> None:
        """Show one step."""
        return

    def epoch(self, result: EpochResult, *, is_best: bool) -> None:
        """Show one epoch."""
        return

    def end(self) -> None:
        """Show that training ended, well or not."""
        return


class Unwatched(Watcher):
    """Shows nothing."""
