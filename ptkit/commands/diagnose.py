"""`ptkit diagnose`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.core.errors import FindingsError, UsageError
from ptkit.core.wording import counted, nearest

if TYPE_CHECKING:
    from ptkit.core.diagnosis.findings import Finding
    from ptkit.core.diagnosis.recorded import Recorded

Explain = Annotated[
    str | None,
    typer.Option("--explain", metavar="RULE", help="Print what a rule looks at; `all` for all."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="End with exit code 5 where a rule says FAIL or WARN.")
]


def diagnose(
    printer: Printer,
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder, finished or not.")
    ] = None,
    explain: Explain = None,
    strict: Strict = False,
    device: options.Device = "auto",
    workers: options.Workers = 0,
) -> None:
    """Say what is wrong with a run, in words with numbers, and which command to try.

    Looks at what training recorded in the run folder, and for two of the rules at its model and its
    images. What another finding explains is counted and not repeated.

    Example: ptkit diagnose runs/1
    """
    if explain is not None:
        _explain(printer, explain)
        return
    if run is None:
        raise UsageError("diagnose needs a run folder, such as runs/1")
    from ptkit.core.diagnosis.rules import open_findings
    from ptkit.looking.diagnosis import diagnose as examined

    recorded, found = examined(run, device=device, workers=workers)
    spoken = open_findings(found)
    for finding in spoken:
        _say(printer, finding)
    _say_the_rest(printer, found)
    _say_norms(printer, recorded)
    printer.result({"run": str(run), "findings": [finding.as_dict() for finding in found]})
    faults = [finding for finding in spoken if finding.verdict in ("FAIL", "WARN")]
    if strict and faults:
        raise FindingsError(f"{counted(len(faults), 'finding')}, the first: {faults[0].rule}")


def _say(printer: Printer, finding: "Finding") -> None:
    judgement = finding.judgement
    printer.say(f"{finding.verdict}  {finding.rule}: {judgement.text}")
    if judgement.where:
        shown = ", ".join(judgement.where[:8])
        more = len(judgement.where) - 8
        printer.say(f"      where: {shown}" + (f" and {more:,} more" if more > 0 else ""))
    if judgement.effect:
        printer.say(f"      measured: {judgement.effect}")
    if judgement.command:
        printer.say(f"      try: {judgement.command}")


def _say_the_rest(printer: Printer, found: "list[Finding]") -> None:
    """Print which rules found nothing, which could not look, and which are consequences."""
    muted = [f for f in found if f.muted_by is not None and f.verdict in ("FAIL", "WARN", "INFO")]
    for finding in muted:
        printer.say(f"      {finding.rule}: follows from {finding.muted_by}")
    fine = [finding.rule for finding in found if finding.verdict == "ok"]
    if fine:
        printer.say(f"ok    {', '.join(fine)}")
    for reason in dict.fromkeys(f.judgement.text for f in found if f.verdict == "n/a"):
        rules = [f.rule for f in found if (f.verdict, f.judgement.text) == ("n/a", reason)]
        printer.say(f"n/a   {', '.join(rules)}: {reason}")


def _say_norms(printer: Printer, run: "Recorded") -> None:
    """Print the value to clip gradients at, which most steps stay below, where none is set."""
    import numpy as np

    norms = run.grad_norm[np.isfinite(run.grad_norm)]
    if len(norms) and run.settings.train.clip_grad is None:
        half, most = np.quantile(norms, (0.5, 0.9))
        printer.say(
            f"gradients: half of the norms are below {half:.3g}, nine in ten below {most:.3g}; to"
            f" clip the others: --set train.clip_grad={most:.3g}"
        )


def _explain(printer: Printer, name: str) -> None:
    from ptkit.core.diagnosis.rules import BY_NAME, RULES

    if name != "all" and name not in BY_NAME:
        raise UsageError(f"no rule is called {name!r}{nearest(name, BY_NAME)}")
    rules = RULES if name == "all" else (BY_NAME[name],)
    for rule in rules:
        printer.say(f"{rule.name}\n    {rule.formula}\n    source: {rule.source}")
        if rule.mutes:
            printer.say(f"    explains: {', '.join(rule.mutes)}")
    printer.result(
        [
            {"rule": r.name, "formula": r.formula, "source": r.source, "explains": list(r.mutes)}
            for r in rules
        ]
    )
