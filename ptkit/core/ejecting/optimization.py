"""The optimizer, its groups and the schedule of a run, as code."""

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import lr_scheduler

from ptkit.core.ejecting.conditions import beginnings, condition
from ptkit.core.ejecting.labels import metric_of
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, definitions, indented, literal
from ptkit.core.models.layers import parameters_by_layer
from ptkit.core.parts.calls import Call, parse
from ptkit.core.training.optimization import warmup_cosine
from ptkit.core.training.optimization.optimizers import OPTIMIZERS, OptimizerSetup, frozen_norms
from ptkit.core.training.optimization.schedule_arguments import (
    PER_GROUP,
    arguments_by_group,
    arguments_of_run,
)
from ptkit.core.training.optimization.schedules import SCHEDULERS, warmup_steps_of
from ptkit.core.training.setup import Setup
from ptkit.core.training.tasks.task import METRICS

# What the texts of LambdaLR may call.
_OF_MATH = re.compile(r"\b(?:cos|sin|exp|sqrt|log|pi)\b")


def optimizer_parts(setup: Setup) -> tuple[Lines, Lines]:
    """Return what stands before the main function, and the lines of it that make `optimizer`.

    Raises:
        UsageError: groups that a script does not have.
    """
    optimizer = setup.training.optimizer_setup
    if optimizer.waiting:
        raise refused("groups that are unfrozen later", "leave unfreeze out")
    model = setup.model.module
    fixed = _frozen_lines(model, optimizer.frozen)
    kwargs = {k: literal(v) for k, v in OPTIMIZERS.named(optimizer.call).kwargs.items()}
    defaults = optimizer.optimizer.defaults
    how = [f"{key}=True" for key in ("fused", "foreach", "capturable") if defaults.get(key)]
    own, more, params = _parameters(setup, model, optimizer)
    arguments = [params, "lr=LR", *(f"{k}={v}" for k, v in kwargs.items()), *how]
    name = f"torch.optim.{optimizer.call.name}"
    return own, [*fixed, *more, call_text(name, arguments, before="optimizer = ")]


def frozen_statistics(setup: Setup) -> Lines:
    """Return the lines that keep the statistics of frozen norms, after `model.train()`."""
    model = setup.model.module
    found = frozen_norms(model, setup.training.optimizer_setup.frozen)
    bare = [name for name in found if not list(model.get_submodule(name).parameters())]
    lines = [f"model.get_submodule({literal(name)}).eval()" for name in bare]
    if len(bare) < len(found):
        lines += [
            "for module in model.modules():",
            "    own = list(module.parameters(recurse=False))",
            "    trains = any(parameter.requires_grad for parameter in own)",
            '    if hasattr(module, "running_mean") and own and not trains:',
            "        module.eval()",
        ]
    return ["# Norms that are frozen keep their statistics.", *lines] if lines else []


def _frozen_lines(model: nn.Module, frozen: Sequence[str]) -> Lines:
    if not frozen:
        return []
    return [
        "for name, parameter in model.named_parameters():",
        f"    if {condition(model, frozen)}:",
        "        parameter.requires_grad_(False)",
    ]


def _parameters(
    setup: Setup, model: nn.Module, optimizer: OptimizerSetup
) -> tuple[Lines, Lines, str]:
    """Return the function that groups the parameters, or lines that do so, and the argument."""
    groups = optimizer.optimizer.param_groups
    is_all = not (optimizer.frozen or optimizer.excluded)
    options = _options(model, groups, optimizer)
    if not options and is_all:
        return [], [], "model.parameters()"
    if is_all and _spares_vectors_alone(model, groups):
        return [], _TWO_GROUPS, "groups"
    if is_all and (in_order := _layers_in_order(setup, model, optimizer)):
        return [], _by_layer(in_order, setup.settings.optimizer.layer_decay), "groups"
    layers, lines, apart = _layer_rates(setup, model, optimizer)
    if layers:
        options = [*apart, *(row for row in options if row[0] != "lr")]
    left_out = set(optimizer.frozen) | set(optimizer.excluded)
    for key, value, names in options:
        chosen = condition(model, names, leaving_out=left_out)
        lines += [f"if {chosen}:", f'    options["{key}"] = {value}']
    skip = [f"if {condition(model, left_out)}:", "    continue"] if left_out else []
    each = "name, parameter" if _uses_name([*skip, *lines]) else "_, parameter"
    return (
        [
            *([*layers, "", ""] if layers else []),
            "def parameter_groups(model: nn.Module) -> list[dict]:",
            '    """Return the parameters in groups of the same options."""',
            *(["    layers = LAYERS.split()"] if layers else []),
            "    groups: dict[str, dict] = {}",
            f"    for {each} in model.named_parameters():",
            *indented([*skip, "options = {}", *lines], 2),
            '        group = groups.setdefault(str(options), {"params": [], **options})',
            '        group["params"].append(parameter)',
            "    return list(groups.values())",
        ],
        [],
        "parameter_groups(model)",
    )


def _uses_name(lines: Lines) -> bool:
    return any(re.search(r"\bname\b", line) for line in lines)


_TWO_GROUPS = [
    "# Norms and biases get no weight decay.",
    "decayed = [p for p in model.parameters() if p.ndim > 1]",
    "spared = [p for p in model.parameters() if p.ndim <= 1]",
    'groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]',
]


def _spares_vectors_alone(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the groups are all weights, then norms and biases without decay, and no more."""
    if len(groups) != 2 or groups[0]["lr"] != groups[1]["lr"]:
        return False
    vectors = [id(p) for p in model.parameters() if p.ndim <= 1]
    differing = {k for k in groups[0] if k not in ("params", "name", "family", "param_names")
                 and groups[0][k] != groups[1].get(k)}  # fmt: skip
    return (
        [id(p) for p in groups[1]["params"]] == vectors
        and differing == {"weight_decay"}
        and groups[1]["weight_decay"] == 0
    )


def _options(
    model: nn.Module, groups: Sequence[Mapping[str, Any]], optimizer: OptimizerSetup
) -> list[tuple[str, str, set[str]]]:
    """Return which parameters have another option than the call: key, value as code, names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    defaults = {**optimizer.optimizer.defaults, "lr": optimizer.lr}
    found: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        own = {names[id(parameter)] for parameter in group["params"]}
        for key, value in group.items():
            if key in defaults and value != defaults[key]:
                code = _rate(value, optimizer.lr) if key == "lr" else literal(value)
                found.setdefault((key, code), set()).update(own)
    # A rate before a decay, as they were asked for.
    return [(key, code, some) for (key, code), some in sorted(found.items())]


def _rate(lr: float, base: float) -> str:
    """Return a group's rate as a multiple of the run's, where that gives the same number."""
    ratio = float(f"{lr / base:.6g}")
    if ratio == 1:
        return "LR"
    return f"{ratio:g} * LR" if base * ratio == lr else repr(lr)


def _layers_in_order(setup: Setup, model: nn.Module, optimizer: OptimizerSetup) -> str:
    """Return the layers of layer_decay as a list in code; "" where a layer is more than a child of
    the model or of a Sequential in it, or where groups differ by more than layer and dimensions.
    """
    decay = setup.settings.optimizer.layer_decay
    if decay is None or decay == 1:
        return ""
    owned, layers = dict(model.named_parameters()), parameters_by_layer(model)
    names = [beginnings(list(owned), own) for own in layers]
    usual = optimizer.optimizer.defaults["weight_decay"]
    expected = {
        id(owned[name]): (optimizer.lr * decay**number, usual if owned[name].ndim > 1 else 0.0)
        for number, own in enumerate(reversed(layers))
        for name in own
    }
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.optimizer.param_groups
        for p in group["params"]
    }
    if found != expected or any(len(own) != 1 or not own[0].endswith(".") for own in names):
        return ""
    paths = [own[0].removesuffix(".") for own in names]
    parts = list(dict.fromkeys(_sequence_of(path) for path in paths))
    listed = []
    for part in parts:
        module = model.get_submodule(part.removeprefix("*"))
        listed += list(module.children()) if part.startswith("*") else [module]
    is_same = list(map(id, listed)) == [id(model.get_submodule(path)) for path in paths]
    texts = [f"*model.{part[1:]}" if part.startswith("*") else f"model.{part}" for part in parts]
    is_plain = all(part.removeprefix("*").isidentifier() for part in parts)
    return f"[{', '.join(texts)}]" if is_same and is_plain else ""


def _sequence_of(path: str) -> str:
    """Return the Sequential that a layer is a part of, with a star; or the layer."""
    parent, _, child = path.rpartition(".")
    return f"*{parent}" if child.isdecimal() else path


def _by_layer(layers: str, decay: float | None) -> Lines:
    """Return the lines that make groups of layers, norms and biases apart."""
    return [
        "# The nearer to the input, the slower. Norms and biases get no weight decay.",
        f"layers, groups = {layers}, []",
        "for number, layer in enumerate(layers):",
        f"    lr = LR * {decay!r} ** (len(layers) - 1 - number)",
        "    decayed = [p for p in layer.parameters() if p.ndim > 1]",
        "    spared = [p for p in layer.parameters() if p.ndim <= 1]",
        '    groups.append({"params": decayed, "lr": lr})',
        '    groups.append({"params": spared, "lr": lr, "weight_decay": 0.0})',
    ]


def _layer_rates(
    setup: Setup, model: nn.Module, optimizer: OptimizerSetup
) -> tuple[Lines, Lines, list[tuple[str, str, set[str]]]]:
    """Return the table of layers, the lines that give each its rate, and the rates of parameters
    that have another, as `_options`; nothing without layer_decay.
    """
    decay = setup.settings.optimizer.layer_decay
    if decay is None or decay == 1:
        return [], [], []
    layers = parameters_by_layer(model)
    rates = {
        id(p): group["lr"] for group in optimizer.optimizer.param_groups for p in group["params"]
    }
    named = dict(model.named_parameters())
    apart: dict[str, set[str]] = {}
    for number, names in enumerate(layers, start=1):
        expected = optimizer.lr * decay ** (len(layers) - number)
        for name in names:
            if (rate := rates.get(id(named[name]), expected)) != expected:
                apart.setdefault(_rate(rate, optimizer.lr), set()).add(name)
    texts, lookup = layer_lookup(layers)
    words = textwrap.wrap(" ".join(texts), 90, break_on_hyphens=False)
    table = [
        "# From the input to the head: how the names of a layer's parameters begin.",
        *(
            ["LAYERS = (", *(f'    "{w} "' for w in words[:-1]), f'    "{words[-1]}"', ")"]
            if len(words) > 1
            else [f'LAYERS = "{words[0]}"']
        ),
    ]
    lines = [
        lookup,
        f'options["lr"] = LR * {decay!r} ** (len(layers) - 1 - number)',
    ]
    return table, lines, [("lr", code, names) for code, names in apart.items()]


def layer_lookup(layers: Sequence[Sequence[str]]) -> tuple[list[str], str]:
    """Return how the names of each layer's parameters begin, and the line of code that gives
    `number`, the layer of a `name`, from these texts as `layers`.
    """
    every = [name for names in layers for name in names]
    # With a dot at the end of whole names: pos_embed is the beginning of pos_embed_win.
    texts = [",".join(f"{t.rstrip('.')}." for t in beginnings(every, names)) for names in layers]
    begins = 'tuple(layer.split(","))' if any("," in text for text in texts) else "layer"
    return texts, f'number = [f"{{name}}.".startswith({begins}) for layer in layers].index(True)'


@dataclass(frozen=True)
class ScheduleCode:
    """before: the main function. made: lines of it after the optimizer. set_rates: before each
    optimizer step. after_step, after_epoch. warmup_steps: 0 where there are none.
    """

    before: Lines = field(default_factory=list)
    made: Lines = field(default_factory=list)
    set_rates: Lines = field(default_factory=list)
    after_step: Lines = field(default_factory=list)
    after_epoch: Lines = field(default_factory=list)
    warmup_steps: int = 0

    @property
    def counts_steps(self) -> bool:
        """Whether it reads the number of the step."""
        return bool(self.set_rates)


def schedule_code(setup: Setup) -> ScheduleCode:
    """Return the schedule of a run as code.

    Raises:
        UsageError: a function of the user's own.
    """
    settings, schedule = setup.settings, setup.training.schedule
    steps = _steps_per_epoch(setup)
    warmup = 0 if schedule.warms_up_itself else warmup_steps_of(
        settings.scheduler.warmup, settings.train.epochs * steps
    )  # fmt: skip
    text = settings.scheduler.call.strip()
    if text == "none":
        return _factors("none", warmup)
    call = parse(text)
    given = {k: v for k, v in SCHEDULERS.named(call).kwargs.items() if v is not None}
    if call.name == "CosineAnnealingLR" and schedule.per == "step" and not given:
        return _factors("cosine", warmup)
    return _of_torch(setup, call, given, warmup)


def _steps_per_epoch(setup: Setup) -> int:
    return -(-len(setup.training.train) // setup.settings.train.accumulate)


def _factors(kind: str, warmup: int) -> ScheduleCode:
    """Return a constant rate or a cosine over all steps, with its warm-up, as one function."""
    if kind == "none" and not warmup:
        return ScheduleCode()
    ramp = "min(1, (step + 1) / WARMUP_STEPS)"
    cosine = "(1 + math.cos(math.pi * step / steps)) / 2"
    words = "They rise in the warm-up" if warmup else ""
    if kind == "cosine":
        words = f"{words}, then fall in half a cosine" if warmup else "They fall in half a cosine"
    factor = {"none": ramp, "cosine": f"{ramp} * {cosine}" if warmup else cosine}[kind]
    made = [
        f"# What the rates are multiplied by. {words}.",
        "scheduler = lr_scheduler.LambdaLR(",
        f"    optimizer, lambda step: {factor}",
        ")",
    ]
    if len(made[2]) > 96:
        made[2:3] = ["    optimizer,", f"    lambda step: {factor},"]
    return ScheduleCode(made=made, after_step=["scheduler.step()"], warmup_steps=warmup)


def _of_torch(setup: Setup, call: Call, given: Mapping[str, Any], warmup: int) -> ScheduleCode:
    schedule, epochs = setup.training.schedule, setup.settings.train.epochs
    ticks = _steps_per_epoch(setup) if schedule.per == "step" else 1
    groups = setup.training.optimizer_setup.param_groups
    length = {"epochs": epochs, "ticks_per_epoch": ticks}
    target = SCHEDULERS.find(call).load()
    takes = inspect.signature(target).parameters
    of_run = {
        k: v for k, v in arguments_of_run(call, given, groups, **length).items() if k in takes
    }
    by_group = arguments_by_group(call, given, groups, **length)
    listed = {k: v for k, v in by_group.items() if k in PER_GROUP.get(call.name, ())}
    values = {k: literal(v) for k, v in {**of_run, **given, **listed}.items()}
    if call.name == "LambdaLR":
        values["lr_lambda"] = _lambda(given["lr_lambda"], ticks)
    is_plateau = isinstance(target, type) and issubclass(target, lr_scheduler.ReduceLROnPlateau)
    if is_plateau:
        values["mode"] = literal(METRICS[setup.training.loss.task.kind].get(schedule.metric, "min"))
    is_ours = call.name == "WarmupCosineLR"
    name = call.name if is_ours else f"lr_scheduler.{call.name}"
    on = "stand_ins" if warmup else "optimizer"
    arguments = [on, *(f"{k}={v}" for k, v in values.items())]
    made = [call_text(name, arguments, before="scheduler = ")]
    if warmup:
        made = [
            "# The schedule drives stand-ins for the groups; warming up multiplies its rates.",
            'rates = [group["lr"] for group in optimizer.param_groups]',
            'stand_ins = [{"params": [torch.zeros(1)], "lr": rate} for rate in rates]',
            "stand_ins = torch.optim.SGD(stand_ins)",
            *made,
        ]
    main = next(iter(METRICS[setup.training.loss.task.kind]))
    if schedule.metric not in ("loss", main):
        raise refused(f"scheduler.metric={schedule.metric}", f"watch loss or {main}")
    watched = "valid_loss" if schedule.metric == "loss" else metric_of(setup).name
    step = [f"scheduler.step({watched if is_plateau else ''})"]
    if warmup:
        step = ["stand_ins.step()", *step]
    rates = [
        "for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):",
        '    group["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS)',
    ]
    return ScheduleCode(
        before=definitions(warmup_cosine, ["WarmupCosineLR"]) if is_ours else [],
        made=made,
        set_rates=rates if warmup else [],
        after_step=step if schedule.per == "step" else [],
        after_epoch=step if schedule.per == "epoch" else [],
        warmup_steps=warmup,
    )


def _lambda(texts: Any, ticks: int) -> str:
    """Return the functions of LambdaLR as code; in their texts `epoch` counts epochs."""
    if isinstance(texts, list | tuple):
        return f"[{', '.join(_lambda(text, ticks) for text in texts)}]"
    code = _OF_MATH.sub(r"math.\g<0>", str(texts))
    code = re.sub(r"(?<=[\w.]) \*\* (?=[\w.]+)", "**", code)
    if ticks > 1:
        code = re.sub(r"\bepoch\b", f"(step / {ticks})", code)
    return f"lambda {'epoch' if ticks == 1 else 'step'}: {code}"
