"""What every argument of the parts other than transforms may be: by its name, and where one part
differs. A transform's row has its own rules.

None needs no mention where it is the argument's default. The ranges are those of PyTorch's
documentation, narrowed where it takes what could only do harm: no momentum above 1, no empty list.
"""

from collections.abc import Mapping, Sequence

from ptkit.core.parts.argument_rules import (
    ABOVE_0,
    ANY,
    AT_LEAST_0,
    COUNT,
    PIXELS,
    SHARE,
    SIDE,
    Allowed,
    Together,
    either,
    flag,
    list_of,
    number,
    one_of,
    text,
    whole,
)

_FIXED_OR_EACH_GROUP = either(SHARE, list_of(SHARE))
_WEIGHTS = either(list_of(AT_LEAST_0, has_sum=True), one_of("balanced"))
_FALL_AND_RISE = Allowed(
    "a list of 2 numbers, above 0 and below 1, and above 1",
    lambda value: list_of(ABOVE_0, 2).check(value) and value[0] < 1 < value[1],
)
_EXPRESSION = text("text such as '0.95 ** epoch' or 'module:function'")
_NONLINEARITY = one_of(
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu",
)  # fmt: skip

ARGUMENTS: Mapping[str, Allowed] = {
    # Losses.
    "weight": _WEIGHTS,
    "pos_weight": _WEIGHTS,
    "ignore_index": whole(),
    "reduction": one_of("mean", words='"mean", as the loop steps on the mean of a batch'),
    "label_smoothing": SHARE,
    "margin": AT_LEAST_0,
    "beta": AT_LEAST_0,
    "log_input": flag(),
    "full": flag(),
    "log_target": flag(),
    "swap": flag(),
    # Optimizers.
    "momentum": SHARE,
    "dampening": SHARE,
    "weight_decay": AT_LEAST_0,
    "nesterov": flag(),
    "centered": flag(),
    "amsgrad": flag(),
    "decoupled_weight_decay": flag(),
    "betas": list_of(number(0, below=1, has_point=True), 2),
    "eps": ABOVE_0,
    "rho": SHARE,
    "lr_decay": AT_LEAST_0,
    "initial_accumulator_value": AT_LEAST_0,
    "momentum_decay": AT_LEAST_0,
    "lambd": AT_LEAST_0,
    "t0": AT_LEAST_0,
    "etas": _FALL_AND_RISE,
    "step_sizes": list_of(ABOVE_0, 2, is_rising=True),
    "max_iter": COUNT,
    "max_eval": COUNT,
    "history_size": COUNT,
    "tolerance_grad": AT_LEAST_0,
    "tolerance_change": AT_LEAST_0,
    "line_search_fn": one_of("strong_wolfe"),
    "ns_coefficients": list_of(ANY, 3),
    "ns_steps": whole(1, 99),
    "adjust_lr_fn": one_of("original", "match_rms_adamw", "spectral_unclamped"),
    # Schedules.
    "step_size": COUNT,
    "gamma": ABOVE_0,
    "milestones": list_of(COUNT),
    "T_max": COUNT,
    "T_0": COUNT,
    "T_mult": COUNT,
    "eta_min": AT_LEAST_0,
    "factor": number(above=0, below=1),
    "patience": whole(0),
    "cooldown": whole(0),
    "threshold": AT_LEAST_0,
    "threshold_mode": one_of("rel", "abs"),
    "min_lr": either(AT_LEAST_0, list_of(AT_LEAST_0)),
    "lr_lambda": either(_EXPRESSION, list_of(_EXPRESSION)),
    "max_lr": either(ABOVE_0, list_of(ABOVE_0)),
    "total_steps": COUNT,
    "total_iters": COUNT,
    "epochs": COUNT,
    "steps_per_epoch": COUNT,
    "pct_start": number(0, 1, has_point=True),
    "anneal_strategy": one_of("cos", "linear"),
    "cycle_momentum": flag(),
    "base_momentum": _FIXED_OR_EACH_GROUP,
    "max_momentum": _FIXED_OR_EACH_GROUP,
    "div_factor": ABOVE_0,
    "final_div_factor": ABOVE_0,
    "three_phase": flag(),
    "start_factor": number(above=0, high=1),
    "end_factor": SHARE,
    "power": AT_LEAST_0,
    "warmup_epochs": AT_LEAST_0,
    "delay_epochs": either(AT_LEAST_0, list_of(AT_LEAST_0)),
    "cosine_epochs": ABOVE_0,
    "min_factor": SHARE,
    # Initialisations.
    "gain": AT_LEAST_0,
    "a": ANY,
    "b": ANY,
    "val": ANY,
    "mean": ANY,
    "std": AT_LEAST_0,
    "sparsity": number(0, below=1),
    "nonlinearity": _NONLINEARITY,
    "param": ANY,
    # Models.
    "stem": one_of("small", "standard"),
    "widths": list_of(COUNT),
    "stride": COUNT,
    "dropout": SHARE,
    "mlp_dropout": SHARE,
    "attention_dropout": SHARE,
    "drop_rate": SHARE,
    "stochastic_depth_prob": SHARE,
    "layer_scale": AT_LEAST_0,
    "mlp_ratio": ABOVE_0,
    "width_mult": ABOVE_0,
    "round_nearest": COUNT,
    "bn_size": COUNT,
    "groups": COUNT,
    "width_per_group": COUNT,
    "representation_size": COUNT,
    "image_size": SIDE,
    "input_size": list_of(SIDE, 2),
    "replace_stride_with_dilation": list_of(flag(), 3),
    "memory_efficient": flag(),
    "transform_input": flag(),
    "reduced_tail": flag(),
    "dilated": flag(),
    "zero_init_residual": flag(),
}

# Where an argument of one part means something else than its name does elsewhere.
OF_ONE_PART: Mapping[tuple[str, str], Allowed] = {
    ("lenet", "size"): whole(16, PIXELS, words="16 pixels or larger"),
    ("MultiMarginLoss", "p"): one_of(1, 2),
    ("TripletMarginLoss", "p"): ABOVE_0,
    ("TripletMarginLoss", "margin"): ABOVE_0,
    ("CosineEmbeddingLoss", "margin"): number(-1, 1),
    ("RMSprop", "alpha"): number(0, below=1),
    ("ASGD", "alpha"): SHARE,
    ("ReduceLROnPlateau", "mode"): one_of("min", "max"),
    ("ReduceLROnPlateau", "eps"): AT_LEAST_0,
    ("kaiming_uniform_", "mode"): one_of("fan_in", "fan_out"),
    ("kaiming_normal_", "mode"): one_of("fan_in", "fan_out"),
}


TOGETHER: Mapping[str, Together] = {
    "OneCycleLR": Together(
        lambda given: (
            not given["cycle_momentum"]
            or _largest(given["base_momentum"]) <= _largest(given["max_momentum"])
        ),
        "base_momentum must not be above max_momentum",
    ),
    "uniform_": Together(lambda given: given["a"] <= given["b"], "a must not be above b"),
}


def _largest(momentum: float | Sequence[float]) -> float:
    return max(momentum) if isinstance(momentum, Sequence) else momentum
