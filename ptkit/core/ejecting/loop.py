"""The loop of a script: its list of images, its evaluation and its main function, as code."""

from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import v2

from ptkit.core.ejecting.criterion import Criterion, criterion_of
from ptkit.core.ejecting.labels import Metric, metric_of
from ptkit.core.ejecting.network import draws_in_training
from ptkit.core.ejecting.optimization import ScheduleCode, frozen_statistics
from ptkit.core.ejecting.source import WIDTH, Lines, call_text, indented
from ptkit.core.sizes import is_small
from ptkit.core.training.setup import Setup


@dataclass(frozen=True)
class Loop:
    """The code of what a step needs.

    mix: lines that mix `images`, and give `share`. forward: lines from `images` to `outputs`.
    to_device: `images` where the model is. workers: an argument of a DataLoader, if there is one.
    is_random: the model draws in training.
    """

    setup: Setup
    schedule: ScheduleCode
    criterion: Criterion
    metric: Metric
    mix: Lines
    forward: Lines
    to_device: str
    workers: Lines
    is_random: bool

    @property
    def counts_steps(self) -> bool:
        """Whether something reads the number of the step."""
        return self.schedule.counts_steps or self.is_random or self.averages

    @property
    def weighs(self) -> bool:
        """Whether the loss of a step is divided by what its images weigh."""
        return bool(self.criterion.divided) and not self.mix

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is evaluated."""
        return self.setup.settings.train.ema is not None


def loop_of(setup: Setup, schedule: ScheduleCode) -> Loop:
    """Return the code of what the steps of a run need.

    Raises:
        UsageError: a loss that has no plain form.
    """
    training = setup.training
    batch = next(training.train.epoch(0))
    training.to_training_mode()
    forward = ["outputs = model(images)"]
    if training.dtype is not None:
        forward = [
            f"with torch.autocast(DEVICE, {training.dtype}):",
            "    outputs = model(images)",
            "outputs = outputs.float()",
        ]
    to_device = "images.to(DEVICE, memory_format=torch.channels_last)"
    if training.train.pipeline.channels == 1:
        # Of one channel both memory formats are the same bytes, and torch goes by the strides.
        to_device = "images[:, 0, :, :, None].permute(0, 3, 1, 2).to(DEVICE)"
    return Loop(
        setup=setup,
        schedule=schedule,
        criterion=criterion_of(training.loss),
        metric=metric_of(setup),
        mix=_mix_lines(training.train.pipeline.mix),
        forward=forward,
        to_device=to_device,
        # Processes that decode are not worth their start for small images.
        workers=[] if is_small(min(setup.data.sides)) else ["num_workers=WORKERS"],
        is_random=draws_in_training(setup.model.module, batch.images),
    )


def _mix_lines(mix: Any) -> Lines:
    """Return the lines that mix a batch with itself; none without MixUp or CutMix."""
    if mix is None:
        return []
    lines = ['key = bits(f"mix {epoch}", number + 1)',
             "draws = np.random.Generator(np.random.Philox(key=key))"]  # fmt: skip
    if not isinstance(mix, v2.RandomChoice):
        return [*lines, f"images, share = {_MIXES[type(mix)]}(images, draws, {mix.alpha!r})"]
    ways = ", ".join(f"({_MIXES[type(one)]}, {one.alpha!r})" for one in mix.transforms)
    chances = [float(p) for p in mix.p]
    choice = f"draws.choice({len(mix.transforms)}, p={chances})"
    return [
        *lines,
        f"mix_with, alpha = ({ways})[{choice}]",
        "images, share = mix_with(images, draws, alpha)",
    ]


_MIXES = {v2.MixUp: "mix_up", v2.CutMix: "cut_mix"}


def evaluate_function(loop: Loop) -> Lines:
    """Return the function that evaluates."""
    loader = call_text("DataLoader", ["valid", "2 * BATCH_SIZE", *loop.workers])
    takes = ["model: nn.Module", "valid: ImageList", "criterion: nn.Module"]
    metric = loop.metric
    return [
        "@torch.no_grad()",
        call_text("def evaluate", takes, after=" -> tuple[float, float]:", depth=0),
        f'    """Return loss and {metric.word} over the validation images."""',
        "    model.eval()",
        "    found = []",
        f"    for images, labels in {loader}:",
        f"        images = {loop.to_device}",
        *indented(loop.forward, 2),
        "        found.append((outputs, labels.to(DEVICE)))",
        "    outputs, labels = (torch.cat(parts) for parts in zip(*found, strict=True))",
        *indented([loop.criterion.loss(depth=1)]),
        f"    return loss.item(), {metric.value}",
    ]


def main_function(loop: Loop, optimizer: Lines, head: Lines) -> Lines:
    """Return the main function; optimizer: makes `optimizer`, head: fits the head."""
    setup, metric = loop.setup, loop.metric
    evaluated = "averaged" if loop.averages else "model"
    sign = "-" if metric.is_least_best else ""
    score = "-valid_loss" if setup.metric == "loss" else f"({sign}{metric.name}, -valid_loss)"
    worst = "-math.inf" if setup.metric == "loss" else "(-math.inf, -math.inf)"
    before = [
        *_beginning(loop, optimizer, head),
        *(["step = 0"] if loop.counts_steps else []),
        f"best = {worst}",
        "for epoch in range(1, EPOCHS + 1):",
    ]
    # A mean over images by what they weigh is not the mean of its batches.
    counted = "weights" if loop.weighs else _counted(loop)
    printed = f"{metric.word} {{{metric.name}:{metric.format}}}"
    end = [
        *(_TAKE_BUFFERS if loop.averages else []),
        f"valid_loss, {metric.name} = evaluate({evaluated}, valid, criterion)",
        *loop.schedule.after_epoch,
        f'print(f"epoch {{epoch:>2}}/{{EPOCHS}}  loss {{total / {counted}:.4f}}", end="  ")',
        f'print(f"valid loss {{valid_loss:.4f}}  {printed}")',
        f"if {score} > best:",
        f"    best = {score}",
        f'    torch.save({evaluated}.state_dict(), "model.pt")',
    ]
    shuffles = setup.training.train.sampling.shuffle
    begin = [
        "train.epoch = epoch",
        *([_ORDER] if shuffles else []),
        "model.train()",
        *frozen_statistics(setup),
        "total = weights = 0.0" if loop.weighs else "total = 0.0",
    ]
    return ["def main() -> None:", *indented(before), *indented([*begin, *_steps(loop), *end], 2)]


_ORDER = 'order = sorted(range(len(train)), key=lambda image: bits("order", epoch + 1, image + 1))'


def _counted(loop: Loop) -> str:
    """Return the number of images of an epoch, as code."""
    drops = loop.setup.training.train.sampling.drop_last
    return "(len(train) // BATCH_SIZE * BATCH_SIZE)" if drops else "len(train)"


_TAKE_BUFFERS = [
    "for ours, theirs in zip(averaged.buffers(), model.buffers(), strict=True):",
    "    ours.copy_(theirs)",
]
_AVERAGE = [
    "# The first weights are soon forgotten.",
    "decay = min(EMA_DECAY, (1 + step) / (10 + step))",
    "with torch.no_grad():",
    "    for ours, theirs in zip(averaged.parameters(), model.parameters(), strict=True):",
    "        ours.lerp_(theirs, 1 - decay)",
]
_WEIGHED = [
    "weight = criterion.weight[labels].sum().item()",
    "total, weights = total + loss.item() * weight, weights + weight",
]
_TRAINED = '[p for group in optimizer.param_groups for p in group["params"]]'


def _beginning(loop: Loop, optimizer: Lines, head: Lines) -> Lines:
    """Return what comes before the first epoch."""
    training, settings = loop.setup.training, loop.setup.settings
    threads = [
        "# Sums of floats depend on it in their last digits.",
        f"torch.set_num_threads({torch.get_num_threads()})",
    ]
    if training.train.device.type == "cuda":
        threads = ['torch.set_float32_matmul_precision("high")']
    memory = ", memory_format=torch.channels_last" if settings.train.channels_last else ""
    drops, several = training.train.sampling.drop_last, settings.train.accumulate > 1
    per_step = "(BATCH_SIZE * ACCUMULATE)" if several else "BATCH_SIZE"
    per_epoch = f"math.ceil(len(train) / {per_step})"
    if drops:
        per_epoch = "(len(train) // BATCH_SIZE)"
        if several:
            per_epoch = f"math.ceil{per_epoch[:-1]} / ACCUMULATE)"
    reads_length = any("/ steps" in line for line in loop.schedule.made)
    return [
        *threads,
        "train, valid = ImageList(TRAIN, is_training=True), ImageList(VALID, is_training=False)",
        f"model = build_model().to(DEVICE{memory})",
        *head,
        *(["averaged = copy.deepcopy(model)"] if loop.averages else []),
        *loop.criterion.made,
        *(loop.criterion.each if loop.mix else []),
        *optimizer,
        *([f"steps = EPOCHS * {per_epoch}"] if reads_length else []),
        *loop.schedule.made,
        "",
    ]


def _steps(loop: Loop) -> Lines:
    """Return the loop over the batches of an epoch."""
    sampling, settings = loop.setup.training.train.sampling, loop.setup.settings.train
    arguments = [
        "train",
        "BATCH_SIZE",
        *(["sampler=order"] if sampling.shuffle else []),
        *(["drop_last=True"] if sampling.drop_last else []),
        *loop.workers,
    ]
    clips = settings.clip_value or settings.clip_grad
    seed = [
        "# Dropout draws the same whatever came before.",
        'torch.manual_seed(bits("dropout", step + 1))',
    ]
    stepped = [
        *([f"trained = {_TRAINED}"] if clips else []),
        *(["nn.utils.clip_grad_value_(trained, CLIP_VALUE)"] if settings.clip_value else []),
        *(["nn.utils.clip_grad_norm_(trained, CLIP_NORM)"] if settings.clip_grad else []),
        "optimizer.step()",
        *loop.schedule.after_step,
        *(_AVERAGE if loop.averages else []),
        *(["step += 1"] if loop.counts_steps else []),
    ]
    before = [*loop.schedule.set_rates, *(seed if loop.is_random else [])]
    if settings.accumulate > 1:
        return _accumulated(loop, arguments, before, stepped)
    batches = call_text("DataLoader", arguments, depth=2)
    head = f"for images, labels in {batches}:"
    if loop.mix:
        head = f"for number, (images, labels) in enumerate({batches}):"
    body = [
        *loop.mix,
        *_moved(loop, depth=3),
        *before,
        *loop.forward,
        *(loop.criterion.mixed("len(labels)") if loop.mix else [loop.criterion.loss(depth=3)]),
        "model.zero_grad()",
        "loss.backward()",
        *stepped,
        *(_WEIGHED if loop.weighs else ["total += loss.item() * len(labels)"]),
    ]
    return [head, *indented(body)]


def _moved(loop: Loop, *, depth: int) -> Lines:
    """Return the lines that bring a batch to the model's device."""
    line = f"images, labels = {loop.to_device}, labels.to(DEVICE)"
    lines = [line] if len(line) <= WIDTH - 4 * depth else [
        f"images = {loop.to_device}", "labels = labels.to(DEVICE)"]  # fmt: skip
    return [*lines, *(["share = share.to(DEVICE)"] if loop.mix else [])]


def _accumulated(loop: Loop, arguments: Lines, before: Lines, stepped: Lines) -> Lines:
    """Return the loop where several batches make a step."""
    num_images = "num_images = sum(len(labels) for _, labels in group)"
    weight = "weight = sum(criterion.weight[labels.to(DEVICE)].sum() for _, labels in group)"
    loss = [loop.criterion.part(depth=4)]
    if loop.mix:
        loss = loop.criterion.mixed("num_images")
    each = "for images, labels in group:"
    if loop.mix:
        each = "for number, (images, labels) in enumerate(group, start=number + 1):"
    return [
        *(["number = -1"] if loop.mix else []),
        call_text("DataLoader", arguments, before="batches = iter(", after=")", depth=2),
        "# Their gradients add up to those of one large batch.",
        "while group := list(islice(batches, ACCUMULATE)):",
        *indented(
            [num_images, *([weight] if loop.weighs else []), *before, "model.zero_grad()", each]
        ),
        *indented(
            [
                *loop.mix,
                *_moved(loop, depth=4),
                *loop.forward,
                *loss,
                "loss.backward()",
                f"total += loss.item() * {'weight.item()' if loop.weighs else 'num_images'}",
            ],
            2,
        ),
        *indented([*(["weights += weight.item()"] if loop.weighs else []), *stepped]),
    ]
