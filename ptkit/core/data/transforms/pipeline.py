"""A list of transforms, planned once: what is decoded and kept, what runs image by image, what runs
on batches.

The plan changes speed, never meaning: every part draws from the same keyed numbers whatever the
batch.
"""

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ptkit.core.data import images, keyed
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.catalogue import build_transform, resolved
from ptkit.core.data.transforms.crops import SEVERAL_CROPS
from ptkit.core.data.transforms.generators import global_generators_kept
from ptkit.core.data.transforms.geometry import (
    Draws,
    Reduction,
    Size,
    crop_of_reduced,
    times_smaller,
)
from ptkit.core.data.transforms.kernels import is_foreign, kernel_of
from ptkit.core.data.transforms.mixing import is_mix
from ptkit.core.data.transforms.order import check_order, check_sizes, sizes_of
from ptkit.core.data.transforms.planning import Division, Step, divide, for_gpu, steps_of
from ptkit.core.device import sent
from ptkit.core.errors import DataError, UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.parts.catalogue import refuse_user_code

_MOVING_TYPES = (
    v2.RandomCrop,
    v2.FiveCrop,
    v2.TenCrop,
    v2.RandomHorizontalFlip,
    v2.RandomVerticalFlip,
)

_SHRINKING_TYPES = (v2.Resize, v2.RandomResizedCrop)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pipeline(Division):
    """A planned list of transforms: its parts, as `Division` has them, and

    calls: the list, as text.
    mix: MixUp, CutMix or a choice of them, which `Batches` applies to what comes out; None without.
    size: (height, width) at the end; None where it depends on the image.
    num_crops: how many images come out for one: 5 or 10 with FiveCrop or TenCrop, 2 with
    WithHorizontalFlip.
    tensors: what must be saved beside `calls`: by the name of a file in them, what
    LinearTransformation read there.
    """

    calls: tuple[str, ...]
    size: Size | None
    num_draws: int
    num_crops: int = 1
    mix: Any = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def parse(
        calls: Sequence[str],
        *,
        allow_user_code: bool = True,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> "Pipeline":
        """Plan a list of calls.

        tensors: what another pipeline of these calls had; the files that they name are not read
        then, and without user code never.

        Raises:
            UsageError: unknown names or arguments, or transforms in an order that cannot work.
            DataError: a file that the calls name cannot be read.
            CheckpointError: user code where it is not allowed, or tensors that are missing.
        """
        held = dict(tensors or {})
        written = [parse(call) for call in calls]
        may_read = allow_user_code and tensors is None
        parsed = [resolved(call, tensors=held, may_read=may_read) for call in written]
        for call in parsed:
            if not allow_user_code:
                remedy = "evaluate it in Python, with ptkit.load and transforms of your own"
                refuse_user_code(call, where="the saved pipeline", remedy=remedy)
        mix = parsed[-1] if parsed and is_mix(parsed[-1]) else None
        of_images = parsed if mix is None else parsed[:-1]
        transforms = [build_transform(call) for call in of_images]
        check_order(of_images, transforms, mix=mix)
        sizes, steps = sizes_of(transforms), steps_of(transforms)
        check_sizes(of_images, transforms, sizes)
        return Pipeline(
            calls=tuple(str(call) for call in written),
            **vars(divide(steps, sizes)),
            size=sizes[-1],
            num_draws=steps[-1].columns.stop if steps else 0,
            num_crops=next(
                (SEVERAL_CROPS[type(t)] for t in transforms if type(t) in SEVERAL_CROPS), 1
            ),
            mix=build_transform(mix) if mix is not None else None,
            tensors=held,
        )

    def for_device(self, device: torch.device) -> "Pipeline":
        """Return the plan for a training device: `together` and `finish` share the steps for
        batches accordingly.
        """
        return for_gpu(self) if device.type == "cuda" else self

    def draws(
        self, seed: int, *, epoch: int, keys: npt.NDArray[np.int64], offset: int = 0
    ) -> Draws:
        """Return the draws of some images in an epoch, (len(keys), num_draws).

        keys: a number of each image's own. offset: draws of a longer list that come before this
        one's.
        """
        draws = keyed.uniforms(
            seed, "augment", epoch=epoch, indices=keys, columns=offset + self.num_draws
        )[:, offset:]
        for step in (*self.middle, *self.batched, *self.on_device, *self.tail):
            if kernel_of(step.transform).alternates:
                columns = step.columns.stop - step.columns.start
                same = keyed.uniforms(seed, "alternate", epoch=0, indices=keys, columns=columns)
                draws[:, step.columns] = (same + epoch % 2 / 2) % 1.0
        return draws

    @property
    def is_foreign(self) -> bool:
        """Whether a step draws from global generators and so needs worker processes."""
        return any(is_foreign(step.transform) for step in self.middle)

    @property
    def is_random(self) -> bool:
        return self.num_draws > 0

    @property
    def only_moves_pixels(self) -> bool:
        """Whether the steps for whole batches copy pixels and compute none."""
        return all(type(step.transform) in _MOVING_TYPES for step in self.batched)

    def before(self, pixels: Pixels) -> Pixels:
        """Apply the prefix to one decoded image (H, W, 3)."""
        if _has_size_already(self.prefix, pixels.shape[0], pixels.shape[1]):
            return pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        for step in self.prefix:
            image = _applied(step, image, np.empty(0))
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())

    @property
    def can_reduce(self) -> bool:
        """Whether the first step makes images smaller that may come smaller already."""
        return (
            type(next((step.transform for step in self.prefix + self.middle), None))
            in _SHRINKING_TYPES
        )

    def reduction(self, size: Size, draws: Draws) -> Reduction:
        """Return how much smaller an image of a size may come without a loss, where `can_reduce`."""
        step = (self.prefix + self.middle)[0]
        return Reduction(size, times_smaller(step.transform, size, draws[step.columns]))

    def size_before(self, size: Size) -> Size:
        """Return what the prefix makes of an image of a size (height, width), without any pixels.

        Raises:
            UsageError: a transform that does not fit such an image.
        """
        image: Any = torch.empty((3, *size), dtype=torch.uint8, device="meta")
        for step in self.prefix:
            image = _applied(step, image, np.empty(0))
        return image.shape[1], image.shape[2]

    def each(self, pixels: Pixels, draws: Draws, *, reduction: Reduction | None = None) -> Tensor:
        """Apply the middle to one image (H, W, 3): (3, h, w), or (num_crops, 3, h, w) where it
        takes the crops.

        The result is uint8, or float where ToTensor stands in the middle. reduction: what the image
        had before.

        Raises:
            UsageError: a transform that does not fit the image.
        """
        image: Any = torch.from_numpy(pixels).permute(2, 0, 1)
        steps = self.middle
        if reduction is not None and not self.prefix:
            image = crop_of_reduced(steps[0].transform, image, draws[steps[0].columns], reduction)
            steps = steps[1:]
        for step in steps:
            image = _applied(step, image, draws[step.columns])
        tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        if self.scale is not None and tensor.dtype != torch.uint8:
            found = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(
                f"found {found} before ToTensor: what stands there must keep uint8 pixels, 0..255"
            )
        return tensor

    def stacked(self, tensors: Sequence[Tensor]) -> Pixels | Tensor:
        """Make a batch of what `each` gave: uint8 (n, h, w, 3), or float (n, 3, h, w); crops image
        by image.

        Raises:
            DataError: images that differ in size.
        """
        same_size([tuple(tensor.shape[-2:]) for tensor in tensors], self.calls)
        if self.scale is None:
            return torch.stack(list(tensors)).flatten(0, -4)
        # Not np.stack: it keeps the strides of its parts, and what follows wants whole rows.
        first = tensors[0].movedim(-3, -1)
        pixels = np.empty((len(tensors), *first.shape), np.uint8)
        for place, tensor in zip(pixels, tensors, strict=True):
            place[:] = tensor.movedim(-3, -1).numpy()
        return pixels.reshape(-1, *first.shape[-3:])

    def together(self, batch: Pixels, draws: Draws) -> Pixels:
        """Apply the steps for whole batches to uint8 (n, H, W, 3), with draws (n, num_draws); crops
        image by image.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        for step in self.batched:
            batch = _applied_to_all(step, kernel_of(step.transform).batch, batch, draws)
        return batch

    def finish(self, batch: Tensor, draws: Draws, *, device_draws: Tensor | None = None) -> Tensor:
        """Turn what `together` or `stacked` gave into float32 (n, 3, H, W), channels last, on the
        device where it lies.

        draws: (n, num_draws), n being the number of images and not of crops. device_draws: the same
        on the device, if they are there already.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        if self.on_device:
            there = sent(draws, batch.device) if device_draws is None else device_draws
            for step in self.on_device:
                batch = _applied_to_all(step, kernel_of(step.transform).device, batch, there)
        if self.scale is not None:
            batch = self.normalise(batch)
        for step in self.tail:
            batch = _applied_to_all(step, kernel_of(step.transform).floats, batch, draws)
        return batch.contiguous(memory_format=torch.channels_last)

    def normalise(self, batch: Tensor) -> Tensor:
        """Turn uint8 (n, H, W, 3) into float32 (n, 3, H, W), channels last, on the device where it
        lies.
        """
        n, height, width, _ = batch.shape
        scale, shift = self._rows(width, batch.device)
        rows = batch.view(n, height, width * 3).float()
        torch.addcmul(shift, rows, scale, out=rows)
        return rows.view(n, height, width, 3).permute(0, 3, 1, 2)

    @functools.lru_cache(maxsize=16)  # noqa: B019  # a pipeline lives as long as its run
    def _rows(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return scale and shift for a whole row: a broadcast over three channels is ten times
        slower.
        """
        assert self.scale is not None
        assert self.shift is not None
        return self.scale.repeat(width).to(device), self.shift.repeat(width).to(device)

    def image(self, path: str | Path) -> Tensor:
        """Return the float (3, H, W) tensor of one file, or (num_crops, 3, H, W); for pipelines
        without randomness.

        Raises:
            DataError: not a readable image.
            UsageError: a transform that does not fit the image.
        """
        return self.view(images.read(path))

    def view(self, pixels: Pixels) -> Tensor:
        """Return the same of decoded pixels, uint8 (H, W, 3)."""
        pixels, draws = self.before(pixels), np.zeros((1, self.num_draws))
        with global_generators_kept() if self.is_foreign else nullcontext():
            batch = self.stacked([self.each(pixels, draws[0])])
        if not isinstance(batch, Tensor):
            batch = torch.from_numpy(self.together(batch, draws))
        finished = self.finish(batch, draws)
        return finished if self.num_crops > 1 else finished[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to worker processes as text: a user's file is not a module that could be imported
        there.
        """
        return _parsed_again, (self.calls, dict(self.tensors), len(self.batched))


def _parsed_again(calls: tuple[str, ...], tensors: dict[str, Tensor], num_batched: int) -> Pipeline:
    pipeline = Pipeline.parse(calls, tensors=tensors)
    return pipeline if len(pipeline.batched) == num_batched else for_gpu(pipeline)


def denormalise(
    tensor: Tensor, mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
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


def _applied_to_all(step: Step, form: Any, batch: Any, draws: Any) -> Any:
    """Apply one step to a batch; all crops of an image get its draws."""
    if len(batch) != len(draws):
        crops = len(batch) // len(draws)
        draws = (
            draws.repeat_interleave(crops, 0)
            if isinstance(draws, Tensor)
            else draws.repeat(crops, axis=0)
        )
    try:
        return form(step.transform, batch, draws[:, step.columns])
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError, TypeError, cv2.error) as error:
        raise _refusal(step, error) from error


def _refusal(step: Step, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())
    if not isinstance(error, ValueError | TypeError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    return UsageError(f"{type(step.transform).__name__} cannot be applied: {reason}")


def _has_size_already(steps: Sequence[Step], height: int, width: int) -> bool:
    """Say whether every step would leave an image of this size as it is."""
    size = (height, width)
    return all(
        type(step.transform) in (v2.Resize, v2.CenterCrop)
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
