"""A list of transforms, planned once: what is decoded and kept, what runs image by image, what runs
on batches.

The plan changes speed, never meaning: every part draws from the same keyed numbers whatever the
batch.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ptkit.core.data import images, keyed
from ptkit.core.data.images import Pixels, cv2
from ptkit.core.data.transforms.catalogue import build_transform, is_foreign, is_mix, resolved
from ptkit.core.data.transforms.foreign import code_of
from ptkit.core.data.transforms.generators import all_kept
from ptkit.core.data.transforms.geometry import Reduction
from ptkit.core.data.transforms.plan import (
    Plan,
    Step,
    channels_of,
    check_order,
    divide,
    same_shape,
    sizes_of,
    steps_of,
)
from ptkit.core.data.transforms.spec import Draws, Size
from ptkit.core.device import channels_last, is_of_device, is_out_of_memory, sent
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, parse_all
from ptkit.core.parts.catalogue import refuse_user_code
from ptkit.core.wording import counted


# eq=False keeps the hash by identity that lru_cache below needs: `tensors` has no other.
@dataclass(frozen=True, eq=False, kw_only=True)
class Pipeline:
    """A planned list of transforms, and what applies it.

    For one image: `apply_prefix`, `apply_to_image`; for a batch: `stack`, `apply_to_batch`,
    `finish_on_device`; `apply` does it all to one image.

    calls: the list. plan: its steps by what they run on.
    mix: MixUp, CutMix or a choice of them, which `Batches` applies to what comes out; None without.
    size: (height, width) at the end; None where it depends on the image.
    channels: C at the end, 3, or 1 after Grayscale(); None after a transform of the user's own.
    num_crops: how many images come out for one: 5 or 10 with FiveCrop or TenCrop, 2 with
        WithHorizontalFlip.
    tensors: what must be saved beside `calls`: by the name of a file in them, what
        LinearTransformation read there.
    """

    calls: tuple[Call, ...]
    plan: Plan
    size: Size | None
    channels: int | None
    num_draws: int
    num_crops: int = 1
    mix: Any = None
    alpha: str = "drop"
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def parse(texts: Iterable[str], **options: Any) -> "Pipeline":
        """Plan a list of calls that are not parsed yet; options: see `of`."""
        return Pipeline.of(parse_all(texts), **options)

    @staticmethod
    def of(
        calls: Sequence[Call],
        *,
        allow_user_code: bool = True,
        named_again: Sequence[Call] = (),
        tensors: Mapping[str, Tensor] | None = None,
        alpha: str = "drop",
    ) -> "Pipeline":
        """Plan a list of calls.

        named_again: calls that may be user code all the same.
        tensors: what another pipeline of these calls had; the files that they name are not read
        then, and without user code never. alpha: see `images.read`.

        Raises:
            UsageError: unknown names or arguments, or transforms in an order that cannot work.
            DataError: a file that the calls name cannot be read.
            CheckpointError: user code where it is not allowed, or tensors that are missing.
        """
        # A copy: `resolved` adds the files that it reads, and the caller's stays as it was.
        held = dict(tensors or {})
        may_read = allow_user_code and tensors is None
        parsed = [resolved(call, tensors=held, may_read=may_read) for call in calls]
        # Before anything is built: building imports a user's file, which runs it.
        for call in () if allow_user_code else parsed:
            if call not in named_again:
                remedy = "name its own steps again, each with a --transform, in their order"
                refuse_user_code(call, where="the saved pipeline", remedy=remedy)
        mix = parsed.pop() if parsed and is_mix(parsed[-1]) else None
        steps = steps_of(parsed)
        check_order(steps, mix=mix)
        channels = channels_of(steps)
        sizes = sizes_of(steps, channels)
        return Pipeline(
            calls=tuple(calls),
            plan=divide(steps, sizes, channels),
            size=sizes[-1],
            channels=channels[-1],
            num_draws=steps[-1].columns.stop if steps else 0,
            num_crops=max((step.spec.num_crops for step in steps), default=1),
            mix=build_transform(mix) if mix is not None else None,
            alpha=alpha,
            tensors=held,
        )

    def for_device(self, device: torch.device) -> "Pipeline":
        """Return the pipeline for a training device, where a GPU takes the steps that it can."""
        return replace(self, plan=self.plan.for_gpu()) if device.type == "cuda" else self

    def draws(
        self, seed: int, *, epoch: int, keys: npt.NDArray[np.int64], offset: int = 0
    ) -> Draws:
        """Return the draws of some images in an epoch, (len(keys), num_draws).

        keys: a number of each image's own. offset: draws of a longer list that come before this
        one's.
        """
        # Each column is a hash of its number, so a part of a longer list has its draws from there.
        draws = keyed.uniforms(
            seed, "augment", epoch=epoch, indices=keys, columns=offset + self.num_draws
        )[:, offset:]
        plan = self.plan
        for step in plan.image_steps + plan.batch_steps + plan.device_steps + plan.float_steps:
            if step.spec.alternates:
                columns = step.columns.stop - step.columns.start
                # The draws of epoch 0, half a turn further in every other epoch: what was below 0.5
                # is above it then.
                same = keyed.uniforms(seed, "alternate", epoch=0, indices=keys, columns=columns)
                draws[:, step.columns] = (same + epoch % 2 / 2) % 1.0
        return draws

    @property
    def is_foreign(self) -> bool:
        """Whether a step draws from global generators and so needs worker processes."""
        # Such a step cannot be kept and has no form for batches, so it is among these.
        return any(is_foreign(step.transform) for step in self.plan.image_steps)

    @property
    def is_random(self) -> bool:
        return self.num_draws > 0

    @property
    def only_moves_pixels(self) -> bool:
        """Whether the steps for whole batches copy pixels and compute none."""
        steps = self.plan.batch_steps + self.plan.device_steps
        return all(step.spec.moves_pixels for step in steps)

    @property
    def can_reduce(self) -> bool:
        """Whether the first step resizes, so that images may come smaller already."""
        first = next(iter(self.plan.prefix + self.plan.image_steps), None)
        return first is not None and first.spec.resizes

    def reduction(self, size: Size, draws: Draws) -> Reduction:
        """Return how much smaller an image may come without a loss, where `can_reduce`."""
        step = (self.plan.prefix + self.plan.image_steps)[0]
        assert step.spec.times_smaller is not None
        return Reduction(size, step.spec.times_smaller(step.transform, size, draws[step.columns]))

    def apply_prefix(self, pixels: Pixels) -> Pixels:
        """Apply the prefix to one decoded image (H, W, 3); returns (h, w, prefix_channels)."""
        # In whole rows: every later copy of them is then one piece of memory.
        return np.ascontiguousarray(self.view_prefix(pixels))

    def view_prefix(self, pixels: Pixels) -> Pixels:
        """Return what `apply_prefix` does, perhaps a view of other memory."""
        quick: Pixels | None = pixels
        for step in self.plan.prefix:
            if quick is not None:
                form = step.spec.of_pixels
                quick = None if form is None else form(step.transform, quick)
        if quick is not None:
            return quick
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        # No draws: nothing in a prefix is random.
        found: Tensor = apply_steps(self.plan.prefix, image, np.empty(0))
        return found.permute(1, 2, 0).numpy()

    def size_after_prefix(self, size: Size) -> Size:
        """Return what the prefix makes of a size (height, width), without any pixels.

        Raises:
            UsageError: a transform that does not fit such an image.
        """
        # A meta tensor has a shape, but no memory.
        # So the size is torchvision's own, rounding included, and no formula of ours.
        image: Any = torch.empty((3, *size), dtype=torch.uint8, device="meta")
        image = apply_steps(self.plan.prefix, image, np.empty(0))
        return image.shape[1], image.shape[2]

    def apply_to_image(
        self, pixels: Pixels, draws: Draws, *, reduction: Reduction | None = None
    ) -> Tensor:
        """Apply the steps for single images to what `apply_prefix` gave: (C, h, w), or (num_crops,
        C, h, w) where they take the crops.

        The result is uint8, or float where ToTensor is one of the steps. reduction: how much
        smaller the image came.

        Raises:
            UsageError: a transform that does not fit the image.
        """
        # A view: in memory each pixel's colours stay side by side; only the shape is (C, H, W).
        image: Any = torch.from_numpy(pixels).permute(2, 0, 1)
        steps = self.plan.image_steps
        # Without a prefix the image that came smaller is the first step's own.
        if reduction is not None and not self.plan.prefix:
            step, steps = steps[0], steps[1:]
            assert step.spec.apply_reduced is not None
            image = step.spec.apply_reduced(step.transform, image, draws[step.columns], reduction)
        image = apply_steps(steps, image, draws)
        tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        if self.plan.fused is not None and tensor.dtype != torch.uint8:
            found = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(
                f"found {found} before ToTensor: a transform there must keep uint8 pixels, 0..255"
            )
        return tensor

    def stack(self, tensors: Sequence[Tensor]) -> Pixels | Tensor:
        """Make a batch of what `apply_to_image` gave: uint8 (n, h, w, C), or float (n, C, h, w);
        crops image by image.

        Raises:
            DataError: images that differ in size or channels.
        """
        same_shape([tuple(tensor.shape[-3:]) for tensor in tensors], self.calls)
        if self.plan.fused is None:
            # Crops (n, k, C, h, w) become n * k images; images without crops stay as they are.
            return torch.stack(list(tensors)).flatten(0, -4)
        # Not np.stack: it keeps the strides of its parts, and what follows needs whole rows.
        first = tensors[0].movedim(-3, -1)
        pixels = np.empty((len(tensors), *first.shape), np.uint8)
        for place, tensor in zip(pixels, tensors, strict=True):
            place[:] = tensor.movedim(-3, -1).numpy()
        return pixels.reshape(-1, *first.shape[-3:])

    def apply_to_batch(self, batch: Pixels, draws: Draws) -> Pixels:
        """Apply the steps for whole batches to uint8 (n, H, W, C), with draws (n, num_draws); crops
        image by image.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        for step in self.plan.batch_steps:
            batch = _applied_to_all(step, step.spec.batch, batch, draws)
        return batch

    def finish_on_device(
        self, batch: Tensor, draws: Draws, *, device_draws: Tensor | None = None
    ) -> Tensor:
        """Turn what `apply_to_batch` or `stack` gave into float32 (n, C, H, W), channels last, on
        the device where it is.

        draws: (n, num_draws), n being the number of images and not of crops. device_draws: the same
        on the device, if they are there already.

        Raises:
            UsageError: a transform that does not fit the images.
        """
        if self.plan.device_steps:
            there = sent(draws, batch.device) if device_draws is None else device_draws
            for step in self.plan.device_steps:
                batch = _applied_to_all(step, step.spec.device, batch, there)
        if self.plan.fused is not None:
            batch = self.normalise_batch(batch)
        for step in self.plan.float_steps:
            batch = _applied_to_all(step, step.spec.floats, batch, draws)
        # After normalise_batch this copies nothing: its result is channels last already.
        return channels_last(batch)

    def normalise_batch(self, batch: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Turn uint8 (n, H, W, C) into float32 (n, C, H, W), channels last, on its device.

        out: float32 (n, H, W, C), which becomes the result.

        Raises:
            UsageError: Normalize has numbers for another C.
        """
        n, height, width, channels = batch.shape
        scale, shift = self._rows(width, channels, batch.device)
        rows = batch.view(n, height, width * channels)
        rows = rows.float() if out is None else out.view(rows.shape).copy_(rows)
        # One pass, written over its input: no further memory of that size.
        torch.addcmul(shift, rows, scale, out=rows)
        # Only the shape changes: colours stay side by side, which is what channels last means.
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)

    @functools.lru_cache(maxsize=16)  # noqa: B019  # a pipeline lives as long as its run
    def _rows(self, width: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return scale and shift for a whole row: a broadcast over three channels is ten times
        slower.
        """
        assert self.plan.fused is not None
        scale, shift = self.plan.fused
        # Where it is known before, planning has refused it.
        if len(scale) not in (1, channels):
            raise UsageError(
                f"Normalize has {len(scale)} numbers and the images {counted(channels, 'channel')}:"
                " give it, or data.mean and data.std, one for each"
            )
        scale, shift = (numbers.expand(channels).repeat(width) for numbers in (scale, shift))
        return scale.to(device), shift.to(device)

    def apply(self, pixels: Pixels, draws: Draws) -> Tensor:
        """Return one decoded image after the whole list, float (num_crops, C, h, w)."""
        codes = [code_of(step.transform) for step in self.plan.image_steps]
        with all_kept(codes) if self.is_foreign else nullcontext():
            batch = self.stack([self.apply_to_image(self.apply_prefix(pixels), draws)])
        if not isinstance(batch, Tensor):
            batch = torch.from_numpy(self.apply_to_batch(batch, draws[None]))
        return self.finish_on_device(batch, draws[None])

    def read_image(self, path: str | Path) -> Tensor:
        """Return one file's float (C, H, W), or (num_crops, C, H, W); without randomness.

        Raises:
            DataError: not a readable image.
            UsageError: a transform that does not fit the image.
        """
        return self.view(images.read(path, alpha=self.alpha))

    def view(self, pixels: Pixels) -> Tensor:
        """Return the same of decoded pixels, uint8 (H, W, 3)."""
        # For steps that take draws but leave nothing to chance, such as a flip with p=1.
        finished = self.apply(pixels, np.zeros(self.num_draws))
        return finished if self.num_crops > 1 else finished[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to worker processes as calls: a user's file cannot be imported there."""
        options = {"tensors": dict(self.tensors), "alpha": self.alpha}
        return _planned_again, (self.calls, bool(self.plan.device_steps), options)


def _planned_again(calls: tuple[Call, ...], is_for_gpu: bool, options: Any) -> Pipeline:
    # With the tensors, files that the calls name are not read again.
    pipeline = Pipeline.of(calls, **options)
    return pipeline.for_device(torch.device("cuda")) if is_for_gpu else pipeline


def apply_steps(steps: Sequence[Step], image: Any, draws: Draws) -> Any:
    """Apply steps to one image, whose draws these are.

    Raises:
        UsageError: a transform that does not fit the image.
    """
    for step in steps:
        try:
            image = step.spec.apply(step.transform, image, draws[step.columns])
        # A user's own code may raise anything.
        except Exception as error:
            raise refusal(step, error) from error
    return image


def _applied_to_all(step: Step, form: Any, batch: Any, draws: Any) -> Any:
    """Apply one step to a batch; all crops of an image get its draws."""
    if len(batch) != len(draws):
        crops = len(batch) // len(draws)
        # Two words for one thing: torch's own `repeat` tiles, and would mix up the images.
        draws = (
            draws.repeat_interleave(crops, 0)
            if isinstance(draws, Tensor)
            else draws.repeat(crops, axis=0)
        )
    try:
        return form(step.transform, batch, draws[:, step.columns])
    # What kernels raise for wrong sizes. Not Exception: no user's code runs here.
    except (ValueError, RuntimeError, TypeError, IndexError, cv2.error) as error:
        raise refusal(step, error) from error


def refusal(step: Step, error: Exception) -> UsageError:
    """Return what says that a step does not fit an image; memory that is used up and late errors of
    a GPU are no fault of the step, and raised as they are.
    """
    if is_out_of_memory(error) or is_of_device(error):
        raise MemoryError(str(error)) if isinstance(error, cv2.error) else error
    reason = " ".join(str(error).split())
    if not isinstance(error, ValueError | TypeError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    return UsageError(f"{type(step.transform).__name__} cannot be applied: {reason}")
