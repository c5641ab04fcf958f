"""Rules on what goes through a model: its input, its first answers, its activations."""

import math
import shlex
from collections.abc import Mapping

import numpy as np

from ptkit.core.diagnosis.findings import FAIL, INFO, OK, WARN, Judgement, fine, not_applicable
from ptkit.core.diagnosis.recorded import Recorded
from ptkit.core.diagnosis.step_sizes import LARGE_UPDATE, overall_update, without_init

# See rules.RULES for where the limits come from.
_OFF, _FAR_OFF = 0.5, 1.0
_WEAK, _STRONG = 0.03, 30.0
_MEAN, _LOW_STD, _HIGH_STD, _LARGEST = 0.5, 0.5, 2.0, 20.0
_DEAD_WARN, _DEAD_FAIL, _DEAD_LAYER, _DEAD_EPOCHS = 0.2, 0.5, 0.9, 3
_NEARLY_ALL = 0.9


def initial_loss(run: Recorded) -> Judgement:
    """The loss before the first step, against that of giving all classes the same probability."""
    loss, uniform = run.start["initial"]["loss"], math.log(max(run.num_classes, 2))
    if not (run.settings.loss.call or "").startswith(("CrossEntropyLoss", "NLLLoss")):
        return not_applicable("only cross-entropy is known before training: ln K")
    if loss is None:
        return not_applicable("the first loss was not finite, or of mixed images")
    off = (loss - uniform) / uniform
    numbers = {"loss": loss, "uniform": uniform}
    # Weights that were trained before may know the answers.
    size = abs(off) if run.is_from_scratch else off
    if size <= _OFF:
        return fine(numbers)
    text = (
        f"the loss began at {loss:.3g}, and all classes alike give ln K = {uniform:.3g}: off by"
        f" {size:.0%} (limit {_OFF:.0%})"
    )
    head = (run.start["head"] or "Linear").removesuffix(".weight")
    command = run.with_inits(f"{head}=normal_(0, 0.01)")
    return Judgement(FAIL if size > _FAR_OFF else WARN, text, numbers, (head,), command)


def initial_signal(run: Recorded) -> Judgement:
    """How far the spread of outputs shrinks or grows from the first layer to the last."""
    if not run.is_from_scratch:
        return not_applicable("its weights were trained before")
    spreads = {k: v for k, v in run.start["initial"]["layer_std"].items() if v is not None}
    if len(spreads) < 2:
        return not_applicable("fewer than two layers with weights")
    first, *_, last = spreads.values()
    ratio = last / first if first else math.inf
    if _WEAK <= ratio <= _STRONG:
        return fine({"ratio": ratio})
    name, std, wanted = _worst_init(run)
    text = (
        f"outputs of the last layer spread {ratio:.2g} times as far as those of the first (limits"
        f" {_WEAK:g} and {_STRONG:g}); {name} began with weights of {std:.2g}, for rectifiers"
        f" sqrt(2/fan_in) = {wanted:.2g}"
    )
    command = run.with_inits(f"{name}=kaiming_normal_(nonlinearity='relu')")
    return Judgement(WARN, text, {"ratio": ratio}, (name,), command)


def input_scale(run: Recorded) -> Judgement:
    """Mean, spread and largest value of the images as the model gets them."""
    seen = run.start["initial"]["input"]
    means, stds, largest = seen["mean"], seen["std"], seen["max"]
    if any(value is None for value in (*means, *stds, largest)):
        return not_applicable("the input was not finite")
    mean, low, high = max(map(abs, means)), min(stds), max(stds)
    numbers = {"mean": mean, "std_low": low, "std_high": high, "largest": largest}
    if mean <= _MEAN and low >= _LOW_STD and high <= _HIGH_STD and largest <= _LARGEST:
        return fine(numbers)
    text = (
        f"the input has means up to {mean:.2g} (limit {_MEAN:g}), spreads of {low:.2g} to"
        f" {high:.2g} (limits {_LOW_STD:g} and {_HIGH_STD:g}) and values up to {largest:.3g} (limit"
        f" {_LARGEST:g})"
    )
    data = run.settings.data
    if data.transforms or data.eval_transforms:
        # Statistics are measured of what comes before Normalize: the fault is in a step.
        command = f"ptkit viz-transforms IMAGE --config {shlex.quote(str(run.config))}"
    else:
        command = f"{run.again} --set 'data.mean=[]' --set 'data.std=[]'"
    return Judgement(WARN, text, numbers, (), command)


def softmax_before_the_loss(run: Recorded) -> Judgement:
    """Outputs that are probabilities already, under a loss that makes them ones."""
    if not (run.settings.loss.call or "").startswith("CrossEntropyLoss"):
        return not_applicable("the loss applies no softmax")
    if not run.start["initial"]["outputs_are_probabilities"]:
        return fine()
    text = "every output is at least 0 and each image's sum to 1: CrossEntropyLoss applies softmax"
    command = f"take the softmax layer out of {run.settings.model.call}"
    return Judgement(FAIL, text, {}, (), command)


def dead_units(run: Recorded) -> Judgement:
    """Channels and features that no validation image activates, for three epochs."""
    if len(run.epochs) < _DEAD_EPOCHS:
        return not_applicable(f"fewer than {_DEAD_EPOCHS} epochs")
    recent = [epoch["activations"] for epoch in run.epochs[-_DEAD_EPOCHS:]]
    # Earlier versions looked at the first 256 of the list.
    looked_at = run.epochs[-1].get("looked_at", 256)
    layers = [k for k, seen in recent[-1].items() if seen.get("dead") is not None]
    if not layers:
        return not_applicable("no layer is followed by a rectifier")
    dead = {k: min(seen[k]["dead"] for seen in recent if k in seen) for k in layers}
    units = {k: recent[-1][k]["units"] for k in layers}
    share = sum(dead.values()) / sum(units.values())
    verdict = _verdict_on_dead(dead, units)
    numbers = {"share": share, "units": sum(units.values())}
    if verdict == OK:
        return fine(numbers)
    worst = sorted(layers, key=lambda k: -dead[k] / units[k])
    where = tuple(f"{k}: {dead[k]} of {units[k]}" for k in worst if dead[k] > _DEAD_WARN * units[k])
    text = (
        f"{share:.0%} of the units gave nothing on {looked_at:,} validation images in"
        f" {_DEAD_EPOCHS} epochs (limit {_DEAD_WARN:.0%}); most in {where[0]}"
    )
    dead_at_first = _dead_at_first(run, dead)
    if not run.is_from_scratch:
        # Trained weights may have been made for more than these images show.
        verdict = _verdict_on_dead({k: dead[k] - dead_at_first[k] for k in layers}, units)
        if verdict == OK:
            text += f"; {sum(dead_at_first.values()):,} gave nothing after the first epoch already"
            return Judgement(INFO, text, numbers, where)
    elif verdict == WARN and not overall_update(run) > LARGE_UPDATE:
        # Steps of a usual size killed none: a lower rate would only slow what learns.
        return Judgement(INFO, text, numbers, where)
    elif (
        run.settings.model.init
        and sum(dead_at_first.values()) > _NEARLY_ALL * sum(dead.values())
        and not overall_update(run) > LARGE_UPDATE
    ):
        text += "; nearly all of them after the first epoch already"
        return Judgement(verdict, text, numbers, where, without_init(run))
    return Judgement(verdict, text, numbers, where, run.at_rate(1 / 3))


def _dead_at_first(run: Recorded, dead: Mapping[str, int]) -> dict[str, int]:
    """Return how many units of each layer may have been dead from the first epoch on; 0 where
    recording began later.
    """
    first = run.epochs[0]["activations"] if run.epochs[0]["epoch"] == 1 else {}
    return {k: min(first.get(k, {}).get("dead") or 0, count) for k, count in dead.items()}


def _verdict_on_dead(dead: Mapping[str, int], units: Mapping[str, int]) -> str:
    """Return what so many dead units of each layer are, of all that it has."""
    share = sum(dead.values()) / sum(units.values())
    is_layer_dead = any(dead[k] >= _DEAD_LAYER * units[k] for k in units)
    if share <= _DEAD_WARN and not is_layer_dead:
        return OK
    return FAIL if share > _DEAD_FAIL or is_layer_dead else WARN


def _worst_init(run: Recorded) -> tuple[str, float, float]:
    """Return the layer whose first weights are furthest from He et al. 2015, equation 10: its name,
    their standard deviation (about 0), and sqrt(2 / fan_in). --init has no effect on those that
    are fitted to images.
    """
    found = []
    for name, about in run.start["weights"].items():
        norms, shape = run.samples(name, "weight"), about["shape"]
        fan_in = math.prod(shape[1:])
        if len(norms) and norms[0] > 0 and fan_in and name not in run.fitted:
            std = float(norms[0]) / math.sqrt(math.prod(shape))
            found.append((name.removesuffix(".weight"), std, math.sqrt(2 / fan_in)))
    if not found:
        return "Linear", math.nan, math.nan
    return max(found, key=lambda row: abs(np.log(row[1] / row[2])))
