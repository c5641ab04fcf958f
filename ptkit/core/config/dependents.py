"""Settings that go with another one when a later layer replaces that. Free of torch.

A recipe's learning rate is that of its optimizer, its groups name layers of its model, its crops
have the size of its images. Layers: layers.py.
"""

import ast
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from ptkit.core.config.settings import AUTO, FIELDS
from ptkit.core.sizes import USUAL_BATCH_SIZE

_DEPENDENTS = {
    # A ready list excludes an own one, whatever both are.
    "data.augment": ("data.transforms", "data.eval_transforms"),
    "data.transforms": ("data.augment", "data.eval_transforms"),
    # Of these another part counts, not other arguments of the same.
    "model.call": ("model.init", "optimizer.groups"),
    "model.weights": ("model.weights_sha256",),
    "loss.call": ("loss.pairs", "loss.embedding", "loss.smoothing"),
    "optimizer.call": ("optimizer.lr", "optimizer.lr_per"),
    "optimizer.lr": ("optimizer.lr_per",),
    "scheduler.call": ("scheduler.per", "scheduler.metric"),
}
# A rate in a call, with the comma after it.
_RATE = re.compile(r"(?<=[(,])\s*lr\s*=\s*[^,()]+,?\s*")
# What OneCycleLR takes without a name, in torch's order.
_ONE_CYCLE = (
    "max_lr", "total_steps", "epochs", "steps_per_epoch", "pct_start", "anneal_strategy",
    "cycle_momentum", "base_momentum", "max_momentum", "div_factor", "final_div_factor",
    "three_phase",
)  # fmt: skip
# What a model has of the size of its images, where a run has written it out or a recipe names it.
_FROM_SIZE = re.compile(
    r"(?<=[(,])\s*(?:size|image_size|input_size|stem)\s*=\s*(?:\([^()]*\)|[^,()]+),?\s*"
)
_RESIZED = re.compile(r"(?<![\w:.])(Resize\(\s*)(\d+)\b")
# What a list with --fit may not name, as a step of its own: inside RandomApply and the like it
# changes what is square already. A user's own transforms have a prefix.
_RESIZES = re.compile(r"\s*(?:Resize|RandomResizedCrop|Normalize)\s*(?:\(|\Z)")
# What stands before the size of a crop or of Resize; a user's own transforms have a prefix.
_SIZED = r"((?<![\w:.])(?:Resize|[A-Z]\w*Crop)\(\s*|\bsize\s*=\s*)"


def freed(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what becomes of settings of earlier layers that do not suit those given now.

    before, given: what the layers name, `section.key` to value.
    """
    changes = _with_size(before, given.get("data.size"))
    if given.get("data.fit", "auto") != "auto":
        changes |= _without_own_size({**before, **changes})
    for name in _DEPENDENTS.keys() & given.keys():
        if not name.endswith(".call") or _is_other_part(before.get(name), given[name]):
            changes |= {dependent: _default(dependent) for dependent in _DEPENDENTS[name]}
    if "model.init" in changes:
        # A recipe of that method suits any model; lines name layers of one.
        changes["model.init"] = tuple(t for t in before.get("model.init", ()) if "=" not in t)
    changes |= _with_one_rate(before, given)
    if given.get("train.batch_size") == AUTO and _rate_stays(before, changes.keys() | given.keys()):
        # It is for the images of a step that had the batch size which goes.
        old = before.get("train.batch_size", USUAL_BATCH_SIZE)
        # A max_lr stays what it is.
        is_scaled = not has_max_lr({**before, **changes, **given}.get("scheduler.call"))
        if is_scaled and isinstance(old, int) and before.get("optimizer.lr_per") is None:
            changes["optimizer.lr_per"] = old * before.get("train.accumulate", 1)
    return changes


def _with_one_rate(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what becomes of the rates of earlier layers where a new one gives a rate, or another
    optimizer: a rate is in the call of the optimizer, beside it, or in that of OneCycleLR.
    """
    optimizer, schedule = "optimizer.call", "scheduler.call"
    changes: dict[str, Any] = {}
    is_in_call = has_rate(given.get(optimizer)) or has_max_lr(given.get(schedule))
    if is_in_call:
        changes |= {"optimizer.lr": None, "optimizer.lr_per": None}
    is_other = optimizer in given and _is_other_part(before.get(optimizer), given[optimizer])
    if not (is_in_call or is_other or "optimizer.lr" in given):
        return changes
    if has_rate(before.get(optimizer)):
        changes[optimizer] = _RATE.sub("", before[optimizer])
    if (found := one_cycle(before.get(schedule))) is not None:
        changes[schedule] = one_cycle_text({k: v for k, v in found.items() if k != "max_lr"})
    return changes


def has_rate(call: str | None) -> bool:
    """Say whether an optimizer's call gives the run its rate, as `SGD(lr=0.1)` does."""
    return call is not None and _RATE.search(call) is not None


def has_max_lr(call: str | None) -> bool:
    """Say whether a schedule's call gives the run its rate, as `OneCycleLR(max_lr=0.1)` does."""
    return one_cycle(call) is not None


def one_cycle(call: str | None) -> dict[str, Any] | None:
    """Return the arguments of OneCycleLR by name, where it has a max_lr; None for another call."""
    # What cannot be read is refused where it is used.
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        tree = ast.parse((call or "").strip(), mode="eval").body
        if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "OneCycleLR":
            unnamed = zip(_ONE_CYCLE, tree.args, strict=False)
            nodes = dict(unnamed) | {each.arg or "": each.value for each in tree.keywords}
            found = {name: ast.literal_eval(node) for name, node in nodes.items()}
            return found if found.get("max_lr") is not None else None
    return None


def one_cycle_text(arguments: Mapping[str, Any]) -> str:
    """Return the call of OneCycleLR with such arguments."""
    return f"OneCycleLR({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def _without_own_size(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists of earlier layers, without those that make images square themselves."""
    lists = ("data.transforms", "data.eval_transforms")
    return {name: () for name in lists if any(map(_RESIZES.match, before.get(name, ())))}


def _rate_stays(before: Mapping[str, Any], replaced: Collection[str]) -> bool:
    """Say whether earlier layers have a rate, in the call or beside it, that nothing replaces."""
    if has_rate(before.get("optimizer.call")):
        return not {"optimizer.call", "optimizer.lr"} & set(replaced)
    return before.get("optimizer.lr") is not None and "optimizer.lr" not in replaced


def _default(name: str) -> Any:
    section, _, key = name.partition(".")
    return FIELDS[section][key].default


def _is_other_part(before: str | None, now: str | None) -> bool:
    """Say whether a call was named before and names another part now; its prefix counts."""
    return before is not None and before.partition("(")[0] != (now or "").partition("(")[0]


def _with_size(before: Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """Return the transforms and the model of earlier layers for images of another size than these
    name.
    """
    old, lists = before.get("data.size"), ("data.transforms", "data.eval_transforms")
    if size in (None, old) or old is None:
        return {}
    sides = re.compile(rf"{_SIZED}([(\[]\s*{old}(?:\s*,\s*{old})?\s*[)\]]|{old}\b)")
    transforms: dict[str, tuple[str, ...]] = {
        name: tuple(
            sides.sub(lambda found: found[1] + found[2].replace(str(old), str(size)), text)
            for text in before[name]
        )
        for name in lists
        if name in before
    }
    evaluation = "data.eval_transforms"
    if any(text.startswith("CenterCrop") for text in transforms.get(evaluation, ())):
        # What is cropped was resized to somewhat more before: that share stays.
        transforms[evaluation] = tuple(
            _RESIZED.sub(lambda found: f"{found[1]}{round(int(found[2]) * size / old)}", text)
            if text in before[evaluation]
            else text
            for text in transforms[evaluation]
        )
    model = before.get("model.call") or ""
    # A user's own model has a prefix, and arguments of its own.
    is_known = ":" not in model.partition("(")[0]
    return transforms | ({"model.call": _FROM_SIZE.sub("", model)} if model and is_known else {})
