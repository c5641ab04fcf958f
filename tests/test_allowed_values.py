"""Values of every argument that its rule allows, built and run on images, weights or labels."""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from ptkit.core.config.settings import SchedulerSettings
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.transforms.catalogue import TRANSFORMS
from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.models.initialization import INITS, initialize
from ptkit.core.models.zoo import build_model, check_forward, models
from ptkit.core.parts.calls import Symbol, parse
from ptkit.core.training.optimization.optimizers import OPTIMIZERS, build_optimizer
from ptkit.core.training.optimization.schedules import SCHEDULERS, build_schedule
from ptkit.core.training.tasks.losses import LOSSES, RULES, LabelFacts, build_loss

TEXTS = (
    *("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    *("constant", "edge", "reflect", "symmetric", "random", "RGB", "HSV", "YCbCr"),
    *("mean", "balanced", "strong_wolfe", "original", "match_rms_adamw", "spectral_unclamped"),
    *("rel", "abs", "min", "max", "cos", "linear", "fan_in", "fan_out", "conv2d", "tanh", "relu"),
    *("sigmoid", "leaky_relu", "selu", "small", "standard", "0.9 ** epoch"),
)
NUMBERS = (-1, 0, 1, 2, 3, 16, 40, 0.0, 0.5, 0.9, 1.0, 2.5, 255)
OTHER_NUMBERS = (4, 5, 9, 0.25, 99.5)
SINGLES = (None, True, False, *NUMBERS, *TEXTS, *InterpolationMode, *AutoAugmentPolicy)


def repeated(values):
    """Return lists of one to four times each value."""
    return [[value] * count for value in values for count in (1, 2, 3, 4)]


VALUES = (
    *SINGLES,
    *repeated(SINGLES),
    *([0.1, 0.9], [0, 0.5], [1, 2], [-5, 5], [0.5, 1.5], [0, 1, 0.5], [-3, 3, -2, 2]),
    *([True, False, True], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
)
IMAGES = [
    np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    for size in ((24, 32, 3), (32, 24, 3))
]
# What only a file, a function or a list of other parts can be, is tried elsewhere.
ELSEWHERE = {"transforms", "function", "transformation_matrix", "mean_vector", "lr_lambda"}


def as_written(value):
    """Return a value as a parsed call has it."""
    if isinstance(value, list):
        return [as_written(item) for item in value]
    is_enum = isinstance(value, InterpolationMode | AutoAugmentPolicy)
    return Symbol(type(value).__name__, value.name) if is_enum else value


def calls_of(catalogue, name, values):
    """Yield a call of the part for every one of the values that one of its arguments may have."""
    part = catalogue.parts[name]
    base = catalogue.named(parse(f"{name}({EXAMPLES.get(name, '')})"))
    takes = inspect.signature(part.load()).parameters
    for argument in catalogue.arguments(name):
        rule = part.rule(name, takes[argument.name])
        allowed = [value for value in values if rule.check(value)]
        is_tried = allowed or values is not VALUES or argument.name in ELSEWHERE
        assert is_tried, f"nothing tried for {name}.{argument.name}"
        if argument.name not in ELSEWHERE:
            yield from (base.updated({argument.name: as_written(value)}) for value in allowed)


def run_transform(call):
    before = [parse("ToTensor()")] if call.name == "Normalize" else []
    after = [parse("Grayscale(3)")] if call.name == "ToPILImage" else []
    pipeline = Pipeline.of(complete([*before, call, *after], size=16, mean=[0.5], std=[0.5]))
    for image, draws in zip(IMAGES, pipeline.draws(0, epoch=0, keys=np.arange(2)), strict=True):
        assert pipeline.apply(image, draws).isfinite().all()


def run_loss(call):
    rule, none = RULES[call.name], torch.empty(0)
    facts = LabelFacts(SINGLE, 3, 4, torch.tensor([1.0, 1, 2]), none, none)
    loss = build_loss(call, facts, pairs=rule.single is None)
    outputs = torch.linspace(-1, 1, 12).view(4, 3).requires_grad_()
    value = loss(outputs, torch.tensor([0, 1, 2, 2]))
    value.backward()
    assert value.isfinite()


class Tiny(nn.Module):
    """Three words to two numbers."""

    def __init__(self, *, sparse=False):
        super().__init__()
        self.words, self.head = nn.Embedding(3, 3, sparse=sparse), nn.Linear(3, 2)

    def forward(self, words):
        return self.head(self.words(words))


TINY = {is_sparse: Tiny(sparse=is_sparse) for is_sparse in (False, True)}


def run_optimizer(call):
    model = copy.deepcopy(TINY[call.name == "SparseAdam"])
    optimizer = build_optimizer(call, model, lr=0.01).optimizer

    def loss():
        model.zero_grad()
        value = model(torch.arange(3)).square().mean()
        value.backward()
        return value

    for _ in range(2):
        loss()
        optimizer.step(*[loss] * (call.name == "LBFGS"))


def run_schedule(call):
    optimizer = torch.optim.SGD(TINY[False].parameters(), lr=0.1, momentum=0.9)
    schedule = build_schedule(SchedulerSettings(str(call)), optimizer, epochs=6, steps_per_epoch=2)
    for _ in range(6):
        for _ in range(2):
            schedule.set_rates(optimizer)
            schedule.after_step()
        schedule.after_epoch(valid_loss=1.0, metrics={"accuracy": 0.5})


def run_init(call):
    model = copy.deepcopy(TINY[False])
    initialize(model, [f"Linear={call}"], seed=0)
    assert model(torch.arange(3)).isfinite().all()


def run_model(call):
    model, _ = build_model(call, num_classes=3, size=32, seed=0)
    check_forward(model, 32, num_classes=3)


# What each call must have, or is quicker with, beside the argument that is tried.
EXAMPLES = {
    **{name: spec.example for name, spec in TRANSFORMS.parts.items()},
    # Of the twenty evaluations that it makes of a step.
    "LBFGS": "max_iter=2",
    "StepLR": "step_size=2",
    "MultiStepLR": "milestones=[2]",
    "ExponentialLR": "gamma=0.9",
    "LambdaLR": "'0.9 ** epoch'",
    "CosineAnnealingWarmRestarts": "T_0=2",
    "constant_": "0.5",
    "sparse_": "0.1",
}
KINDS = (
    (TRANSFORMS, run_transform, TRANSFORMS.parts.keys() - {"LinearTransformation"}),
    (LOSSES, run_loss, LOSSES.parts),
    (OPTIMIZERS, run_optimizer, OPTIMIZERS.parts),
    (SCHEDULERS, run_schedule, SCHEDULERS.parts),
    (INITS, run_init, INITS.parts),
    # One image of torchvision's largest models takes seconds.
    (models(), run_model, ("lenet", "resnet8", "whitenet", "resnet18")),
)

# Networks of a second, and policies that have their arguments from another one here.
MANY_OR_LARGE = {"resnet18", "AugMix"}


def refusal(run, call):
    """Return why a call is refused when it is run, or a line that is none."""
    try:
        run(call)
    except UsageError as error:
        return str(error)
    return "taken"


# Why some values do not fit the image, the data or the other arguments.
REFUSED = "|".join(
    (
        "taken",
        "others need ToPILImage.. before it",
        "is bigger than input size .*16|from an image of 20×20|is invalid for input of size 0",
        "models take three channels",
        "RandomChoice: Length of p doesn't match",
        "max_size must be (an integer when size is None|larger than size)",
        "magnitude must be below num_magnitude_bins",
        r"has \d values, the data 3 classes|has \d values for 1 parameter groups",
        "ignore_index=.* is no class",
        "Nesterov momentum requires a momentum",
        "OneCycleLR is .* steps long, but the run has 12",
        "the best loss is the minimum: leave mode out",
        "must not be above",
        "leave nothing for the cosine in a run of 6 epochs",
        "does not take 32×32 images",
        "in BasicBlock|BasicBlock only supports groups=1",
    )
)


@pytest.mark.parametrize(
    ("catalogue", "run", "name"),
    [
        pytest.param(
            catalogue, run, name, marks=[pytest.mark.slow] if name in MANY_OR_LARGE else []
        )
        for catalogue, run, names in KINDS
        for name in sorted(names)
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_argument_may_be_runs_or_is_refused_in_one_line(catalogue, run, name):
    check_values(catalogue, run, name, VALUES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("catalogue", "run", "names"),
    KINDS,
    ids=["transforms", "losses", "optimizers", "schedulers", "inits", "models"],
)
def test_other_numbers_run_or_are_refused_in_one_line(catalogue, run, names):
    for name in sorted(names):
        check_values(catalogue, run, name, [*OTHER_NUMBERS, *repeated(OTHER_NUMBERS)])


def check_values(catalogue, run, name, values):
    refused = [refusal(run, call) for call in calls_of(catalogue, name, values)]
    assert [reason for reason in refused if not re.search(REFUSED, reason)] == []


# Pillow's numbers.
MODES = {"NEAREST": 0, "LANCZOS": 1, "BILINEAR": 2, "BICUBIC": 3, "BOX": 4, "HAMMING": 5}
INTERPOLATING = {
    "Resize": ("9, ", MODES),
    "RandomResizedCrop": ("9, ", MODES),
    **dict.fromkeys(
        ("RandomRotation", "RandomAffine"), ("30, ", ("NEAREST", "BILINEAR", "BICUBIC"))
    ),
    **dict.fromkeys(("RandAugment", "AutoAugment"), ("", ("NEAREST", "BILINEAR", "BICUBIC"))),
    "TrivialAugmentWide": ("", ("NEAREST", "BICUBIC")),
    "AugMix": ("", ("NEAREST", "BILINEAR")),
}


@pytest.mark.parametrize("name", INTERPOLATING)
def test_an_interpolation_is_the_same_as_a_member_a_text_and_a_number_of_pillows(name):
    first, modes = INTERPOLATING[name]

    def pixels(value):
        call = f"{name}({first}interpolation={value})"
        pipeline = Pipeline.parse(["ToPILImage()", call, "ToTensor()"])
        draws = pipeline.draws(0, epoch=0, keys=np.arange(3))
        return [pipeline.apply(image, row).tolist() for image in IMAGES for row in draws]

    for mode in modes:
        found = [pixels(MODES[mode]), pixels(repr(mode.lower()))]
        assert found == [pixels(f"InterpolationMode.{mode}")] * 2


@pytest.mark.parametrize("name", ["Resize", "RandomRotation", "RandomAffine"])
def test_pillows_number_2_is_torchvisions_bilinear(name):
    image = torch.from_numpy(IMAGES[0]).permute(2, 0, 1)
    first = {"Resize": 9, "RandomRotation": [30, 30], "RandomAffine": [30, 30]}[name]
    own = getattr(v2, name)(first, interpolation=InterpolationMode.BILINEAR)(image)
    pipeline = Pipeline.parse([f"{name}({first}, interpolation=2)", "ToTensor()"])
    found = pipeline.apply(IMAGES[0], np.zeros(pipeline.num_draws))[0]
    torch.testing.assert_close(found, own / 255)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("RandomRotation(9, resample=2)", "resample is called differently now: use interpolation"),
        ("RandomAffine(9, fillcolor=9)", "fillcolor is called differently now: use fill"),
        ("ColorJitter(resample=2)", "ColorJitter has no argument resample; it takes: brightness"),
        ("Resize(9, interpolation=PIL.Image.BOX)", "did you mean InterpolationMode.BOX?"),
    ],
)
def test_what_older_code_writes_is_answered_with_todays_name(call, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        TRANSFORMS.build(parse(call))


def test_an_enumeration_may_be_named_with_its_module():
    built = TRANSFORMS.build(parse("Resize(9, transforms.InterpolationMode.BOX)"))
    assert built.interpolation == InterpolationMode.BOX


def test_betas_may_be_whole_numbers():
    call = parse("Adam(betas=(0, 0.9))")
    assert OPTIMIZERS.bind(call, OPTIMIZERS.find(call)) == {"betas": (0.0, 0.9)}


def test_places_without_names_are_counted_as_pytorch_has_them():
    with pytest.raises(UsageError, match=r"takes at most 3 arguments .*size_average, reduce, red"):
        LOSSES.named(parse("L1Loss(True, True, 'mean', 1)"))


def test_none_for_what_the_run_fills_in_is_as_if_it_were_left_out():
    run_schedule(parse("OneCycleLR(total_steps=None)"))
