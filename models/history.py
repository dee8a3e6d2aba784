"""What users did with items, and what showing an item earned."""

from collections import OrderedDict
from collections.abc import Sequence
from math import log2

import numpy as np

from models.base import Arrays, Doubles
from models.events import MAX_CANDIDATES, Interaction, Outcome
from models.index import Index, grown, nested, part

# How much a position is looked at, as in nDCG; rounded, so that it is the same on every machine.
EXAMINED = tuple(round(1 / log2(2 + position), 4) for position in range(MAX_CANDIDATES + 1))


def packed(ids: Sequence[str]) -> np.ndarray:
    """Ids as bytes, one a line: ids have no control characters, so this is exact.

    >>> unpacked(packed(["a", "ü b"])), unpacked(packed([]))
    (['a', 'ü b'], [])
    """
    return np.frombuffer("\n".join(ids).encode(), np.uint8)


def unpacked(lines: np.ndarray) -> list[str]:
    """The ids that `packed` put away."""
    return lines.tobytes().decode().split("\n") if len(lines) else []


class Histories:
    """A user's last `length` items, and the last `shown_length` shown and not clicked.

    Holds the `limit` users last heard of. An item's latest value says whether it was liked.

    >>> from models.events import Source
    >>> histories = Histories()
    >>> histories.learn(Interaction("i", "ann", "film", 7, 1.0, Source(0, 0, 0)))
    >>> histories.seen("ann"), histories.positives("ann", 5), histories.seen("bob")
    ({'film': 15}, ['film'], {})
    """

    def __init__(self, limit: int = 100_000, length: int = 500, shown_length: int = 200) -> None:
        self.limit = limit
        self.length = length
        self.shown_length = shown_length
        self._seen: OrderedDict[str, dict[str, int]] = OrderedDict()  # item -> 2 * at + liked
        self._shown: OrderedDict[str, dict[str, int]] = OrderedDict()  # item -> times

    def learn(self, interaction: Interaction) -> None:
        """Take in one interaction; a value of 0 or less marks the item as seen and not liked."""
        seen = _last(self._seen, interaction.user, self.limit)
        mark = 2 * interaction.at + (interaction.value > 0)
        _put_last(seen, interaction.item, mark, self.length)
        shown = self._shown.get(interaction.user)
        if shown:
            shown.pop(interaction.item, None)

    def shown(self, outcome: Outcome) -> None:
        """Take in what a closed decision showed; a correction only tells of later clicks."""
        shown = _last(self._shown, outcome.user, self.limit)
        for slot in outcome.slots:
            if slot.reward > 0:
                shown.pop(slot.item, None)
            elif outcome.status != "corrected":
                _put_last(shown, slot.item, shown.get(slot.item, 0) + 1, self.shown_length)

    def seen(self, user: str) -> dict[str, int]:
        """The user's items, the latest last, each with 2 * at + liked. Not to be written to."""
        return self._seen.get(user, {})

    def positives(self, user: str, n: int) -> list[str]:
        """The last `n` items the user liked, the latest first."""
        found: list[str] = []
        for item, mark in reversed(self.seen(user).items()):
            if len(found) >= n:
                break
            if mark & 1:
                found.append(item)
        return found

    def repeats(self, user: str) -> dict[str, int]:
        """How often items were shown to the user without a click. Not to be written to."""
        return self._shown.get(user, {})

    def state(self) -> Arrays:
        """Everything kept, as arrays, the oldest first."""
        return _nested_state(self._seen, "seen") | _nested_state(self._shown, "shown")

    def load(self, state: Arrays) -> None:
        """Replace what is kept by what `state` returned."""
        self._seen = _nested_load(state, "seen")
        self._shown = _nested_load(state, "shown")


class Exposure:
    """How often an item was shown, and how often that was rewarded.

    A showing weighs by how much its position is looked at. All counts are halved every `halving`
    outcomes, which is exact in floating point. Holds the `limit` items shown last.
    """

    def __init__(self, limit: int = 100_000, halving: int = 50_000, prior: float = 10.0) -> None:
        self.halving = halving
        self.prior = prior
        self.items = Index(limit)
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
        self.items.load(part(state, "items"))
        self._counts = grown(state["counts"].copy(), 1)
        self._total = state["total"][:3].copy()
        self._outcomes = int(state["total"][3])


def _last(users: OrderedDict[str, dict[str, int]], user: str, limit: int) -> dict[str, int]:
    """The user's row, made if need be, as the last one heard of."""
    if user not in users:
        if len(users) == limit:
            users.popitem(last=False)
        users[user] = {}
    users.move_to_end(user)
    return users[user]


def _put_last(row: dict[str, int], item: str, value: int, limit: int) -> None:
    row.pop(item, None)
    row[item] = value
    if len(row) > limit:
        del row[next(iter(row))]


def _nested_state(users: OrderedDict[str, dict[str, int]], name: str) -> Arrays:
    rows = users.values()
    return {
        f"{name}.users": packed(list(users)),
        f"{name}.lengths": np.array([len(row) for row in rows], np.int64),
        f"{name}.items": packed([item for row in rows for item in row]),
        f"{name}.values": np.array([v for row in rows for v in row.values()], np.int64),
    }


def _nested_load(state: Arrays, name: str) -> OrderedDict[str, dict[str, int]]:
    cells = zip(unpacked(state[f"{name}.items"]), state[f"{name}.values"].tolist(), strict=True)
    users = unpacked(state[f"{name}.users"])
    lengths = state[f"{name}.lengths"].tolist()
    return OrderedDict(
        (user, dict(next(cells) for _ in range(length)))
        for user, length in zip(users, lengths, strict=True)
    )
