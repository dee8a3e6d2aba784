"""How well it went: measures of rankings, and what they say of users not seen (intervals)."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles

Ranks = NDArray[np.int64]  # the place of the one right item, from 1; 0 if it was not ranked


class Interval(Struct, frozen=True):
    """A mean with the range that holds the mean over all such users, 19 times in 20."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def above_zero(self) -> bool:
        """True if the whole range is above 0."""
        return self.low > 0.0


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


def clustered(
    values: Sequence[float] | Doubles,
    users: Sequence[str],
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `values`, one an event, with a percentile bootstrap interval over users.

    Users are drawn with replacement, each with all their events, since events of one user are
    alike. The difference of two policies on the same events is `clustered(a - b, users)`: paired,
    so what users have in common cancels. Few users (below 30) make the range too narrow.

    >>> clustered([1.0, 3.0, 1.0, 3.0], ["ann", "ann", "bob", "bob"])
    Interval(mean=2.0, low=2.0, high=2.0)
    """
    x = np.asarray(values, np.float64)
    if len(x) != len(users) or not len(x):
        raise ValueError(f"each value needs its user, got {len(x)} values and {len(users)} users")
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError(f"level must be in (0, 1), draws at least 1; got {level} and {draws}")
    numbers: dict[str, int] = {}
    cluster = np.array([numbers.setdefault(user, len(numbers)) for user in users], np.intp)
    sums = np.bincount(cluster, x, len(numbers))
    counts = np.bincount(cluster, minlength=len(numbers)).astype(np.float64)
    rng = np.random.default_rng(seed)
    alike = np.full(len(numbers), 1.0 / len(numbers))
    means = np.empty(draws)
    for i in range(draws):  # one draw at a time: many users fit in memory
        times = rng.multinomial(len(numbers), alike)
        means[i] = (times * sums).sum() / (times * counts).sum()
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail]).tolist()
    return Interval(float(x.mean()), low, high)


class Window:
    """The mean of the last `size` values.

    >>> window = Window(2)
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
