"""Every rule of `ptkit check`, in one table, and what they find."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ptkit.core.data.checking import classes, copies, cropping, quality, shortcuts
from ptkit.core.data.checking.evidence import Evidence, Found
from ptkit.core.data.checking.ignoring import Entry, ignored_rows

FAIL, WARN, INFO = "FAIL", "WARN", "INFO"
DELETE, FIX, REVIEW, KNOW = "delete", "fix", "review", "know"
# What to do, in the order in which it is told.
ACTIONS = (DELETE, FIX, REVIEW, KNOW)


@dataclass(frozen=True)
class Rule:
    """A rule. action: what to do with what it finds. needs_classes: whether images must have one
    label each. is_of_quality: whether it can be the nature of the data: then, of more than half of
    all images, it is no finding.
    """

    name: str
    verdict: str
    action: str
    find: Callable[[Evidence], Found | None]
    needs_classes: bool = False
    is_of_quality: bool = False


RULES = (
    Rule("unreadable", FAIL, DELETE, quality.unreadable),
    Rule("constant", FAIL, DELETE, quality.constant),
    Rule("leak", FAIL, DELETE, copies.leaks),
    Rule("duplicate", INFO, DELETE, copies.duplicates),
    Rule("transparent", FAIL, FIX, quality.transparent),
    Rule("label-conflict", FAIL, FIX, copies.label_conflicts),
    Rule("unseen-label", FAIL, FIX, classes.unseen_labels, needs_classes=True),
    Rule("exif-rotation", WARN, FIX, quality.turned),
    Rule("near-leak", WARN, REVIEW, copies.near_leaks),
    Rule("near-label-conflict", WARN, REVIEW, copies.near_label_conflicts),
    Rule("near-duplicate", INFO, REVIEW, copies.near_duplicates),
    Rule("shortcut", WARN, REVIEW, shortcuts.shortcut, needs_classes=True),
    Rule("dark", INFO, REVIEW, quality.dark, is_of_quality=True),
    Rule("light", INFO, REVIEW, quality.light, is_of_quality=True),
    Rule("blurred", INFO, REVIEW, quality.blurred, is_of_quality=True),
    Rule("low-information", INFO, REVIEW, quality.low_information, is_of_quality=True),
    Rule("odd-aspect", INFO, REVIEW, quality.odd_aspect, is_of_quality=True),
    Rule("odd-size", INFO, REVIEW, quality.odd_size, is_of_quality=True),
    Rule("imbalance", WARN, KNOW, classes.imbalance, needs_classes=True),
    Rule("crop", WARN, KNOW, cropping.crop),
    Rule("label-drift", WARN, KNOW, classes.label_drift, needs_classes=True),
    Rule("brightness-drift", WARN, KNOW, classes.brightness_drift),
)


@dataclass(frozen=True)
class Finding:
    """What one rule found, with its verdict: FAIL, WARN or INFO."""

    rule: Rule
    verdict: str
    found: Found


@dataclass(frozen=True)
class Findings:
    """All findings, in the order of the table.

    natural: rules that hold for more than half of all images, with what they say. num_used:
    entries of `.ptkit-ignore` that name images here. unused: the others.
    """

    findings: tuple[Finding, ...]
    natural: tuple[tuple[Rule, str], ...]
    num_used: int
    unused: tuple[str, ...]


def apply_rules(evidence: Evidence, entries: Iterable[Entry] = ()) -> Findings:
    """Return what all rules find, but what the entries say is not an issue."""
    ignored = ignored_rows(entries, evidence.listing.names)
    findings, natural = [], []
    for rule in RULES:
        rows = {row for entry, rows in ignored if entry.rule in (None, rule.name) for row in rows}
        is_idle = rule.needs_classes and not evidence.listing.class_names
        if is_idle or len(rows) == len(evidence.listing):
            continue
        found = rule.find(evidence.without(rows))
        if found is None:
            continue
        # With those ignored: half of all images is half of all.
        if rule.is_of_quality and 2 * (len(found.groups) + len(rows)) > len(evidence.listing):
            natural.append((rule, found.text))
        else:
            findings.append(Finding(rule, FAIL if found.is_grave else rule.verdict, found))
    unused = tuple(entry.pattern for entry, rows in ignored if not rows)
    return Findings(tuple(findings), tuple(natural), len(ignored) - len(unused), unused)
