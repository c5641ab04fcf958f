"""What every argument of every part may be, in two tables: by the argument's name, and where one
part differs.

None needs no mention where it is the argument's default. The ranges are those of PyTorch's
documentation, narrowed
where it takes what could only do harm: no momentum above 1, no empty list.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ptkit.core.parts.argument_rules import (
    Allowed,
    either,
    flag,
    list_of,
    member_of,
    number,
    one_of,
    or_none,
    text,
    whole,
)

# The longest side that a JPEG can have.
_PIXELS = 65_535

_SHARE = number(0, 1)
_AT_LEAST_0 = number(0)
_ABOVE_0 = number(above=0)
_ANY = number()
_COUNT = whole(1)
_SIDE = whole(1, _PIXELS)
_BORDER = whole(0, _PIXELS)
_LEVEL = number(0, 255)

_SIZE = either(_SIDE, list_of(_SIDE, 1, 2))
_PADDING = either(_BORDER, list_of(_BORDER, 1, 2, 4))
_STRENGTH = either(_AT_LEAST_0, list_of(_AT_LEAST_0, 2, is_rising=True))
_FIXED_OR_EACH_GROUP = either(_SHARE, list_of(_SHARE))
_TRANSFORMS = Allowed(
    "a list of transforms, such as [RandomCrop(32, padding=4)]",
    lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(callable, value)),
    example=[len],
    bad_examples=("x", 1, None, [], [1], ["x"]),
)
# A tensor stands here once a file's name has been replaced by what is in it.
_MATRIX = Allowed(
    "the name of a file that `ptkit normstats --whiten` wrote, or a list of lists of numbers",
    lambda value: (
        isinstance(value, str) or hasattr(value, "ndim") or list_of(list_of(_ANY)).check(value)
    ),
    example="whitening.npz",
    bad_examples=(1, True, None, [], [1], ["x"], [[]], [["x"]], [[1, 1e999]]),
)
_WEIGHTS = either(list_of(_AT_LEAST_0, has_sum=True), one_of("balanced"))
_INTERPOLATION = either(
    one_of("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    member_of("InterpolationMode", "NEAREST"),
    # Pillow's numbers, which torchvision takes too.
    whole(0, 5),
    words="InterpolationMode.NEAREST, NEAREST_EXACT, BILINEAR, BICUBIC, BOX, HAMMING or LANCZOS",
)
_FALL_AND_RISE = Allowed(
    "a list of 2 numbers, above 0 and below 1, and above 1",
    lambda value: list_of(_ABOVE_0, 2).check(value) and value[0] < 1 < value[1],
    example=[0.5, 1.2],
    bad_examples=(
        "x",
        1.2,
        None,
        [],
        ["x", 1.2],
        [1.2, 0.5],
        [0, 1.2],
        [0.5, 1],
        [0.5, 1.2, 1.2],
        [0.5, 1e999],
    ),
)
_EXPRESSION = text("text such as '0.95 ** epoch' or 'module:function'", example="0.95 ** epoch")
_NONLINEARITY = one_of(
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid",
    "tanh", "relu", "leaky_relu", "selu",
)  # fmt: skip

ARGUMENTS: Mapping[str, Allowed] = {
    # Transforms.
    "size": _SIZE,
    "max_size": _SIDE,
    "padding": _PADDING,
    "padding_mode": one_of("constant", "edge", "reflect", "symmetric"),
    "pad_if_needed": flag(),
    "fill": either(_LEVEL, list_of(_LEVEL, 1, 3)),
    "interpolation": _INTERPOLATION,
    "antialias": or_none(flag()),
    "p": _SHARE,
    "degrees": either(_AT_LEAST_0, list_of(_ANY, 2, is_rising=True)),
    "translate": list_of(_SHARE, 2),
    "scale": list_of(_ABOVE_0, 2, is_rising=True),
    "ratio": list_of(_ABOVE_0, 2, is_rising=True),
    "shear": either(_AT_LEAST_0, list_of(_ANY, 2, 4)),
    "center": list_of(_ANY, 2),
    "expand": flag(),
    "inplace": flag(),
    "vertical_flip": flag(),
    "brightness": _STRENGTH,
    "contrast": _STRENGTH,
    "saturation": _STRENGTH,
    "hue": either(number(0, 0.5), list_of(number(-0.5, 0.5), 2, is_rising=True)),
    "num_output_channels": one_of(1, 3),
    "function": text(
        "text that names a function, as in 'module:function' or 'file.py:function'", example="m:f"
    ),
    "transforms": _TRANSFORMS,
    "transformation_matrix": _MATRIX,
    "mean_vector": list_of(_ANY),
    "policy": member_of("AutoAugmentPolicy", "IMAGENET", "CIFAR10", "SVHN"),
    "num_ops": _COUNT,
    "magnitude": whole(0, 999),
    "num_magnitude_bins": whole(2, 1000),
    "severity": whole(1, 10),
    "mixture_width": _COUNT,
    "chain_depth": either(
        one_of(-1), _COUNT, words="-1 (1 to 3, drawn) or a whole number of at least 1"
    ),
    "all_ops": flag(),
    "alpha": _ABOVE_0,
    "value": either(_ANY, list_of(_ANY, 1, 3), one_of("random")),
    # Losses.
    "weight": _WEIGHTS,
    "pos_weight": _WEIGHTS,
    "ignore_index": whole(),
    "reduction": one_of("mean", words='"mean", as the loop steps on the mean of a batch'),
    "label_smoothing": _SHARE,
    "margin": _AT_LEAST_0,
    "beta": _AT_LEAST_0,
    "log_input": flag(),
    "full": flag(),
    "log_target": flag(),
    "swap": flag(),
    # Optimizers.
    "momentum": _SHARE,
    "dampening": _SHARE,
    "weight_decay": _AT_LEAST_0,
    "nesterov": flag(),
    "centered": flag(),
    "amsgrad": flag(),
    "decoupled_weight_decay": flag(),
    "betas": list_of(number(0, below=1, has_point=True), 2),
    "eps": _ABOVE_0,
    "rho": _SHARE,
    "lr_decay": _AT_LEAST_0,
    "initial_accumulator_value": _AT_LEAST_0,
    "momentum_decay": _AT_LEAST_0,
    "lambd": _AT_LEAST_0,
    "t0": _AT_LEAST_0,
    "etas": _FALL_AND_RISE,
    "step_sizes": list_of(_ABOVE_0, 2, is_rising=True),
    "max_iter": _COUNT,
    "max_eval": _COUNT,
    "history_size": _COUNT,
    "tolerance_grad": _AT_LEAST_0,
    "tolerance_change": _AT_LEAST_0,
    "line_search_fn": one_of("strong_wolfe"),
    "ns_coefficients": list_of(_ANY, 3),
    "ns_steps": whole(1, 99),
    "adjust_lr_fn": one_of("original", "match_rms_adamw", "spectral_unclamped"),
    # Schedules.
    "step_size": _COUNT,
    "gamma": _ABOVE_0,
    "milestones": list_of(_COUNT),
    "T_max": _COUNT,
    "T_0": _COUNT,
    "T_mult": _COUNT,
    "eta_min": _AT_LEAST_0,
    "factor": number(above=0, below=1),
    "patience": whole(0),
    "cooldown": whole(0),
    "threshold": _AT_LEAST_0,
    "threshold_mode": one_of("rel", "abs"),
    "min_lr": either(_AT_LEAST_0, list_of(_AT_LEAST_0)),
    "lr_lambda": either(_EXPRESSION, list_of(_EXPRESSION)),
    "max_lr": either(_ABOVE_0, list_of(_ABOVE_0)),
    "total_steps": _COUNT,
    "total_iters": _COUNT,
    "epochs": _COUNT,
    "steps_per_epoch": _COUNT,
    "pct_start": number(0, 1, has_point=True),
    "anneal_strategy": one_of("cos", "linear"),
    "cycle_momentum": flag(),
    "base_momentum": _FIXED_OR_EACH_GROUP,
    "max_momentum": _FIXED_OR_EACH_GROUP,
    "div_factor": _ABOVE_0,
    "final_div_factor": _ABOVE_0,
    "three_phase": flag(),
    "start_factor": number(above=0, high=1),
    "end_factor": _SHARE,
    "power": _AT_LEAST_0,
    "warmup_epochs": _AT_LEAST_0,
    "delay_epochs": either(_AT_LEAST_0, list_of(_AT_LEAST_0)),
    "cosine_epochs": _ABOVE_0,
    "min_factor": _SHARE,
    # Initialisations.
    "gain": _AT_LEAST_0,
    "a": _ANY,
    "b": _ANY,
    "val": _ANY,
    "mean": _ANY,
    "std": _AT_LEAST_0,
    "sparsity": number(0, below=1),
    "nonlinearity": _NONLINEARITY,
    "param": _ANY,
    # Models.
    "stem": one_of("small", "standard"),
    "widths": list_of(_COUNT),
    "stride": _COUNT,
    "dropout": _SHARE,
    "mlp_dropout": _SHARE,
    "attention_dropout": _SHARE,
    "drop_rate": _SHARE,
    "stochastic_depth_prob": _SHARE,
    "layer_scale": _AT_LEAST_0,
    "mlp_ratio": _ABOVE_0,
    "width_mult": _ABOVE_0,
    "round_nearest": _COUNT,
    "bn_size": _COUNT,
    "groups": _COUNT,
    "width_per_group": _COUNT,
    "representation_size": _COUNT,
    "image_size": _SIDE,
    "input_size": list_of(_SIDE, 2),
    "replace_stride_with_dilation": list_of(flag(), 3),
    "memory_efficient": flag(),
    "transform_input": flag(),
    "reduced_tail": flag(),
    "dilated": flag(),
    "zero_init_residual": flag(),
}

# Where an argument of one part means something else than its name does elsewhere.
OF_ONE_PART: Mapping[tuple[str, str], Allowed] = {
    ("Resize", "size"): or_none(_SIZE),
    ("lenet", "size"): whole(16, _PIXELS, words="16 pixels or larger"),
    ("Normalize", "mean"): list_of(_ANY, 1, 3),
    ("Normalize", "std"): list_of(_ABOVE_0, 1, 3),
    ("RandomResizedCrop", "scale"): list_of(number(above=0, high=1), 2, is_rising=True),
    ("RandomErasing", "scale"): list_of(_SHARE, 2, is_rising=True),
    ("RandomChoice", "p"): list_of(_AT_LEAST_0, has_sum=True),
    ("ToPILImage", "mode"): one_of("RGB", "YCbCr", "HSV"),
    ("MultiMarginLoss", "p"): one_of(1, 2),
    ("TripletMarginLoss", "p"): _ABOVE_0,
    ("TripletMarginLoss", "margin"): _ABOVE_0,
    ("CosineEmbeddingLoss", "margin"): number(-1, 1),
    ("RMSprop", "alpha"): number(0, below=1),
    ("ASGD", "alpha"): _SHARE,
    ("ReduceLROnPlateau", "mode"): one_of("min", "max"),
    ("ReduceLROnPlateau", "eps"): _AT_LEAST_0,
    ("kaiming_uniform_", "mode"): one_of("fan_in", "fan_out"),
    ("kaiming_normal_", "mode"): one_of("fan_in", "fan_out"),
}


@dataclass(frozen=True)
class Together:
    """What arguments of one part must be to each other.

    check: says whether it is so, of all arguments by name, defaults filled in, each of which is
    allowed by itself.
    text: the whole message after the part's name.
    """

    check: Callable[[Mapping[str, Any]], bool]
    text: str


TOGETHER: Mapping[str, Together] = {
    "Resize": Together(
        lambda given: (
            given["max_size"] is None
            or given["size"] is None
            or _shorter_side(given) < given["max_size"]
        ),
        "max_size must be larger than size, which is then one number",
    ),
    "RandAugment": Together(
        lambda given: given["magnitude"] < given["num_magnitude_bins"],
        "magnitude must be below num_magnitude_bins",
    ),
    "OneCycleLR": Together(
        lambda given: (
            not given["cycle_momentum"]
            or _largest(given["base_momentum"]) <= _largest(given["max_momentum"])
        ),
        "base_momentum must not be above max_momentum",
    ),
    "uniform_": Together(lambda given: given["a"] <= given["b"], "a must not be above b"),
}


def allowed_for(part: str, parameter: inspect.Parameter) -> Allowed | None:
    """Return the rule for an argument of a part; None where the tables have none, as for a user's
    own function.
    """
    rule = OF_ONE_PART.get((part, parameter.name)) or ARGUMENTS.get(parameter.name)
    return or_none(rule) if rule and parameter.default is None and not rule.check(None) else rule


def _shorter_side(given: Mapping[str, Any]) -> float:
    size = given["size"]
    if isinstance(size, int):
        return size
    return float("inf") if len(size) == 2 else size[0]


def _largest(momentum: Any) -> float:
    return max(momentum) if isinstance(momentum, list | tuple) else momentum
