"""Every argument of every part, given what it may not be and what it may."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from torch import nn
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.transforms.catalogue import TRANSFORMS
from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import INITS
from ptkit.core.models.zoo import models
from ptkit.core.parts.argument_table import ARGUMENTS, OF_ONE_PART, TOGETHER
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.optimization.optimizers import OPTIMIZERS
from ptkit.core.training.optimization.schedules import SCHEDULERS
from ptkit.core.training.tasks.losses import LOSSES

CATALOGUES = {c.kind: c for c in (TRANSFORMS, LOSSES, OPTIMIZERS, SCHEDULERS, INITS, models())}
# Of torchvision's 80 models one for each signature: the rules know nothing else of them.
MODELS = {
    tuple(a.name for a in models().arguments(name)): name for name in reversed(models().parts)
}
PARTS = [
    (kind, name)
    for kind, catalogue in CATALOGUES.items()
    for name in catalogue.parts
    if kind != "model" or name in MODELS.values()
]


def parameter_of(kind, part, argument):
    return inspect.signature(CATALOGUES[kind].parts[part].load()).parameters[argument]


def rule_of(kind, part, argument):
    return CATALOGUES[kind].parts[part].rule(part, parameter_of(kind, part, argument))


RULES = [
    (kind, part, argument.name, rule_of(kind, part, argument.name))
    for kind, part in PARTS
    for argument in CATALOGUES[kind].arguments(part)
    if argument.allowed_text
]
IDS = [f"{part}.{argument}" for _, part, argument, _ in RULES]

# A call of every part with all its arguments, as PyTorch's documentation writes them.
USUAL = {
    "CenterCrop": "CenterCrop(224)",
    "RandomCrop": (
        "RandomCrop(32, padding=4, pad_if_needed=True, fill=(124, 116, 104),"
        " padding_mode='constant')"
    ),
    "RandomResizedCrop": (
        "RandomResizedCrop(224, scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), "
        "interpolation=InterpolationMode.BICUBIC, antialias=True)"
    ),
    "FiveCrop": "FiveCrop((28, 28))",
    "TenCrop": "TenCrop(224, vertical_flip=True)",
    "RandomHorizontalFlip": "RandomHorizontalFlip(p=0.5)",
    "RandomVerticalFlip": "RandomVerticalFlip(1)",
    "AlternatingFlip": "AlternatingFlip()",
    "WithHorizontalFlip": "WithHorizontalFlip()",
    "RandomRotation": (
        "RandomRotation(degrees=(0, 180), interpolation='bilinear', expand=True, center=[4, 4],"
        " fill=0)"
    ),
    "Resize": (
        "Resize(size=256, interpolation=InterpolationMode.BILINEAR, max_size=512, antialias=None)"
    ),
    "Normalize": "Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], inplace=True)",
    "ToTensor": "ToTensor()",
    "LinearTransformation": "LinearTransformation([[1, 0.5], [-1, 2]], mean_vector=[0.5, 0.1])",
    "Pad": "Pad(padding=(1, 2, 3, 4), fill=0, padding_mode='reflect')",
    "PadToSquare": "PadToSquare(fill=(124, 116, 104))",
    "ColorJitter": "ColorJitter(brightness=0.5, contrast=(0.8, 1.2), saturation=0, hue=0.3)",
    "Grayscale": "Grayscale(num_output_channels=3)",
    "RandomAffine": (
        "RandomAffine(degrees=(30, 70), translate=(0.1, 0.3), scale=(0.5, 0.75), shear=(-5, 5, -5,"
        " 5), interpolation=InterpolationMode.NEAREST, fill=[0], center=(0, 0))"
    ),
    "RandomGrayscale": "RandomGrayscale(p=0.1)",
    "ToPILImage": "ToPILImage(mode='RGB')",
    "RandomErasing": (
        "RandomErasing(p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value='random', inplace=False)"
    ),
    "Lambda": "Lambda('math:sqrt')",
    "RandomChoice": "RandomChoice([CenterCrop(8), ToTensor()], p=[2, 1])",
    "RandomApply": "RandomApply(transforms=[ColorJitter(), Pad(1)], p=0.3)",
    "RandomOrder": "RandomOrder([RandomHorizontalFlip()])",
    "AutoAugment": "AutoAugment(AutoAugmentPolicy.CIFAR10, interpolation=2, fill=None)",
    "RandAugment": (
        "RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31, interpolation=0, fill=[1,"
        " 2, 3])"
    ),
    "TrivialAugmentWide": "TrivialAugmentWide(31, InterpolationMode.NEAREST, fill=127.5)",
    "AugMix": (
        "AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1, all_ops=True, "
        "interpolation=InterpolationMode.BILINEAR, fill=None)"
    ),
    "MixUp": "MixUp(alpha=0.2)",
    "CutMix": "CutMix(alpha=1)",
    "CrossEntropyLoss": (
        "CrossEntropyLoss(weight=[1, 0, 2.5], ignore_index=-100, reduction='mean', "
        "label_smoothing=0.1)"
    ),
    "NLLLoss": "NLLLoss(weight=[1, 2], ignore_index=0, reduction='mean')",
    "MultiMarginLoss": "MultiMarginLoss(p=2, margin=0.5, weight=[1, 2], reduction='mean')",
    "KLDivLoss": "KLDivLoss(reduction='batchmean', log_target=True)",
    "BCELoss": "BCELoss(weight=[1, 2], reduction='mean')",
    "BCEWithLogitsLoss": "BCEWithLogitsLoss(weight=None, reduction='mean', pos_weight=[3, 1])",
    "SoftMarginLoss": "SoftMarginLoss(reduction='mean')",
    "MultiLabelSoftMarginLoss": "MultiLabelSoftMarginLoss(weight=[1], reduction='mean')",
    "MultiLabelMarginLoss": "MultiLabelMarginLoss(reduction='mean')",
    "HingeEmbeddingLoss": "HingeEmbeddingLoss(margin=1, reduction='mean')",
    "L1Loss": "L1Loss(reduction='mean')",
    "MSELoss": "MSELoss(reduction='mean')",
    "SmoothL1Loss": "SmoothL1Loss(reduction='mean', beta=0)",
    "PoissonNLLLoss": "PoissonNLLLoss(log_input=False, full=True, eps=1e-08, reduction='mean')",
    "CosineEmbeddingLoss": "CosineEmbeddingLoss(margin=-0.5, reduction='mean')",
    "MarginRankingLoss": "MarginRankingLoss(margin=0, reduction='mean')",
    "TripletMarginLoss": (
        "TripletMarginLoss(margin=1.0, p=2, eps=1e-6, swap=True, reduction='mean')"
    ),
    "SGD": "SGD(momentum=0.9, dampening=0, weight_decay=5e-4, nesterov=True)",
    "ASGD": "ASGD(lambd=0.0001, alpha=0.75, t0=1000000.0, weight_decay=0)",
    "Rprop": "Rprop(etas=(0.5, 1.2), step_sizes=(1e-06, 50))",
    "Adagrad": "Adagrad(lr_decay=0.1, weight_decay=0, initial_accumulator_value=0.1, eps=1e-10)",
    "Adadelta": "Adadelta(rho=0.9, eps=1e-06, weight_decay=0)",
    "RMSprop": "RMSprop(alpha=0.99, eps=1e-08, weight_decay=0, momentum=0.9, centered=True)",
    # decoupled_weight_decay is there from torch 2.7 on.
    "Adam": "Adam(betas=(0.0, 0.99), eps=1e-08, weight_decay=1, amsgrad=True"
    + ", decoupled_weight_decay=True" * ("decoupled" in str(inspect.signature(torch.optim.Adam)))
    + ")",
    "Adamax": "Adamax(betas=(0.9, 0.999), eps=1e-08, weight_decay=0)",
    "SparseAdam": "SparseAdam(betas=(0.9, 0.999), eps=1e-08)",
    "LBFGS": (
        "LBFGS(max_iter=20, max_eval=25, tolerance_grad=1e-07, tolerance_change=1e-09,"
        " history_size=100, line_search_fn='strong_wolfe')"
    ),
    "AdamW": "AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False)",
    "NAdam": (
        "NAdam(betas=[0.9, 0.999], eps=1e-08, weight_decay=0, momentum_decay=0.004,"
        " decoupled_weight_decay=True)"
    ),
    "RAdam": "RAdam(betas=(0.9, 0.999), eps=1e-08, weight_decay=0, decoupled_weight_decay=True)",
    "Muon": (
        "Muon(weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients=(3.4445, -4.775,"
        " 2.0315), eps=1e-07, ns_steps=5, adjust_lr_fn='match_rms_adamw')"
    ),
    "StepLR": "StepLR(step_size=30, gamma=0.1)",
    "MultiStepLR": "MultiStepLR(milestones=[30, 80], gamma=2)",
    "ExponentialLR": "ExponentialLR(gamma=0.95)",
    "CosineAnnealingLR": "CosineAnnealingLR(T_max=10, eta_min=0)",
    "ReduceLROnPlateau": (
        "ReduceLROnPlateau(mode='max', factor=0.5, patience=0, threshold=0, threshold_mode='abs', "
        "cooldown=2, min_lr=[1e-6], eps=0)"
    ),
    "LambdaLR": "LambdaLR(lr_lambda=['0.95 ** epoch'])",
    "OneCycleLR": (
        "OneCycleLR(max_lr=0.01, total_steps=20, epochs=10, steps_per_epoch=2, pct_start=0.3, "
        "anneal_strategy='linear', cycle_momentum=True, base_momentum=0.85, max_momentum=[0.95], "
        "div_factor=25, final_div_factor=1e4, three_phase=True)"
    ),
    "CosineAnnealingWarmRestarts": "CosineAnnealingWarmRestarts(T_0=10, T_mult=2, eta_min=1e-6)",
    "LinearLR": "LinearLR(start_factor=0.5, end_factor=1, total_iters=4)",
    "PolynomialLR": "PolynomialLR(total_iters=4, power=1)",
    "WarmupCosineLR": (
        "WarmupCosineLR(warmup_epochs=2, delay_epochs=[0.5], cosine_epochs=5, min_factor=0)"
    ),
    "xavier_uniform_": "xavier_uniform_(gain=calculate_gain('relu'))",
    "xavier_normal_": "xavier_normal_(gain=calculate_gain('leaky_relu', param=0.2))",
    "kaiming_uniform_": "kaiming_uniform_(a=0, mode='fan_in', nonlinearity='relu')",
    "kaiming_normal_": "kaiming_normal_(a=0.1, mode='fan_out', nonlinearity='leaky_relu')",
    "uniform_": "uniform_(a=-0.1, b=0.1)",
    "normal_": "normal_(mean=-1, std=0.01)",
    "constant_": "constant_(0.3)",
    "eye_": "eye_()",
    "orthogonal_": "orthogonal_(gain=1)",
    "sparse_": "sparse_(sparsity=0.1, std=0.01)",
}
# A call of one model of each signature, by the names of its arguments.
USUAL_MODELS = (
    "efficientnet_lite0(dropout=0.2, drop_path=0.2, in_channels=3)",
    "lenet(size=28, in_channels=1)",
    "resnet8(in_channels=1)",
    "whitenet(widths=[32, 64], stride=2, kernel_size=2, in_channels=3)",
    "alexnet(dropout=0, in_channels=3)",
    "convnext_tiny(stochastic_depth_prob=0.1, layer_scale=1e-6, in_channels=3)",
    "densenet121(bn_size=4, drop_rate=0.2, memory_efficient=True, in_channels=3)",
    "efficientnet_b0(dropout=0.2, stochastic_depth_prob=0, in_channels=3)",
    "googlenet(transform_input=True, dropout=0.2, in_channels=3)",
    "maxvit_t(input_size=(224, 224), mlp_dropout=0.0, attention_dropout=0.5, in_channels=3)",
    "mobilenet_v2(width_mult=0.5, round_nearest=8, dropout=0.2, in_channels=3)",
    "mobilenet_v3_small(width_mult=1, reduced_tail=True, dilated=True, dropout=0.2, in_channels=3)",
    (
        "resnet50(stem='small', zero_init_residual=True, groups=32, width_per_group=4, "
        "replace_stride_with_dilation=[False, True, True], in_channels=1)"
    ),
    "swin_t(mlp_ratio=4, dropout=0.1, attention_dropout=0.1, in_channels=3)",
    (
        "vit_b_16(image_size=384, dropout=0.1, attention_dropout=0.1, representation_size=256, "
        "in_channels=3)"
    ),
)
OTHER_FORMS = [
    ("transform", "Resize([256])"),
    ("transform", "Resize(None, max_size=512)"),
    ("transform", "RandomCrop((24, 32), padding=(2, 4))"),
    ("transform", "Pad(0, fill=255, padding_mode='symmetric')"),
    ("transform", "ColorJitter(hue=(-0.1, 0.1))"),
    ("transform", "RandomRotation((-10, 10.5))"),
    ("transform", "RandomAffine(10, shear=15)"),
    ("transform", "RandomErasing(value=(0.485, 0.456, 0.406))"),
    ("transform", "RandomErasing(scale=(0, 1), value=-1)"),
    ("transform", "RandomChoice([RandomApply([Pad(1)]), RandomOrder([Pad(1), Pad(2)])])"),
    ("transform", "LinearTransformation([[1, 0.5], [-1, 2], [0, 0]])"),
    ("transform", "AugMix(chain_depth=3)"),
    ("optimizer", "SGD(momentum=1)"),
    ("optimizer", "LBFGS(line_search_fn=None)"),
    ("schedule", "ReduceLROnPlateau(min_lr=0.001)"),
    ("schedule", "OneCycleLR([0.1], epochs=3, steps_per_epoch=7)"),
    ("initialisation", "sparse_(0)"),
    ("loss", "CrossEntropyLoss(weight=None)"),
]


def supplied(kind):
    shadow = torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1, momentum=0.9)
    given = {
        "optimizer": {"params": [nn.Parameter(torch.zeros(2, 2))], "lr": 0.1},
        "schedule": {"optimizer": shadow, "epochs": 10},
        "initialisation": {"tensor": torch.zeros(3, 3)},
    }
    return given.get(kind, {"num_classes": 3})


def error_of(kind, call):
    with pytest.raises(UsageError) as caught:
        CATALOGUES[kind].build(call, supplied=supplied(kind))
    reason, source, caret = str(caught.value).split("\n")
    return reason, source[caret.index("^") :]


def bound(kind, text):
    call = parse(text)
    part = CATALOGUES[kind].find(call)
    return CATALOGUES[kind].bind(call, part)


WRONG = ("x", True, None, [])
NUMBER = r"(-?\d+(?:\.\d+)?)"
LIST = re.compile(
    r"a list of (?P<counts>\d[\d, or]* )?(?P<items>.+?)(?P<rises>, the smaller first)?"
    r"(?P<sum>, not all 0)?"
)
# What rules refuse whose words do not give it away, by how their words begin.
REFUSED = {
    "a list of 2 numbers, above 0 and below 1, and above 1": (
        *("x", 1.2, None, [], ["x", 1.2], [1.2, 0.5], [0, 1.2]),
        *([0.5, 1], [0.5, 1.2, 1.2], [0.5, 1e999]),
    ),
    "a list of transforms": ("x", 1, None, [], [1], ["x"]),
    "the name of a file": (1, True, None, [], [1], ["x"], [[]], [["x"]], [[1, 1e999]]),
    "16 pixels or larger": (*WRONG, 1.5, 2**64, 15, 65_536),
    "InterpolationMode": (*WRONG, 1.5, 99, 2**64, -1, 6),
    "AutoAugmentPolicy": (*WRONG, 1.5),
    "-1 (1 to 3, drawn)": (*WRONG, 1.5, 2**64, 0, -2),
    '"mean", as the loop': (*WRONG, 1.5, 99),
    "text": (1, True, None, []),
    "such texts": (1, True, None, []),
    "True or False": ("x", 1, None),
    "of True or False": ("x", 1, None),
    "None": (),
}


def limits_in(words):
    """Return low and high, inclusive, and above and below, exclusive; None where there is none."""
    if found := re.search(rf"of {NUMBER}\.\.{NUMBER}", words):
        return float(found[1]), float(found[2]), None, None
    found = (re.search(rf"{word} {NUMBER}", words) for word in ("least", "most", "above", "below"))
    return tuple(float(one[1]) if one else None for one in found)


def value_inside(words):
    """Return a number that the words allow."""
    low, high, above, below = limits_in(words)
    first, last = above if low is None else low, below if high is None else high
    if "whole" in words or first is None or last is None:
        return int(first or 0) + 1 if "whole" in words else (first or 0.0) + 1.0
    return first + (last - first) * 0.75


def just_outside(words):
    steps = zip(limits_in(words), (-1, 1, 0, 0), strict=True)
    kind = int if "whole" in words else float
    return [kind(limit + step) for limit, step in steps if limit is not None]


def values_outside(words):
    """Return what the words refuse: wrong types, and numbers just out of range."""
    for start, refused in REFUSED.items():
        if words.startswith(start):
            return refused
    if found := LIST.fullmatch(words):
        counts = [int(count) for count in re.findall(r"\d+", found["counts"] or "")]
        size = (counts or [2])[0]
        good = True if "True" in found["items"] else value_inside(found["items"])
        return (
            *WRONG,
            *([bad] * size for bad in values_outside(found["items"])),
            *([[good] * (max(counts) + 1)] if counts else []),
            *([[good, good / 2]] if found["rises"] else []),
            *([[0] * size] if found["sum"] else []),
        )
    if "number" not in words:
        # One text or number that is meant exactly.
        return (*WRONG, 1.5, 99)
    others = (1.5, 2**64) if "whole" in words else (math.inf,)
    return (*WRONG, *others, *just_outside(words))


def refused_by(rule):
    """Return what a rule refuses: what each of its parts does, unless another part allows it."""
    parts = rule.parts or (rule,)
    refused = [
        value
        for part in parts
        for value in values_outside(part.text)
        if not any(other.check(value) for other in parts if other is not part)
    ]
    return tuple({repr(value): value for value in refused}.values())


def test_every_argument_says_what_it_may_be():
    assert [
        (kind, name, argument.name)
        for kind, catalogue in CATALOGUES.items()
        for name in catalogue.parts
        for argument in catalogue.arguments(name)
        if not argument.allowed_text
    ] == []


@pytest.mark.parametrize(("kind", "part", "argument", "rule"), RULES, ids=IDS)
def test_wrong_types_and_values_out_of_range_are_refused_with_what_is_allowed(
    kind, part, argument, rule
):
    shown = [str(Call("", (bad,)))[1:-1] for bad in refused_by(rule)]
    found = [error_of(kind, parse(f"{part}({argument}={text})")) for text in shown]
    assert found == [
        (f"{part}: {argument} must be {rule.text}, found {text}", f"{argument}={text})")
        for text in shown
    ]


def test_what_no_argument_may_be_is_among_what_is_tried():
    rules = [rule for *_, rule in RULES]
    types = {int, list, str, type(None)}
    assert all(types & {type(bad) for bad in refused_by(rule)} for rule in rules)
    never = (math.nan, math.inf, -math.inf, [math.nan] * 3)
    assert [
        (rule, value)
        for rule in rules
        for value in (*refused_by(rule), *never)
        if rule.check(value)
    ] == []


@pytest.mark.parametrize(
    "part",
    {
        part.text: part
        for *_, rule in RULES
        for part in rule.parts or (rule,)
        if re.match("a (finite |whole )?number", part.text)
    }.values(),
    ids=lambda part: part.text,
)
def test_a_number_is_allowed_as_far_as_the_words_say(part):
    kind = int if "whole" in part.text else float
    at_the_limits = [kind(limit) for limit in limits_in(part.text)[:2] if limit is not None]
    assert all(map(part.check, [value_inside(part.text), *at_the_limits]))
    assert not any(map(part.check, just_outside(part.text)))


@pytest.mark.parametrize(("kind", "part", "argument", "rule"), RULES, ids=IDS)
def test_a_misspelled_argument_is_refused_with_the_right_one(kind, part, argument, rule):
    reason, at = error_of(kind, Call(part, kwargs={f"{argument}_": 1}))
    assert reason.startswith(f"{part} has no argument {argument}_; ")
    assert argument in reason.partition(";")[2]
    assert at.startswith(f"{part}(")


def test_pytorchs_own_defaults_are_allowed():
    defaults = [(row, parameter_of(*row[:3]).default) for row in RULES]
    assert [
        row
        for row, default in defaults
        if default is not inspect.Parameter.empty and not row[3].check(default)
    ] == []


@pytest.mark.parametrize(("kind", "part"), [(k, p) for k, p in PARTS if k != "model"])
def test_usual_values_of_all_arguments_are_allowed(kind, part):
    assert bound(kind, USUAL[part]).keys() == {a.name for a in CATALOGUES[kind].arguments(part)}


@pytest.mark.parametrize("text", USUAL_MODELS)
def test_usual_values_of_all_arguments_of_a_model_are_allowed(text):
    given = bound("model", text)
    assert given.keys() == {a.name for a in models().arguments(parse(text).name)}
    assert tuple(given) in MODELS


def test_the_usual_models_are_all_kinds_of_models():
    assert len(USUAL_MODELS) == len(MODELS)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(k, USUAL[p]) for k, p in PARTS if p in USUAL and p != "LambdaLR"] + OTHER_FORMS,
)
def test_pytorch_takes_what_is_allowed(kind, text):
    CATALOGUES[kind].build(parse(text), supplied=supplied(kind))


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (
            "schedule",
            "StepLR(0)",
            "StepLR: step_size must be a whole number of at least 1, found 0",
        ),
        ("optimizer", "SGD(momentum=1e999)", "SGD: momentum must be a number of 0..1, found 1e999"),
        (
            "transform",
            "RandomCrop(32, padding=(1, 2, 3))",
            "RandomCrop: padding must be a whole number of 0..65535, a list of 1, 2 or 4 whole "
            "numbers of 0..65535 or None, found (1, 2, 3)",
        ),
        (
            "transform",
            "RandomApply(RandomCrop(32, padding=4), p=0.5)",
            "RandomApply: transforms must be a list of transforms, such as [RandomCrop(32, "
            "padding=4)], found RandomCrop(32, padding=4)",
        ),
        (
            "transform",
            "RandomOrder([RandomHorizontalFlip(), 'Pad(1)'])",
            "RandomOrder: transforms must be a list of transforms, such as [RandomCrop(32, "
            "padding=4)], found [RandomHorizontalFlip(), 'Pad(1)']",
        ),
        (
            "transform",
            "Resize(8, interpolation='cubic')",
            "Resize: interpolation must be InterpolationMode.NEAREST, NEAREST_EXACT, BILINEAR, "
            "BICUBIC, BOX, HAMMING or LANCZOS, found 'cubic'",
        ),
        (
            "transform",
            "Resize(8, interpolation=AutoAugmentPolicy.SVHN)",
            "Resize: interpolation must be InterpolationMode.NEAREST, NEAREST_EXACT, BILINEAR, "
            "BICUBIC, BOX, HAMMING or LANCZOS, found AutoAugmentPolicy.SVHN",
        ),
        (
            "transform",
            "RandomResizedCrop(8, scale=(1, 0.5))",
            "RandomResizedCrop: scale must be a list of 2 numbers above 0 and of at most 1, the "
            "smaller first, found (1, 0.5)",
        ),
        (
            "loss",
            "CrossEntropyLoss([0, 0])",
            "CrossEntropyLoss: weight must be a list of numbers of at least 0, not all 0, "
            "'balanced' or None, found [0, 0]",
        ),
        (
            "initialisation",
            "xavier_normal_(gain=calculate_gain('rely'))",
            "calculate_gain: nonlinearity must be 'linear', 'conv1d', 'conv2d', 'conv3d', "
            "'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d', 'sigmoid', 'tanh', "
            "'relu', 'leaky_relu' or 'selu', found 'rely'",
        ),
        (
            "model",
            "resnet18(stem='tiny')",
            "resnet18: stem must be 'small', 'standard' or None, found 'tiny'",
        ),
        (
            "transform",
            "Resize()",
            "Resize: missing a required argument: 'size'; it must be a whole number of 1..65535, a "
            "list of 1 or 2 whole numbers of 1..65535 or None",
        ),
        (
            "transform",
            "RandomHorizontalFlip(0.5, 3)",
            "RandomHorizontalFlip takes at most 1 arguments without their names: p",
        ),
        (
            "model",
            "lenet(32)",
            "lenet takes at most 0 arguments without their names; with their names: size,"
            " in_channels",
        ),
        (
            "transform",
            "Resize(9, max_size=9)",
            "Resize: max_size must be larger than size, which is then one number",
        ),
        (
            "transform",
            "RandAugment(magnitude=31)",
            "RandAugment: magnitude must be below num_magnitude_bins",
        ),
        (
            "schedule",
            "OneCycleLR(0.1, 9, base_momentum=0.96)",
            "OneCycleLR: base_momentum must not be above max_momentum",
        ),
        ("initialisation", "uniform_(1, 0)", "uniform_: a must not be above b"),
    ],
)
def test_messages_say_what_is_allowed_and_what_was_found(kind, text, reason):
    assert error_of(kind, parse(text))[0] == reason


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (
            "loss",
            "CrossEntropy()",
            "no loss is called CrossEntropy; did you mean CrossEntropyLoss?",
        ),
        ("transform", "Scale(8)", "no transform is called Scale; it is called Resize now"),
        (
            "schedule",
            "cosine()",
            "no schedule is called cosine; "
            "did you mean CosineAnnealingLR, CosineAnnealingWarmRestarts or WarmupCosineLR?",
        ),
        (
            "initialisation",
            "lecun()",
            "no initialisation is called lecun; there are: " + ", ".join(INITS.parts),
        ),
        ("model", "yolo()", f"no model is called yolo; `ptkit list` has all {len(models().parts)}"),
    ],
)
def test_an_unknown_name_is_refused_with_what_may_be_meant(kind, text, reason):
    assert error_of(kind, parse(text))[0] == reason


def test_the_tables_have_no_row_that_no_part_uses():
    arguments = {(n, a.name) for c in CATALOGUES.values() for n in c.parts for a in c.arguments(n)}
    of_functions = {"nonlinearity", "param"}
    assert ARGUMENTS.keys() - {argument for _, argument in arguments} - of_functions == set()
    assert OF_ONE_PART.keys() - arguments == set()
    assert TOGETHER.keys() - {part for part, _ in arguments} == set()


@pytest.mark.parametrize(
    ("flag", "call", "reason"),
    [
        (
            "--loss",
            "CrossEntropyLoss(label_smoothing=2)",
            "ptkit: CrossEntropyLoss: label_smoothing must be a number of 0..1, found 2",
        ),
        (
            "--optimizer",
            "SGD(momentum=9)",
            "ptkit: SGD: momentum must be a number of 0..1, found 9",
        ),
        (
            "--scheduler",
            "StepLR(0)",
            "ptkit: StepLR: step_size must be a whole number of at least 1, found 0",
        ),
        (
            "--transform",
            "RandomHorizontalFlip(1.5)",
            "ptkit: RandomHorizontalFlip: p must be a number of 0..1, found 1.5",
        ),
        (
            "--init",
            "Conv2d=normal_(0, -1)",
            "ptkit: normal_: std must be a number of at least 0, found -1",
        ),
        (
            "--model",
            "resnet18(groups=0)",
            "ptkit: resnet18: groups must be a whole number of at least 1 or None, found 0",
        ),
    ],
)
def test_train_stops_with_exit_code_2_before_it_makes_a_run(
    flag, call, reason, tmp_path, monkeypatch
):
    monkeypatch.chdir(make_lists(tmp_path, train=6, valid=3, test=3))
    result = CliRunner().invoke(app, ["train", "--set", "log.tensorboard=false", flag, call])
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, reason)
    assert result.stderr.splitlines()[2].strip() == "^"
    assert not Path("runs").exists()
