"""One part: what a name in a call means, and what its arguments may be."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ptkit.core.parts.argument_rules import Allowed, Together, or_none
from ptkit.core.parts.argument_table import ARGUMENTS, OF_ONE_PART, TOGETHER


@dataclass(frozen=True)
class Part:
    """One row of a catalogue.

    target: a class or function, or `module:attribute`, imported when the part is built.
    supplied: arguments that the run gives and the user may not.
    tensors: arguments for which lists of numbers become float tensors.
    arguments: rules of its own; for other arguments those of `argument_table` hold.
    """

    target: str | Callable[..., Any]
    summary: str
    supplied: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    arguments: Mapping[str, Allowed] = field(default_factory=dict)
    together: Together | None = None

    def load(self) -> Any:
        """Return the class or function itself."""
        return pkgutil.resolve_name(self.target) if isinstance(self.target, str) else self.target

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the class or function, which take long to be read.

        Raises:
            TypeError, ValueError: it has no signature.
        """
        return inspect.signature(self.load()).parameters

    def rule(self, name: str, parameter: inspect.Parameter) -> Allowed | None:
        """Return what an argument of the part called `name` may be; None where nothing says."""
        key = parameter.name
        # The most special rule first.
        rule = self.arguments.get(key) or OF_ONE_PART.get((name, key)) or ARGUMENTS.get(key)
        # What PyTorch writes as its default is allowed, though most rules do not mention None.
        if rule and parameter.default is None and not rule.check(None):
            return or_none(rule)
        return rule

    def rule_together(self, name: str) -> Together | None:
        """Return what its arguments must be to each other when the part is called `name`."""
        return self.together or TOGETHER.get(name)
