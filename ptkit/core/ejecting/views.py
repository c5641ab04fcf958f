"""What a model sees of an image, as code: the two functions of a script that stand for the lists of
transforms.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torchvision.transforms import v2

from ptkit.core.data.transforms.completion import mean_and_std_of
from ptkit.core.data.transforms.conversions import ToTensor
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.plan import Step, steps_of
from ptkit.core.data.transforms.spec import mode_of
from ptkit.core.ejecting.refusals import refused
from ptkit.core.ejecting.source import Lines, call_text, indented, literal
from ptkit.core.parts.calls import Call


def view_functions(train: Pipeline, valid: Pipeline) -> Lines:
    """Return the code of `training_view(image, epoch, index)` and `evaluation_view(image)`.

    Raises:
        UsageError: a transform that has no plain form.
    """
    if _normalize_of(train) != _normalize_of(valid):
        raise refused("another Normalize in evaluation", "leave data.eval_transforms out")
    changes, kept = _body(train), _body(valid)
    if any("u[" in line for line in changes):
        draws = f'u = uniforms("augment", epoch, index, {train.num_draws})'
        changes = [draws, *changes]
    # What is random in name only does the same whatever is drawn.
    if any("u[" in line for line in kept):
        kept = [f"u = [0.0] * {valid.num_draws}", *kept]
    code = [
        "def training_view(image: Tensor, epoch: int, index: int) -> Tensor:",
        '    """Return a training image as an epoch sees it."""',
        *indented(_returned(changes)),
        "",
        "",
        "def evaluation_view(image: Tensor) -> Tensor:",
        '    """Return an image as evaluation sees it."""',
        *indented(_returned(kept)),
    ]
    return [*_NORMALISE, "", "", *code] if any("normalise(" in line for line in code) else code


# The run computes it so, and a quotient would round otherwise.
_NORMALISE = [
    "def normalise(image: Tensor) -> Tensor:",
    '    """Return (image / 255 - MEAN) / STD, as one product and one sum."""',
    "    mean, std = torch.tensor([MEAN, STD], dtype=torch.float64)[:, :, None, None]",
    "    return torch.addcmul((-mean / std).float(), image.float(), (1 / (255 * std)).float())",
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


def _body(pipeline: Pipeline) -> Lines:
    """Return the lines that apply a list of transforms to `image`, with draws `u`."""
    if pipeline.mix is not None:
        raise refused(f"{pipeline.calls[-1]}, which mixes images", "leave it out")
    lines: Lines = []
    steps = steps_of(pipeline.calls)
    is_fused = pipeline.plan.fused is not None
    for number, step in enumerate(steps):
        after = steps[number + 1].transform if number + 1 < len(steps) else None
        before = steps[number - 1].transform if number else None
        if is_fused and isinstance(step.transform, ToTensor) and isinstance(after, v2.Normalize):
            lines.append("image = normalise(image)")
        elif is_fused and isinstance(step.transform, v2.Normalize) and isinstance(before, ToTensor):
            continue
        else:
            lines += _lines_of(step)
    return lines


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
        raise refused(f"{step.call}", f"of random transforms it knows {', '.join(_RANDOM)}")
    return [call_text(f"v2.{name}", arguments_of(step.call), before="image = ", after="(image)")]


def arguments_of(call: Call) -> list[str]:
    """Return the arguments of a call as code."""
    return [*map(literal, call.args), *(f"{k}={literal(v)}" for k, v in call.kwargs.items())]


def _random_crop(t: v2.RandomCrop, u: int, step: Step) -> Lines:
    if t.pad_if_needed:
        raise refused(f"{step.call}", "give padding in place of pad_if_needed")
    lines = []
    if t.padding:
        left, right, top, bottom = t.padding
        how = [] if t.padding_mode == "constant" and not t.fill else [
            f"fill={literal(t.fill)}", f"padding_mode={literal(t.padding_mode)}"]  # fmt: skip
        arguments = ["image", str([left, top, right, bottom]), *how]
        lines.append(call_text("TF.pad", arguments, before="image = "))
    height, width = t.size
    return [
        *lines,
        f"top = int(u[{u}] * (image.shape[1] - {height} + 1))",
        f"left = int(u[{u + 1}] * (image.shape[2] - {width} + 1))",
        f"image = TF.crop(image, top, left, {height}, {width})",
    ]


def _random_resized_crop(t: v2.RandomResizedCrop, u: int, _step: Step) -> Lines:
    box = ["*image.shape[1:]", f"u[{u}:{u + 22}]", *_scale_and_ratio(t)]
    return [
        call_text("random_box", box, before="box = "),
        call_text("TF.resized_crop", ["image", "*box", *_resizing(t)], before="image = "),
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
        'draw = uniforms("alternate", 0, index, 1)[0]',
        "if (draw + epoch % 2 / 2) % 1 < 0.5:",
        "    image = TF.horizontal_flip(image)",
    ]


def _color_jitter(t: v2.ColorJitter, u: int, _step: Step) -> Lines:
    limits = ", ".join(map(_limits, (t.brightness, t.contrast, t.saturation, t.hue)))
    arguments = ["image", f"u[{u}:{u + 8}]", f"({limits})"]
    return [call_text("color_jitter", arguments, before="image = ")]


def _limits(limits: Sequence[float] | None) -> str:
    return "None" if limits is None else repr(tuple(map(float, limits)))


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
    return [call_text("TF.rotate", ["image", angle, *how], before="image = ")]


def _random_erasing(t: v2.RandomErasing, u: int, step: Step) -> Lines:
    if t.value is None:
        raise refused(f"{step.call}", "give a number as value")
    box = ["*image.shape[1:]", f"u[{u + 2}:{u + 24}]", *_scale_and_ratio(t)]
    value = f"torch.tensor({literal([float(v) for v in t.value])})[:, None, None]"
    return [
        call_text("erased_box", box, before="box = "),
        f"if u[{u}] < {t.p} and box is not None:",
        f"    image = TF.erase(image, *box, {value})",
    ]


def _scale_and_ratio(t: Any) -> list[str]:
    scale, ratio = tuple(t.scale), tuple(t.ratio)
    # The usual ratio as people write it.
    ratio_text = "(3 / 4, 4 / 3)" if ratio == (3 / 4, 4 / 3) else literal(ratio)
    return [f"scale={literal(scale)}", f"ratio={ratio_text}"]


_RANDOM: dict[str, Callable[[Any, int, Step], Lines]] = {
    "RandomCrop": _random_crop,
    "RandomResizedCrop": _random_resized_crop,
    "RandomHorizontalFlip": _flip("horizontal_flip"),
    "RandomVerticalFlip": _flip("vertical_flip"),
    "AlternatingFlip": _alternating_flip,
    "ColorJitter": _color_jitter,
    "RandomGrayscale": _random_grayscale,
    "RandomRotation": _random_rotation,
    "RandomErasing": _random_erasing,
}


def _returned(lines: Lines) -> Lines:
    """Return lines whose last one returns the image."""
    last = lines[-1] if lines else ""
    if last.startswith("image = ") and "\n" not in last:
        return [*lines[:-1], f"return {last.removeprefix('image = ')}"]
    return [*lines, "return image"]
