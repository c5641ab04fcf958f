"""The check-up of data: finding the images, applying the rules, and showing what was found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.config.settings import AUTO
from ptkit.core.counting import Counting
from ptkit.core.data.checking.cropping import CropLoss, crop_losses
from ptkit.core.data.checking.evidence import Evidence, Listing, gather
from ptkit.core.data.checking.findings import ACTIONS, RULES, Finding, Findings, apply_rules
from ptkit.core.data.checking.ignoring import read_ignored
from ptkit.core.data.images import Pixels, read
from ptkit.core.data.labels import MULTI, SINGLE
from ptkit.core.data.lists import ImageList, classes_file, list_of, read_list
from ptkit.core.data.moved import check_root, prefix_of
from ptkit.core.data.splits.given_parts import PART_NAMES, part_of
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.sources import Source, scan_source
from ptkit.core.data.transparency import alpha_for, make_visible
from ptkit.core.errors import DataError, UsageError

# What to do, in words.
HEADINGS = {
    "delete": "Delete, or take out of the lists",
    "fix": "Fix",
    "review": "Look at",
    "know": "Know",
}

HEADER = ("rule", "verdict", "action", "group", "path", "part", "class", "reason")


@dataclass(frozen=True, eq=False)
class CheckUp:
    """The evidence, and what the rules found in it; `ptkit check`. alpha: how images were read."""

    evidence: Evidence
    findings: Findings
    alpha: str

    @property
    def by_action(self) -> Iterator[tuple[str, list[Finding]]]:
        """What to do, with the findings that ask for it."""
        for action in ACTIONS:
            if found := [f for f in self.findings.findings if f.rule.action == action]:
                yield action, found

    @property
    def crop_losses(self) -> list[CropLoss]:
        """What a centre crop would leave out of each class, the largest share first."""
        return crop_losses(self.evidence)

    def pixels(self, row: int) -> Pixels:
        """Return an image as it was checked; one that shows nothing there as it is visible.

        Raises:
            DataError: it cannot be read any more.
        """
        path = self.evidence.listing.paths[row]
        is_hidden = self.evidence["visible"][row] != 0
        return make_visible(path) if is_hidden else read(path, alpha=self.alpha)

    def count(self, verdict: str) -> int:
        """Return how many findings have this verdict."""
        return sum(finding.verdict == verdict for finding in self.findings.findings)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each image of each finding, see HEADER; groups count from 1."""
        listing = self.evidence.listing
        for finding in self.findings.findings:
            rule, found = finding.rule, finding.found
            for number, group in enumerate(found.groups, 1):
                for row in group:
                    part = listing.part_names[listing.parts[row]]
                    label, reason = listing.label_name(row), found.reasons.get(row, "")
                    head = (rule.name, finding.verdict, rule.action, number)
                    yield (*head, listing.names[row], part, label, reason)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints, but its files."""
        listing = self.evidence.listing
        counts = np.bincount(listing.parts, minlength=len(listing.part_names)).tolist()
        return {
            "num_images": len(listing),
            "alpha": self.alpha,
            "parts": dict(zip(listing.part_names, counts, strict=True)),
            "findings": [
                {
                    "rule": finding.rule.name,
                    "verdict": finding.verdict,
                    "action": finding.rule.action,
                    "text": finding.found.text,
                    "num_images": len(finding.found.images),
                    "groups": [
                        [listing.names[row] for row in group] for group in finding.found.groups
                    ],
                }
                for finding in self.findings.findings
            ],
            "crop": {
                loss.class_name: {"median": loss.median, "worst": loss.worst}
                for loss in self.crop_losses
            },
            "natural": [rule.name for rule, _ in self.findings.natural],
        }


def check_up(
    sources: Sequence[Path] = (),
    *,
    root: Path | None = None,
    classes: Path | None = None,
    alpha: str = AUTO,
    workers: int = 0,
    counting: Counting,
) -> CheckUp:
    """Decode all images of some lists, or of one folder, once, and apply the rules.

    sources: none are the lists in the working directory. root: a folder that the images of lists
    are in now. classes: the file of class names that lists mean, where it is not beside them.
    alpha: what becomes of transparency; auto as training has it. counting: for a progress bar.

    Raises:
        DataError: no lists here, or one is wrong; images that are not in class folders.
        UsageError: a folder among several sources, or `root` with a folder.
    """
    listing = list_images(sources, root=root, classes=classes)
    folder = (sources or [Path("train.txt")])[0]
    entries = read_ignored(
        folder if folder.is_dir() else folder.parent, {rule.name for rule in RULES}
    )
    if alpha == AUTO:
        alpha = alpha_for(list_of(_trained_on(listing), ()))
    with counting("checking", len(listing)) as on_images:
        evidence = gather(listing, alpha=alpha, workers=workers, on_images=on_images)
    return CheckUp(evidence, apply_rules(evidence, entries), alpha)


def _trained_on(listing: Listing) -> Sequence[str]:
    """Return the paths of the training part; of all parts where there is none."""
    if listing.training is None:
        return listing.paths
    is_own = (listing.parts == listing.training).tolist()
    return [path for path, own in zip(listing.paths, is_own, strict=True) if own]


def list_images(
    sources: Sequence[Path], *, root: Path | None = None, classes: Path | None = None
) -> Listing:
    """Return the images of lists, of one folder or table, or of the lists that lie here."""
    files = sources or [Path(f"{name}.txt") for name in PART_NAMES]
    if not sources:
        files = [file for file in files if file.is_file()]
        if not files:
            raise DataError(
                "no train.txt, valid.txt or test.txt here: name the lists, or a folder of classes"
            )
    if all(file.suffix == ".txt" and not file.is_dir() for file in files):
        return _of_lists(files, root=root, classes=classes)
    if len(files) > 1:
        other = next(file for file in files if file.suffix != ".txt" or file.is_dir())
        raise UsageError(f"{other} is not a list: several sources must be lists of one data set")
    return _of_scan(scan_source(Source(files[0], root=root, is_lenient=True)))


def _of_lists(files: Sequence[Path], *, root: Path | None, classes: Path | None) -> Listing:
    if root is not None:
        check_root(root)
    names = [file.stem for file in files]
    training = _training(names)
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    lists = _read(files, training=training, root=root, classes=classes)
    kinds = {images.label_kind for images in lists}
    if len(kinds) > 1:
        raise DataError(
            f"{files[0]} and the other lists have labels of several kinds, "
            f"{' and '.join(sorted(kinds))}; check them one by one"
        )
    labels, class_names = _labels(lists, first=training or 0)
    return Listing(
        [images.listed_path(row) for images in lists for row in range(len(images))],
        [images.image_path(row) for images in lists for row in range(len(images))],
        labels,
        class_names,
        np.repeat(np.arange(len(lists)), [len(images) for images in lists]),
        tuple(names),
        training,
    )


def _read(
    files: Sequence[Path], *, training: int | None, root: Path | None, classes: Path | None
) -> list[ImageList]:
    """Read lists as training does: those without a file of names have that of the training list,
    and all have its kind of labels, which one list alone may not show.
    """
    if training is None:
        return [read_list(file, classes=classes, root=root) for file in files]
    first = read_list(files[training], classes=classes, root=root)
    common = classes_file(files[training], classes)
    # Of one class an image, a class that training does not have is a finding.
    has_sets = first.label_kind == MULTI and first.has_named_labels
    return [
        first
        if k == training
        else read_list(
            file,
            classes=classes or classes_file(file) or common,
            kind=None if first.label_kind == SINGLE else first.label_kind,
            known=first.class_names if has_sets else None,
            root=root,
        )
        for k, file in enumerate(files)
    ]


def _labels(lists: Sequence[ImageList], *, first: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a number for the label of each image, and the classes where images have one each.

    first: the list whose classes are numbered first.
    """
    if lists[0].label_kind == SINGLE:
        # By name: each list may number its classes in its own way.
        in_order = [lists[first], *lists]
        names = tuple(dict.fromkeys(name for images in in_order for name in images.class_names))
        numbers = {name: number for number, name in enumerate(names)}
        own = [np.array([numbers[name] for name in each.class_names]) for each in lists]
        labels = [new[images.labels] for new, images in zip(own, lists, strict=True)]
        return np.concatenate(labels), names
    width = max(images.num_classes for images in lists)
    rows = [np.pad(images.labels, ((0, 0), (0, width - images.num_classes))) for images in lists]
    return np.unique(np.concatenate(rows), axis=0, return_inverse=True)[1].reshape(-1), ()


def _training(names: Sequence[str]) -> int | None:
    """Return which part is trained on: the one of that name, else the first, unless its name is
    that of another part.
    """
    parts = [part_of(name) for name in names]
    if "train" in parts:
        return parts.index("train")
    return None if parts[0] else 0


def _of_scan(scan: Scan) -> Listing:
    names = [name for name in PART_NAMES if name in scan.parts] or [scan.source.name]
    numbers = {name: number for number, name in enumerate(names)}
    parts = [numbers[part] for part in scan.parts] or [0] * len(scan)
    # Below their folders, images of two parts may have one name.
    start, has_part_folders = prefix_of(scan.source), bool(scan.parts) and scan.source.is_dir()
    return Listing(
        [path.removeprefix(start) for path in scan.paths] if has_part_folders else scan.names,
        scan.paths,
        np.array(scan.labels, np.int64),
        scan.class_names,
        np.array(parts, np.int64),
        tuple(names),
    )
