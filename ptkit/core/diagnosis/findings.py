"""What a rule says of a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# From the worst; NOT_APPLICABLE says why in the text.
FAIL, WARN, INFO, OK, NOT_APPLICABLE = "FAIL", "WARN", "INFO", "ok", "n/a"
VERDICTS = (FAIL, WARN, INFO, OK, NOT_APPLICABLE)


@dataclass(frozen=True)
class Judgement:
    """What one rule found: a verdict, and a sentence with the number and the limit.

    numbers: behind the sentence. where: the layers or classes concerned. command: one to try.
    effect: what the advice was measured to change, where the run's data allow it.
    """

    verdict: str
    text: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    command: str = ""
    effect: str = ""


@dataclass(frozen=True)
class Finding:
    """A judgement with the name of its rule; muted_by: the finding that is its cause."""

    rule: str
    judgement: Judgement
    muted_by: str | None = None

    @property
    def verdict(self) -> str:
        return self.judgement.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        found = self.judgement
        # JSON has neither NaN nor infinity.
        numbers = {k: v if math.isfinite(v) else None for k, v in found.numbers.items()}
        return {
            "rule": self.rule,
            "verdict": found.verdict,
            "text": found.text,
            "numbers": numbers,
            "where": list(found.where),
            "command": found.command,
            "effect": found.effect,
            "muted_by": self.muted_by,
        }


_NO_NUMBERS: Mapping[str, float] = {}


def fine(numbers: Mapping[str, float] = _NO_NUMBERS) -> Judgement:
    """Return the judgement of a rule that found nothing."""
    return Judgement(OK, numbers=numbers)


def not_applicable(why: str) -> Judgement:
    """Return the judgement of a rule that cannot be applied, with the reason."""
    return Judgement(NOT_APPLICABLE, why)
