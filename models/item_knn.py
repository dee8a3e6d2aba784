"""Incremental item-item cosine: people who liked this lately also liked that."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat

import numpy as np
from numpy.typing import NDArray

from models.arrays.id_table import IdTable
from models.arrays.lru_index import LruIndex, all_finite, best, copied, nested, part
from models.arrays.packed_rows import PackedRows, cell, numbers, position, starts
from models.base import Arrays, Doubles, Floats
from models.matrix_factorisation import Ranker

LAST = 2**31 - 1  # stamp, and largest count
MOST = (
    2.0**30 - 1024
)  # of an item's likes; those above teach nothing, so that no count gets to LAST


class ItemKNN(Ranker):
    """Scores an item c by its cosine to the user's last likes j: sum of C[c, j] / sqrt(n_c n_j).

    C counts the users who liked both within their last `history` likes, n the likes of an item.
    Bounds: `users` and `items` (the least recently liked make room), `history` likes a user,
    and twice `neighbours` counts an item, of which the largest half stays. In bytes: a user has
    26 + 4 a like, an item 130 and 9 a count, and both their names.

    >>> model = ItemKNN()
    >>> for user, item in [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "c"), ("cid", "b")]:
    ...     model.learn(user, item, 1.0, seed=0)
    >>> model.scores("cid", ["a", "c"]).tolist(), model.top("cid", 9)
    ([0.5, 0.0], ['a'])
    """

    name = "neighbours"
    one = 1  # what a like counts

    def __init__(
        self,
        *,
        recent: int = 5,
        history: int = 50,
        neighbours: int = 200,
        users: int = 100_000,
        items: int = 100_000,
        seed: int = 0,
        user_names: IdTable | None = None,
        item_names: IdTable | None = None,
    ) -> None:
        super().__init__(seed=seed)
        if not 1 <= recent <= history:
            raise ValueError(f"recent must be from 1 to history ({history}), got {recent}")
        if neighbours < history:
            raise ValueError(f"neighbours must be at least history ({history}), got {neighbours}")
        self.recent, self.history, self.neighbours = recent, history, neighbours
        self.users, self.items = users, items
        self.user_names, self.item_names = user_names, item_names
        self._users, self._items = LruIndex(users, user_names), LruIndex(items, item_names)
        self._likes = array("d")  # n, by item row
        # Tables and histories hold stamps, row + items * how often the row was made anew, so that
        # what was said of an evicted item is not said of the one in its row.
        self._stamps = array("i")  # by item row
        self._others: list[array[int]] = []  # by item row: the stamps that C has counts for, rising
        self._counts: list[array[int]] = []  # by item row: these counts
        self._histories = PackedRows(history)  # by user row: stamps, the latest last

    def scores(self, user: str, items: Sequence[str], recent: int | None = None) -> Floats:
        rows = self._items.rows(items)
        liked = self._recent(user, recent)
        if not liked:
            return np.zeros(len(rows), np.float32)
        n = np.frombuffer(self._likes)
        likes = np.where(rows >= 0, n[rows], 1.0)
        weights = self._together(liked, rows) / np.sqrt(n[liked, None] * likes)
        return weights.sum(axis=0).astype(np.float32)

    def top(self, user: str, n: int, recent: int | None = None) -> list[str]:
        liked = self._recent(user, recent)
        rows, together, lengths = self._neighbours(liked)
        likes = np.frombuffer(self._likes)
        weights = together / np.sqrt(likes[rows] * np.repeat(likes[liked], lengths))
        scores = np.bincount(rows, weights, len(self._items)).astype(np.float32)
        return best(scores, self._items, n, above=0.0)

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        if not value > 0:
            return
        u, fresh = self._users.touch(user)
        if u == len(self._histories):
            self._histories.append()
        elif fresh:
            self._histories[u] = b""
        j = self._touch(item)
        stamp = self._stamps[j]
        last, history = cell(stamp), self._histories[u]
        at = position(history, last)
        if at >= 0:  # liked again: the latest now, but one user is counted once
            self._histories[u] = history[:at] + history[at + 4 :] + last
            return
        self._histories[u] = (history + last)[-4 * self.history :]
        if self._likes[j] >= MOST:
            return
        self._likes[j] += self.one
        stamps, limit, most = self._stamps, self.items, 2 * self.neighbours
        mine, my_counts = self._others[j], self._counts[j]
        for other, count in self._pairs(numbers(history)):
            i = other % limit
            if stamps[i] != other:
                continue
            at = bisect_left(mine, other)
            if at < len(mine) and mine[at] == other:
                my_counts[at] += count
            else:
                mine.insert(at, other)
                my_counts.insert(at, count)
            theirs, their_counts = self._others[i], self._counts[i]
            at = bisect_left(theirs, stamp)
            if at < len(theirs) and theirs[at] == stamp:
                their_counts[at] += count
            else:
                theirs.insert(at, stamp)
                their_counts.insert(at, count)
                if len(theirs) > most:
                    self._keep_largest(i)
        if len(mine) > most:
            self._keep_largest(j)

    def _pairs(self, history: list[int]) -> Iterable[tuple[int, int]]:
        """What each earlier like counts together with a new one."""
        return zip(history, repeat(1), strict=False)

    def state(self) -> Arrays:
        lengths = np.fromiter(map(len, self._others), np.int64, len(self._others))
        return {
            "limit": np.array([self.items]),
            "likes": np.array(self._likes, np.float64),
            "stamps": np.array(self._stamps, np.int32),
            "others": np.frombuffer(b"".join(self._others), np.intc),
            "counts": np.frombuffer(b"".join(self._counts), np.intc),
            "ends": np.cumsum(lengths),
            **nested(
                histories=self._histories.state(),
                users=self._users.state(),
                items=self._items.state(),
            ),
        }

    def load(self, state: Arrays) -> None:
        limit = int(state["limit"].sum())
        if limit != self.items:
            raise ValueError(f"items must be {limit} as in the state, got {self.items}")
        self._users.load(part(state, "users"))
        self._items.load(part(state, "items"))
        likes, stamps, known = state["likes"], state["stamps"], len(self._items)
        if len(likes) != known or not all_finite(likes) or likes.max(initial=0.0) > MOST + self.one:
            raise ValueError(f"{known} items have as many likes, of 0 to {MOST:.0f}")
        rows = np.arange(known, dtype=np.int32)
        if len(stamps) != known or (stamps % self.items != rows).any() or stamps.min(initial=0) < 0:
            raise ValueError("a stamp is not of its row")
        others, counts, past = state["others"], state["counts"], part(state, "histories")
        bounds = starts(state["ends"], known, len(others), 2 * self.neighbours)
        self._rows_of(past["cells"])
        row, other = np.repeat(rows, np.diff(bounds)), self._rows_of(others)
        alive = stamps[other] == others
        falls = (others[1:] <= others[:-1]) & (row[1:] == row[:-1])
        if falls.any() or len(counts) != len(others):
            raise ValueError("the stamps of a table do not rise, or have not as many counts")
        if (counts < 1).any() or ((counts > likes[row] + likes[other]) & alive).any():
            raise ValueError("items are liked together at least once, and no more than each is")
        self._histories.load(past, len(self._users))
        self._likes, self._stamps = copied("d", likes), copied("i", stamps)
        cuts = list(pairwise(bounds.tolist()))
        all_others, all_counts = copied("i", others), copied("i", counts)
        self._others = [all_others[a:b] for a, b in cuts]
        self._counts = [all_counts[a:b] for a, b in cuts]

    def _rows_of(self, stamps: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
        """The rows of stamps; refuses those of no row that there is."""
        rows = stamps % self.items
        if len(stamps) and (stamps.min() < -1 or rows.max() >= len(self._items)):
            raise ValueError(f"a stamp is of a row beyond the {len(self._items)} there are")
        return rows

    def _recent(self, user: str, recent: int | None) -> list[int]:
        """The rows of the user's last likes that are still known, the latest last."""
        u = self._users.row(user)
        liked = numbers(self._histories[u])[-(recent or self.recent) :] if u >= 0 else []
        return [stamp % self.items for stamp in liked if self._stamps[stamp % self.items] == stamp]

    def _together(self, liked: Sequence[int], rows: NDArray[np.intp]) -> Doubles:
        """C of each of `liked` with each item row, 0 for row -1, shape (len(liked), len(rows))."""
        stamps = np.where(rows >= 0, np.frombuffer(self._stamps, np.intc)[rows], -1)
        together = np.zeros((len(liked), len(rows)))
        for k, j in enumerate(liked):
            if len(self._others[j]):
                others = np.frombuffer(self._others[j], np.intc)
                at = others.searchsorted(stamps)
                found = others.take(at, mode="clip") == stamps
                counts = np.frombuffer(self._counts[j], np.intc)
                together[k] = np.where(found, counts.take(at, mode="clip"), 0)
        return together

    def _neighbours(self, liked: Sequence[int]) -> tuple[NDArray[np.intc], Doubles, list[int]]:
        """The tables of `liked`, joined: rows, C (0 for what is gone), and how long each is."""
        tables = [self._others[j] for j in liked]
        stamps = np.frombuffer(b"".join(tables), np.intc)
        counts = np.frombuffer(b"".join([self._counts[j] for j in liked]), np.intc)
        rows = stamps % self.items
        alive = np.frombuffer(self._stamps, np.intc)[rows] == stamps
        return rows, np.where(alive, counts, 0).astype(np.float64), [len(t) for t in tables]

    def _touch(self, item: str) -> int:
        row, fresh = self._items.touch(item)
        if row == len(self._others):
            self._likes.append(0.0)
            self._stamps.append(row)
            self._others.append(array("i"))
            self._counts.append(array("i"))
        elif fresh:
            if self._stamps[row] > LAST - self.items:
                self._begin_again()
            self._likes[row] = 0.0
            self._stamps[row] += self.items
            self._others[row], self._counts[row] = array("i"), array("i")
        return row

    def _begin_again(self) -> None:
        """Stamps begin again at their rows, before they outgrow their bits; what is gone is -1."""
        stamps = np.frombuffer(self._stamps, np.intc)

        def renewed(old: NDArray[np.intc]) -> NDArray[np.intc]:
            rows = old % self.items
            return np.where(stamps[rows] == old, rows, -1).astype(np.intc)

        for row, others in enumerate(self._others):
            self._others[row] = copied("i", renewed(np.frombuffer(others, np.intc)))
            self._keep(row, np.flatnonzero(np.frombuffer(self._others[row], np.intc) >= 0))
        for row in range(len(self._histories)):
            history = np.frombuffer(self._histories[row], np.intc)
            self._histories[row] = renewed(history).tobytes()
        stamps[:] = np.arange(len(stamps))

    def _keep_largest(self, row: int) -> None:
        """Of a table keep the `neighbours` largest counts of items still known, ties by stamp."""
        others = np.frombuffer(self._others[row], np.intc)
        counts = np.frombuffer(self._counts[row], np.intc)
        alive = np.frombuffer(self._stamps, np.intc)[others % self.items] == others
        order = np.lexsort((others, np.where(alive, -counts, 0)))[: self.neighbours]
        self._keep(row, order[alive[order]])

    def _keep(self, row: int, places: NDArray[np.intp]) -> None:
        """Of a table keep what is at `places`."""
        others = np.frombuffer(self._others[row], np.intc)[places]
        counts = np.frombuffer(self._counts[row], np.intc)[places]
        order = np.argsort(others)
        self._others[row] = copied("i", others[order])
        self._counts[row] = copied("i", counts[order])


class ItemKNNView:
    """The counts of `ItemKNN`, asked with another `recent`; they are learned and kept there.

    >>> model = ItemKNN(recent=1)
    >>> for user, item in [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "c")]:
    ...     model.learn(user, item, 1.0, seed=0)
    >>> longer = ItemKNNView(model, recent=2)
    >>> model.scores("bob", ["b"]).tolist(), longer.scores("bob", ["b"]).round(3)
    ([0.0], array([0.707], dtype=float32))
    """

    name = "neighbours"

    def __init__(self, model: ItemKNN, *, recent: int) -> None:
        if not 1 <= recent <= model.history:
            raise ValueError(
                f"recent must be from 1 to the model's history ({model.history}), got {recent}"
            )
        self._model, self.recent = model, recent

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        return self._model.scores(user, items, self.recent)

    def top(self, user: str, n: int) -> list[str]:
        return self._model.top(user, n, self.recent)

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        """Nothing: the model learns it."""

    def state(self) -> Arrays:
        """`recent` alone: all that is learned is in the model's state."""
        return {"recent": np.array([self.recent])}

    def load(self, state: Arrays) -> None:
        if state["recent"][0] != self.recent:
            raise ValueError(
                f"recent must be {state['recent'][0]} as in the state, got {self.recent}"
            )
