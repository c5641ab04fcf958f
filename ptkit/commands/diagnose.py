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


# Norms of which a tenth says something.
_ENOUGH_STEPS = 40


def diagnose(
    printer: Printer,
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder, finished or not.")
    ] = None,
    explain: Explain = None,
    strict: Strict = False,
    root: options.Root = None,
    device: options.Device = "auto",
    workers: options.Workers = 0,
) -> None:
    """Say what is wrong with a run, in words with numbers, and which command to try.

    Looks at what training recorded in the run folder, and for two of the rules at its model and its
    images. What another finding explains is counted and not repeated.

    Example: ptkit diagnose runs/1
    """
    if explain is not None:
        if run is not None or strict or root is not None:
            raise UsageError(
                "--explain prints what a rule looks at: leave the run and its flags out"
            )
        _explain(printer, explain)
        return
    if run is None:
        raise UsageError("diagnose needs a run folder, such as runs/1")
    from ptkit.core.diagnosis.findings import FAIL, WARN
    from ptkit.core.diagnosis.rules import open_findings
    from ptkit.core.run_folders import run_of
    from ptkit.looking.diagnosis import continuation
    from ptkit.looking.diagnosis import diagnose as examined

    run = run_of(run)
    recorded, found = examined(run, root=root, device=device, workers=workers)
    spoken = open_findings(found)
    for finding in spoken:
        _say(printer, finding)
    _say_the_rest(printer, found)
    _say_norms(printer, recorded)
    command = continuation(recorded)
    if command is not None:
        printer.say(f"the run has not reached its end: `{command}` continues it")
    findings = [finding.as_dict() for finding in found]
    printer.result({"run": str(run), "findings": findings, "continue": command})
    faults = [finding for finding in spoken if finding.verdict in (FAIL, WARN)]
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
    from ptkit.core.diagnosis.findings import NOT_APPLICABLE, OK
    from ptkit.core.diagnosis.rules import other_findings

    others = other_findings(found)
    for finding in others.muted:
        printer.say(f"      {finding.rule}: follows from {finding.muted_by}")
    if others.fine:
        printer.say(f"{OK:5} {', '.join(others.fine)}")
    for reason, rules in others.unknown.items():
        printer.say(f"{NOT_APPLICABLE:5} {', '.join(rules)}: {reason}")


def _say_norms(printer: Printer, run: "Recorded") -> None:
    """Print the value to clip gradients at, which most steps stay below, where none is set."""
    import numpy as np

    norms = run.grad_norm[np.isfinite(run.grad_norm)]
    # Of fewer steps the first one, which may be far above the others, is among the largest tenth.
    if len(norms) >= _ENOUGH_STEPS and run.settings.train.clip_grad is None:
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
