"""An order of many classes that puts those confused with each other side by side."""

import math

import numpy as np


def similar_blocks(matrix: np.ndarray) -> list[list[int]]:
    """Group classes confused with each other into blocks of at most the root of their number.

    matrix: counts (K, K). Every class is in exactly one block; blocks that share mistakes are side
    by side, and classes without any come last, in their own order. Pairs are joined from the most
    confused one down, as in single-linkage clustering, which needs no K³ steps.
    """
    pairs = _pairs_by_confusion(matrix)
    blocks = _joined(
        [[k] for k in range(len(matrix))], pairs, limit=max(2, math.isqrt(len(matrix)))
    )
    where = {k: number for number, block in enumerate(blocks) for k in block}
    between = [(where[a], where[b]) for a, b in pairs]
    order = _joined([[k] for k in range(len(blocks))], between, limit=len(blocks))
    order.sort(key=lambda group: (len(group) == 1 and len(blocks[group[0]]) == 1, -len(group)))
    return [blocks[number] for group in order for number in group]


def _pairs_by_confusion(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of classes with mistakes between them, the most confused first.

    Confusion: the sum of the shares that the mistakes in both directions have of their rows.
    """
    # 10,000 classes make 100 million cells, nearly all empty: only the others are used.
    true, predicted = np.nonzero(matrix)
    shares = matrix[true, predicted] / np.maximum(matrix.sum(axis=1), 1)[true]
    is_mistake = true != predicted
    ends = np.sort(np.stack([true, predicted])[:, is_mistake], axis=0)
    cells, where = np.unique(ends[0] * len(matrix) + ends[1], return_inverse=True)
    mutual = np.bincount(where, weights=shares[is_mistake], minlength=len(cells))
    first, second = np.divmod(cells, len(matrix))
    by_share = np.argsort(-mutual, kind="stable")
    return list(zip(first[by_share].tolist(), second[by_share].tolist(), strict=True))


def _joined(
    groups: list[list[int]], pairs: list[tuple[int, int]], *, limit: int
) -> list[list[int]]:
    """Join the groups of each pair in turn while the result has at most `limit` members."""
    group_of = {member: group for group in groups for member in group}
    for a, b in pairs:
        first, second = group_of[a], group_of[b]
        if first is second or len(first) + len(second) > limit:
            continue
        # Reverse the groups where that brings the two classes of the pair nearer to each other.
        if first.index(a) < len(first) // 2:
            first.reverse()
        if second.index(b) > len(second) // 2:
            second.reverse()
        first.extend(second)
        for member in second:
            group_of[member] = first
    return sorted({id(group): group for group in group_of.values()}.values(), key=min)
