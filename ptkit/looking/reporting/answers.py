"""A run's answers to its validation images as parts of a page: matrix, pairs, images, rates."""

import functools
import math

from ptkit.core.comparing.runs import Predictions
from ptkit.core.data import images as decoder
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.training.tasks import metrics as compute
from ptkit.core.wording import short_paths
from ptkit.looking.evaluation import most_confused
from ptkit.looking.reporting.data_uris import thumbnails
from ptkit.looking.reporting.examples import NUM_WORST, Example, chosen, examples_of
from ptkit.looking.reporting.gather import Missing, Reported
from ptkit.looking.reporting.markup import Html, isolated, joined, tag
from ptkit.looking.reporting.matrix import matrix_table, pair_list
from ptkit.plots.style import percent

# More classes make a table that nobody reads.
MAX_CLASSES = 40
_NUM_PAIRS = 10
# Of all thumbnails, in characters of their data URIs.
_BUDGET = 1_500_000
_NO_CLASSES = Missing("the labels are not one class an image")


def matrix_section(report: Reported) -> Html | Missing:
    """Return the confusion matrix."""
    found = report.predictions
    if isinstance(found, Missing) or found.kind != SINGLE:
        return found if isinstance(found, Missing) else _NO_CLASSES
    if len(found.names) > MAX_CLASSES:
        return Missing(f"{len(found.names):,} classes; the most confused pairs are below")
    is_clickable = not isinstance(report.places, Missing)
    hint = "Click a cell to see its images." if is_clickable else ""
    table = matrix_table(_matrix(found), found.names, is_clickable=is_clickable)
    return joined([tag("p", hint, class_="hint"), table])


def pairs_section(report: Reported) -> Html | Missing:
    """Return the pairs of classes with the most mistakes."""
    found = report.predictions
    if isinstance(found, Missing) or found.kind != SINGLE:
        return found if isinstance(found, Missing) else _NO_CLASSES
    pairs = most_confused(_matrix(found), _NUM_PAIRS)
    if not pairs:
        return tag("p", "No image was taken for another class.")
    return pair_list(pairs, found.names, is_clickable=not isinstance(report.places, Missing))


def images_section(report: Reported) -> Html | Missing:
    """Return images: at first the worst mistakes, then those of the cell that is clicked."""
    found, places = report.predictions, report.places
    if isinstance(found, Missing):
        return found
    if isinstance(places, Missing):
        return places
    examples = chosen(examples_of(found))
    alpha = "white" if report.settings.data.alpha == "white" else "drop"
    images = [
        functools.partial(decoder.read, places.get(each.path, each.path), alpha=alpha)
        for each in examples
    ]
    uris = thumbnails(images, budget=_BUDGET)
    names = short_paths([each.path for each in examples])
    figures = [
        _figure(each, name, uri, is_shown=rank < NUM_WORST and not each.is_right)
        for rank, (each, name, uri) in enumerate(zip(examples, names, uris, strict=True))
    ]
    words = "Furthest off" if found.kind == REGRESSION else "Worst mistakes"
    if examples and examples[0].is_right:
        words = "No mistakes"
    heading = tag("h3", words, id="shown", aria_live="polite")
    # report.js unhides it.
    back = tag("button", words, type="button", id="back", hidden=True)
    return joined([heading, back, tag("div", *figures, class_="gallery", id="images-shown")])


def classes_section(report: Reported) -> Html | Missing:
    """Return the rates of each class."""
    found = report.predictions
    if isinstance(found, Missing):
        return found
    if found.kind == REGRESSION:
        return Missing("the labels are numbers")
    rates, support = _rates(found), _support(found)
    head = [tag("th", name, scope="col") for name in ("class", *rates, "images")]
    rows = []
    for k, name in enumerate(found.names):
        cells = [tag("td", _percent(values[k])) for values in rates.values()]
        count = tag("td", f"{support[k]:,}")
        rows.append(tag("tr", tag("th", isolated(name), scope="row"), *cells, count))
    table = tag(
        "table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="plain sortable"
    )
    return tag("div", table, class_="wide")


def _matrix(found: Predictions) -> compute.Matrix:
    return compute.confusion_matrix(found.truth, found.answers, len(found.names))


def _rates(found: Predictions) -> dict[str, compute.Values]:
    if found.kind == MULTI:
        assert found.probabilities is not None
        rates = compute.rates_of_labels(compute.counts_of_labels(found.truth, found.answers))
        precisions = compute.average_precisions(found.truth, found.probabilities)
        return {"precision": rates["precision"], "recall": rates["recall"], "AP": precisions}
    rates = compute.per_class(_matrix(found))
    return {name: rates[name] for name in ("precision", "recall", "f1")}


def _support(found: Predictions) -> compute.Matrix:
    """Return how many images have each class, (K,)."""
    counts: compute.Matrix = (found.truth if found.kind == MULTI else _matrix(found)).sum(
        axis=0 if found.kind == MULTI else 1
    )
    return counts


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else percent(float(value))


def _figure(example: Example, name: str, uri: str | None, *, is_shown: bool) -> Html:
    told = f"true: {example.true}; answered: {example.answer}"
    picture = tag("img", src=uri, alt=told) if uri else tag("p", "no picture", class_="blank")
    confidence = "" if example.confidence is None else f" {percent(example.confidence)}"
    style = {True: "good", False: "bad", None: None}[example.is_right]
    answer = tag("span", "answered ", isolated(example.answer), confidence, class_=style)
    true = tag("span", "true ", isolated(example.true))
    path = tag("span", isolated(name), class_="path", title=example.path)
    cell = None if example.cell is None else "-".join(map(str, example.cell))
    return tag("figure", picture, tag("figcaption", true, answer, path),
               data_cell=cell, data_first=is_shown, hidden=not is_shown)  # fmt: skip
