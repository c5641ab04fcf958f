"""JPEGs decoded on a GPU by nvJPEG; what that would decode in another way goes through the CPU.

It ignores EXIF and other orientations, takes the three channels of any JPEG for YCbCr, and does not
say that data is damaged. Its pixels differ by a few levels in the mean, by more at the edges of
colours.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import LifoQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import JPEG_END, is_jpeg, jpeg_has_metadata
from ptkit.core.data.images import Pixels
from ptkit.core.data.pixel_limits import check_pixels
from ptkit.core.data.transforms.catalogue import is_foreign, spec_of
from ptkit.core.data.transforms.pipeline import Pipeline, apply_steps
from ptkit.core.data.transforms.plan import Step, same_shape
from ptkit.core.data.transforms.spec import Draws, mode_of
from ptkit.core.device import is_out_of_memory, wait_for
from ptkit.core.errors import DataError, UsageError

# Encoded images, uint8 (length,), to pixels, uint8 (3, H, W), on a device.
Decode = Callable[[list[Tensor]], Sequence[Tensor]]

# Frames that nvJPEG decodes: baseline, extended and progressive with Huffman coding (ITU-T T.81,
# table B.1).
_FRAMES = (0xC0, 0xC1, 0xC2)
_APP14 = 0xEE


# torch gives out 32 streams in turn, so that of more threads two would get the same one. Each keeps
# what was freed in it: fewer also need less memory.
_NUM_STREAMS = 16
# What torchvision says of nvJPEG's status ALLOCATOR_FAILURE (nvjpeg.h), a number.
_NVJPEG_IS_FULL = re.compile(r"(nvjpeg|Failed to).*: 5$")


@dataclass(frozen=True)
class GpuDecoder:
    """decode: for a list of JPEGs, which raises RuntimeError for one that it refuses."""

    device: torch.device
    decode: Decode

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Let this thread work in a stream of its own, all of which is done after the block.

        torchvision's decoder writes into memory without waiting for what the thread's stream still
        has to do with it. In the stream of training that is most of a step.
        """
        if self.device.type != "cuda":
            yield
            return
        streams = _streams(self.device)
        # More threads than streams wait here. The one used last has the memory that they need.
        stream = streams.get()
        try:
            # The device too: leaving the stream would begin work on the thread's own, the first.
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                try:
                    yield
                finally:
                    # Waiting lets other threads run.
                    stream.synchronize()
        finally:
            streams.put(stream)

    def images(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        """Return the pixels of each image, uint8 (3, H, W) on the device, or None for one that the
        CPU must decode.
        """
        found: list[Tensor | None] = [None] * len(contents)
        mine = [place for place, content in enumerate(contents) if can_decode(content)]
        encoded = [
            torch.frombuffer(bytearray(contents[place]), dtype=torch.uint8) for place in mine
        ]
        for place, pixels in zip(mine, self._decoded(encoded), strict=True):
            found[place] = pixels
        return found

    def _decoded(self, encoded: list[Tensor]) -> list[Tensor | None]:
        if not encoded:
            return []
        try:
            return list(self.decode(encoded))
        except RuntimeError as error:
            _raise_if_full(error)
            # It may still write into memory that is free now.
            wait_for(self.device)
            # It says neither which one nor gives the others.
            if len(encoded) == 1:
                return [None]
            half = len(encoded) // 2
            return self._decoded(encoded[:half]) + self._decoded(encoded[half:])

    def batch(
        self,
        pipeline: Pipeline,
        images: Sequence[Tensor | None],
        draws: Draws,
        usual: Callable[[int], Pixels],
    ) -> Tensor:
        """Return images after the steps of the pipeline for single ones, uint8 (n, h, w, C) or
        float (n, C, h, w), on the device.

        usual: decodes the image at a place on the CPU.
        """
        steps = pipeline.plan.prefix + pipeline.plan.image_steps
        done = []
        for place, own in enumerate(draws):
            image = images[place]
            if image is None:
                image = torch.from_numpy(usual(place)).permute(2, 0, 1).to(self.device)
            done.append(_applied(steps, image, own))
        same_shape([tuple(image.shape[-3:]) for image in done], pipeline.calls)
        stacked = torch.stack(done).flatten(0, -4)
        # Floats stay planes: what finishes them brings the colours together.
        is_float = pipeline.plan.fused is None
        return stacked if is_float else stacked.movedim(-3, -1).contiguous()


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Take memory of a CUDA device from what no thread's stream uses, and give it back there.

    Else what one thread takes and another frees stays with the first one's stream, and in the end
    every stream has as much. Writers wait until they have written.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(_memory_stream(device)):
        yield


@functools.lru_cache
def _memory_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream in which nothing runs."""
    return torch.cuda.Stream(device)


@functools.lru_cache
def _streams(device: torch.device) -> "LifoQueue[torch.cuda.Stream]":
    """Return the streams of a device that no thread works in."""
    free: LifoQueue[torch.cuda.Stream] = LifoQueue()
    for _ in range(_NUM_STREAMS):
        free.put(torch.cuda.Stream(device))
    return free


def _raise_if_full(error: RuntimeError) -> None:
    """Raise an error of the decoder that means that memory is used up."""
    if is_out_of_memory(error):
        raise error
    if _NVJPEG_IS_FULL.search(_first_line(error)):
        raise torch.OutOfMemoryError(f"nvJPEG: {_first_line(error)}") from error


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]


def _applied(steps: Sequence[Step], image: Tensor, draws: Draws) -> Tensor:
    """Apply steps to one image (C, H, W) where it is, and give the result there."""
    try:
        result: Tensor = apply_steps(steps, image, draws)
    except UsageError as error:
        # CUDA's antialiased resize keeps the weights of a pixel in a core's own memory, which is
        # too small for those of an image that becomes fifty times smaller.
        if "shared memory" not in str(error):
            raise
        result = apply_steps(steps, image.cpu(), draws).to(image.device)
    return result


def can_decode(content: bytes) -> bool:
    """Say whether nvJPEG gives the same image, but for the rounding, as the usual way."""
    if not (is_jpeg(content) and content.endswith(JPEG_END)):
        return False
    if not _is_usual(_frame_header(content), num_bytes=len(content)):
        return False
    return not jpeg_has_metadata(content) or decoder.is_upright(content)


def _is_usual(frame: bytes, *, num_bytes: int) -> bool:
    """Say whether a frame header (ITU-T T.81, section B.2.2) is of grey or YCbCr, and not too
    large.
    """
    height, width = int.from_bytes(frame[5:7]), int.from_bytes(frame[7:9])
    try:
        check_pixels(width, height, num_bytes=num_bytes, path="")
    except DataError:
        return False
    # Channels with these names are no YCbCr to libjpeg.
    return frame[9:10] in (b"\1", b"\3") and frame[10:19:3] != b"RGB"


def _frame_header(content: bytes) -> bytes:
    """Return a JPEG from its frame header on; nothing for one that is not among `_FRAMES` or says
    how its colours are stored.
    """
    at, end = 2, len(content) - 9
    while at < end and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAMES:
            return content[at : at + 19]
        if marker in (0xD9, 0xDA, _APP14):
            return b""
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return b""


def gpu_decoder(device: torch.device, pipeline: Pipeline) -> GpuDecoder:
    """Return what decodes for a pipeline, as `Pipeline.for_device` gives it.

    Raises:
        UsageError: the device is no CUDA device, a transform does not run there, or neither
            torchvision nor torchcodec decodes there.
    """
    if device.type != "cuda":
        raise UsageError(
            f"data.decode=gpu decodes JPEGs on a CUDA device, and this run is on {device.type}"
        )
    if step := _unfit(pipeline):
        raise UsageError(
            f"data.decode=gpu needs transforms that run on the device; {step.call} does not"
        )
    reason = "neither torchvision nor torchcodec has a decoder"
    for decode in _decode_functions(device):
        gpu = GpuDecoder(device, decode)
        try:
            with gpu.own_stream():
                decode([torch.frombuffer(bytearray(_smallest_jpeg()), dtype=torch.uint8)])
        except RuntimeError as error:
            _raise_if_full(error)
            # One of them may have been built without it.
            reason = _first_line(error)
        else:
            return gpu
    raise UsageError(
        f"data.decode=gpu cannot decode here: {reason}; install a torchvision or torchcodec with"
        " nvJPEG, or leave it out"
    )


def _unfit(pipeline: Pipeline) -> Step | None:
    """Return a step that does not run on the device, or None."""
    plan = pipeline.plan
    # Of those that are left for a CPU the last one is why.
    if plan.batch_steps:
        return plan.batch_steps[-1]
    alone = plan.prefix + plan.image_steps
    return next((s for s in alone if is_foreign(s.transform) or _is_lanczos(s.transform)), None)


def _is_lanczos(transform: Any) -> bool:
    """Say whether a transform, or one in a container, resizes in the mode that torch has on CPUs
    alone.
    """
    if spec_of(transform).is_container:
        return any(map(_is_lanczos, transform.transforms))
    mode = getattr(transform, "interpolation", None)
    return mode is not None and mode_of(mode) is InterpolationMode.LANCZOS


def _smallest_jpeg() -> bytes:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return decoder.cv2.imencode(".jpg", pixels)[1].tobytes()


def _decode_functions(device: torch.device) -> Iterator[Decode]:
    """Yield the decoders that are installed, best first."""
    try:
        from torchcodec.decoders import decode_jpeg
    except Exception:  # not installed, or made for another version of torch
        pass
    else:
        yield lambda encoded: list(decode_jpeg(encoded, mode="RGB", device=device))
    try:
        from torchvision.io import ImageReadMode
        from torchvision.io import decode_jpeg as decode_by_torchvision
    except ImportError:  # a later version has it no more
        return
    yield lambda encoded: list(
        decode_by_torchvision(encoded, mode=ImageReadMode.RGB, device=device)
    )
