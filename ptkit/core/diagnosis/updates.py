"""Rules on how far the optimizer moves each layer."""

import math
import shlex

import numpy as np

from ptkit.core.diagnosis.findings import FAIL, INFO, WARN, Judgement, fine, not_applicable
from ptkit.core.diagnosis.recorded import Floats, Recorded, smoothed
from ptkit.core.wording import counted

# See rules.RULES for where the limits come from.
_VANISHED, _STANDS_STILL, _BEHIND = 1e-3, 1e-5, 1e-2
_FEW, _MANY, _FEWEST_STEPS = 0.1, 10.0, 20
_INERT, _CRUSHED, _LARGE_DECAY = 0.01, 0.1, 0.01
_GROWS = 3.0
_STATISTICS = 0.01
_MOSTLY = 0.5
# Optimizers that divide by the size of gradients: small ones move weights as far as large ones.
_ADAPTIVE = ("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "Muon", "Sparse")


def vanishing_gradient(run: Recorded) -> Judgement:
    """The first layers hardly get a gradient, and hardly move."""
    weights = run.start["weights"]
    # Those that images filled are of the size that these gave them, and good as they are.
    names = [k for k in run.trained if k not in run.fitted and len(run.samples(k, "gradient"))]
    if len(names) < 4:
        return not_applicable("fewer than four trained layers")
    quarter = max(len(names) // 4, 1)
    first, last = names[:quarter], names[-quarter:]
    ratio = _rms(run, first) / max(_rms(run, last), 1e-30)
    update = _at_the_runs_rate(run, first)
    numbers = {"ratio": ratio, "update": update}
    is_adaptive = (run.settings.optimizer.call or "").startswith(_ADAPTIVE)
    # Of an adaptive optimizer at a tiny rate all layers stand still.
    is_behind = (
        update < _BEHIND * _at_the_runs_rate(run, last) if is_adaptive else ratio < _VANISHED
    )
    # Decay alone moves weights by rate times decay; where it is part of the gradient, momentum
    # takes it ten times as far.
    decay = max(weights[name]["weight_decay"] for name in first)
    times = 1.1 if _is_decoupled(run) else 20
    limit = max(_STANDS_STILL, times * decay * float(run.lr.max(initial=0)))
    if not (update < limit and is_behind):
        return fine(numbers)
    share, of_what = (ratio, "the gradients")
    if is_adaptive:
        share, of_what = update / _at_the_runs_rate(run, last), "the steps"
    text = (
        f"the first layers get {share:.2g} of {of_what} of the last (limit"
        f" {_BEHIND if is_adaptive else _VANISHED:g}), and a step moves them by {update:.2g} of"
        f" their size (limit {limit:.2g})"
    )
    layers = (name.removesuffix(".weight") for name in first)
    command = run.with_inits(*(f"{k}=kaiming_normal_(nonlinearity='relu')" for k in layers))
    return Judgement(FAIL, text, numbers, tuple(first), command)


def layer_imbalance(run: Recorded) -> Judgement:
    """A layer moves ten times further than the others, or less than a tenth as far."""
    if len(run.loss) < _FEWEST_STEPS:
        return not_applicable(f"fewer than {_FEWEST_STEPS} steps")
    found = {name: _own_update(run, name) for name in run.trained if name not in run.fitted}
    found = {name: r for name, r in found.items() if math.isfinite(r) and r > 0}
    if len(found) < 3:
        return not_applicable("fewer than three layers that move")
    middle = math.exp(np.mean(np.log(list(found.values()))))
    off = {name: r / middle for name, r in found.items() if not _FEW <= r / middle <= _MANY}
    head = run.start["head"]
    if not run.is_from_scratch and off.get(head, 0.0) > _MANY:
        # A head that is new on a trained body has small weights, and further to go.
        del off[head]
    # Weights that begin small have further to go, and reach their size.
    off = {k: ratio for k, ratio in off.items() if ratio < 1 or _growth(run, k) <= _GROWS}
    if not off:
        return fine({"least": min(found.values()) / middle, "most": max(found.values()) / middle})
    worst = max(off, key=lambda name: abs(math.log(off[name])))
    text = (
        f"a step moves {worst} {off[worst]:.2g} times as far as the mean layer (limits {_FEW:g} and"
        f" {_MANY:g})"
    )
    # Of the run's rate: its own is a part of that already.
    command = run.with_groups(*(_group(k, _lr_scale(run, k) / ratio) for k, ratio in off.items()))
    return Judgement(WARN, text, dict(off), tuple(off), command)


def not_updated(run: Recorded) -> Judgement:
    """Weights that are meant to be trained and do not move at all."""
    still = [n for n in run.trained if len(u := run.samples(n, "update")) and not u.any()]
    groups = run.settings.optimizer.groups
    weights = run.start["weights"]
    if not any(word in group for group in groups for word in ("frozen", "excluded", "unfreeze")):
        still += [name for name, about in weights.items() if not about["trained"]]
    if not still:
        return _frozen_at_random(run)
    if len(run.lr) and not run.lr.any():
        text = f"the rate was 0 at every step, with {run.settings.scheduler.call}"
        command = f"{run.again} --scheduler 'CosineAnnealingLR()'"
        return Judgement(FAIL, text, {"lr": 0.0}, (), command)
    text = f"{len(still)} of {len(weights)} weights never moved: {', '.join(still[:3])}"
    command = run.with_groups(*(_group(name, 1) for name in still[:3]))
    return Judgement(FAIL, text, {"weights": len(still)}, tuple(still), command)


def _frozen_at_random(run: Recorded) -> Judgement:
    """Judge weights that are frozen on purpose: of a run from scratch they stay random."""
    weights = run.start["weights"]
    frozen = [name for name, about in weights.items() if not about["trained"]]
    # Of a few layers it is done on purpose: random filters serve, too.
    if not run.is_from_scratch or len(frozen) <= _MOSTLY * len(weights):
        return fine()
    text = (
        f"{len(frozen)} of {len(weights)} weights are frozen (limit {_MOSTLY:.0%}), and the run"
        " began with random ones: what they give stays random"
    )
    command = f"ptkit finetune WEIGHTS --config {shlex.quote(str(run.config))}"
    return Judgement(WARN, text, {"weights": len(frozen)}, tuple(frozen), command)


def frozen_statistics(run: Recorded) -> Judgement:
    """Frozen normalisation layers whose running means move all the same."""
    layers = [epoch.get("frozen_statistics") or {} for epoch in run.epochs]
    if not any(layers):
        return not_applicable("no normalisation layer is frozen")
    most: dict[str, float] = {}
    for layer, way in (item for found in layers for item in found.items()):
        # None where it is not finite: of a run whose values are not.
        most[layer] = max(most.get(layer, 0.0), math.inf if way is None else way)
    moved = sorted((k for k in most if most[k] > _STATISTICS), key=most.__getitem__, reverse=True)
    if not moved:
        return fine({"most": max(most.values())})
    text = (
        f"the running means of {counted(len(moved), 'frozen normalisation layer')} moved, those of"
        f" {moved[0]} by {most[moved[0]]:.2g} standard deviations in an epoch (limit"
        f" {_STATISTICS:g}): what is frozen changes"
    )
    command = f"keep {moved[0]} in evaluation mode, in `train` or `forward` of"
    numbers = {"layers": len(moved), "most": most[moved[0]]}
    return Judgement(WARN, text, numbers, tuple(moved), f"{command} {run.settings.model.call}")


def weight_decay(run: Recorded) -> Judgement:
    """Decay that crushes the weights, that does nothing, or that is missing where they grow."""
    weights = run.start["weights"]
    decayed = [name for name in run.trained if weights[name]["weight_decay"] > 0]
    total = _total_norm(run, decayed)
    most = max((weights[name]["weight_decay"] for name in decayed), default=0.0)
    # At a usual decay it is the rate that crushes.
    is_crushed = len(total) and most >= _LARGE_DECAY and total[-1] < _CRUSHED * total.max()
    if is_crushed and _is_bad(run):
        share = float(total[-1] / total.max())
        text = (
            f"decay brought the weights to {share:.1%} of their norm (limit {_CRUSHED:.0%}), and"
            " the loss is not what it was"
        )
        command = run.with_groups(f"*: weight_decay={most / 100:.1g}")
        return Judgement(FAIL, text, {"norm": share}, (), command)
    # What begins at 0 has no size yet to keep.
    grown = [name for name in run.trained if _GROWS < _growth(run, name) < math.inf]
    numbers = {"lr_times_decay": _lr_times_decay(run)}
    if grown:
        first = max(grown, key=lambda name: _growth(run, name))
        text = f"{first} grew to {_growth(run, first):.1f} times its norm (limit {_GROWS:g})"
        decay = 10 * max(weights[first]["weight_decay"], 5e-5)
        lines = (f"{name}: weight_decay={decay:.1g}" for name in grown)
        # Where decay is part of a gradient that is divided by its size, little of it is a lot.
        command = "" if _is_coupled(run) else run.with_groups(*lines)
        return Judgement(INFO, text, numbers, tuple(grown), command)
    if decayed and run.is_from_scratch and numbers["lr_times_decay"] < _INERT:
        text = (
            f"rates times decay add up to {numbers['lr_times_decay']:.2g} over the run (limit"
            f" {_INERT:g}): decay did next to nothing"
        )
        return Judgement(INFO, text, numbers)
    return fine(numbers)


def _rms(run: Recorded, names: list[str]) -> float:
    """Return the median over the samples of the root mean square of the gradients of some weights;
    samples that are not finite are left out.
    """
    weights = run.start["weights"]
    sizes = [math.prod(weights[name]["shape"]) for name in names]
    norms = [run.samples(name, "gradient") for name in names]
    # Of all at once: a weight that waited for its epoch has the last samples only.
    shared = min(map(len, norms))
    squares = sum(each[len(each) - shared :] ** 2 for each in norms)
    found = np.sqrt(squares / sum(sizes))
    return float(np.median(found[np.isfinite(found)])) if np.isfinite(found).any() else 0.0


def _at_the_runs_rate(run: Recorded, names: list[str]) -> float:
    """Return the median update of layers as if they had the run's rate: those that are meant to
    move slowly are not behind.
    """
    found = [run.median_update(name) / _lr_scale(run, name) for name in names]
    found = [r for r in found if math.isfinite(r)]
    return float(np.median(found)) if found else math.nan


def _own_update(run: Recorded, name: str) -> float:
    """Return the median update of a layer; where rates are set for all layers by one setting, as if
    it had the run's rate.
    """
    is_by_layer = not run.settings.optimizer.groups
    return run.median_update(name) / (_lr_scale(run, name) if is_by_layer else 1.0)


def _lr_scale(run: Recorded, name: str) -> float:
    """Return the rate of a weight over the run's; 1 of one without a rate."""
    return float(run.start["weights"][name]["lr_scale"]) or 1.0


def _group(name: str, factor: float) -> str:
    """Return a line of --group with a multiple of the run's rate, to two digits."""
    rounded = float(f"{factor:.2g}")
    return f"{name}: lr={np.format_float_positional(rounded, trim='-')}x"


def _is_coupled(run: Recorded) -> bool:
    """Say whether an adaptive optimizer adds decay to gradients."""
    call = run.settings.optimizer.call or ""
    return call.startswith(_ADAPTIVE) and not _is_decoupled(run)


def _is_decoupled(run: Recorded) -> bool:
    """Say whether decay is no part of the gradients (Loshchilov and Hutter 2019, section 2)."""
    call = run.settings.optimizer.call or ""
    return call.startswith(("AdamW", "Muon")) or "decoupled_weight_decay=True" in call


def _total_norm(run: Recorded, names: list[str]) -> Floats:
    parts = [run.samples(name, "weight") ** 2 for name in names]
    return np.sqrt(sum(parts)) if parts else np.zeros(0)


def _growth(run: Recorded, name: str) -> float:
    norms = run.samples(name, "weight")
    if not len(norms) or not norms[-1] > 0:
        return 0.0
    return float(norms[-1] / norms[0]) if norms[0] > 0 else math.inf


def _is_bad(run: Recorded) -> bool:
    """Say whether the loss ended above its minimum, or never fell below guessing."""
    line = smoothed(run.loss, max(len(run.loss) // 20, 1))
    guess = run.guessing or math.inf
    return bool(line[-1] > 1.1 * line.min() or line[-1] > 0.9 * guess)


def _lr_times_decay(run: Recorded) -> float:
    weights = run.start["weights"]
    largest = max((weights[name]["weight_decay"] for name in run.trained), default=0.0)
    return float(run.lr.sum() * largest)
