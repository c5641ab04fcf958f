"""The figures that a run has drawn, as parts of a page."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ptkit.looking.reporting.data_uris import figures
from ptkit.looking.reporting.gather import Missing, Reported
from ptkit.looking.reporting.markup import Html, joined, tag

# Of each part, in characters of its data URIs.
_BUDGET = 500_000


@dataclass(frozen=True)
class Drawn:
    """Figures of a run. patterns: of their files. command: one that draws them, after `ptkit`, RUN
    being the run; "" where only training does. has_images: whether they show the data.
    """

    patterns: tuple[str, ...]
    command: str = ""
    has_images: bool = False


KERNELS = Drawn(("kernels/*.png", "kernels.gif", "viz-weights/*.png"), "viz-weights RUN")
MAPS = Drawn(
    ("feature_maps/*.png", "viz-featuremaps/*.png"), "viz-featuremaps RUN IMAGE...", has_images=True
)
REGIONS = Drawn(("gradcam.png", "gradcam/*.png"), "gradcam RUN IMAGE...", has_images=True)
EMBEDDING = Drawn(("embedding.png",), has_images=True)
LAYERS = Drawn(("gradient_flow.png", "distributions.png", "output_bias.png"))
OTHERS = Drawn(("pr_curves.png", "numbers.png", "data_budget.png"))


def pictures_section(drawn: Drawn) -> Callable[[Reported], Html | Missing]:
    """Return the function that makes the part of a page with these figures."""

    def section(report: Reported) -> Html | Missing:
        if drawn.has_images and not report.with_images:
            return Missing("left out, as --no-images asks")
        files = _files(report.run.folder, drawn)
        if not files and not report.run.rows:
            return Missing("no epoch was finished")
        if not files:
            command = drawn.command.replace("RUN", shlex.quote(report.run.name))
            return Missing("none drawn" + (f"; `ptkit {command}` draws them" if command else ""))
        uris = figures(files, budget=_BUDGET)
        shown = [
            tag("figure", tag("img", src=uri, alt=file.stem), class_="drawn")
            for file, uri in zip(files, uris, strict=True)
            if uri
        ]
        left = len(files) - len(shown)
        note = f"{left:,} more in {report.run.name}, left out for the size of this page."
        return joined([*shown, tag("p", note, class_="note") if left else Html()])

    return section


def _files(folder: Path, drawn: Drawn) -> list[Path]:
    """Return the figures in the order in which they were drawn: the first layer first."""

    def order(file: Path) -> tuple[int, str]:
        return file.stat().st_mtime_ns, file.name

    return [file for pattern in drawn.patterns for file in sorted(folder.glob(pattern), key=order)]
