"""Incremental item-item cosine: people who liked this lately also liked that."""

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise, repeat

import numpy as np

from models.base import Arrays, Floats
from models.collaborative import Ranker
from models.index import Index, best, grown, nested, part


class Neighbours(Ranker):
    """Scores an item c by its cosine to the user's last likes j: sum of C[c, j] / sqrt(n_c n_j).

    C counts the users who liked both within their last `history` likes, n the likes of an item.
    Bounds: `users` and `items` (the least recently liked make room), `history` likes a user,
    and twice `neighbours` counts an item, of which the largest half stays.

    >>> model = Neighbours()
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
    ) -> None:
        super().__init__(seed=seed)
        if not 1 <= recent <= history:
            raise ValueError(f"recent must be from 1 to history ({history}), got {recent}")
        if neighbours < history:
            raise ValueError(
                f"neighbours must be at least history ({history}), got {neighbours}; "
                "one like brings as many"
            )
        self.recent, self.history, self.neighbours = recent, history, neighbours
        self.users, self.items = users, items
        self._users, self._items = Index(users), Index(items)
        self._likes = np.zeros(0)  # n, by item row
        # Counts and histories hold stamps, row + items * how often the row was made anew, so that
        # what was said of an evicted item is not said of the one in its row.
        self._stamps = np.zeros(0, np.int64)
        self._together: list[dict[int, int]] = []  # C, by item row: stamp -> count
        self._histories: list[list[int]] = []  # by user row: stamps, the latest last

    def scores(self, user: str, items: Sequence[str], recent: int | None = None) -> Floats:
        rows = self._items.rows(items)
        liked = self._recent(user, recent)
        if not liked:
            return np.zeros(len(rows), np.float32)
        known = rows >= 0
        stamps = np.where(known, self._stamps[rows], -1).tolist()
        likes = np.where(known, self._likes[rows], 1.0)
        counts = (map(self._together[j].get, stamps, repeat(0)) for j in liked)
        shape = len(liked), len(rows)
        together = np.fromiter(chain.from_iterable(counts), np.float64, shape[0] * shape[1])
        weights = together.reshape(shape) / np.sqrt(self._likes[liked, None] * likes)
        return weights.sum(axis=0).astype(np.float32)

    def top(self, user: str, n: int, recent: int | None = None) -> list[str]:
        tables = [(self._together[j], self._likes[j]) for j in self._recent(user, recent)]
        size = sum(len(table) for table, _ in tables)
        stamps = np.fromiter(chain.from_iterable(table for table, _ in tables), np.int64, size)
        together = np.fromiter(
            chain.from_iterable(table.values() for table, _ in tables), np.float64, size
        )
        likes = np.repeat([n for _, n in tables], [len(table) for table, _ in tables])
        rows = stamps % self.items
        together[self._stamps[rows] != stamps] = 0.0
        weights = together / np.sqrt(self._likes[rows] * likes)
        scores = np.bincount(rows, weights, len(self._items)).astype(np.float32)
        return best(scores, self._items.ids, n, above=0.0)

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
        self._likes[j] += self.one
        current, tables, limit = self._stamps.item, self._together, self.items
        most = 2 * self.neighbours
        mine = tables[j]
        for other, count in self._pairs(history):
            i = other % limit
            if current(i) == other:
                mine[other] = mine.get(other, 0) + count
                theirs = tables[i]
                theirs[stamp] = theirs.get(stamp, 0) + count
                if len(theirs) > most:
                    tables[i] = self._largest(theirs)
        if len(mine) > most:
            tables[j] = self._largest(mine)
        history.append(stamp)
        if len(history) > self.history:
            del history[0]

    def _pairs(self, history: list[int]) -> Iterable[tuple[int, int]]:
        """What each earlier like counts together with a new one."""
        return zip(history, repeat(1), strict=False)

    def state(self) -> Arrays:
        items, users = len(self._items), len(self._users)
        pairs = sum(map(len, self._together))
        past = sum(map(len, self._histories))
        counts = chain.from_iterable(table.values() for table in self._together)
        return {
            "limit": np.array([self.items]),
            "likes": self._likes[:items].copy(),
            "stamps": self._stamps[:items].copy(),
            "pairs": np.fromiter(chain.from_iterable(self._together), np.int64, pairs),
            "counts": np.fromiter(counts, np.int64, pairs),
            "pair_ends": np.cumsum(np.fromiter(map(len, self._together), np.int64, items)),
            "histories": np.fromiter(chain.from_iterable(self._histories), np.int64, past),
            "history_ends": np.cumsum(np.fromiter(map(len, self._histories), np.int64, users)),
            **nested(users=self._users.state(), items=self._items.state()),
        }

    def load(self, state: Arrays) -> None:
        if state["limit"][0] != self.items:
            raise ValueError(
                f"items must be {state['limit'][0]} as in the state, got {self.items}; "
                "stamps are counted in it"
            )
        self._users.load(part(state, "users"))
        self._items.load(part(state, "items"))
        self._likes, self._stamps = state["likes"].copy(), state["stamps"].copy()
        pairs, counts = state["pairs"].tolist(), state["counts"].tolist()
        ends = pairwise((0, *state["pair_ends"].tolist()))
        self._together = [dict(zip(pairs[a:b], counts[a:b], strict=True)) for a, b in ends]
        histories = state["histories"].tolist()
        ends = pairwise((0, *state["history_ends"].tolist()))
        self._histories = [histories[a:b] for a, b in ends]

    def _recent(self, user: str, recent: int | None) -> list[int]:
        """The rows of the user's last likes that are still known, the latest last."""
        u = self._users.row(user)
        liked = self._histories[u][-(recent or self.recent) :] if u >= 0 else []
        return [stamp % self.items for stamp in liked if self._alive(stamp)]

    def _alive(self, stamp: int) -> bool:
        return self._stamps.item(stamp % self.items) == stamp

    def _touch(self, item: str) -> int:
        row, fresh = self._items.touch(item)
        if row == len(self._together):
            self._likes = grown(self._likes, row + 1)
            self._stamps = grown(self._stamps, row + 1)
            self._stamps[row] = row
            self._together.append({})
        elif fresh:
            self._likes[row] = 0.0
            self._stamps[row] += self.items
            self._together[row] = {}
        return row

    def _largest(self, table: dict[int, int]) -> dict[int, int]:
        """The `neighbours` largest counts of items still known, ties by stamp."""
        stamps = np.fromiter(table, np.int64, len(table))
        counts = np.fromiter(table.values(), np.int64, len(table))
        counts[self._stamps[stamps % self.items] != stamps] = 0
        order = np.lexsort((stamps, -counts))[: self.neighbours]
        order = order[counts[order] > 0]
        return dict(zip(stamps[order].tolist(), counts[order].tolist(), strict=True))


class View:
    """The counts of `Neighbours`, asked with another `recent`; they are learned and kept there.

    >>> model = Neighbours(recent=1)
    >>> for user, item in [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "c")]:
    ...     model.learn(user, item, 1.0, seed=0)
    >>> model.scores("bob", ["b"]).tolist(), View(model, recent=2).scores("bob", ["b"]).round(3)
    ([0.0], array([0.707], dtype=float32))
    """

    name = "neighbours"

    def __init__(self, model: Neighbours, *, recent: int) -> None:
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
