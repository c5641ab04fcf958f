"""A list of transforms, planned once: what is decoded and kept, what runs image by image, what runs on batches.

The plan changes speed, never meaning: every part draws from the same keyed numbers whatever the batch.
"""

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.calls import Call, parse
from ptkit.core.catalogue import refuse_user_code
from ptkit.core.data import images
from ptkit.core.data.geometry import Draws, Size
from ptkit.core.data.images import Pixels
from ptkit.core.data.kernels import is_foreign, kernel_of
from ptkit.core.data.mixing import is_mix
from ptkit.core.data.transforms import ToTensor, build_transform
from ptkit.core.errors import DataError, UsageError

_PREFIX_TYPES = (v2.Resize, v2.CenterCrop, v2.Pad, v2.Grayscale)


@dataclass(frozen=True)
class Step:
    """One transform and the columns of the draws that are its own."""

    transform: Any
    columns: slice


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A planned list of transforms.

    prefix: deterministic steps on uint8; their result can be kept.
    middle: steps that run image by image.
    geometry: steps that run on whole uint8 batches.
    scale, shift: float(pixels) * scale + shift is ToTensor and Normalize in one, (3,) each; None where ToTensor
        stands in `middle`.
    mix: MixUp, CutMix or a choice of them, which `batches` applies to what comes out; None without.
    prefix_size, size: (height, width) after the prefix and at the end; None where it depends on the image.
    """

    calls: tuple[str, ...]
    prefix: tuple[Step, ...]
    middle: tuple[Step, ...]
    geometry: tuple[Step, ...]
    scale: Tensor | None
    shift: Tensor | None
    prefix_size: Size | None
    size: Size | None
    num_draws: int
    mix: Any = None

    @staticmethod
    def parse(calls: Sequence[str], *, allow_user_code: bool = True) -> "Pipeline":
        """Plan a list of calls.

        Raises:
            UsageError: unknown names or arguments, or transforms in an order that cannot work.
            CheckpointError: user code where it is not allowed.
        """
        parsed = [parse(call) for call in calls]
        for call in parsed:
            if not allow_user_code:
                remedy = "evaluate it in Python, with ptkit.load and transforms of your own"
                refuse_user_code(call, where="the saved pipeline", remedy=remedy)
        mix = build_transform(parsed[-1]) if parsed and is_mix(parsed[-1]) else None
        of_images = parsed if mix is None else parsed[:-1]
        steps = _with_columns([build_transform(call) for call in of_images])
        _check_order(of_images, steps)
        return _plan(tuple(str(call) for call in parsed), steps, mix)

    @property
    def is_foreign(self) -> bool:
        """Whether a step draws from global generators and so needs worker processes."""
        return any(is_foreign(step.transform) for step in self.middle)

    @property
    def is_random(self) -> bool:
        return self.num_draws > 0

    def before(self, pixels: Pixels) -> Pixels:
        """Apply the prefix to one decoded image (H, W, 3)."""
        if _has_size_already(self.prefix, pixels.shape[0], pixels.shape[1]):
            return pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        for step in self.prefix:
            image = _applied(step, image, np.empty(0))
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())

    def each(self, pixels: Pixels, draws: Draws) -> Tensor:
        """Apply the middle to one image (H, W, 3): (3, h, w), uint8, or float where ToTensor stands in it.

        Raises:
            UsageError: a transform that does not fit the image.
        """
        image: Any = torch.from_numpy(pixels).permute(2, 0, 1)
        for step in self.middle:
            image = _applied(step, image, draws[step.columns])
        tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        if self.scale is not None and tensor.dtype != torch.uint8:
            found = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(f"found {found} before ToTensor: what stands there must keep uint8 pixels, 0..255")
        return tensor

    def together(self, batch: Pixels, draws: Draws) -> Pixels:
        """Apply the geometry to a uint8 batch (n, H, W, 3) with draws (n, num_draws).

        Raises:
            UsageError: a transform that does not fit the images.
        """
        for step in self.geometry:
            kernel = kernel_of(step.transform)
            assert kernel.batch is not None
            try:
                batch = kernel.batch(step.transform, batch, draws[:, step.columns])
            except (ValueError, RuntimeError) as error:
                raise _refusal(step, error) from error
        return batch

    def normalise(self, batch: Tensor) -> Tensor:
        """Turn uint8 (n, H, W, 3) into float32 (n, 3, H, W), channels last, on the device where it lies."""
        n, height, width, _ = batch.shape
        scale, shift = self._rows(width, batch.device)
        rows = batch.view(n, height, width * 3).float()
        torch.addcmul(shift, rows, scale, out=rows)
        return rows.view(n, height, width, 3).permute(0, 3, 1, 2)

    @functools.lru_cache(maxsize=16)  # noqa: B019  # a pipeline lives as long as its run
    def _rows(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return scale and shift for a whole row: a broadcast over three channels is ten times slower."""
        assert self.scale is not None
        assert self.shift is not None
        return self.scale.repeat(width).to(device), self.shift.repeat(width).to(device)

    def image(self, path: str | Path) -> Tensor:
        """Return the float (3, H, W) tensor of one file; for pipelines without randomness.

        Raises:
            DataError: not a readable image.
            UsageError: a transform that does not fit the image.
        """
        pixels = self.before(images.read(path))
        draws = np.zeros(self.num_draws)
        with _global_generators_kept() if self.is_foreign else nullcontext():
            image = self.each(pixels, draws)
        if self.scale is None:
            return image
        batch = self.together(image.permute(1, 2, 0).contiguous().numpy()[None], draws[None])
        return self.normalise(torch.from_numpy(batch))[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to worker processes as text: a user's file is not a module that could be imported there."""
        return Pipeline.parse, (self.calls,)


def denormalise(tensor: Tensor, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.uint8]:
    """Turn normalised (..., 3, H, W) back into uint8 pixels (..., H, W, 3)."""
    spread = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
    pixels = (tensor.detach().cpu().float() * spread + centre).mul(255).round().clamp(0, 255)
    return pixels.to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def _applied(step: Step, image: Any, draws: Draws) -> Any:
    """Apply one step to one image."""
    try:
        return kernel_of(step.transform).apply(step.transform, image, draws)
    except Exception as error:  # a user's own code may raise anything
        raise _refusal(step, error) from error


def _refusal(step: Step, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())
    if not isinstance(error, ValueError | TypeError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    return UsageError(f"{type(step.transform).__name__} cannot be applied: {reason}")


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Put the global generators back to where they were."""
    before = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


def _with_columns(transforms: Sequence[Any]) -> list[Step]:
    steps, start = [], 0
    for transform in transforms:
        end = start + kernel_of(transform).draws(transform)
        steps.append(Step(transform, slice(start, end)))
        start = end
    return steps


def _check_order(calls: Sequence[Call], steps: Sequence[Step]) -> None:
    """Follow what the image is from step to step: uint8 tensor, PIL image, float tensor, normalised tensor."""
    state = "uint8"
    for call, step in zip(calls, steps, strict=True):
        if is_mix(call):
            raise call.error(
                "what mixes whole batches stands once, at the end: RandomChoice([MixUp(), CutMix()]) takes turns"
            )
        match step.transform:
            case ToTensor() if state in ("float", "normalised"):
                raise call.error("ToTensor stands twice; the image is a float tensor already")
            case ToTensor():
                state = "float"
            case v2.Normalize() if state == "normalised":
                raise call.error("Normalize stands twice")
            case v2.Normalize() if state != "float":
                raise call.error("Normalize needs a float tensor: put ToTensor() before it")
            case v2.Normalize():
                state = "normalised"
            case v2.ToPILImage() if state != "uint8":
                raise call.error("ToPILImage must stand before ToTensor")
            case v2.ToPILImage():
                state = "pil"
            case v2.RandomErasing() if state == "pil":
                raise call.error("RandomErasing needs a tensor: put ToTensor() before it")
    if state in ("uint8", "pil"):
        raise UsageError("the transforms must end in a float tensor: add ToTensor()")


def _plan(calls: tuple[str, ...], steps: list[Step], mix: Any) -> Pipeline:
    sizes = _sizes(steps)
    first = next((k for k, step in enumerate(steps) if not isinstance(step.transform, _PREFIX_TYPES)), len(steps))
    end, scale, shift = _ending(steps)
    last = end
    while scale is not None and last > first and kernel_of(steps[last - 1].transform).batch is not None:
        last -= 1
    # A batch needs images of one size; where that is not known, geometry runs image by image too.
    if sizes[last] is None:
        last = end
    return Pipeline(
        calls=calls,
        prefix=tuple(steps[:first]),
        middle=tuple(steps[first:last]),
        geometry=tuple(steps[last:end]),
        scale=scale,
        shift=shift,
        prefix_size=sizes[first],
        size=sizes[-1],
        num_draws=steps[-1].columns.stop if steps else 0,
        mix=mix,
    )


def _sizes(steps: Sequence[Step]) -> list[Size | None]:
    """Return the size before each step, and at the end; None where it depends on the image."""
    sizes: list[Size | None] = [None]
    for step in steps:
        sizes.append(kernel_of(step.transform).size(step.transform, sizes[-1]))
    return sizes


def _ending(steps: Sequence[Step]) -> tuple[int, Tensor | None, Tensor | None]:
    """Return where ToTensor stands if only Normalize follows it, with both as one scale and shift."""
    names = [type(step.transform) for step in steps[-2:]]
    if names[-2:] == [ToTensor, v2.Normalize]:
        normalize = steps[-1].transform
        mean = torch.as_tensor(normalize.mean, dtype=torch.float64).reshape(-1).expand(3)
        std = torch.as_tensor(normalize.std, dtype=torch.float64).reshape(-1).expand(3)
        return len(steps) - 2, (1 / (255 * std)).float(), (-mean / std).float()
    if names[-1:] == [ToTensor]:
        return len(steps) - 1, torch.full((3,), 1 / 255), torch.zeros(3)
    return len(steps), None, None


def _has_size_already(steps: Sequence[Step], height: int, width: int) -> bool:
    """Say whether every step would leave an image of this size as it is."""
    size = (height, width)
    return all(
        isinstance(step.transform, v2.Resize | v2.CenterCrop)
        and kernel_of(step.transform).size(step.transform, size) == size
        for step in steps
    )


def same_size(shapes: Sequence[tuple[int, ...]], calls: Sequence[str]) -> None:
    """Refuse a batch whose images differ in size.

    Raises:
        DataError: they do; the message shows two sizes.
    """
    sizes = sorted({f"{shape[0]}×{shape[1]}" for shape in shapes})
    if len(sizes) > 1:
        raise DataError(
            f"images come out of the transforms in different sizes ({sizes[0]} and {sizes[-1]}): "
            f"add Resize((height, width)) or a crop to {', '.join(calls) or 'the empty list'}"
        )
