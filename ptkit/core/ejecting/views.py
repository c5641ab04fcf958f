"""What a model sees of an image, as code: the class of a script's lists, with the transforms of
training and of evaluation.
"""

from collections.abc import Callable
from itertools import chain, takewhile
from typing import Any

from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import is_mix
from ptkit.core.data.transforms.completion import mean_and_std_of
from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.plan import Step, channels_of, sizes_of, steps_of
from ptkit.core.data.transforms.spec import Size, mode_of
from ptkit.core.ejecting.labels import Label
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, indented, literal
from ptkit.core.parts.calls import Call


def image_list(train: Pipeline, valid: Pipeline, *, label: Label, folder: bool) -> Lines:
    """Return the code of the class of a script's lists.

    folder: whether a list may lie elsewhere than in the working directory.

    Raises:
        UsageError: a transform that has no plain form.
    """
    if _normalize_of(train) != _normalize_of(valid):
        raise refused("another Normalize in evaluation", "leave data.eval_transforms out")
    views = _views(_body(train), _body(valid), train.num_draws, valid.num_draws)
    # The last step needs no name.
    last = views[-1].removeprefix("image = ")
    if last == views[-1] or "\n" in last:
        views, last = [*views, ""], "image"
    path = "str(self.folder / path)" if folder else "path"
    own = ", self.folder = False, 0, Path(file).parent" if folder else " = False, 0"
    own = own.replace("False", "is_training")
    return [
        "class ImageList(Dataset):",
        '    """The images of a list file, which has one `PATH LABEL` a line."""',
        "",
        "    def __init__(self, file: str, *, is_training: bool) -> None:",
        '        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()',
        "        self.rows = [line.rsplit(maxsplit=1) for line in lines if line.strip()]",
        f"        self.is_training, self.epoch{own}",
        "",
        "    def __len__(self) -> int:",
        "        return len(self.rows)",
        "",
        f"    def __getitem__(self, index: int) -> tuple[Tensor, {label.type}]:",
        "        path, label = self.rows[index]",
        f"        pixels = cv2.imread({path}, cv2.IMREAD_COLOR_RGB)",
        "        image = torch.from_numpy(pixels).permute(2, 0, 1)",
        *indented([*label.read, *views[:-1]], 2),
        f"        return {last}, {label.value}",
    ]


def _views(changes: list[Lines], kept: list[Lines], num_draws: int, num_kept: int) -> Lines:
    """Return what is done to an image in training, and what in evaluation, with what both have
    first and last once.
    """
    first = _num_alike(changes, kept)
    last = _num_alike(changes[first:][::-1], kept[first:][::-1])
    before, after = changes[:first], changes[len(changes) - last :]
    own, others = changes[first : len(changes) - last], kept[first : len(kept) - last]
    train, valid = (list(chain.from_iterable(some)) for some in (own, others))
    if _draws(train):
        train.insert(0, _UNIFORMS + f" for k in range({num_draws})]")
    # What is random in name only does the same whatever is drawn.
    if _draws(valid):
        valid.insert(0, f"u = [0.0] * {num_kept}")
    branches = ["if self.is_training:", *indented(train)] if train else []
    if valid:
        word = "else:" if train else "if not self.is_training:"
        branches += [word, *indented(valid)]
    return [*chain.from_iterable(before), *branches, *chain.from_iterable(after)]


# 0 <= u < 1.
_UNIFORMS = 'u = [(bits("augment", self.epoch + 1, index, k + 1) >> 11) / 2**53'


def _num_alike(some: list[Lines], others: list[Lines]) -> int:
    """Return how many steps two lists begin with alike, none of them random."""
    pairs = zip(some, others, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1] and not _draws(pair[0]), pairs)))


def _draws(lines: Lines) -> bool:
    return any("u[" in line for line in lines)


# The run computes it so, and a quotient would round otherwise.
_NORMALISE = [
    "# (image / 255 - MEAN) / STD, as one product and one sum.",
    "mean, std = torch.tensor([MEAN, STD], dtype=torch.float64)[:, :, None, None]",
    "scale, shift = (1 / (255 * std)).float(), (-mean / std).float()",
    "image = torch.addcmul(shift, image.float(), scale)",
]


def _normalize_of(pipeline: Pipeline) -> Call | None:
    return next((call for call in pipeline.calls if call.name == "Normalize"), None)


def mean_and_std_text(call: Call) -> tuple[str, str]:
    """Return what a Normalize subtracts and divides by, as lists in code."""
    given = (call.argument(0, "mean"), call.argument(1, "std"))
    if all(isinstance(values, list | tuple) for values in given):
        return str(list(given[0])), str(list(given[1]))
    mean, std = mean_and_std_of(call)
    return str(list(mean)), str(list(std))


def _body(pipeline: Pipeline) -> list[Lines]:
    """Return the lines of each step that changes `image`, with draws `u`."""
    found: list[Lines] = []
    steps = steps_of([call for call in pipeline.calls if not is_mix(call)])
    sizes = sizes_of(steps, channels_of(steps))
    is_fused = pipeline.plan.fused is not None
    for number, step in enumerate(steps):
        after = steps[number + 1].transform if number + 1 < len(steps) else None
        before = steps[number - 1].transform if number else None
        if is_fused and isinstance(step.transform, ToTensor) and isinstance(after, v2.Normalize):
            found.append(_NORMALISE)
        elif is_fused and isinstance(step.transform, v2.Normalize) and isinstance(before, ToTensor):
            continue
        elif isinstance(step.transform, v2.RandomCrop):
            found.append(_random_crop(step, sizes[number]))
        else:
            found.append(_lines_of(step))
    return found


def _lines_of(step: Step) -> Lines:
    transform, name = step.transform, step.call.name
    if isinstance(transform, v2.Normalize):
        return ["image = TF.normalize(image, MEAN, STD)"]
    if isinstance(transform, ToTensor):
        return ["image = TF.to_dtype(image, torch.float32, scale=True)"]
    if name in _RANDOM:
        return _RANDOM[name](transform, step.columns.start, step)
    spec = step.spec
    is_plain = not (spec.is_container or spec.is_foreign or spec.is_own or spec.mixes)
    is_torchvisions = type(transform).__module__.startswith("torchvision.")
    is_conversion = isinstance(transform, v2.ToPILImage | v2.LinearTransformation)
    if spec.draws or spec.num_crops > 1 or is_conversion or not (is_plain and is_torchvisions):
        raise refused(
            f"{step.call}", f"of random transforms it knows {', '.join(('RandomCrop', *_RANDOM))}"
        )
    if name == "Resize" and len(step.call.args) + len(step.call.kwargs) == 1:
        size = step.call.argument(0, "size")
        sides = [size] if isinstance(size, int) else list(size)
        return [f"image = TF.resize(image, {sides})"]
    return [
        call_text(
            f"v2.{name}", arguments_of(step.call), before="image = ", after="(image)", depth=3
        )
    ]


def arguments_of(call: Call) -> list[str]:
    """Return the arguments of a call as code."""
    return [*map(literal, call.args), *(f"{k}={literal(v)}" for k, v in call.kwargs.items())]


def _random_crop(step: Step, size: Size | None) -> Lines:
    t, u = step.transform, step.columns.start
    if t.pad_if_needed:
        raise refused(f"{step.call}", "give padding in place of pad_if_needed")
    lines = []
    left, right, top, bottom = t.padding or (0, 0, 0, 0)
    if t.padding:
        how = [] if t.padding_mode == "constant" and not t.fill else [
            f"fill={literal(t.fill)}", f"padding_mode={literal(t.padding_mode)}"]  # fmt: skip
        arguments = ["image", str([left, top, right, bottom]), *how]
        lines.append(call_text("TF.pad", arguments, before="image = ", depth=3))
    height, width = t.size
    # Where it can begin: known, or seen in each image.
    rows, columns = f"(image.shape[1] - {height - 1})", f"(image.shape[2] - {width - 1})"
    if size is not None:
        rows, columns = (str(s + more - kept + 1) for s, more, kept in
                         zip(size, (top + bottom, left + right), t.size, strict=True))  # fmt: skip
    return [
        *lines,
        f"top, left = int(u[{u}] * {rows}), int(u[{u + 1}] * {columns})",
        f"image = TF.crop(image, top, left, {height}, {width})",
    ]


def _random_resized_crop(t: v2.RandomResizedCrop, u: int, _step: Step) -> Lines:
    box = ["*image.shape[1:]", f"u[{u}:{u + 22}]", *_scale_and_ratio(t)]
    return [
        call_text("random_box", box, before="box = ", depth=3),
        call_text("TF.resized_crop", ["image", "*box", *_resizing(t)], before="image = ", depth=3),
    ]


def _resizing(t: Any) -> list[str]:
    mode = mode_of(t.interpolation)
    is_usual = mode == v2.InterpolationMode.BILINEAR
    modes = [] if is_usual else [f"interpolation=v2.InterpolationMode.{mode.name}"]
    return [f"size={list(t.size)}", *modes, *([] if t.antialias else [f"antialias={t.antialias}"])]


def _flip(function: str) -> Callable[[Any, int, Step], Lines]:
    def lines(t: Any, u: int, _step: Step) -> Lines:
        flipped = f"image = TF.{function}(image)"
        return [flipped] if t.p >= 1 else [f"if u[{u}] < {t.p}:", f"    {flipped}"]

    return lines


def _alternating_flip(_t: Any, _u: int, _step: Step) -> Lines:
    return [
        "# A random half of the images in one epoch, the other half in the next.",
        'draw = (bits("alternate", 1, index, 1) >> 11) / 2**53',
        "if (draw + self.epoch % 2 / 2) % 1 < 0.5:",
        "    image = TF.horizontal_flip(image)",
    ]


def _color_jitter(t: v2.ColorJitter, u: int, _step: Step) -> Lines:
    ranges = {
        name: (place, *map(float, limits))
        for place, name in enumerate(("brightness", "contrast", "saturation", "hue"))
        if (limits := getattr(t, name)) is not None
    }
    if not ranges:
        return []
    return [
        "# In random order; each with where its draws are, and its limits.",
        "changes = (",
        *(
            f"    (TF.adjust_{name}, {u + place}, {low}, {high}),"
            for name, (place, low, high) in ranges.items()
        ),
        ")",
        "for change, k, low, high in sorted(changes, key=lambda change: u[change[1]]):",
        "    image = change(image, low + u[k + 4] * (high - low))",
    ]


def _random_grayscale(t: v2.RandomGrayscale, u: int, _step: Step) -> Lines:
    grey = "TF.rgb_to_grayscale(image, num_output_channels=len(image))"
    return [f"if u[{u}] < {t.p}:", f"    image = {grey}"]


def _random_rotation(t: v2.RandomRotation, u: int, _step: Step) -> Lines:
    low, high = map(float, t.degrees)
    mode = mode_of(t.interpolation)
    how = [
        *([] if mode == v2.InterpolationMode.NEAREST
          else [f"interpolation=v2.InterpolationMode.{mode.name}"]),
        *(["expand=True"] if t.expand else []),
        *([f"center={list(t.center)}"] if t.center is not None else []),
        *([f"fill={literal(t.fill)}"] if t.fill else []),
    ]  # fmt: skip
    angle = f"{low} + u[{u}] * {high - low}"
    return [call_text("TF.rotate", ["image", angle, *how], before="image = ", depth=3)]


def _random_erasing(t: v2.RandomErasing, u: int, step: Step) -> Lines:
    if t.value is None:
        raise refused(f"{step.call}", "give a number as value")
    box = ["*image.shape[1:]", f"u[{u + 2}:{u + 24}]", *_scale_and_ratio(t)]
    value = f"torch.tensor({literal([float(v) for v in t.value])})[:, None, None]"
    return [
        call_text("erased_box", box, before="box = ", depth=3),
        f"if u[{u}] < {t.p} and box is not None:",
        f"    image = TF.erase(image, *box, {value})",
    ]


def _scale_and_ratio(t: Any) -> list[str]:
    scale, ratio = tuple(t.scale), tuple(t.ratio)
    # The usual ratio as people write it.
    ratio_text = "(3 / 4, 4 / 3)" if ratio == (3 / 4, 4 / 3) else literal(ratio)
    return [f"scale={literal(scale)}", f"ratio={ratio_text}"]


_RANDOM: dict[str, Callable[[Any, int, Step], Lines]] = {
    "RandomResizedCrop": _random_resized_crop,
    "RandomHorizontalFlip": _flip("horizontal_flip"),
    "RandomVerticalFlip": _flip("vertical_flip"),
    "AlternatingFlip": _alternating_flip,
    "ColorJitter": _color_jitter,
    "RandomGrayscale": _random_grayscale,
    "RandomRotation": _random_rotation,
    "RandomErasing": _random_erasing,
}
