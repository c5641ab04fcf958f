"""`ptkit list`."""

from typing import Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer, check_choice

KINDS = ("transforms", "losses", "optimizers", "schedulers", "inits", "models")


def list_parts(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the parts of a kind by name, with their arguments.

    Example: ptkit list optimizers
    """
    check_choice("KIND", kind, KINDS)
    catalogue = _catalogue(kind)
    printer = Printer(as_json=as_json, quiet=quiet)
    rows = []
    for name in catalogue.parts:
        call, summary = catalogue.describe(name)
        rows.append({"name": name, "call": call, "summary": summary})
        printer.say(f"{call}\n    {summary}")
    printer.result(rows)


def _catalogue(kind: str):  # type: ignore[no-untyped-def]  # naming the type would import the core's tables
    match kind:
        case "transforms":
            from ptkit.core.data.transforms import TRANSFORMS

            return TRANSFORMS
        case "losses":
            from ptkit.core.training.losses import LOSSES

            return LOSSES
        case "optimizers":
            from ptkit.core.training.optimizers import OPTIMIZERS

            return OPTIMIZERS
        case "schedulers":
            from ptkit.core.training.schedules import SCHEDULERS

            return SCHEDULERS
        case "inits":
            from ptkit.core.models.initialization import INITS

            return INITS
    from ptkit.core.models.zoo import models

    return models()
