"""What every argument of the parts other than transforms may be: by its name, and where one part
differs. A transform's row has its own rules.

None needs no mention where it is the argument's default. The ranges are those of PyTorch's
documentation, narrowed where it takes what could only do harm: no momentum above 1, no empty list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

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

_WEIGHTS = either(list_of(AT_LEAST_0, has_sum=True), one_of("balanced"))
_FALL_AND_RISE = Allowed(
    "a list of 2 numbers, above 0 and below 1, and above 1",
    lambda value: list_of(ABOVE_0, 2).check(value) and value[0] < 1 < value[1],
)
# PyTorch refuses whole numbers for these and for pct_start, though 0 and 1 are usual.
_BETAS = replace(list_of(number(0, below=1), 2), meaning=lambda pair: tuple(map(float, pair)))
_EXPRESSION = text("text such as '0.95 ** epoch' or 'module:function'")
_NONLINEARITY = one_of(
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu",
)  # fmt: skip

# Rules, each with the names of the arguments that it holds for.
_RULES: Sequence[tuple[Allowed, str]] = (
    # Losses.
    (_WEIGHTS, "weight pos_weight"),
    (whole(), "ignore_index"),
    (one_of("mean", "sum", words='"mean" or "sum", as a step needs one number'), "reduction"),
    (SHARE, "label_smoothing"),
    (AT_LEAST_0, "margin beta"),
    (flag(), "log_input full log_target swap"),
    # Optimizers.
    (SHARE, "momentum dampening rho"),
    (AT_LEAST_0, "weight_decay lr_decay momentum_decay initial_accumulator_value lambd t0"),
    (AT_LEAST_0, "tolerance_grad tolerance_change"),
    (ABOVE_0, "eps"),
    (COUNT, "max_iter max_eval history_size"),
    (whole(1, 99), "ns_steps"),
    (flag(), "nesterov centered amsgrad decoupled_weight_decay"),
    (_BETAS, "betas"),
    (_FALL_AND_RISE, "etas"),
    (list_of(ABOVE_0, 2, is_rising=True), "step_sizes"),
    (list_of(ANY, 3), "ns_coefficients"),
    (one_of("strong_wolfe"), "line_search_fn"),
    (one_of("original", "match_rms_adamw", "spectral_unclamped"), "adjust_lr_fn"),
    # Schedules.
    (COUNT, "step_size T_max T_0 T_mult total_steps total_iters epochs steps_per_epoch"),
    (list_of(COUNT), "milestones"),
    (ABOVE_0, "gamma div_factor final_div_factor cosine_epochs"),
    (AT_LEAST_0, "eta_min threshold power warmup_epochs"),
    (either(AT_LEAST_0, list_of(AT_LEAST_0)), "min_lr delay_epochs"),
    (either(ABOVE_0, list_of(ABOVE_0)), "max_lr"),
    (either(SHARE, list_of(SHARE)), "base_momentum max_momentum"),
    (either(_EXPRESSION, list_of(_EXPRESSION)), "lr_lambda"),
    (number(above=0, below=1), "factor"),
    (number(above=0, high=1), "start_factor"),
    (SHARE, "end_factor min_factor"),
    # With 1 PyTorch divides by zero after the last step.
    (replace(number(0, below=1), meaning=float), "pct_start"),
    (whole(0), "patience cooldown"),
    (flag(), "cycle_momentum three_phase"),
    (one_of("rel", "abs"), "threshold_mode"),
    (one_of("cos", "linear"), "anneal_strategy"),
    # Initialisations.
    (AT_LEAST_0, "gain std"),
    (ANY, "a b val mean param"),
    (number(0, below=1), "sparsity"),
    (_NONLINEARITY, "nonlinearity"),
    # Models.
    (one_of("small", "standard"), "stem"),
    (list_of(COUNT), "widths"),
    (one_of(1, 3), "in_channels"),
    (COUNT, "stride round_nearest bn_size groups width_per_group representation_size"),
    (SHARE, "dropout drop_path mlp_dropout attention_dropout drop_rate stochastic_depth_prob"),
    # A whitening layer has all directions of its patches, so its width grows with their area.
    (whole(1, 9), "kernel_size"),
    (AT_LEAST_0, "layer_scale"),
    (ABOVE_0, "mlp_ratio width_mult"),
    (SIDE, "image_size"),
    (list_of(SIDE, 2), "input_size"),
    (list_of(flag(), 3), "replace_stride_with_dilation"),
    (flag(), "memory_efficient transform_input reduced_tail dilated zero_init_residual"),
)
ARGUMENTS: Mapping[str, Allowed] = {name: rule for rule, names in _RULES for name in names.split()}

# Where an argument of one part means something else than its name does elsewhere.
OF_ONE_PART: Mapping[tuple[str, str], Allowed] = {
    ("lenet", "size"): whole(16, PIXELS, words="16 pixels or larger"),
    ("KLDivLoss", "reduction"): one_of("batchmean", "mean", "sum"),
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
