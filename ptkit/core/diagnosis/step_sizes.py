"""How far a step moves weights, and the commands for another rate."""

import math

import numpy as np

from ptkit.core.diagnosis.recorded import Recorded

# Shares of a weight's norm; see rules.RULES for where they come from.
LARGE_UPDATE, USUAL_UPDATE, SMALL_UPDATE = 1e-2, 1e-3, 1e-4
_LARGEST_RATE = 1.0


def overall_update(run: Recorded) -> float:
    """Return the median ‖Δw‖/‖w‖ at the peak of the rate, of weights trained at the run's rate: a
    body at a rate of its own is not what the rate is judged by.
    """
    weights = run.start["weights"]
    names = [name for name in run.trained if weights[name]["lr_scale"] >= 0.5] or run.trained
    found = [r for r in map(run.median_update, names) if math.isfinite(r)]
    return float(np.median(found)) if found else math.nan


def slower(run: Recorded) -> str:
    """Return the command with a tenth of the rate, or less where steps are so large that more is
    needed to make them usual.
    """
    update = overall_update(run)
    factor = min(USUAL_UPDATE / update, 0.1) if update > 0 else 0.1
    return run.at_rate(factor, digits=1)


def faster(run: Recorded) -> str:
    """Return the command with ten times the rate, or more where steps are so small that more is
    needed to make them usual; but never above the largest rate that is usual.
    """
    update, rate = overall_update(run), float(run.lr.max(initial=0.0))
    factor = USUAL_UPDATE / update if update > 0 else 10.0
    # Of gradients that vanish it would be any rate.
    most = _LARGEST_RATE / rate if rate > 0 else 10.0
    return run.at_rate(max(min(factor, most), 10.0), digits=2)


def calmer(run: Recorded) -> str:
    """Return the command with a tenth of the rate and gradients clipped where most of them were,
    unless the run clips them at less.
    """
    norms, own = run.grad_norm[np.isfinite(run.grad_norm)], run.settings.train.clip_grad
    clip = float(np.quantile(norms, 0.9)) if len(norms) else 1.0
    is_tighter = own is None or clip < own
    return f"{slower(run)} --set train.clip_grad={clip:.3g}" if is_tighter else slower(run)


def without_init(run: Recorded) -> str:
    """Return the command without the user's own initial weights: where nothing was ever learned
    they come before the rate. "" of a run that has none.
    """
    return f"{run.again} --set 'model.init=[]'" if run.settings.model.init else ""
