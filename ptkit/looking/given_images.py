"""What a loaded model says about images from anywhere: files, bytes, Pillow images, arrays."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.data import images as decoder
from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError
from ptkit.core.training.tasks.task import read_task
from ptkit.looking.predictions import Answers

_BATCH_SIZE = 64


def predict_images(model: nn.Module, images: Any, *, top: int = 1) -> list[dict[str, Any]]:
    """Return a row for each image, as `ptkit predict --json` prints them; the path of one that is
    no file is None.

    model: with `class_names`, `pipeline` and `task`, as `load` returns it; left in evaluation mode.
    images: one, or a list of them: a path, the bytes of a file, a Pillow image, uint8 (H, W, 3).

    Raises:
        DataError: an image that cannot be read.
        CheckpointError: the pipeline names user code.
        UsageError: none of the kinds above, or no images.
    """
    given = list(images) if isinstance(images, list | tuple) else [images]
    if not given:
        raise UsageError("no images: give at least one")
    saved: Any = model
    calls, tensors = saved.pipeline["calls"], saved.pipeline.get("tensors") or {}
    pipeline = Pipeline.parse(calls, allow_user_code=False, tensors=tensors)
    device = next(model.parameters(), torch.empty(0)).device
    task = read_task(saved.task).on(device)
    draws = np.zeros(pipeline.num_draws)
    outputs: list[Tensor] = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(given), _BATCH_SIZE):
            chunk = given[start : start + _BATCH_SIZE]
            inputs = [pipeline.apply(pixels_of(image), draws).to(device) for image in chunk]
            # Without a Resize the images may differ in size.
            is_even = len({image.shape for image in inputs}) == 1
            for batch in [torch.cat(inputs)] if is_even else inputs:
                crops = model(batch).float().unflatten(0, (-1, pipeline.num_crops))
                outputs.append(crops.mean(dim=1))
        scores = torch.cat(outputs)
        values, answers = task.values(scores).cpu().numpy(), task.answers(scores).cpu().numpy()
    paths = tuple(
        os.fspath(image) if isinstance(image, str | os.PathLike) else None for image in given
    )
    return Answers(paths, saved.class_names, task.kind, values, answers).rows(top=top)


def pixels_of(image: Any) -> Pixels:
    """Return an image as uint8 (H, W, 3), RGB, turned upright where EXIF says so.

    Raises:
        DataError: it cannot be read.
        UsageError: neither a path nor bytes, a Pillow image or an array of that form.
    """
    from PIL import Image, ImageOps

    if isinstance(image, str | os.PathLike):
        return decoder.read(os.fspath(image))
    if isinstance(image, bytes):
        return decoder.decode(image)
    if isinstance(image, Image.Image):
        try:
            return np.array(decoder.to_rgb(ImageOps.exif_transpose(image)))
        except OSError as error:
            raise DataError(f"a Pillow image cannot be decoded: {error}") from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
        # A copy: a transform may write into it, and torch takes no negative strides.
        return np.array(image, order="C")
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
    raise UsageError(
        f"an image must be a path, bytes, a Pillow image or a uint8 array (H, W, 3), found {found}"
    )
