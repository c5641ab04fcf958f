"""JPEGs decoded on a GPU by nvJPEG; what that would decode in another way goes through the CPU.

It ignores EXIF and other orientations, takes the three channels of any JPEG for YCbCr, and does not
say that data is damaged. Its pixels differ by a few levels.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data import images as decoder
from ptkit.core.data.formats import JPEG_END, is_jpeg, jpeg_has_metadata
from ptkit.core.data.images import Pixels
from ptkit.core.data.pixel_limits import check_pixels
from ptkit.core.data.transforms.pipeline import Pipeline, apply_steps
from ptkit.core.data.transforms.plan import same_shape
from ptkit.core.data.transforms.spec import Draws
from ptkit.core.device import is_out_of_memory, wait_for
from ptkit.core.errors import DataError, UsageError

# Encoded images, uint8 (length,), to pixels, uint8 (3, H, W), on a device.
Decode = Callable[[list[Tensor]], Sequence[Tensor]]

# Frames that nvJPEG decodes: baseline, extended and progressive with Huffman coding (ITU-T T.81,
# table B.1).
_FRAMES = (0xC0, 0xC1, 0xC2)
_APP14 = 0xEE


class _Streams(threading.local):
    """Of a thread: its own stream on each device."""

    def __init__(self) -> None:
        self.own: dict[torch.device, torch.cuda.Stream] = {}


_streams = _Streams()


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
        if self.device not in _streams.own:
            _streams.own[self.device] = torch.cuda.Stream(self.device)
        stream = _streams.own[self.device]
        with torch.cuda.stream(stream):
            try:
                yield
            finally:
                # Waiting lets other threads run.
                stream.synchronize()

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
            if is_out_of_memory(error):
                raise
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
            done.append(apply_steps(steps, image, own))
        same_shape([tuple(image.shape[-3:]) for image in done], pipeline.calls)
        stacked = torch.stack(done).flatten(0, -4)
        # Floats stay planes: what finishes them brings the colours together.
        is_float = pipeline.plan.fused is None
        return stacked if is_float else stacked.movedim(-3, -1).contiguous()


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
    if pipeline.is_foreign or pipeline.plan.batch_steps:
        steps = pipeline.plan.batch_steps or pipeline.plan.image_steps
        raise UsageError(
            f"data.decode=gpu needs transforms that run on the device; {steps[0].call} does not"
        )
    decode = _decode_function(device)
    try:
        decode([torch.frombuffer(bytearray(_smallest_jpeg()), dtype=torch.uint8)])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"data.decode=gpu cannot decode here: {reason}; install a torchvision or torchcodec"
            " with nvJPEG, or leave it out"
        ) from error
    return GpuDecoder(device, decode)


def _smallest_jpeg() -> bytes:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return decoder.cv2.imencode(".jpg", pixels)[1].tobytes()


def _decode_function(device: torch.device) -> Decode:
    try:
        from torchcodec.decoders import decode_jpeg
    except Exception:
        # Not installed, or made for another version of torch.
        return _with_torchvision(device)
    return lambda encoded: list(decode_jpeg(encoded, mode="RGB", device=device))


def _with_torchvision(device: torch.device) -> Decode:
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        raise UsageError("data.decode=gpu needs torchcodec here: pip install torchcodec") from None
    return lambda encoded: list(decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device))
