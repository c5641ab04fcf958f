"""Old weights into a new model: take what fits, and report what did not fit and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ptkit.core.errors import CheckpointError
from ptkit.core.models.channels import summed_over_rgb
from ptkit.core.models.matching import fit_names, fits, load_state_dict
from ptkit.core.models.recognition import MAY_DIFFER, recognised
from ptkit.core.wording import first_of


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
        }
        parts = [f"{count} {what}" for what, count in counts.items() if count]
        if strange := self.unexpected:
            parts.append(f"{len(strange)} in the weights have no place ({first_of(strange, 3)})")
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

    Names are matched first, see `fit_names`; then kernels of RGB images are summed for a model of
    one channel.

    leave_out: a module whose tensors stay fresh although they would fit, such as a head for other
    classes.

    Raises:
        CheckpointError: no parameter fits, or many do not and the weights are those of another
            model.
    """
    own = model.state_dict()
    named, notes = fit_names(own, state_dict)
    renamed, summed = summed_over_rgb(named, model)
    is_left_out = {name: bool(leave_out) and f"{name}.".startswith(f"{leave_out}.") for name in own}
    is_fitting = {name: fits(own, name, tensor) for name, tensor in renamed.items()}
    taken = tuple(name for name in own if is_fitting.get(name) and not is_left_out[name])
    if not {name for name, _ in model.named_parameters()} & set(taken):
        raise CheckpointError(_nothing_fits(model, own, renamed))
    misfits = [name for name in own if is_fitting.get(name) is False and not is_left_out[name]]
    # Names that two models share, such as those of a ResNet-18 and a ResNet-50, fit by chance.
    if len(misfits) > MAY_DIFFER and (of_another := recognised(renamed)):
        raise CheckpointError(
            f"{len(misfits)} tensors have another shape in {type(model).__name__}, such as"
            f" {misfits[0]}{of_another}; choose the --model that they were made for"
        )
    load_state_dict(model, {name: renamed[name] for name in taken}, strict=False)
    return TransferReport(
        taken=taken,
        missing=tuple(name for name in own if name not in renamed and not is_left_out[name]),
        unexpected=tuple(name for name in renamed if name not in own),
        mismatched=tuple(
            (name, tuple(renamed[name].shape), tuple(own[name].shape)) for name in misfits
        ),
        left_out=tuple(name for name in own if is_left_out[name]),
        notes=(*notes, *summed),
    )


def _nothing_fits(model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    same_name = next((name for name in own if name in given), None)
    if same_name is None:
        there, here = (", ".join(list(names)[:2]) for names in (given, own))
        reason = f"the weights have {there}; the model has {here}"
    else:
        there, here = (str(tuple(tensors[same_name].shape)) for tensors in (given, own))
        reason = f"{same_name} is {there} in the weights, {here} in the model"
    return (
        f"no weights fit {type(model).__name__}: {reason}{recognised(given)}; choose the --model"
        " that they were made for"
    )
