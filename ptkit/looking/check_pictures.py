"""The pictures of `ptkit check`: a sheet for each finding with images, and all of them as CSV."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ptkit.core.data.checking.evidence import Listing
from ptkit.core.data.checking.findings import Finding
from ptkit.core.wording import counted
from ptkit.looking.checking import HEADER, CheckUp
from ptkit.plots.contact_sheet import Strip, contact_sheet, strip_sheet
from ptkit.plots.saving import PictureFolder

# Groups of a finding that are drawn (an image alone is one), and images of a group.
MAX_GROUPS, MAX_IN_GROUP = 24, 8


def draw_check_up(check_up: CheckUp, pictures: PictureFolder) -> None:
    """Write findings.csv, and RULE.png for each finding whose images can be shown."""
    pictures.add_csv("findings.csv", HEADER, check_up.rows())
    readable = check_up.evidence.is_readable
    for finding in check_up.findings.findings:
        groups = [[row for row in group if readable[row]] for group in finding.found.groups]
        if shown := [group for group in groups if group][:MAX_GROUPS]:
            draw = _groups if any(len(group) > 1 for group in shown) else _singles
            pictures.add_figure(f"{finding.rule.name}.png", draw(finding, shown, check_up))


def _singles(finding: Finding, groups: Sequence[Sequence[int]], check_up: CheckUp) -> Figure:
    listing = check_up.evidence.listing
    rows = [group[0] for group in groups]
    captions = [(listing.names[row], listing.label_name(row)) for row in rows]
    images = [check_up.pixels(row) for row in rows]
    return contact_sheet(
        images, captions, title=_title(finding), footer=_footer(finding, len(rows))
    )


def _groups(finding: Finding, groups: Sequence[Sequence[int]], check_up: CheckUp) -> Figure:
    listing = check_up.evidence.listing
    strips = [
        Strip(
            listing.names[group[0]],
            _kinds(group, listing),
            [check_up.pixels(row) for row in group[:MAX_IN_GROUP]],
        )
        for group in groups
    ]
    return strip_sheet(strips, title=_title(finding), footer=_footer(finding, len(groups)))


def _kinds(group: Sequence[int], listing: Listing) -> str:
    """Return the parts and classes of a group, each once: `train and valid, cat`."""
    parts = dict.fromkeys(listing.part_names[listing.parts[row]] for row in group)
    labels = dict.fromkeys(filter(None, map(listing.label_name, group)))
    more = f", {len(group):,} images" if len(group) > MAX_IN_GROUP else ""
    return ", ".join(" and ".join(kinds) for kinds in (parts, labels) if kinds) + more


def _title(finding: Finding) -> str:
    return f"{finding.verdict} {finding.rule.name}: {finding.found.text}"


def _footer(finding: Finding, num_shown: int) -> str:
    total = len(finding.found.groups)
    what = "group" if any(len(group) > 1 for group in finding.found.groups) else "image"
    return f"{num_shown:,} of {counted(total, what)} shown; findings.csv has all"
