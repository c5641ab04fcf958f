"""The loop of a script: its list of images, its evaluation and its main function, as code."""

from dataclasses import dataclass

import torch

from ptkit.core.ejecting.criterion import Criterion, criterion_of
from ptkit.core.ejecting.network import draws_in_training
from ptkit.core.ejecting.optimization import ScheduleCode, frozen_statistics
from ptkit.core.ejecting.source import WIDTH, Lines, call_text, indented
from ptkit.core.sizes import is_small
from ptkit.core.training.setup import Setup

IMAGE_LIST = '''\
class ImageList(Dataset):
    """The images of a list file, which has one `PATH LABEL` a line."""

    def __init__(self, file: Path, *, is_training: bool) -> None:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        self.rows = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
        self.folder, self.is_training, self.epoch = file.parent, is_training, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.rows[index]
        pixels = cv2.imread(str(self.folder / path), cv2.IMREAD_COLOR_RGB)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.is_training:
            return training_view(image, self.epoch, index), int(label)
        return evaluation_view(image), int(label)'''


@dataclass(frozen=True)
class Loop:
    """The code of what a step needs.

    forward: lines from `images` to `outputs`. to_device: `images` where the model is. workers: an
    argument of a DataLoader, if there is one. is_random: the model draws in training.
    """

    setup: Setup
    schedule: ScheduleCode
    criterion: Criterion
    forward: Lines
    to_device: str
    workers: Lines
    is_random: bool

    @property
    def counts_steps(self) -> bool:
        """Whether something reads the number of the step."""
        return self.schedule.counts_steps or self.is_random or self.averages

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
        forward=forward,
        to_device=to_device,
        # Processes that decode are not worth their start for small images.
        workers=[] if is_small(min(setup.data.sides)) else ["num_workers=WORKERS"],
        is_random=draws_in_training(setup.model.module, batch.images),
    )


def evaluate_function(loop: Loop) -> Lines:
    """Return the function that evaluates."""
    loader = call_text("DataLoader", ["valid", "2 * BATCH_SIZE", *loop.workers])
    takes = ["model: nn.Module", "valid: ImageList", "criterion: nn.Module"]
    return [
        "@torch.no_grad()",
        call_text("def evaluate", takes, after=" -> tuple[float, float]:", depth=0),
        '    """Return loss and accuracy over the validation images."""',
        "    model.eval()",
        "    found = []",
        f"    for images, labels in {loader}:",
        f"        images = {loop.to_device}",
        *indented(loop.forward, 2),
        "        found.append((outputs, labels.to(DEVICE)))",
        "    outputs, labels = (torch.cat(parts) for parts in zip(*found, strict=True))",
        *indented([loop.criterion.loss(depth=1)]),
        "    return loss.item(), (outputs.argmax(1) == labels).float().mean().item()",
    ]


def main_function(loop: Loop, optimizer: Lines, head: Lines) -> Lines:
    """Return the main function; optimizer: makes `optimizer`, head: fits the head."""
    setup = loop.setup
    evaluated = "averaged" if loop.averages else "model"
    by_loss = setup.metric == "loss"
    score = "-valid_loss" if by_loss else "(accuracy, -valid_loss)"
    before = [
        *_beginning(loop, optimizer, head),
        *(["step = 0"] if loop.counts_steps else []),
        f"best = {'-math.inf' if by_loss else '(0.0, -math.inf)'}",
        "for epoch in range(1, EPOCHS + 1):",
    ]
    end = [
        *(_TAKE_BUFFERS if loop.averages else []),
        f"valid_loss, accuracy = evaluate({evaluated}, valid, criterion)",
        *loop.schedule.after_epoch,
        *_PRINT,
        f"if {score} > best:",
        f"    best = {score}",
        f'    torch.save({evaluated}.state_dict(), "model.pt")',
    ]
    begin = [
        "train.epoch = epoch",
        "model.train()",
        *frozen_statistics(setup),
        "total, right, count = 0.0, 0, 0",
    ]
    return ["def main() -> None:", *indented(before), *indented([*begin, *_steps(loop), *end], 2)]


_PRINT = [
    "print(",
    '    f"epoch {epoch:>2}/{EPOCHS}  loss {total / count:.4f}  accuracy {right / count:7.2%}  "',
    '    f"valid loss {valid_loss:.4f}  accuracy {accuracy:7.2%}"',
    ")",
]
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
    per_epoch = "math.ceil(len(train) / BATCH_SIZE)"
    if training.train.sampling.drop_last:
        per_epoch = "(len(train) // BATCH_SIZE)"
    reads_length = any("num_steps" in line for line in loop.schedule.made)
    return [
        *threads,
        "train, valid = ImageList(TRAIN, is_training=True), ImageList(VALID, is_training=False)",
        f"model = build_model().to(DEVICE{memory})",
        *head,
        *(["averaged = copy.deepcopy(model)"] if loop.averages else []),
        *loop.criterion.made,
        *optimizer,
        *([f"num_steps = EPOCHS * {per_epoch}"] if reads_length else []),
        *loop.schedule.made,
        "",
    ]


def _steps(loop: Loop) -> Lines:
    """Return the loop over the batches of an epoch."""
    sampling, settings = loop.setup.training.train.sampling, loop.setup.settings.train
    arguments = [
        "train",
        "BATCH_SIZE",
        *(["sampler=epoch_order(len(train), epoch)"] if sampling.shuffle else []),
        *(["drop_last=True"] if sampling.drop_last else []),
        *loop.workers,
    ]
    clips = settings.clip_value or settings.clip_grad
    seed = [
        "# Dropout draws the same whatever came before.",
        'torch.manual_seed(stream("dropout", step))',
    ]
    moved = [f"images, labels = {loop.to_device}, labels.to(DEVICE)"]
    if len(moved[0]) > WIDTH - 12:
        moved = [f"images = {loop.to_device}", "labels = labels.to(DEVICE)"]
    body = [
        *moved,
        *loop.schedule.set_rates,
        *(seed if loop.is_random else []),
        *loop.forward,
        loop.criterion.loss(depth=3),
        "model.zero_grad()",
        "loss.backward()",
        *([f"trained = {_TRAINED}"] if clips else []),
        *(["nn.utils.clip_grad_value_(trained, CLIP_VALUE)"] if settings.clip_value else []),
        *(["nn.utils.clip_grad_norm_(trained, CLIP_NORM)"] if settings.clip_grad else []),
        "optimizer.step()",
        *loop.schedule.after_step,
        *(_AVERAGE if loop.averages else []),
        *(["step += 1"] if loop.counts_steps else []),
        "total, count = total + loss.item() * len(labels), count + len(labels)",
        "right += (outputs.argmax(1) == labels).sum().item()",
    ]
    loader = call_text("DataLoader", arguments, before="for images, labels in ", after=":", depth=2)
    return [loader, *indented(body)]
