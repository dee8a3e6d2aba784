"""Which row of an array belongs to which id: bounded, the least recently learned id makes room."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays.id_table import IdTable
from models.base import Arrays


class LruIndex:
    """At most `limit` ids, each with a row below `limit`. `touch` belongs to the fold; `row` reads.

    Bound: 16 bytes a row besides the names, which others may keep as well.

    >>> index = LruIndex(limit=2)
    >>> [index.touch(id) for id in ("a", "b", "a", "c")]  # "b" was touched least recently
    [(0, True), (1, True), (0, False), (1, True)]
    >>> index.row("b"), index.rows(["c", "a"]).tolist(), index[1]
    (-1, [1, 0], 'c')
    """

    def __init__(self, limit: int, names: IdTable | None = None) -> None:
        if not 1 <= limit < 2**30:
            raise ValueError(
                f"limit must be at least 1, got {limit}, and below 2**30; rows are what is learned"
            )
        self.limit = limit
        self.names = IdTable() if names is None else names
        self._own = names is None
        self._numbers = array("i")  # by row: of the id
        self._rows = array("i", [-1, -1])  # by number, -1 without; the last is always -1
        # When each row was touched, in touches; the order that it gives is all that counts.
        self._touched = array("q")  # by row
        self._touches = 0
        # The rows touched least recently, as of `_asked` touches, the least recent last.
        self._oldest: list[int] = []
        self._asked = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> str:
        """The id of a row."""
        return self.names.ids[self._numbers[row]]

    def ids(self) -> list[str]:
        """All ids by row."""
        return list(map(self.names.ids.__getitem__, self._numbers))

    def row(self, id: str) -> int:
        """The row of `id`, -1 if it is unknown."""
        number = self.names.number(id)
        return self._rows[number] if number < len(self._rows) else -1

    def rows(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """The rows of `ids`, -1 for unknown ones, shape (len(ids),)."""
        rows = np.frombuffer(self._rows, np.intc)
        return rows.take(self.names.find(ids), mode="clip").astype(np.intp)

    def touch(self, id: str) -> tuple[int, bool]:
        """The row of `id`, made if need be, and whether it is fresh: its contents are another's."""
        number = self.names.number(id)
        row = self._rows[number] if number < len(self._rows) else -1
        fresh = row < 0
        if fresh:
            number = self.names.acquire(id)
            if len(self._numbers) < self.limit:
                row = len(self._numbers)
                self._numbers.append(number)
                self._touched.append(0)
            else:
                row = self.oldest()
                before, self._numbers[row] = self._numbers[row], number
                self._rows[before] = -1
                self.names.release(before)
            if number > len(self._rows) - 2:
                more = max(number + 2 - len(self._rows), len(self._rows) // 8)
                self._rows.frombytes(b"\xff" * (more * self._rows.itemsize))
            self._rows[number] = row
        self._touched[row] = self._touches
        self._touches += 1
        return row, fresh

    def oldest(self) -> int:
        """The row touched least recently."""
        while self._oldest and self._touched[self._oldest[-1]] >= self._asked:
            self._oldest.pop()
        if not self._oldest:
            touched = np.frombuffer(self._touched, np.int64)
            some = len(touched) // 64 + 1
            rows = np.argpartition(touched, some - 1)[:some]
            self._oldest = rows[np.argsort(-touched[rows])].tolist()
            self._asked = self._touches
        return self._oldest[-1]

    def state(self) -> Arrays:
        """The number of each row's id and when it was touched; the names too, if they are its own.

        What the names share with others, whoever made them saves.
        """
        return {
            "numbers": np.array(self._numbers, np.int32),
            "touched": np.array(self._touched, np.int64),
            **(nested(names=self.names.state()) if self._own else {}),
        }

    def load(self, state: Arrays) -> None:
        """Replace all ids by those `state` returned; names that are shared are loaded before."""
        numbers, touched = state["numbers"], state["touched"]
        if len(numbers) > self.limit:
            raise ValueError(
                f"a state of {len(numbers)} ids does not fit a limit of {self.limit}; "
                "load it with the limit it was saved under"
            )
        if self._own:
            self.names.load(part(state, "names"))
        self.names.acquire_all(numbers)
        rows = np.full(len(self.names.ids) + 1, -1, np.int32)
        rows[numbers] = np.arange(len(numbers), dtype=np.int32)
        order = np.sort(touched)
        if len(touched) != len(numbers) or (rows >= 0).sum() != len(numbers):
            raise ValueError("rows and ids are not of the same number, or an id has two rows")
        if len(order) and (order[0] < 0 or order[-1] > 2**62 or not (np.diff(order) > 0).all()):
            raise ValueError("two rows were touched at once, or one at no possible time")
        if self._own:
            self.names.check()
        self._numbers, self._rows = copied("i", numbers), copied("i", rows)
        self._touched = copied("q", touched)
        self._touches = int(order[-1]) + 1 if len(order) else 0
        self._oldest, self._asked = [], 0


def copied(code: str, numbers: NDArray[Any]) -> "array[Any]":
    """A copy of `numbers` that grows, and gives single ones three times as fast.

    >>> copied("i", np.arange(3, dtype=np.int32))
    array('i', [0, 1, 2])
    """
    copy = array(code)
    if numbers.dtype.itemsize != copy.itemsize:
        raise ValueError(f"numbers of {numbers.dtype} do not fit {copy.itemsize} bytes each")
    copy.frombytes(np.ascontiguousarray(numbers).data.cast("B"))
    return copy


def all_finite(numbers: NDArray[np.floating[Any]]) -> bool:
    """Whether none of `numbers` is endless, below 0 or no number."""
    return bool(((numbers >= 0) & (numbers < np.inf)).all())


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
    scores: NDArray[np.floating[Any]], ids: Sequence[str] | LruIndex, n: int, above: float = -np.inf
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
