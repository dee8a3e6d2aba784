"""Item neighbours in the order of liking: what followed closely counts more, and so does lately."""

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from models.base import Doubles, Floats
from models.index import best
from models.neighbours import Neighbours

ONE = 256  # counts are whole numbers of this part, so that their sums are exact in any order
FADE = 0.84  # of a like's weight, with each like after it


class Nearby(Neighbours):
    """Scores an item c by the last likes j, k likes ago: sum of C[c, j] FADE^k / n_j^.5 n_c^.25.

    C counts a pair of likes of one user as 1 / sqrt(d) where the second came d likes after the
    first: what is liked in one sitting belongs together. An item's own likes n_c count against it
    by their fourth root only: a cosine makes too little of what many like. Bounds as in Neighbours.

    >>> model = Nearby()
    >>> for user, item in [("ann", "a"), ("ann", "b"), ("ann", "c"), ("bob", "c")]:
    ...     model.learn(user, item, 1.0, seed=0)
    >>> model.scores("bob", ["a", "b"]).round(2), model.top("bob", 9)
    (array([0.5 , 0.71], dtype=float32), ['b', 'a'])
    """

    name = "nearby"

    def scores(self, user: str, items: Sequence[str], recent: int | None = None) -> Floats:
        rows = self._items.rows(items)
        known = rows >= 0
        stamps = np.where(known, self._stamps[rows], -1).tolist() if len(self._items) else []
        total = np.zeros(len(rows))
        for j, weight in self._weighed(user, recent):
            get = self._together[j].get
            total += weight * np.array([get(stamp, 0) for stamp in stamps], np.float64)
        if not stamps:
            return total.astype(np.float32)
        return (total / root(np.where(known, self._likes[rows], ONE))).astype(np.float32)

    def top(self, user: str, n: int, recent: int | None = None) -> list[str]:
        total = np.zeros(len(self._items))
        for j, weight in self._weighed(user, recent):
            table = self._together[j]
            stamps = np.fromiter(table, np.int64, len(table))
            counts = np.fromiter(table.values(), np.float64, len(table))
            rows = stamps % self.items
            counts[self._stamps[rows] != stamps] = 0.0
            np.add.at(total, rows, weight * counts)
        scores = (total / root(self._likes[: len(total)])).astype(np.float32)
        return best(scores, self._items.ids, n, above=0.0)

    def _weighed(self, user: str, recent: int | None) -> Iterator[tuple[int, float]]:
        """The rows of the user's last likes, the latest first, each with its weight."""
        weight = 1.0 / ONE
        for j in reversed(self._recent(user, recent)):
            yield j, weight / sqrt(self._likes.item(j) / ONE)
            weight *= FADE

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        if not value > 0:
            return
        u, fresh = self._users.touch(user)
        if u == len(self._histories):
            self._histories.append([])
        elif fresh:
            self._histories[u] = []
        j = self._touch(item)
        stamp = self._stamps.item(j)
        history = self._histories[u]
        if stamp in history:  # liked again: the latest now, but one user is counted once
            history.remove(stamp)
            history.append(stamp)
            return
        self._likes[j] += ONE
        mine = self._together[j]
        for distance, other in enumerate(reversed(history), 1):
            i = other % self.items
            if self._stamps.item(i) == other:
                count = round(ONE / sqrt(distance))
                mine[other] = mine.get(other, 0) + count
                theirs = self._together[i]
                theirs[stamp] = theirs.get(stamp, 0) + count
                if len(theirs) > 2 * self.neighbours:
                    self._together[i] = self._largest(theirs)
        if len(mine) > 2 * self.neighbours:
            self._together[j] = self._largest(mine)
        history.append(stamp)
        if len(history) > self.history:
            del history[0]


def root(likes: NDArray[np.float64]) -> Doubles:
    """The fourth root of likes, kept in parts of ONE; square roots are exact on any machine."""
    return np.sqrt(np.sqrt(likes / ONE))
