"""`ptkit list`."""

import dataclasses
import importlib
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from ptkit.commands.output import Printer
from ptkit.core.errors import UsageError
from ptkit.core.wording import check_choice, counted

# The table of each kind, or the function that returns it; imported when it is asked for.
CATALOGUES = {
    "transforms": "ptkit.core.data.transforms.catalogue:TRANSFORMS",
    "losses": "ptkit.core.training.tasks.losses:LOSSES",
    "optimizers": "ptkit.core.training.optimization.optimizers:OPTIMIZERS",
    "schedulers": "ptkit.core.training.optimization.schedules:SCHEDULERS",
    "inits": "ptkit.core.models.initialization:INITS",
    "models": "ptkit.core.models.zoo:models",
}
KINDS = (*CATALOGUES, "recipes")


def list_parts(
    printer: Printer,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.")],
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="CALL", help="Of schedulers: draw the rates of this one, such as 'StepLR(30)'."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="With --plot: epochs of the run; 100.", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --plot: a .png file, or the folder of schedule.png; ptkit-list."),
    ] = None,
) -> None:
    """List the parts of a kind by name, with their arguments.

    Example: ptkit list optimizers
    """
    check_choice("KIND", kind, KINDS)
    if plot is not None:
        if kind != "schedulers":
            raise UsageError(
                f"--plot draws schedules only: ptkit list schedulers --plot {plot!r}, found {kind}"
            )
        _draw_schedule(printer, plot, epochs or 100, out)
        return
    if epochs is not None or out is not None:
        raise UsageError(
            f"--{'out' if epochs is None else 'epochs'} is for --plot only: ptkit list schedulers"
            " --plot CALL"
        )
    if kind == "recipes":
        _list_recipes(printer)
        return
    path, _, table = CATALOGUES[kind].partition(":")
    module = importlib.import_module(path)
    is_models = kind == "models"
    # Which models there are depends on the libraries that are installed.
    catalogue = module.models() if is_models else getattr(module, table)
    rows = []
    for name in catalogue.parts:
        call, summary = catalogue.describe(name)
        origin = {"origin": module.origin(name)} if is_models else {}
        arguments = [dataclasses.asdict(argument) for argument in catalogue.arguments(name)]
        rows.append(
            {"name": name, "call": call, "summary": summary, "arguments": arguments, **origin}
        )
        printer.say(f"{call}\n    {': '.join([*origin.values(), summary])}")
    printer.result(rows + _other_models(printer) if is_models else rows)


def _draw_schedule(printer: Printer, call: str, epochs: int, out: Path | None) -> None:
    from ptkit.looking.schedule import draw_schedule

    found, file = draw_schedule(call, epochs=epochs, out=out)
    for note in found.notes:
        printer.say(note)
    groups = counted(found.rates.shape[1], "parameter group")
    printer.say(f"{groups}, {epochs:,} epochs: {file}")
    rates = found.rates[:: len(found.rates) // epochs].tolist()
    printer.result({"call": found.call, "per": found.per, "rates": rates, "files": [str(file)]})


def _list_recipes(printer: Printer) -> None:
    """Print every recipe with the text of its file."""
    from ptkit.core.config_layers import recipe_names, recipe_text

    rows = []
    for name in recipe_names():
        text = recipe_text(name)
        printer.say(f"{name}\n{textwrap.indent(text, '    ')}")
        # The first line of its comment.
        summary = text.split("\n", 1)[0].removeprefix("#").strip()
        rows.append({"name": name, "summary": summary, "toml": text})
    printer.result(rows)


def _other_models(printer: Printer) -> list[dict[str, str]]:
    """Return a row for each of timm's models, for the JSON; print only how many there are."""
    from ptkit.core.models import timm_models

    names = timm_models.names() if timm_models.is_installed() else []
    found = f"not installed ({timm_models.INSTALL})"
    if names:
        found = f"{len(names):,} models; `ptkit list models --json` has their names"
    printer.say(f"timm:NAME\n    timm: {found}")
    row: dict[str, Any] = {"summary": "timm's own arguments", "arguments": [], "origin": "timm"}
    return [{"name": f"timm:{name}", "call": f"timm:{name}()", **row} for name in names]
