"""Which row of an array belongs to which id: bounded, the least recently learned id makes room."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Arrays


class Index:
    """At most `limit` ids, each with a row below `limit`. `touch` belongs to the fold; `row` reads.

    >>> index = Index(limit=2)
    >>> [index.touch(id) for id in ("a", "b", "a", "c")]  # "b" was touched least recently
    [(0, True), (1, True), (0, False), (1, True)]
    >>> index.row("b"), index.rows(["c", "a"]).tolist()
    (-1, [1, 0])
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}; rows are what is learned")
        self.limit = limit
        self.ids: list[str] = []  # by row
        self._rows: OrderedDict[str, int] = OrderedDict()  # least recently touched first

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def oldest(self) -> str:
        """The id touched least recently, "" if there is none."""
        return next(iter(self._rows), "")

    def row(self, id: str) -> int:
        """The row of `id`, -1 if it is unknown."""
        return self._rows.get(id, -1)

    def rows(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """The rows of `ids`, -1 for unknown ones, shape (len(ids),)."""
        get = self._rows.get
        return np.array([get(id, -1) for id in ids], np.intp)

    def touch(self, id: str) -> tuple[int, bool]:
        """The row of `id`, made if need be, and whether it is fresh: its contents are another's."""
        row = self._rows.get(id)
        if row is not None:
            self._rows.move_to_end(id)
            return row, False
        if len(self.ids) < self.limit:
            row = len(self.ids)
            self.ids.append(id)
        else:
            row = self._rows.popitem(last=False)[1]
            self.ids[row] = id
        self._rows[id] = row
        return row, True

    def state(self) -> Arrays:
        """The ids in row order as UTF-8 with their ends, and the rows from least to most recent."""
        encoded = [id.encode() for id in self.ids]
        return {
            "ids": np.frombuffer(b"".join(encoded), np.uint8),
            "ends": np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded)),
            "recency": np.fromiter(self._rows.values(), np.int64, len(self._rows)),
        }

    def load(self, state: Arrays) -> None:
        """Replace all ids by those `state` returned."""
        if len(state["ends"]) > self.limit:
            raise ValueError(
                f"a state of {len(state['ends'])} ids does not fit a limit of {self.limit}; "
                "load it with the limit it was saved under"
            )
        text = state["ids"].tobytes()
        self.ids = [text[a:b].decode() for a, b in pairwise((0, *state["ends"].tolist()))]
        self._rows = OrderedDict((self.ids[row], row) for row in state["recency"].tolist())


def grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """`array` with room for `rows` rows at least: itself, or a copy at least twice as long.

    >>> grown(np.ones(2), 3)
    array([1., 1., 0., 0.])
    """
    if rows <= len(array):
        return array
    longer = np.zeros((max(rows, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def best(
    scores: NDArray[np.floating[Any]], ids: Sequence[str], n: int, above: float = -np.inf
) -> list[str]:
    """The `n` ids with the highest scores `above` a bound, falling, ties broken by id.

    >>> best(np.array([1.0, 2.0, 1.0]), ["c", "b", "a"], 2)
    ['b', 'a']
    """
    rows = np.flatnonzero(scores > above)
    if 0 < n < len(rows):
        kept = scores[rows]
        rows = rows[kept >= np.partition(kept, -n)[-n]]
    order = sorted(zip((-scores[rows]).tolist(), [ids[row] for row in rows.tolist()], strict=True))
    return [id for _, id in order[: max(n, 0)]]


def nested(**parts: Arrays) -> Arrays:
    """Several states as one: the keys of each under its name.

    >>> nested(items={"ids": np.zeros(0)}).keys()
    dict_keys(['items.ids'])
    """
    return {f"{name}.{key}": a for name, part in parts.items() for key, a in part.items()}


def part(state: Arrays, name: str) -> Arrays:
    """One of the states that `nested` joined."""
    return {key[len(name) + 1 :]: a for key, a in state.items() if key.startswith(f"{name}.")}
