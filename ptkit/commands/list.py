"""`ptkit list`."""

import dataclasses
import importlib
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ptkit.commands.output import Printer
from ptkit.core.errors import UsageError
from ptkit.core.wording import amount, check_choice, counted, fits_glob, nearest, table

# The table of each kind, or the function that returns it; imported when it is asked for.
CATALOGUES = {
    "transforms": "ptkit.core.data.transforms.catalogue:TRANSFORMS",
    "losses": "ptkit.core.training.tasks.losses:LOSSES",
    "optimizers": "ptkit.core.training.optimization.optimizers:OPTIMIZERS",
    "schedulers": "ptkit.core.training.optimization.schedules:SCHEDULERS",
    "inits": "ptkit.core.models.initialization:INITS",
    "models": "ptkit.core.models.zoo:models",
}
KINDS = (*CATALOGUES, "recipes", "settings", "data")


def list_parts(
    printer: Printer,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.")],
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="[PATTERN]", help="Only names like this: 'resnet*', 'timm:*dino*'."),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Of models: those with pretrained weights, with input size and parameters.",
        ),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="CALL", help="Of schedulers: draw the rates of this one, such as 'StepLR(30)'."
        ),
    ] = None,
    json_schema: Annotated[
        bool,
        typer.Option(
            "--json-schema",
            help="Of settings: print their JSON Schema, by which editors complete TOML files.",
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="With --plot: epochs of the run; 100.", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --plot: a .png file, or the folder of schedule.png; ptkit-list."),
    ] = None,
) -> None:
    """List the parts of a kind by name, with their arguments; or public data sets.

    Example: ptkit list models "timm:*dino*" --pretrained
    """
    check_choice("KIND", kind, KINDS)
    _refuse_other_kinds(kind, pretrained=pretrained, plot=plot, json_schema=json_schema)
    if plot is None and (epochs is not None or out is not None):
        raise UsageError(
            f"--{'out' if epochs is None else 'epochs'} is for --plot only: ptkit list schedulers"
            " --plot CALL"
        )
    if plot is not None:
        if pattern is not None:
            raise UsageError(f"--plot draws one schedule: leave {pattern} out")
        _draw_schedule(printer, plot, epochs or 100, out)
    elif pretrained:
        _list_pretrained(printer, pattern)
    elif kind == "settings":
        _list_settings(printer, pattern, json_schema=json_schema)
    elif kind == "recipes":
        _list_recipes(printer, pattern)
    elif kind == "data":
        _list_data(printer, pattern)
    else:
        _list_catalogue(printer, kind, pattern)


def _refuse_other_kinds(
    kind: str, *, pretrained: bool, plot: str | None, json_schema: bool
) -> None:
    if plot is not None and kind != "schedulers":
        raise UsageError(
            f"--plot draws schedules only: ptkit list schedulers --plot {plot!r}, found {kind}"
        )
    if pretrained and kind != "models":
        raise UsageError(f"--pretrained works only with `ptkit list models`, found KIND {kind}")
    if json_schema and kind != "settings":
        raise UsageError(f"--json-schema works only with `ptkit list settings`, found KIND {kind}")


def _list_catalogue(printer: Printer, kind: str, pattern: str | None) -> None:
    path, _, table_name = CATALOGUES[kind].partition(":")
    module = importlib.import_module(path)
    is_models = kind == "models"
    # Which models there are depends on the libraries that are installed.
    catalogue = module.models() if is_models else getattr(module, table_name)
    others = _timms_names() if is_models else []
    rows = []
    for name in _chosen(catalogue.parts, pattern, more=others):
        call, summary = catalogue.describe(name)
        origin = {"origin": module.origin(name)} if is_models else {}
        arguments = [dataclasses.asdict(argument) for argument in catalogue.arguments(name)]
        rows.append(
            {"name": name, "call": call, "summary": summary, "arguments": arguments, **origin}
        )
        printer.say(f"{call}\n    {': '.join([*origin.values(), summary])}")
    printer.result(rows + _other_models(printer, others, pattern) if is_models else rows)


def _chosen(names: Iterable[str], pattern: str | None, *, more: Sequence[str] = ()) -> list[str]:
    """Return the names that fit a pattern.

    Raises:
        UsageError: there is none, nor among `more`.
    """
    found = [name for name in names if pattern is None or fits_glob(name, pattern)]
    if pattern is not None and not found and not any(fits_glob(n, pattern) for n in more):
        hint = nearest(pattern.strip("*"), [*names, *more])
        raise UsageError(f"no name is like {pattern}{hint}")
    return found


def _list_pretrained(printer: Printer, pattern: str | None) -> None:
    from ptkit.core.models import timm_models
    from ptkit.core.models.pretrained import MOST_COUNTED, pretrained_models

    if pattern is not None and pattern.startswith("timm:") and not timm_models.is_installed():
        raise UsageError(f"timm is not installed: {timm_models.INSTALL}")
    found = pretrained_models(pattern or "*")
    if not found:
        names = [row.name for row in pretrained_models()]
        # Of timm's the part before the tag is what people know.
        hint = nearest((pattern or "").strip("*"), [*names, *(n.partition(".")[0] for n in names)])
        raise UsageError(f"no pretrained weights are like {pattern}{hint}")
    # Two thousand of timm's say little.
    shown = [row for row in found if pattern is not None or row.origin != "timm"]
    cells = [
        (
            row.name,
            "×".join(map(str, row.size)),
            "-" if row.parameters is None else row.parameters,
            "-" if row.num_bytes is None else amount(row.num_bytes),
            "yes" if row.is_here else "-",
        )
        for row in shown
    ]
    printer.say(table(("weights", "pixels", "parameters", "file", "here"), cells))
    if hidden := len(found) - len(shown):
        printer.say(
            f"\n{hidden:,} more of timm: ptkit list models 'timm:*NAME*' --pretrained lists those"
            " of a name"
        )
    elif sum(row.parameters is None for row in shown) > MOST_COUNTED:
        printer.say(f"\nParameters of timm's are counted for up to {MOST_COUNTED} models.")
    printer.result([dataclasses.asdict(row) for row in found])


def _draw_schedule(printer: Printer, call: str, epochs: int, out: Path | None) -> None:
    from ptkit.looking.schedule import draw_schedule

    found, file = draw_schedule(call, epochs=epochs, out=out)
    for note in found.notes:
        printer.say(note)
    groups = counted(found.rates.shape[1], "parameter group")
    printer.say(f"{groups}, {epochs:,} epochs: {file}")
    rates = found.rates[:: len(found.rates) // epochs].tolist()
    printer.result({"call": found.call, "per": found.per, "rates": rates, "files": [str(file)]})


def _list_recipes(printer: Printer, pattern: str | None) -> None:
    """Print recipes with the text of their files."""
    from ptkit.core.config.layers import recipe_names, recipe_text

    rows = []
    for name in _chosen(recipe_names(), pattern):
        text = recipe_text(name)
        printer.say(f"{name}\n{textwrap.indent(text, '    ')}")
        # The first line of its comment.
        summary = text.split("\n", 1)[0].removeprefix("#").strip()
        rows.append({"name": name, "summary": summary, "toml": text})
    printer.result(rows)


def _list_settings(printer: Printer, pattern: str | None, *, json_schema: bool) -> None:
    """Print what a TOML file may hold, or its JSON Schema."""
    from ptkit.commands.completion import CALLS, names
    from ptkit.core.config.schema import field_schema, settings_schema
    from ptkit.core.config.settings import FIELDS, FLAGS, keyword_of

    if json_schema:
        if pattern is not None:
            raise UsageError(f"--json-schema has all settings: leave {pattern} out")
        calls = {f"{section}.call": names()[kind] for section, kind in CALLS.items()}
        schema = settings_schema(calls)
        printer.say(json.dumps(schema, indent=2))
        printer.result(schema)
        return
    settings = {
        f"{s}.{key}": (s, field) for s, fields in FIELDS.items() for key, field in fields.items()
    }
    rows = []
    for name in _chosen(settings, pattern):
        section, field = settings[name]
        keyword = keyword_of(section, field)
        flag = FLAGS.get(keyword)
        default = "" if field.default in (None, (), "") else f" = {json.dumps(field.default)}"
        printer.say(
            f"{name}{default}{f'  ({flag})' if flag else ''}\n    {field.metadata['meaning']}"
        )
        about = {"flag": flag, "keyword": keyword, "default": field.default}
        rows.append({"name": name, **about, "schema": field_schema(section, field)})
    printer.result(rows)


def _list_data(printer: Printer, pattern: str | None) -> None:
    """Print the data sets of `ptkit data`."""
    from ptkit.core.data.sets.known import KNOWN_SETS

    rows = []
    for name in _chosen(KNOWN_SETS, pattern):
        known = KNOWN_SETS[name]
        printer.say(f"{name}\n    {known.summary}; licence: {known.licence}")
        about = {"source": known.source, "licence": known.licence, "citation": known.citation}
        rows.append({"name": name, "summary": known.summary, **about})
    if pattern is None:
        printer.say("hf:NAME\n    any image data set of the Hugging Face Hub; ptkit[datasets]")
    printer.result(rows)


def _timms_names() -> list[str]:
    from ptkit.core.models import timm_models

    return [f"timm:{n}" for n in timm_models.names()] if timm_models.is_installed() else []


def _other_models(
    printer: Printer, names: Sequence[str], pattern: str | None
) -> list[dict[str, Any]]:
    """Return a row for each of timm's models, for the JSON; print only how many there are, or the
    names that fit the pattern.
    """
    from ptkit.core.models import timm_models

    if pattern is not None:
        names = [name for name in names if fits_glob(name, pattern)]
        if names:
            printer.say("\n".join(names))
    else:
        found = f"not installed ({timm_models.INSTALL})"
        if names:
            found = f"{len(names):,} models; `ptkit list models --json` has their names"
        printer.say(f"timm:NAME\n    timm: {found}")
    row: dict[str, Any] = {"summary": "timm's own arguments", "arguments": [], "origin": "timm"}
    return [{"name": name, "call": f"{name}()", **row} for name in names]
