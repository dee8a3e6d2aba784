"""Ids as small numbers, once for all parts that keep them."""

from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Arrays


class IdTable:
    """Ids with numbers above 0. One that nobody keeps any more leaves its number to the next id.

    `acquire` and `release` belong to the fold; `number` and `find` read. Bound: the ids that those
    who keep them may hold; about 140 bytes each (text, entry, number, count).

    >>> names = IdTable()
    >>> [names.acquire(id) for id in ("ann", "bob", "ann")], names.number("cid")
    ([1, 2, 1], 0)
    >>> names.release(2)
    >>> names.acquire("cid"), names.ids[2], names.find(["bob", "ann"]).tolist()
    (2, 'cid', [0, 1])
    """

    def __init__(self) -> None:
        self.ids = [""]  # by number
        self._numbers: dict[str, int] = {}
        self._keepers = array("i", [0])  # by number
        self._free: list[int] = []  # the last is given first

    def number(self, id: str) -> int:
        """The number of `id`, 0 if nobody keeps it."""
        return self._numbers.get(id, 0)

    def find(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """The numbers of `ids`, 0 for unknown ones, shape (len(ids),)."""
        return np.fromiter(map(self._numbers.get, ids, repeat(0)), np.intp, len(ids))

    def acquire(self, id: str) -> int:
        """The number of `id`, which one more keeps."""
        number = self._numbers.get(id, 0)
        if not number:
            if self._free:
                number = self._free.pop()
                self.ids[number] = id
            else:
                number = len(self.ids)
                self.ids.append(id)
                self._keepers.append(0)
            self._numbers[id] = number
        self._keepers[number] += 1
        return number

    def release(self, number: int) -> None:
        """One fewer keeps the id of `number`."""
        keepers = self._keepers[number] = self._keepers[number] - 1
        if not keepers:
            del self._numbers[self.ids[number]]
            self.ids[number] = ""
            self._free.append(number)

    def state(self) -> Arrays:
        """The ids as lines, and which numbers are free: ids have no control characters."""
        lines = np.frombuffer("\n".join(self.ids).encode(), np.uint8)
        if np.count_nonzero(lines == 10) != len(self.ids) - 1:
            raise ValueError("an id with a line break cannot be saved; take it out before learning")
        return {"ids": lines, "free": np.array(self._free, np.int32)}

    def load(self, state: Arrays) -> None:
        """Replace all ids by those `state` returned, kept by nobody yet; `check` comes last."""
        ids = state["ids"].tobytes().decode().split("\n")
        free = state["free"].tolist()
        numbers = dict(zip(ids, range(len(ids)), strict=True))
        numbers.pop("", None)
        if len(numbers) + len(free) + 1 != len(ids):
            raise ValueError(f"{len(ids)} lines are not {len(numbers)} ids and {len(free)} gaps")
        if len(set(free)) != len(free) or any(not 0 < n < len(ids) or ids[n] for n in free):
            raise ValueError("a number that is free is in use, or beyond all ids")
        self.ids, self._numbers, self._free = ids, numbers, free
        self._keepers = array("i", bytes(4 * len(ids)))

    def acquire_all(self, numbers: NDArray[Any]) -> None:
        """One more keeps the id of each of `numbers`: what was loaded says so."""
        if len(numbers) and not 0 < int(numbers.min()) <= int(numbers.max()) < len(self.ids):
            raise ValueError(f"ids are numbered from 1 to {len(self.ids) - 1}, and not beyond")
        np.frombuffer(self._keepers, np.intc)[:] += np.bincount(numbers, minlength=len(self.ids))

    def check(self) -> None:
        """Refuse ids that nobody keeps, and keepers of what is free, after a load."""
        kept = np.frombuffer(self._keepers, np.intc) > 0
        if np.count_nonzero(kept) != len(self._numbers) or kept[[0, *self._free]].any():
            raise ValueError("an id is kept by nobody, or one that is gone is kept")
