"""What `diagnose` and `check` found, as parts of a page."""

import functools
import shlex
from collections.abc import Sequence

from ptkit.core.diagnosis.findings import FAIL, NOT_APPLICABLE, OK, WARN, Finding
from ptkit.core.diagnosis.rules import open_findings, other_findings
from ptkit.core.wording import first_of
from ptkit.looking.checking import HEADINGS, CheckUp
from ptkit.looking.reporting.data_uris import thumbnails
from ptkit.looking.reporting.gather import Missing, Reported
from ptkit.looking.reporting.markup import Html, isolated, joined, tag

# Of each finding, and of all of them in characters of their data URIs.
_NUM_IMAGES, _BUDGET = 8, 300_000
_NUM_NAMES = 8


def verdicts_section(report: Reported) -> Html | Missing:
    """Return the findings of `diagnose`, causes before what follows from them."""
    if isinstance(report.findings, Missing):
        return report.findings
    spoken = open_findings(list(report.findings))
    items = [_verdict(finding, report) for finding in spoken]
    if not any(finding.verdict in (FAIL, WARN) for finding in spoken):
        items.insert(0, tag("p", _without_fault(report.findings)))
    return joined([*items, _others(report.findings, with_reasons=report.with_images)])


def check_section(report: Reported) -> Html | Missing:
    """Return the findings of `check` in the run's lists, by what to do."""
    if isinstance(report.check, Missing):
        return report.check
    found = report.check
    shown = _examples(found) if report.with_images else {}
    parts = []
    for action, findings in found.by_action:
        parts.append(tag("h3", HEADINGS[action]))
        for finding in findings:
            name = finding.rule.name
            # Parts whose lists have one name are told by their paths.
            told = without_lists(finding.found.text, report)
            text = _heading(finding.verdict, name, told)
            parts.append(tag("div", text, shown.get(name, Html()), class_="finding"))
    count = len(found.evidence.listing)
    end = "" if found.findings.findings else ", and nothing was found"
    return joined([*parts, tag("p", f"{count:,} images were looked at{end}.", class_="note")])


def _without_fault(findings: Sequence[Finding]) -> str:
    """Return what can be said where no rule found a fault: that of those that could look."""
    num_unknown = sum(finding.verdict == NOT_APPLICABLE for finding in findings)
    if 2 * num_unknown < len(findings):
        return "No rule found a fault."
    return f"No rule found a fault; {num_unknown} of {len(findings)} could not look."


def _verdict(finding: Finding, report: Reported) -> Html:
    found = finding.judgement
    lines = [_heading(finding.verdict, finding.rule, found.text)]
    if found.where:
        lines.append(tag("p", "where: ", first_of(found.where, _NUM_NAMES), class_="note"))
    if found.effect:
        lines.append(tag("p", f"measured: {found.effect}", class_="note"))
    if found.command:
        lines.append(tag("p", "try: ", tag("code", without_lists(found.command, report))))
    return tag("div", *lines, class_="finding")


def without_lists(text: str, report: Reported) -> str:
    """Return a text or command without the paths of lists, where the page must not have them."""
    if report.with_images:
        return text
    data = report.settings.data
    for path, word in ((data.train, "TRAIN_LIST"), (data.valid, "VALID_LIST")):
        # A command has it quoted.
        text = text.replace(shlex.quote(path), word).replace(path, word)
    return text


def _heading(verdict: str, rule: str, text: str) -> Html:
    mark = tag("span", verdict, class_=f"verdict {verdict.lower()}")
    return tag("p", mark, " ", tag("strong", rule), f": {text}")


def _others(findings: Sequence[Finding], *, with_reasons: bool) -> Html:
    """Return which rules found nothing, which follow from others, and which could not look.

    with_reasons: why they could not, which may name a list or an image.
    """
    others = other_findings(findings)
    lines = [tag("li", f"{OK}: {', '.join(others.fine)}")] if others.fine else []
    lines += [tag("li", f"{each.rule}: follows from {each.muted_by}") for each in others.muted]
    lines += [
        tag("li", f"{', '.join(rules)}: {NOT_APPLICABLE}" + (f", {reason}" if with_reasons else ""))
        for reason, rules in others.unknown.items()
    ]
    summary = tag("summary", "The other rules")
    return tag("details", summary, tag("ul", *lines)) if lines else Html()


def _examples(found: CheckUp) -> dict[str, Html]:
    """Return the first images of each finding with their names, by its rule."""
    listing = found.evidence.listing
    rows = {
        finding.rule.name: finding.found.images[:_NUM_IMAGES] for finding in found.findings.findings
    }
    every = [row for some in rows.values() for row in some]
    uris = thumbnails([functools.partial(found.pixels, row) for row in every], budget=_BUDGET)
    by_row = dict(zip(every, uris, strict=True))
    return {
        rule: tag("div", *(_image(listing.names[k], by_row[k]) for k in some), class_="gallery")
        for rule, some in rows.items()
        if some
    }


def _image(name: str, uri: str | None) -> Html:
    caption = tag("figcaption", isolated(name))
    return tag("figure", tag("img", src=uri, alt=name) if uri else Html(), caption)
