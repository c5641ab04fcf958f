"""A report as one HTML page: no network, no build step; every text of the user's is escaped."""

import shlex
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from ptkit.core.comparing.differences import differing, metric_text
from ptkit.core.comparing.runs import FoundRun, value_text
from ptkit.core.config_layers import to_layer
from ptkit.looking.reporting.gather import Report
from ptkit.looking.reporting.thumbnails import Budget

# A page opens at once and goes into an e-mail.
_MOST_BYTES, _PICTURE_BYTES = 4_500_000, 3_000_000
_NUM_IMAGES, _NUM_PAIRS, _NUM_CLASSES = 240, 12, 60


def run_page(report: Report, *, with_images: bool = True) -> str:
    """Return the page of a run. with_images: False leaves out images and paths of the data, and
    every picture that shows some.
    """
    budget = Budget(_MOST_BYTES - _PICTURE_BYTES)
    # Curves first: of what is too much the last pictures are left out.
    pictures = list(_pictures(report, Budget(_PICTURE_BYTES), with_images=with_images))
    curves, rest = pictures[:1], pictures[1:]
    parts = [
        _paragraphs(report.summary),
        _section("Check-up", _findings(report)),
        *curves,
        _section("Confusion matrix", _matrix(report, with_images=with_images)),
        _section("Most confused", _pairs(report)),
        *([_section("Images", _images(report, budget))] if with_images else []),
        *rest,
        _section("Settings", _settings(report.run)),
        _section("Again", f"<p><code>{escape(_again(report.run))}</code></p>"),
    ]
    return _page(report.run.name, "".join(parts))


def runs_page(runs: Sequence[FoundRun], *, title: str) -> str:
    """Return a table of runs with the settings that differ; a click on a heading sorts it."""
    names = list(dict.fromkeys(name for run in runs for name in (run.metrics if run.rows else {})))
    settings = differing(runs)
    heads = ["run", "epochs", *names, *settings]
    rows = []
    for place, run in enumerate(runs):
        metrics = run.metrics if run.rows else {}
        cells = [(run.name, run.name), (str(len(run.rows)), str(len(run.rows)))]
        cells += [
            (str(metrics[name]), metric_text(name, metrics[name])) if name in metrics else ("", "-")
            for name in names
        ]
        cells += [(text, text) for text in (value_text(v[place]) for v in settings.values())]
        rows.append(
            "".join(f'<td data-value="{escape(v)}">{escape(text)}</td>' for v, text in cells)
        )
    head = "".join(f'<th class="sortable">{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return _page(
        title, f'<p class="soft">A click on a heading sorts.</p><div class="wide">{table}</div>'
    )


def _page(title: str, body: str) -> str:
    own = files("ptkit.looking.reporting")
    style, script = (
        own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing is loaded from anywhere, whatever a name may try.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        " style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _findings(report: Report) -> str:
    if report.findings is None:
        return f'<p class="soft">Not done: {escape(report.why_not)}.</p>'
    if not report.findings:
        return "<p>No rule has anything to say.</p>"
    parts = []
    for finding in report.findings:
        found = finding.judgement
        more = "".join(
            f"<br>{escape(text)}" for text in (", ".join(found.where), found.effect) if text
        )
        command = f"<br><code>{escape(found.command)}</code>" if found.command else ""
        parts.append(
            f'<div class="finding {finding.verdict}"><b>{finding.verdict}'
            f" {escape(finding.rule)}</b>: {escape(found.text)}{more}{command}</div>"
        )
    return "".join(parts)


def _matrix(report: Report, *, with_images: bool) -> str:
    matrix, found = report.matrix, report.run.predictions
    if matrix is None or found is None:
        return ""
    if len(matrix) > _NUM_CLASSES:
        return f'<p class="soft">{len(matrix)} classes: see confusion.png of the run.</p>'
    head = "".join(f"<th>{escape(name)}</th>" for name in found.names)
    rows = []
    for true, counts in enumerate(matrix.tolist()):
        cells = "".join(_cells(found.names, true, counts, is_button=with_images))
        rows.append(f"<tr><th>{escape(found.names[true])}</th>{cells}</tr>")
    hint = " A click on a cell shows its images." if with_images and report.image_files else ""
    return (
        f'<p class="soft">Rows: true classes; columns: answers.{hint}</p><div class="wide">'
        f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(
    names: Sequence[str], true: int, counts: Sequence[int], *, is_button: bool
) -> Iterator[str]:
    total = max(sum(counts), 1)
    for answer, count in enumerate(counts):
        text = str(count)
        if count and is_button:
            title = escape(f"{names[true]}, answered {names[answer]}: {count:,}")
            text = (
                f'<button type="button" aria-pressed="false" data-cell="{true}-{answer}"'
                f' title="{title}">{count}</button>'
            )
        # Up to 0.6: the text stays readable in both colour schemes.
        yield f'<td style="--share: {0.6 * count / total:.3f}">{text}</td>'


def _pairs(report: Report) -> str:
    matrix, found = report.matrix, report.run.predictions
    if matrix is None or found is None:
        return ""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_PAIRS]
    pairs = [(int(k) // len(matrix), int(k) % len(matrix)) for k in order if wrong.flat[k]]
    rows = "".join(
        f"<tr><th>{escape(found.names[t])}</th><td>{escape(found.names[a])}</td>"
        f"<td>{wrong[t, a]:,} of {matrix[t].sum():,}</td></tr>"
        for t, a in pairs
    )
    head = "<tr><th>class</th><th>taken for</th><th>images</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""


def _images(report: Report, budget: Budget) -> str:
    """Return mistakes first, then one image after the other of each cell of the matrix."""
    found, image_files = report.run.predictions, report.image_files
    if found is None or image_files is None or report.matrix is None:
        return ""
    seen: dict[tuple[int, int], int] = {}
    ranks = []
    for row, cell in enumerate(zip(found.truth.tolist(), found.answers.tolist(), strict=True)):
        seen[cell] = seen.get(cell, 0) + 1
        ranks.append((cell[0] == cell[1], seen[cell], row))
    figures = []
    for _, _, row in sorted(ranks)[:_NUM_IMAGES]:
        address = budget.thumbnail(image_files[row])
        if address is None:
            continue
        true, answer = int(found.truth[row]), int(found.answers[row])
        words = f"{found.names[true]}, answered {found.names[answer]}"
        figures.append(
            f'<figure data-cell="{true}-{answer}"><img alt="{escape(words)}" src="{address}">'
            f"<figcaption>{escape(found.paths[row])}<br>{escape(words)}</figcaption></figure>"
        )
    count = f"{len(figures):,} of {len(found.paths):,} validation images, mistakes first."
    return (
        f'<p class="soft">{count} <b id="shown"></b></p>'
        f'<div class="sheet" id="images">{"".join(figures)}</div>'
    )


def _pictures(report: Report, budget: Budget, *, with_images: bool) -> Iterator[str]:
    shows_data = ("gradcam.png", "embedding.png")
    for title, file in report.pictures:
        is_of_data = file.name in shows_data or file.parent.name == "feature_maps"
        if is_of_data and not with_images:
            continue
        address = budget.picture(file)
        body = f'<p class="soft">Too large for this page: {escape(file.name)}</p>'
        if address is not None:
            body = f'<figure class="picture"><img alt="{escape(title)}" src="{address}"></figure>'
        yield _section(title, body)


def _settings(run: FoundRun) -> str:
    rows = "".join(
        f"<tr><th>{escape(f'{section}.{key}')}</th><td>{escape(value_text(value))}</td></tr>"
        for section, keys in to_layer(run.settings).items()
        for key, value in keys.items()
    )
    return f"<details><summary>All of them</summary><table><tbody>{rows}</tbody></table></details>"


def _again(run: FoundRun) -> str:
    return f"ptkit train --config {shlex.quote(str(Path(run.folder) / 'config.toml'))}"
