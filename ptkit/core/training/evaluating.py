"""Loss and metrics over the validation list."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ptkit.core.distributed import gathered, in_list_order, summed
from ptkit.core.ranks import here
from ptkit.core.training.tasks.loss import Totals
from ptkit.core.training.tasks.task import SCORES

if TYPE_CHECKING:
    # The loop evaluates after each epoch.
    from ptkit.core.training.loop import Training

# How many validation images are compared with each other, where the loss compares images: the pairs
# grow with the square.
COMPARED = 512
# Outputs, of which loss and metrics are computed together.
_NUMBERS_AT_ONCE = 1 << 15


def evaluate(
    training: "Training", on_look: Callable[[], None] = lambda: None
) -> tuple[float, dict[str, float]]:
    """Return loss and metrics over the validation list, in which every image counts once.

    The loss is that of all images at once, whatever the batch size and the order of the lines; a
    loss that compares images compares COMPARED of them at a time. The metrics are the main one of
    the task, and those that are asked for. Each rank runs its part of the list, and all return the
    same.
    """
    training.model.eval()
    with torch.inference_mode():
        return evaluated(training, _examined(training, on_look))


def evaluated(
    training: "Training", pieces: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, dict[str, float]]:
    """Return loss and metrics of outputs with their labels, which come in pieces."""
    loss = training.loss
    totals = Totals(loss)
    wanted = training.settings.metric, training.schedule.metric
    score = SCORES[loss.task.kind](loss.task, loss.facts.num_classes, wanted)
    with torch.inference_mode():
        for outputs, labels in pieces:
            size = len(labels)
            # Both keep their numbers on the device: nothing here waits for it between batches.
            if size:
                part, count = loss(outputs, labels, over=size), loss.count(labels)
                totals.add(part, over=size, count=count, num_images=size)
            score.add(outputs, labels)
    totals.load(all_sums(totals))
    score.gather(gathered)
    return totals.loss(), score.metrics()


def _examined(training: "Training", on_look: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs and labels of the validation list in pieces, each image once."""
    found = _looked_at(training, on_look)
    if not training.loss.compares:
        yield from _joined(found)
        return
    # Pairs are of one piece, and each piece has its share of every class, however the list is
    # sorted. Of several ranks each has some of the pieces of the whole list.
    outputs, labels = _whole_list(training, *_one_of(list(found)))
    by_class = labels.argsort(stable=True)
    num_pieces = -(-len(labels) // COMPARED)
    # No piece is one too, with no rows.
    yield outputs[:0], labels[:0]
    for first in range(num_pieces)[here().part_of(num_pieces)]:
        piece = by_class[first::num_pieces]
        yield outputs[piece], labels[piece]


def _whole_list(training: "Training", outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all ranks, in the list's order."""
    if here().is_alone:
        return outputs, labels
    valid = training.valid
    parts = [valid.sampling.part_of_batch(k, valid.num_images) for k in range(len(valid))]
    places = [np.arange(p.places.start, p.places.stop) for p in parts if not p.is_stand_in]
    order = np.concatenate([np.empty(0, np.int64), *places])
    return in_list_order(outputs, order), in_list_order(labels, order)


def _joined(found: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs and labels of several batches at a time: with a small net, loss and metrics of
    each batch by itself would take a tenth of the time.
    """
    waiting: list[tuple[Tensor, Tensor]] = []
    for piece in found:
        waiting.append(piece)
        if sum(outputs.numel() for outputs, _ in waiting) >= _NUMBERS_AT_ONCE:
            yield _one_of(waiting)
            waiting = []
    if waiting:
        yield _one_of(waiting)


def _one_of(pieces: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    outputs, labels = map(torch.cat, zip(*pieces, strict=True))
    return outputs, labels


def _looked_at(
    training: "Training", on_look: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    training.gauge.begin_validation(len(training.valid))
    for batch in training.valid.epoch():
        forward = training.gauge.forward(batch, training.forward)
        outputs = batch.outputs(forward, training.dtype)
        kept = 0 if batch.is_stand_in else len(outputs)
        training.gauge.see_valid(batch, outputs[:kept])
        yield outputs[:kept], batch.labels[:kept]
        on_look()


def all_sums(totals: Totals) -> dict[str, float]:
    """Return Totals.sums over the batches of all ranks."""
    own = totals.sums()
    return summed(own) | {"num_batches": own["num_batches"]}
