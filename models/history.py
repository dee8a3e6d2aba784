"""What users did with items, and what showing an item earned."""

from collections.abc import Sequence
from itertools import islice
from math import log2

import numpy as np

from models.arrays.id_table import IdTable
from models.arrays.lru_index import LruIndex, all_finite, grown, nested, part
from models.arrays.packed_rows import PackedRows, cell, numbers, position
from models.base import Arrays, Doubles
from models.events import MAX_CANDIDATES, Interaction, Outcome

MOST_TIMES = 2**31 - 1  # is counted of one item shown to one user
# How much a position is looked at, as in nDCG; rounded, so that it is the same on every machine.
EXAMINED = tuple(round(1 / log2(2 + position), 4) for position in range(MAX_CANDIDATES + 1))


class Histories:
    """A user's last `length` items, and the last `shown_length` shown and not clicked.

    Holds the `limit` users last heard of. An item's latest value says whether it was liked.
    Bounds, in bytes a user: 26 + 4 an item seen; 26 + 8 an item shown; and the names of both.

    >>> from models.events import Source
    >>> histories = Histories()
    >>> histories.learn(Interaction("i", "ann", "film", 7, 1.0, Source(0, 0, 0)))
    >>> histories.seen("ann"), histories.positives("ann", 5), histories.seen("bob")
    ({'film': True}, ['film'], {})
    """

    def __init__(
        self,
        limit: int = 100_000,
        length: int = 500,
        shown_length: int = 200,
        *,
        user_names: IdTable | None = None,
        item_names: IdTable | None = None,
    ) -> None:
        self.length = length
        self.shown_length = shown_length
        self._items = IdTable() if item_names is None else item_names
        self._own = item_names is None
        self._seers, self._shown_to = LruIndex(limit, user_names), LruIndex(limit, user_names)
        self._seen = PackedRows(length)  # by row of the user: 2 * item + liked
        self._shown = PackedRows(2 * shown_length)  # by row of the user: item, times

    @property
    def users(self) -> LruIndex:
        """Who did something; those who were only shown something are as many at most."""
        return self._seers

    def learn(self, interaction: Interaction) -> None:
        """Take in one interaction; a value of 0 or less marks the item as seen and not liked."""
        user = self._row(self._seers, self._seen, interaction.user, 4)
        row, liked = self._seen[user], interaction.value > 0
        item = self._items.number(interaction.item)
        cells = cell(2 * item), cell(2 * item + 1)
        at = -1
        if item and (cells[0] in row or cells[1] in row):
            at = max(position(row, cells[0]), position(row, cells[1]))
        if at >= 0:
            row = row[:at] + row[at + 4 :] + cells[liked]
        else:
            item = self._items.acquire(interaction.item)
            row += cell(2 * item + liked)
        if len(row) > 4 * self.length:
            self._items.release(numbers(row[:4])[0] // 2)
            row = row[4:]
        self._seen[user] = row
        shown_to = self._shown_to.row(interaction.user)
        if shown_to >= 0:
            self._shown[shown_to] = self._without(self._shown[shown_to], item)[0]

    def shown(self, outcome: Outcome) -> None:
        """Take in what a closed decision showed; a correction only tells of later clicks."""
        user = self._row(self._shown_to, self._shown, outcome.user, 8)
        row = self._shown[user]
        for slot in outcome.slots:
            if slot.reward > 0:
                row, _ = self._without(row, self._items.number(slot.item))
            elif outcome.status != "corrected":
                item = self._items.acquire(slot.item)
                row, times = self._without(row, item)
                row += cell(item) + cell(min(times + 1, MOST_TIMES))
                if len(row) > 8 * self.shown_length:
                    self._items.release(numbers(row[:4])[0])
                    row = row[8:]
        self._shown[user] = row

    def seen(self, user: str) -> dict[str, bool]:
        """The user's items, the latest last, and whether each was liked."""
        row, ids = self._seers.row(user), self._items.ids
        return {ids[n // 2]: n % 2 > 0 for n in numbers(self._seen[row])} if row >= 0 else {}

    def positives(self, user: str, n: int) -> list[str]:
        """The last `n` items the user liked, the latest first."""
        row, ids = self._seers.row(user), self._items.ids
        items = reversed(numbers(self._seen[row])) if row >= 0 else ()
        return [ids[item // 2] for item in islice((i for i in items if i % 2), n)]

    def repeats(self, user: str) -> dict[str, int]:
        """How often items were shown to the user without a click."""
        row, ids = self._shown_to.row(user), self._items.ids
        cells = iter(numbers(self._shown[row]) if row >= 0 else ())
        return {ids[item]: times for item, times in zip(cells, cells, strict=True)}

    def state(self) -> Arrays:
        """Everything kept, as arrays."""
        own = {"items": self._items.state()} if self._own else {}
        return nested(
            **own,
            seen=nested(users=self._seers.state()) | self._seen.state(),
            shown=nested(users=self._shown_to.state()) | self._shown.state(width=2),
        )

    def load(self, state: Arrays) -> None:
        """Replace what is kept by what `state` returned."""
        if self._own:
            self._items.load(part(state, "items"))
        seen, shown = part(state, "seen"), part(state, "shown")
        self._seers.load(part(seen, "users"))
        self._shown_to.load(part(shown, "users"))
        self._seen.load(seen, len(self._seers))
        self._shown.load(shown, len(self._shown_to))
        self._items.acquire_all(seen["cells"] >> 1)
        self._items.acquire_all(shown["cells"][:, 0])
        if len(shown["cells"]) and shown["cells"][:, 1].min() < 1:
            raise ValueError("what is kept as shown was shown at least once")
        if self._own:
            self._items.check()

    def _row(self, users: LruIndex, rows: PackedRows, user: str, width: int) -> int:
        """The row of a user, made if need be; whose row it was is forgotten with all its items."""
        row, fresh = users.touch(user)
        if row == len(rows):
            rows.append()
        elif fresh:
            for item in numbers(rows[row])[:: width // 4]:
                self._items.release(item if width == 8 else item // 2)
            rows[row] = b""
        return row

    def _without(self, row: bytes, item: int) -> tuple[bytes, int]:
        """A row of what was shown without `item`, and how often that was shown."""
        at = position(row, cell(item), 8) if item else -1
        if at < 0:
            return row, 0
        self._items.release(item)
        return row[:at] + row[at + 8 :], numbers(row[at + 4 : at + 8])[0]


class Exposure:
    """How often an item was shown, and how often that was rewarded.

    A showing weighs by how much its position is looked at. All counts are halved every `halving`
    outcomes, which is exact in floating point. Holds the `limit` items shown last, 40 bytes each.
    """

    def __init__(
        self,
        limit: int = 100_000,
        halving: int = 50_000,
        prior: float = 10.0,
        *,
        item_names: IdTable | None = None,
    ) -> None:
        self.halving = halving
        self.prior = prior
        self.items = LruIndex(limit, item_names)
        self._counts = np.zeros((1, 3))  # by item row: times shown, looks, rewards
        self._total = np.zeros(3)
        self._outcomes = 0

    def shown(self, outcome: Outcome) -> None:
        """Take in a closed decision; its correction was already counted as shown."""
        if outcome.status == "corrected":
            return
        for slot in outcome.slots:
            look = EXAMINED[min(max(slot.position, 0), MAX_CANDIDATES)]
            row, fresh = self.items.touch(slot.item)
            self._counts = grown(self._counts, len(self.items))
            if fresh:
                self._counts[row] = 0.0
            one = (1.0, look, 1.0 if slot.reward > 0 else 0.0)
            self._counts[row] += one
            self._total += one
        self._outcomes += 1
        if self._outcomes % self.halving == 0:
            self._counts /= 2
            self._total /= 2

    def read(self, items: Sequence[str]) -> tuple[Doubles, Doubles]:
        """Times shown and smoothed rewards a look, for each item; older ones count less."""
        rows = self.items.rows(items)
        counts = self._counts[rows]
        counts[rows < 0] = 0.0
        _, looks, rewards = self._total.tolist()
        rate = (rewards + 1.0) / (looks + 10.0)  # of all items: where an unknown one starts
        return counts[:, 0], (counts[:, 2] + rate * self.prior) / (counts[:, 1] + self.prior)

    def state(self) -> Arrays:
        """Everything kept, as arrays."""
        return {
            "counts": self._counts[: len(self.items)].copy(),
            "total": np.array([*self._total, self._outcomes], np.float64),
            **nested(items=self.items.state()),
        }

    def load(self, state: Arrays) -> None:
        """Replace what is kept by what `state` returned."""
        counts, total = state["counts"], state["total"]
        self.items.load(part(state, "items"))
        if len(counts) != len(self.items) or total.shape != (4,):
            raise ValueError(f"{len(counts)} counts are not those of {len(self.items)} items")
        if not (all_finite(counts) and all_finite(total) and 0 <= total[3] < 2**53):
            raise ValueError("counts are finite, and none is below 0")
        self._counts = grown(counts.copy(), 1)
        self._total = total[:3].copy()
        self._outcomes = int(total[3])
