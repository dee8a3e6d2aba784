"""How well it went: measures of rankings."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from models.base import Doubles

Ranks = NDArray[np.int64]  # the place of the one right item, from 1; 0 if it was not ranked


def recall(ranks: Ranks, k: int) -> Doubles:
    """1 where the right item is among the first `k`.

    >>> recall(np.array([1, 3, 0]), 2).tolist()
    [1.0, 0.0, 0.0]
    """
    return ((ranks > 0) & (ranks <= k)).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Doubles:
    """nDCG@k with one right item: 1 / log2(1 + rank), 0 below place `k`.

    >>> ndcg(np.array([1, 3, 0]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    return recall(ranks, k) / np.log2(1.0 + np.maximum(ranks, 1))


def reciprocal(ranks: Ranks) -> Doubles:
    """1 / rank, 0 where the item was not ranked; its mean is the MRR.

    >>> reciprocal(np.array([1, 4, 0])).tolist()
    [1.0, 0.25, 0.0]
    """
    return np.where(ranks > 0, 1.0 / np.maximum(ranks, 1), 0.0)


class MovingAverage:
    """The mean of the last `size` values.

    >>> window = MovingAverage(2)
    >>> for value in (0.0, 1.0, 0.0):
    ...     window.add(value)
    >>> window.mean
    0.5
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window holds at least 1 value, got {size}")
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        """Take in the latest value; the oldest may leave."""
        self._values.append(value)

    @property
    def mean(self) -> float:
        """0.0 before the first value."""
        return sum(self._values) / len(self._values) if self._values else 0.0
