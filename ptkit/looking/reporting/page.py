"""A page that needs nothing else: markup, style, script and pictures in one file."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from ptkit import __version__
from ptkit.looking.reporting import answers, findings, pictures, summary
from ptkit.looking.reporting.gather import Missing, Reported
from ptkit.looking.reporting.markup import Html, escaped, isolated, joined, tag
from ptkit.looking.reporting.matrix import shade_rules

# By which a page of ours is known.
GENERATOR = "ptkit report"


@dataclass(frozen=True)
class Section:
    """A part of a run's page, or the reason why it cannot be."""

    name: str
    title: str
    draw: Callable[[Reported], Html | Missing]


# In the order of the page.
SECTIONS = (
    Section("summary", "Summary", summary.summary_section),
    Section("verdicts", "Verdicts", findings.verdicts_section),
    Section("curves", "Curves", summary.curves_section),
    Section("matrix", "Confusion matrix", answers.matrix_section),
    Section("images", "Images", answers.images_section),
    Section("pairs", "Most confused pairs", answers.pairs_section),
    Section("classes", "Classes", answers.classes_section),
    Section("kernels", "Kernels", pictures.pictures_section(pictures.KERNELS)),
    Section("maps", "Feature maps", pictures.pictures_section(pictures.MAPS)),
    Section("regions", "Where it looked", pictures.pictures_section(pictures.REGIONS)),
    Section("embedding", "Embedding", pictures.pictures_section(pictures.EMBEDDING)),
    Section("layers", "Layers over the epochs", pictures.pictures_section(pictures.LAYERS)),
    Section("others", "Further figures", pictures.pictures_section(pictures.OTHERS)),
    Section("check", "The data", findings.check_section),
    Section("settings", "Settings", summary.settings_section),
    Section("repeat", "Repeat the run", summary.repeat_section),
)


def run_page(report: Reported) -> tuple[str, dict[str, str]]:
    """Return a run's page, and the sections that it leaves out with the reasons."""
    drawn = [(section, section.draw(report)) for section in SECTIONS]
    parts = [
        tag("section", tag("h2", section.title), body, id=section.name)
        for section, body in drawn
        if not isinstance(body, Missing)
    ]
    links = [
        tag("a", section.title, href=f"#{section.name}")
        for section, body in drawn
        if not isinstance(body, Missing)
    ]
    left_out = {section.title: body.reason for section, body in drawn if isinstance(body, Missing)}
    if left_out:
        items = [tag("li", tag("strong", title), f": {why}") for title, why in left_out.items()]
        parts.append(tag("section", tag("h2", "Left out"), tag("ul", *items), id="left-out"))
    nav = tag("nav", *links, aria_label="Sections")
    return page(report.run.name, [nav, *parts]), left_out


def page(title: str, parts: Sequence[Html]) -> str:
    """Return a whole page. Its policy lets it load nothing and run only our script."""
    script = _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_text("report.html")).substitute(
        title=escaped(title),
        heading=isolated(title),
        generator=f"{GENERATOR} {__version__}",
        digest=digest,
        style=_text("report.css") + shade_rules(),
        script=script,
        body=joined(parts),
    )


@cache
def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
