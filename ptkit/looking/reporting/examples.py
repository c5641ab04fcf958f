"""The images of a run's validation list with its answers, the worst first."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ptkit.core.comparing.runs import Predictions
from ptkit.core.data.labels import REGRESSION, SINGLE

# Of a page, of one cell of the matrix, and shown at first.
MAX_EXAMPLES, MAX_OF_CELL, NUM_WORST = 600, 24, 24


@dataclass(frozen=True)
class Example:
    """path: as listed. true, answer: in words. is_right: None of numbers. badness: 0 and more, how
    far the answer is off. confidence: in the answer, None where it has none. cell: true and
    answered class, of images with one class each.
    """

    path: str
    true: str
    answer: str
    is_right: bool | None
    badness: float
    confidence: float | None = None
    cell: tuple[int, int] | None = None


def examples_of(found: Predictions) -> list[Example]:
    """Return every image, wrong answers first, and of these the worst first."""
    examples = _with_class(found) if found.kind == SINGLE else _with_several(found)
    return sorted(examples, key=lambda each: (bool(each.is_right), -each.badness))


def chosen(examples: Sequence[Example]) -> list[Example]:
    """Return examples for a page, in their order: the first NUM_WORST, and at most MAX_OF_CELL of
    each cell. Where these are too many, all cells have about as many.
    """
    counts: Counter[tuple[int, int] | None] = Counter()
    ranks = []
    for place, each in enumerate(examples):
        # In its cell; what is shown at first comes before all.
        ranks.append(-1 if place < NUM_WORST else counts[each.cell])
        counts[each.cell] += 1
    places = [place for place, rank in enumerate(ranks) if rank < MAX_OF_CELL]
    kept = sorted(places, key=lambda place: (ranks[place], place))[:MAX_EXAMPLES]
    return [examples[place] for place in sorted(kept)]


def in_order_of(found: Predictions, class_names: Sequence[str]) -> Predictions:
    """Return the answers with classes numbered as in `class_names`, those without images too.

    The file has only names. They stay as they are where `class_names` lacks one.
    """
    if found.kind != SINGLE or not set(found.names) <= set(class_names):
        return found
    places = np.array([class_names.index(name) for name in found.names])
    return Predictions(
        SINGLE,
        found.paths,
        tuple(class_names),
        places[found.truth],
        places[found.answers],
        found.probabilities,
    )


def _with_class(found: Predictions) -> Iterator[Example]:
    probabilities = (
        np.full((len(found.paths), 2), np.nan)
        if found.probabilities is None
        else found.probabilities
    )
    rows = zip(
        found.paths, found.truth.tolist(), found.answers.tolist(), probabilities, strict=True
    )
    for path, true, answer, (of_answer, of_true) in rows:
        badness = 0.0 if np.isnan(of_true) else 1 - float(of_true)
        confidence = None if np.isnan(of_answer) else float(of_answer)
        words = found.names[true], found.names[answer], true == answer
        yield Example(path, *words, badness, confidence, (true, answer))


def _with_several(found: Predictions) -> Iterator[Example]:
    values = found.answers if found.probabilities is None else found.probabilities
    badness = np.abs(values.astype(float) - found.truth).max(axis=1)
    is_right = [None] * len(badness) if found.kind == REGRESSION else found.right.tolist()
    for row, path in enumerate(found.paths):
        true, answer = (found.words(of[row]) or "no class" for of in (found.truth, found.answers))
        yield Example(path, true, answer, is_right[row], float(badness[row]))
