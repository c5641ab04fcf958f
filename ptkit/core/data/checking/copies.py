"""Rules about images that show the same: under several labels, in several parts, or just twice."""

from collections.abc import Sequence
from itertools import chain

from ptkit.core.data.checking.evidence import Evidence, Found, Indices
from ptkit.core.wording import counted

Groups = Sequence[Sequence[int]]

# Of a held-out part: with more, its accuracy says little about new images.
MAX_NEAR_SHARE = 0.01


def label_conflicts(evidence: Evidence) -> Found | None:
    """Find files with equal bytes under several labels."""
    groups = _with_several(evidence.listing.labels, evidence.exact)
    return _found(f"{counted(len(groups), 'file')} under several labels", groups)


def near_label_conflicts(evidence: Evidence) -> Found | None:
    """Find near-duplicates under several labels."""
    known = _with_several(evidence.listing.labels, evidence.exact)
    groups = _with_several(evidence.listing.labels, _without(known, evidence.alike))
    text = f"{counted(len(groups), 'picture')} under several labels, as near-duplicates"
    return _found(text, groups)


def leaks(evidence: Evidence) -> Found | None:
    """Find files with equal bytes in several parts."""
    groups = _with_several(evidence.listing.parts, evidence.exact)
    return _found(f"exact copies of images in other parts: {_shares(evidence, groups)}", groups)


def near_leaks(evidence: Evidence) -> Found | None:
    """Find near-duplicates in several parts: FAIL above 1 % of a held-out part."""
    known = _with_several(evidence.listing.parts, evidence.exact)
    groups = _with_several(evidence.listing.parts, _without(known, evidence.alike))
    held_out = _counts_held_out(evidence, groups)
    is_grave = any(count > MAX_NEAR_SHARE * total for _, count, total in held_out)
    text = f"near-duplicates of images in other parts: {_shares(evidence, groups)}"
    return _found(text, groups, is_grave=is_grave)


def duplicates(evidence: Evidence) -> Found | None:
    """Find files with equal bytes and one label in one part."""
    groups = _of_one(evidence, evidence.exact)
    more = counted(sum(map(len, groups)) - len(groups), "exact copy", "exact copies")
    return _found(f"{more} of {counted(len(groups), 'image')} in the same part", groups)


def near_duplicates(evidence: Evidence) -> Found | None:
    """Find near-duplicates with one label in one part."""
    groups = _of_one(evidence, evidence.alike)
    images = counted(sum(map(len, groups)), "image")
    return _found(f"{images} in {counted(len(groups), 'group')} of near-duplicates", groups)


def _found(text: str, groups: Groups, *, is_grave: bool = False) -> Found | None:
    return Found(text, groups, is_grave=is_grave) if groups else None


def _with_several(kinds: Indices, groups: Groups) -> Groups:
    """Return the groups whose images differ in a label or part."""
    return [group for group in groups if len({int(kinds[index]) for index in group}) > 1]


def _of_one(evidence: Evidence, groups: Groups) -> Groups:
    listing = evidence.listing
    several = (*_with_several(listing.labels, groups), *_with_several(listing.parts, groups))
    return _without(several, groups)


def _without(known: Groups, groups: Groups) -> Groups:
    """Return the groups that no known group overlaps: what is told is not told again."""
    told = set(chain.from_iterable(known))
    return [group for group in groups if told.isdisjoint(group)]


def _counts_held_out(evidence: Evidence, groups: Groups) -> list[tuple[str, int, int]]:
    """Return name, images in these groups and all images of each part that is not trained on."""
    listing = evidence.listing
    parts = [int(listing.parts[index]) for index in chain.from_iterable(groups)]
    others = [k for k in range(len(listing.part_names)) if k != listing.training]
    counts = ((k, parts.count(k)) for k in others)
    return [(listing.part_names[k], n, int((listing.parts == k).sum())) for k, n in counts if n]


def _shares(evidence: Evidence, groups: Groups) -> str:
    return ", ".join(
        f"{count:,} of the {total:,} images of {name} ({count / total:.1%})"
        for name, count, total in _counts_held_out(evidence, groups)
    )
