"""Old weights into a new model: take what fits, and report what did not fit and why."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ptkit.core.errors import CheckpointError


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor, by the names that `notes` describe.

    missing: in the model, not in the weights: fresh.
    unexpected: in the weights, not in the model.
    mismatched: name, shape in the weights, shape in the model.
    left_out: not taken because the caller said so (a head for other classes).
    notes: what was done to the names, a sentence each.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the counts as one line."""
        num_own = len(self.taken) + len(self.missing) + len(self.mismatched) + len(self.left_out)
        counts = {
            "are new": len(self.missing),
            "have another shape": len(self.mismatched),
            "were left out": len(self.left_out),
            "in the weights have no place": len(self.unexpected),
        }
        parts = [f"{count} {what}" for what, count in counts.items() if count]
        return "; ".join([f"took {len(self.taken)} of the model's {num_own} tensors", *parts])

    def details(self) -> str:
        """Return a line for each tensor, under what became of it."""
        shapes = [
            f"{name}: {there} in the weights, {here} in the model"
            for name, there, here in self.mismatched
        ]
        sections = {
            "taken": self.taken,
            "not in the weights, so fresh": self.missing,
            "of another shape, so fresh": shapes,
            "left out, so fresh": self.left_out,
            "not in the model": self.unexpected,
            "names": self.notes,
        }
        lines = [
            line
            for title, found in sections.items()
            if found
            for line in [f"{title} ({len(found)}):", *(f"  {name}" for name in found)]
        ]
        return "\n".join(lines)


def transfer(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, leave_out: str = ""
) -> TransferReport:
    """Copy every tensor that has its name and shape in the model, in place.

    A prefix (`backbone.`) is removed or added first if the names fit better so.

    leave_out: a module whose tensors stay fresh although they would fit, such as a head for other
    classes.

    Raises:
        CheckpointError: no parameter fits.
    """
    own = model.state_dict()
    # Of equals max takes the first: names are left alone unless a change fits more of them.
    renamed, notes = max(
        _candidates(own, state_dict),
        key=lambda found: sum(_fits(own, name, tensor) for name, tensor in found[0].items()),
    )
    is_left_out = {name: bool(leave_out) and f"{name}.".startswith(f"{leave_out}.") for name in own}
    fits = {name: _fits(own, name, tensor) for name, tensor in renamed.items()}
    taken = tuple(name for name in own if fits.get(name) and not is_left_out[name])
    if not {name for name, _ in model.named_parameters()} & set(taken):
        raise CheckpointError(_nothing_fits(model, own, renamed))
    load_state_dict(model, {name: renamed[name] for name in taken}, strict=False)
    return TransferReport(
        taken=taken,
        missing=tuple(name for name in own if name not in renamed and not is_left_out[name]),
        unexpected=tuple(name for name in renamed if name not in own),
        mismatched=tuple(
            (name, tuple(renamed[name].shape), tuple(own[name].shape))
            for name in own
            if fits.get(name) is False and not is_left_out[name]
        ),
        left_out=tuple(name for name in own if is_left_out[name]),
        notes=notes,
    )


def load_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, strict: bool = True
) -> None:
    """Load tensors that fit, under the versions of the model's own layers."""
    versioned = OrderedDict(state_dict)
    # torchvision's MNASNet refuses a state dict that does not carry the versions of its layers.
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=strict)


def _fits(own: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    return name in own and own[name].shape == tensor.shape


def _candidates(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> Iterator[tuple[Mapping[str, Tensor], tuple[str, ...]]]:
    """Yield the weights under names that may fit the model, and what was done to get them."""
    yield given, ()
    for prefix in _prefixes(given):
        renamed = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
        yield renamed, (f"removed the prefix {prefix} from the weights' names",)
    for prefix in _prefixes(own):
        renamed = {prefix + name: tensor for name, tensor in given.items()}
        yield renamed, (f"added the prefix {prefix} to the weights' names",)


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the beginnings of one to three parts that names have: `a.`, `a.b.`, `a.b.c.`."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:depth]) + ".": None for depth in range(1, min(len(parts), 3) + 1)}
    return list(found)


def _nothing_fits(model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    same_name = next((name for name in own if name in given), None)
    if same_name is None:
        there, here = (", ".join(list(names)[:2]) for names in (given, own))
        reason = f"the weights have {there}; the model has {here}"
    else:
        there, here = (str(tuple(tensors[same_name].shape)) for tensors in (given, own))
        reason = f"{same_name} is {there} in the weights, {here} in the model"
    return (
        f"no weights fit {type(model).__name__}: {reason}; choose the --model that they were"
        " made for"
    )
