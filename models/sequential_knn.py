"""Item neighbours in the order of liking: what followed closely counts more, and so does lately."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from models.arrays.lru_index import best
from models.base import Doubles, Floats
from models.item_knn import ItemKNN

ONE = 256  # counts are whole numbers of this part, so that their sums are exact in any order
FADE = 0.84  # of a like's weight, with each like after it


class SequentialItemKNN(ItemKNN):
    """Scores an item c by the last likes j, k likes ago: sum of C[c, j] FADE^k / n_j^.5 n_c^.25.

    C counts a pair of likes of one user as 1 / sqrt(d) where the second came d likes after the
    first: what is liked in one sitting belongs together. An item's own likes n_c count against it
    by their fourth root only: a cosine makes too little of what many like. Bounds as in Neighbours.

    >>> model = SequentialItemKNN()
    >>> for user, item in [("ann", "a"), ("ann", "b"), ("ann", "c"), ("bob", "c")]:
    ...     model.learn(user, item, 1.0, seed=0)
    >>> model.scores("bob", ["a", "b"]).round(2), model.top("bob", 9)
    (array([0.5 , 0.71], dtype=float32), ['b', 'a'])
    """

    name = "nearby"
    one = ONE

    def scores(self, user: str, items: Sequence[str], recent: int | None = None) -> Floats:
        rows = self._items.rows(items)
        liked = list(self._weighed(user, recent))
        if not liked:
            return np.zeros(len(rows), np.float32)
        weights = np.array([[weight] for _, weight in liked])
        total = (weights * self._together([j for j, _ in liked], rows)).sum(axis=0)
        likes = np.where(rows >= 0, np.frombuffer(self._likes)[rows], ONE)
        return (total / root(likes)).astype(np.float32)

    def top(self, user: str, n: int, recent: int | None = None) -> list[str]:
        liked = list(self._weighed(user, recent))
        if not liked:
            return []
        rows, weights, lengths = self._neighbours([j for j, _ in liked])
        weights *= np.repeat([weight for _, weight in liked], lengths)
        total = np.bincount(rows, weights, len(self._items))
        scores = (total / root(np.frombuffer(self._likes))).astype(np.float32)
        return best(scores, self._items, n, above=0.0)

    def _weighed(self, user: str, recent: int | None) -> Iterator[tuple[int, float]]:
        """The rows of the user's last likes, the latest first, each with its weight."""
        weight = 1.0 / ONE
        for j in reversed(self._recent(user, recent)):
            yield j, weight / sqrt(self._likes[j] / ONE)
            weight *= FADE

    def _pairs(self, history: list[int]) -> Iterable[tuple[int, int]]:
        return zip(reversed(history), near(self.history), strict=False)


@cache
def near(history: int) -> tuple[int, ...]:
    """What a pair of likes counts, by how many likes after the first the second came, less 1."""
    return tuple(round(ONE / sqrt(distance)) for distance in range(1, history + 1))


def root(likes: NDArray[np.float64]) -> Doubles:
    """The fourth root of likes, kept in parts of ONE; square roots are exact on any machine."""
    return np.sqrt(np.sqrt(likes / ONE))
