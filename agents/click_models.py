"""Click models: simulated users look at a decision and click, and what they truly like is known.

Both are functions of their arguments and the decision: no clock, no generator. A decision seen
twice is clicked alike, with the same click ids.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from msgspec import Struct, structs

from models.base import Doubles, Floats
from models.events import Click, Decision, Reward


class LoggedClickModel:
    """Users who are to like what their logged selves liked next.

    A user clicks every shown item that is among their next `window` logged interactions at or
    after the decision's time and positive there (a click, or a reward above 0), each item once
    ever: the choice that leaks least into learning. Holds one click a logged positive at most.

    >>> from models.events import Slot
    >>> log = [Click(id=i, user="ann", item=i, at=10 + n) for n, i in enumerate("ab")]
    >>> click_model = LoggedClickModel(log, window=1)
    >>> slots = tuple(Slot(item=i, propensity=0.5) for i in "ba")
    >>> where = {"model": 0, "items": 0, "embeddings": 0, "source": 0, "slots": slots}
    >>> decision = Decision(id="r", user="ann", at=5, k=2, policy="uniform", **where)
    >>> [click.item for click in click_model.clicks(decision)]
    ['a']
    """

    def __init__(self, events: Iterable[object], *, window: int = 20) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        future: dict[str, list[tuple[int, str, bool]]] = defaultdict(list)
        for event in events:
            if isinstance(event, Click):
                future[event.user].append((event.at, event.item, True))
            elif isinstance(event, Reward) and event.item is not None:
                future[event.user].append((event.at, event.item, event.value > 0))
        self._window = window
        self._future = {user: sorted(seen, key=lambda one: one[0]) for user, seen in future.items()}
        self._clicked: dict[tuple[str, str], str] = {}  # (user, item): the decision

    def clicks(self, decision: Decision) -> list[Click]:
        """The clicks on this decision, from the top down."""
        wanted = self.wanted(decision.user, decision.at)
        clicks: list[Click] = []
        for position, slot in enumerate(decision.slots):
            if slot.item in wanted:
                where = decision.user, slot.item
                if self._clicked.setdefault(where, decision.id) == decision.id:
                    clicks.append(click(decision, position))
        return clicks

    def wanted(self, user: str, at: int) -> frozenset[str]:
        """What the user would click at this time if it were shown, clicked before or not."""
        future = self._future.get(user, [])
        start = bisect_left(future, at, key=lambda one: one[0])
        following = future[start : start + self._window]
        return frozenset(item for _, item, positive in following if positive)


class Drift(Struct, frozen=True):
    """Tastes that turn, evenly from `start` to `end` (milliseconds), into those of `later`."""

    later: Mapping[str, Floats]
    start: int
    end: int

    def share(self, at: int) -> float:
        """How much of the later taste there is at a time.

        >>> Drift({}, 100, 200).share(150)
        0.5
        """
        return min(max((at - self.start) / max(1, self.end - self.start), 0.0), 1.0)


class PositionBasedModel:
    """Users with hidden tastes: vectors over the same dimensions as the items' (topics, say).

    P(click) = patience ** position * sigmoid(steepness * (taste . item - demand)): position bias
    times attraction. Chance is a hash of (seed, decision id, item), so slots are independent. One
    click in five comes late: up to `late` milliseconds more.

    >>> click_model = PositionBasedModel({"ann": [1, 0]}, {"a": [1, 0], "b": [0, 1]})
    >>> [round(click_model.probability("ann", item, 0), 2) for item in "ab"]
    [0.92, 0.01]
    >>> round(click_model.best("ann", ["a", "b"], k=2), 2)
    0.93
    """

    def __init__(
        self,
        tastes: Mapping[str, Floats | list[float]],
        items: Mapping[str, Floats | list[float]],
        *,
        seed: int = 0,
        patience: float = 0.85,
        steepness: float = 7.0,
        demand: float = 0.65,
        drift: Drift | None = None,
        late: int = 0,
    ) -> None:
        if not 0 < patience <= 1:
            raise ValueError(f"patience must be in (0, 1], got {patience}; 1 is no position bias")
        self._tastes = {user: np.asarray(taste, np.float64) for user, taste in tastes.items()}
        self._items = {item: np.asarray(topics, np.float64) for item, topics in items.items()}
        self._seed, self._patience = seed, patience
        self._steepness, self._demand = steepness, demand
        self._drift, self._late = drift, late

    def clicks(self, decision: Decision) -> list[Click]:
        """The clicks on this decision, from the top down."""
        clicks = [
            click(decision, position)
            for position, slot in enumerate(decision.slots)
            if _unit(self._seed, decision.id, slot.item)
            < self.probability(decision.user, slot.item, position, decision.at)
        ]
        return [structs.replace(one, at=one.at + self._delay(one)) for one in clicks]

    def _delay(self, click: Click) -> int:
        chance = _unit(self._seed, click.id, "late")
        return int(5 * chance * self._late) if chance < 0.2 else 0

    def probability(self, user: str, item: str, position: int, at: int = 0) -> float:
        """The truth: P(click) on an item at a position; 0 for a user or item unknown."""
        taste, topics = self._taste(user, at), self._items.get(item)
        if taste is None or topics is None:
            return 0.0
        pull = self._steepness * (float((taste * topics).sum()) - self._demand)
        return self._patience**position / (1 + math.exp(-pull))

    def value(self, decision: Decision) -> float:
        """The truth: how many clicks this decision earns on average."""
        shown = enumerate(decision.slots)
        user, at = decision.user, decision.at
        return sum(self.probability(user, slot.item, i, at) for i, slot in shown)

    def best(self, user: str, items: Sequence[str], k: int, at: int = 0) -> float:
        """The truth: what the best `k` of these items earn on average, the best one first."""
        taste = self._taste(user, at)
        if taste is None or not items:
            return 0.0
        topics = np.array([self._items[item] for item in items])
        pulls = self._steepness * ((topics * taste).sum(axis=1) - self._demand)
        each = np.sort(1.0 / (1.0 + np.exp(-pulls)))[::-1][:k]
        return float((each * self._patience ** np.arange(len(each))).sum())

    def _taste(self, user: str, at: int) -> Doubles | None:
        taste, drift = self._tastes.get(user), self._drift
        if taste is None or drift is None or user not in drift.later:
            return taste
        share = drift.share(at)
        return (1.0 - share) * taste + share * np.asarray(drift.later[user], np.float64)


def click(decision: Decision, position: int) -> Click:
    """A click on one slot, half a second to 2.5 s after the decision; its id names both."""
    item = decision.slots[position].item
    name = blake2b(f"{decision.id}\0{item}".encode(), digest_size=16).hexdigest()
    return Click(
        id=f"click:{name}",
        user=decision.user,
        item=item,
        at=decision.at + 500 + int(_unit(0, decision.id, item) * 2_000),
        request=decision.id,
        position=position,
    )


def _unit(seed: int, *parts: str) -> float:
    """A number in [0, 1) that looks drawn at random and depends on nothing but the arguments."""
    code = blake2b("\0".join((str(seed), *parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(code, "little") >> 11) / 2**53
