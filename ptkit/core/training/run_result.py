"""What a finished run hands over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ptkit.core.shares import interval
from ptkit.core.training.advice import Verdict
from ptkit.core.training.probe.linear_head import Chosen
from ptkit.core.training.probe.report import ProbeReport
from ptkit.core.training.profiling import Profile
from ptkit.core.training.tasks.metrics import Majority


@dataclass(frozen=True)
class RunResult:
    """What a run led to. Passed as a path, it is the run folder.

    best: epoch, loss and metrics of the best epoch. profile: with train.profile.

    num_valid: images of which its accuracy is the share that is right. majority: their most
    frequent class. Both None where there is no accuracy: of several labels, and of numbers.
    verdicts: what should be known before the result is used. probe: what a probe found out.
    backbones: how good heads on each of several are, by what names them. odd: how many images are
    of each unusual kind.
    """

    run: Path
    checkpoint: Path
    epochs: int
    best: Mapping[str, float]
    seconds: float
    images_per_s: float
    files: tuple[Path, ...]
    profile: Profile | None = None
    num_valid: int | None = None
    majority: Majority | None = None
    verdicts: tuple[Verdict, ...] = ()
    probe: ProbeReport | None = None
    backbones: Mapping[str, Chosen] = field(default_factory=dict)
    odd: Mapping[str, int] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return str(self.run)

    @property
    def num_right(self) -> int | None:
        """How many validation images the best epoch had right."""
        return None if self.num_valid is None else round(self.best["accuracy"] * self.num_valid)

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the best epoch's accuracy, Wilson's; None where there is none."""
        if self.num_right is None or self.num_valid is None:
            return None
        return interval(self.num_right, self.num_valid)
