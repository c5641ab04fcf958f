"""Faults planted into data, and what `ptkit check` finds: recall, precision, and clean data.

    python benchmarks/bench_check_faults.py IMAGES PHOTOS [--seeds 3] [--docs docs/checking.md]

IMAGES is ROOT/CLASS/*.jpg of 32×32, such as the training part of CIFAR-10; PHOTOS the same with
photographs. The handwritten digits of data/ are the third set. With --docs the tables are put into
that page.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from common import ROOT

import ptkit
from ptkit.core.data.images import read
from ptkit.looking.checking import CheckUp

# Of a set, so many images are taken, and so many copies of each kind are planted.
MOST, COPIES = 3_000, 20


@dataclass
class Images:
    """Class folders that are about to get faults: path -> part and class."""

    folder: Path
    rng: random.Random
    rows: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def add(self, pixels: np.ndarray, name: str, part: str, label: str, *how: int) -> Path:
        path = self.folder / name
        cv2.imwrite(str(path), pixels[..., ::-1], how)
        self.rows[path] = (part, label)
        return path

    def replace(self, path: Path, pixels: np.ndarray, ending: str = ".jpg", *how: int) -> None:
        part, label = self.rows.pop(path)
        path.unlink()
        self.add(pixels, path.stem + ending, part, label, *how)

    def of(self, part: str, label: str | None = None) -> list[Path]:
        return [p for p, row in self.rows.items() if row[0] == part and label in (None, row[1])]

    def check(self) -> CheckUp:
        labels = sorted({label for _, label in self.rows.values()})
        for part in ("train", "valid"):
            lines = [f"{path} {labels.index(self.rows[path][1])}\n" for path in self.of(part)]
            (self.folder / f"{part}.txt").write_text("".join(lines))
        (self.folder / "classes.txt").write_text("\n".join(labels))
        return ptkit.check(self.folder / "train.txt", self.folder / "valid.txt")


# ------------------------------------------------------------------------------ planted duplicates

JPEG = (cv2.IMWRITE_JPEG_QUALITY,)
# What happens to the copy of an image; None: nothing at all.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "same bytes": None,
    "re-encoded (JPEG, quality 70)": lambda image: image,
    "resized to 3/4": lambda image: resized(image, 0.75),
    "resized to 3/2": lambda image: resized(image, 1.5),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1, ::-1],
    "turned by 90°": lambda image: np.rot90(image),
}


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    size = [round(side * factor) for side in image.shape[1::-1]]
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=kind)


def plant_copies(images: Images) -> dict[str, list[tuple[Path, Path]]]:
    """Add copies of every kind to the validation part; return kind -> (original, copy)."""
    originals = images.rng.sample(images.of("train"), COPIES * len(CHANGES))
    planted: dict[str, list[tuple[Path, Path]]] = {}
    for number, original in enumerate(originals):
        kind = list(CHANGES)[number % len(CHANGES)]
        change, label = CHANGES[kind], images.rows[original][1]
        if change is None:
            copy = images.folder / f"copy{number}{original.suffix}"
            shutil.copy(original, copy)
            images.rows[copy] = ("valid", label)
        else:
            pixels = np.ascontiguousarray(change(read(original)))
            copy = images.add(pixels, f"copy{number}.jpg", "valid", label, *JPEG, 70)
        planted.setdefault(kind, []).append((original, copy))
    return planted


def duplicates(sets: Mapping[str, Sequence[Path]], seeds: int, folder: Path) -> Iterator[str]:
    for name, paths in sets.items():
        found, total = dict.fromkeys(CHANGES, 0), dict.fromkeys(CHANGES, 0)
        extra = pairs = 0
        for seed in range(seeds):
            natural = pairs_of(prepared(paths, folder, seed).check())
            images = prepared(paths, folder, seed)
            planted = plant_copies(images)
            reported = pairs_of(images.check())
            wanted = {frozenset(pair) for copies in planted.values() for pair in copies}
            for kind, copies in planted.items():
                total[kind] += len(copies)
                found[kind] += sum(frozenset(pair) in reported for pair in copies)
            # What is there without planting is judged by eye, in docs/checking.md.
            extra += len(reported - wanted - natural)
            pairs += len(reported - natural)
        cells = [f"{found[kind]}/{total[kind]}" for kind in CHANGES]
        recall = sum(found.values()) / sum(total.values())
        yield f"| {name} | {' | '.join(cells)} | {recall:.3f} | {1 - extra / max(pairs, 1):.3f} |"


def pairs_of(check_up: CheckUp) -> set[frozenset[Path]]:
    """Return all pairs of images that are said to show the same."""
    paths = check_up.evidence.listing.paths
    groups = (*check_up.evidence.exact, *check_up.evidence.alike)
    return {
        frozenset(map(Path, (paths[a], paths[b]))) for g in groups for a in g for b in g if a < b
    }


# ---------------------------------------------------------------------------- other planted faults


def plant_widths(images: Images) -> None:
    for path in images.of("train", first_class(images)):
        images.replace(path, resized(read(path), 0.9), ".jpg", *JPEG, 95)


def plant_formats(images: Images) -> None:
    for path in images.of("train", first_class(images)):
        images.replace(path, read(path), ".webp")


def plant_file_sizes(images: Images) -> None:
    for path in images.of("train", first_class(images)):
        images.replace(path, read(path), ".jpg", *JPEG, 30)


def plant_tint(images: Images) -> None:
    tint = np.array([0.5, 1.0, 0.5])
    for path in images.of("train", first_class(images)):
        images.replace(path, (read(path) * tint).astype(np.uint8), ".jpg", *JPEG, 95)


def plant_darkness(images: Images) -> None:
    for path in images.of("valid"):
        images.replace(path, (read(path) * 0.6).astype(np.uint8), ".jpg", *JPEG, 95)


def plant_label_drift(images: Images) -> None:
    for path in images.of("valid", first_class(images))[3:]:
        del images.rows[path]


def plant_imbalance(images: Images) -> None:
    for path in images.of("train", first_class(images))[5:]:
        del images.rows[path]


def plant_conflicts(images: Images) -> None:
    labels = sorted({label for _, label in images.rows.values()})
    for number, path in enumerate(images.rng.sample(images.of("train"), COPIES)):
        copy = images.folder / f"other{number}{path.suffix}"
        shutil.copy(path, copy)
        label = images.rows[path][1]
        images.rows[copy] = ("train", next(other for other in labels if other != label))


def plant_damage(images: Images) -> None:
    for path in images.rng.sample(images.of("train"), COPIES):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def plant_blanks(images: Images) -> None:
    for path in images.rng.sample(images.of("train"), COPIES):
        images.replace(path, np.full_like(read(path), 127), ".png")


def plant_unseen(images: Images) -> None:
    for path in images.of("train", first_class(images)):
        del images.rows[path]


def first_class(images: Images) -> str:
    return min(label for _, label in images.rows.values())


# Fault -> how it is planted, and the rule that must find it.
FAULTS: dict[str, tuple[Callable[[Images], None], str]] = {
    "one class a tenth smaller": (plant_widths, "shortcut"),
    "one class as WebP": (plant_formats, "shortcut"),
    "one class with JPEG quality 30": (plant_file_sizes, "shortcut"),
    "one class tinted green": (plant_tint, "shortcut"),
    "validation images darker by 40 %": (plant_darkness, "brightness-drift"),
    "a class nearly missing in validation": (plant_label_drift, "label-drift"),
    "a class with 5 training images": (plant_imbalance, "imbalance"),
    "20 files under a second label": (plant_conflicts, "label-conflict"),
    "20 files cut in half": (plant_damage, "unreadable"),
    "20 images of one grey": (plant_blanks, "constant"),
    "a class without training images": (plant_unseen, "unseen-label"),
}


def others(sets: Mapping[str, Sequence[Path]], seeds: int, folder: Path) -> Iterator[str]:
    for fault, (plant, rule) in FAULTS.items():
        cells = []
        for paths in sets.values():
            found = 0
            for seed in range(seeds):
                images = prepared(paths, folder, seed)
                plant(images)
                found += rule in verdicts(images.check())
            cells.append(f"{found}/{seeds}")
        yield f"| {fault} | `{rule}` | {' | '.join(cells)} |"
    clean = {
        name: [verdicts(prepared(paths, folder, seed).check()) for seed in range(seeds)]
        for name, paths in sets.items()
    }
    for what in ("FAIL", "WARN", "INFO"):
        cells = []
        for checks in clean.values():
            names = {rule for check in checks for rule, verdict in check.items() if verdict == what}
            cells.append(", ".join(f"`{name}`" for name in sorted(names)) or "none")
        yield f"| nothing planted | {what} | {' | '.join(cells)} |"


def verdicts(check_up: CheckUp) -> dict[str, str]:
    return {finding.rule.name: finding.verdict for finding in check_up.findings.findings}


# --------------------------------------------------------------------------------- a script's frame


def prepared(paths: Sequence[Path], folder: Path, seed: int) -> Images:
    """Copy the images into an empty folder, a fifth of each class for validation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = Images(folder, random.Random(seed))
    order = list(paths)
    images.rng.shuffle(order)
    for number, path in enumerate(sorted(order[:MOST], key=lambda path: path.parent.name)):
        copy = folder / f"{number:05d}{path.suffix}"
        shutil.copy(path, copy)
        images.rows[copy] = ("valid" if number % 5 == 0 else "train", path.parent.name)
    return images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    folders = {"CIFAR-10": options.images, "photographs": options.photos, "digits": ROOT / "data"}
    sets = {
        name: sorted(p for p in folder.glob("*/*") if p.suffix in (".jpg", ".png"))
        for name, folder in folders.items()
    }
    with tempfile.TemporaryDirectory(prefix="bench-check-") as name:
        folder = Path(name) / "images"
        copies = ["data", *CHANGES, "recall", "precision"]
        header = ["planted", "rule", *sets]
        tables = [table(copies, duplicates(sets, options.seeds, folder))]
        tables.append(table(header, others(sets, options.seeds, folder)))
    text = "\n\n".join(tables)
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        begin, rest = page.split("<!-- faults -->\n")
        page = f"{begin}<!-- faults -->\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
        options.docs.write_text(page, encoding="utf-8")


def table(header: Sequence[str], rows: Iterator[str]) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
        lines.append(row)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
