"""Decayed counts: what most people like lately. The cold start, and the baseline to beat."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from models.arrays.id_table import IdTable
from models.arrays.lru_index import LruIndex, all_finite, grown, nested, part
from models.base import Arrays, Floats

RESCALE = 2.0**500  # far below overflow; a power of two scales without rounding


class Popularity:
    """How often an item was liked; a like counts half after `half_life` further likes.

    Instead of shrinking all counts, each like weighs more than the one before, by a constant: the
    fold only multiplies and adds, so its bits are the same on every machine. At most `limit` items,
    24 bytes each and their names.

    >>> popularity = Popularity(half_life=1)
    >>> for item in ("a", "b", "a"):
    ...     popularity.learn("user", item, 1.0, seed=0)
    >>> popularity.scores("user", ["a", "b", "c"]).tolist(), popularity.top("user", 1)
    ([1.25, 0.5, 0.0], ['a'])
    """

    name = "popularity"

    def __init__(
        self,
        *,
        half_life: float = 2_000,
        limit: int = 100_000,
        leaders: int = 1_000,
        item_names: IdTable | None = None,
    ) -> None:
        if not 1 <= half_life <= 1e12:
            raise ValueError(
                f"half_life must be from 1 to 1e12 likes, got {half_life}; 1e12 never forgets"
            )
        if leaders < 1:
            raise ValueError(f"leaders must be at least 1, got {leaders}; `top` reads them")
        # Decimal rounds alike everywhere; the C library's pow does not.
        self.growth = float(Decimal(2) ** (1 / Decimal(half_life)))
        self.leaders = leaders
        self.items = LruIndex(limit, item_names)
        self._weight = 1.0  # of the latest like
        self._counts = np.zeros(0)
        # The best items, exact, as (-count, id): from `leaders` to twice as many, or all there are.
        self._leaders: list[tuple[float, str]] = []

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        rows = self.items.rows(items)
        if not len(self.items):
            return np.zeros(len(rows), np.float32)
        counts = np.where(rows >= 0, self._counts[rows], 0.0)
        return (counts / self._weight).astype(np.float32)

    def top(self, user: str, n: int) -> list[str]:
        enough = n <= len(self._leaders) or len(self._leaders) == len(self.items)
        leaders = self._leaders if enough else self._ranked()
        return [id for _, id in leaders[: max(n, 0)]]

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        if not value > 0:
            return
        self._weight *= self.growth
        if self._weight > RESCALE:
            self._weight /= RESCALE
            self._counts /= RESCALE
            self._leaders = self._ranked()[: 2 * self.leaders]  # what underflows ties
        known = len(self.items)
        oldest = self.items[self.items.oldest()] if known == self.items.limit else ""
        row, fresh = self.items.touch(item)
        self._counts = grown(self._counts, len(self.items))
        before = float(self._counts[row])
        self._counts[row] = now = self._weight if fresh else before + self._weight
        self._rise((-before, oldest if fresh else item), (-now, item), known)

    def _rise(self, before: tuple[float, str], now: tuple[float, str], known: int) -> None:
        """Take `before` out of the leaders and let `now` in, if it belongs; only it can rise."""
        leaders = self._leaders
        complete = len(leaders) == known
        at = bisect_left(leaders, before)
        if at < len(leaders) and leaders[at] == before:
            del leaders[at]
        if complete or (leaders and now < leaders[-1]):
            insort(leaders, now)
            del leaders[2 * self.leaders :]
        if len(leaders) < min(self.leaders, len(self.items)):
            self._leaders = self._ranked()[: 2 * self.leaders]

    def _ranked(self) -> list[tuple[float, str]]:
        counts = self._counts[: len(self.items)]
        return sorted(zip((-counts).tolist(), self.items.ids(), strict=True))

    def state(self) -> Arrays:
        counts = self._counts[: len(self.items)].copy()
        return {
            "weight": np.array([self._weight]),
            "counts": counts,
            **nested(items=self.items.state()),
        }

    def load(self, state: Arrays) -> None:
        counts, weight = state["counts"], state["weight"]
        self.items.load(part(state, "items"))
        if len(counts) != len(self.items) or weight.shape != (1,):
            raise ValueError(f"{len(counts)} counts are not those of {len(self.items)} items")
        if not (all_finite(counts) and all_finite(weight) and 1 <= weight[0] <= RESCALE):
            raise ValueError("counts are finite, and the latest like weighs at least 1")
        self._weight = float(weight[0])
        self._counts = counts.copy()
        self._leaders = self._ranked()[: 2 * self.leaders]
