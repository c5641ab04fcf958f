"""Which images are explained, and how they are shown small."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.sampling import spread


def to_explain(
    probabilities: npt.NDArray[np.float32], labels: np.ndarray, *, label_kind: str, count: int
) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """Return which images to explain, at most `count`, and which of all images are mistakes, bool
    (N,).

    Mistakes come first, the surest before the others, at most half of them unless there is nothing
    else; then right answers, spread over the list. See `showcase.show` for the arguments.
    """
    rows = np.arange(len(labels))
    if label_kind == REGRESSION:
        return spread(rows.tolist(), count), np.zeros(len(rows), bool)
    if label_kind == SINGLE:
        is_wrong, badness = probabilities.argmax(axis=1) != labels, 1 - probabilities[rows, labels]
    else:
        is_wrong, badness = (
            ((probabilities > 0.5) != labels).any(axis=1),
            np.abs(labels - probabilities).max(axis=1),
        )
    wrong = [index for index in np.argsort(-badness, kind="stable").tolist() if is_wrong[index]]
    right = np.flatnonzero(~is_wrong).tolist()
    wrong = wrong[: max(count // 2, count - len(right))]
    return wrong + spread(right, count - len(wrong)), is_wrong


def squares(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return images (n, H, W, 3) as squares (n, side, side, 3); small ones are enlarged by
    repeating pixels.
    """
    tensor = torch.from_numpy(images).movedim(-1, 1).float()
    how = "area" if max(images.shape[1:3]) > side else "nearest"
    return (
        F.interpolate(tensor, (side, side), mode=how).round().to(torch.uint8).movedim(1, -1).numpy()
    )
