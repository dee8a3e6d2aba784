"""Whole rankings to hold against what users did next: each model's, a blend's, and chance's."""

from collections.abc import Mapping, Sequence, Set
from random import Random
from typing import Protocol

import numpy as np

from models.arrays.lru_index import best
from models.base import Floats
from models.candidates import standardised
from models.events import Item


class Ranking(Protocol):
    def top(self, user: str, n: int) -> list[str]: ...


class Scored(Ranking, Protocol):
    def scores(self, user: str, items: Sequence[str]) -> Floats: ...


class Blended:
    """The weighted sum of z-scores over what any of its models would put in front."""

    def __init__(self, models: Mapping[str, Scored], weights: Mapping[str, float]) -> None:
        self._models = [(models[name], weight) for name, weight in sorted(weights.items())]

    def top(self, user: str, n: int) -> list[str]:
        items = sorted({item for model, _ in self._models for item in model.top(user, n)})
        x = [np.maximum(model.scores(user, items), 0.0) for model, _ in self._models]
        z = standardised(np.array(x, np.float64).T)
        total = (z * np.array([weight for _, weight in self._models])).sum(axis=1)
        return best(total, items, n)


class Stock:
    """Which items there are, in the order of entering, which were deleted, and all that ever were.

    >>> stock = Stock()
    >>> for deleted in (False, False, True):
    ...     stock.take(Item(id="a", at=0, deleted=deleted))
    >>> stock.there, stock.gone, stock.ever
    ([], {'a'}, {'a'})
    """

    def __init__(self) -> None:
        self.there: list[str] = []
        self.gone: set[str] = set()
        self.ever: set[str] = set()

    def take(self, item: Item) -> None:
        """Take in a version of an item, or its deletion."""
        here = item.id in self.ever and item.id not in self.gone
        if item.deleted and here:
            self.there.remove(item.id)
            self.gone.add(item.id)
        elif not item.deleted and not here:
            self.there.append(item.id)
            self.ever.add(item.id)
            self.gone.discard(item.id)


class Chance:
    """A random order of the items known so far, new for every question: the lower bound."""

    def __init__(self, items: Sequence[str], seed: int) -> None:
        self._items, self._rng = items, Random(seed)

    def top(self, user: str, n: int) -> list[str]:
        return self._rng.sample(self._items, min(n, len(self._items)))


def unseen(model: Ranking, user: str, seen: Set[str], n: int) -> list[str]:
    """The model's first `n` items that the user has not met; fewer if it knows no more."""
    ask = n + 50
    while True:
        items = model.top(user, ask)
        left = [item for item in items if item not in seen]
        if len(left) >= n or len(items) < ask:
            return left[:n]
        ask *= 4
