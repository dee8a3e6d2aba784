"""A log file through the agents, in event time: who would have foreseen what users did next?

Prequential: just before the agents learn a liked item, every model ranks all items the user has
not met, and the place of the liked one is noted. Nothing is known before its time: an item enters
the catalogue at its `at`, or never if that is after the log; a later version or a deletion not
before its place in the file. What is deleted is not ranked.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from random import Random
from time import perf_counter
from typing import Protocol

import numpy as np
from msgspec import Struct, structs
from rich.progress import Progress

from models.arrays.lru_index import best
from models.base import Floats
from models.candidates import standardised
from models.events import Click, Embedding, Item, Reward
from policies.evaluation import ranking_metrics as metrics
from policies.evaluation.intervals import Interval, clustered
from policies.evaluation.ranking_metrics import MovingAverage
from stream import build
from stream.settings import Settings
from stream.simulation.event_log import EventLog, liked


class Ranking(Protocol):
    def top(self, user: str, n: int) -> list[str]: ...


class ScoringModel(Ranking, Protocol):
    def scores(self, user: str, items: Sequence[str]) -> Floats: ...


class BlendedRanking:
    """The weighted sum of z-scores over what any of its models would put in front."""

    def __init__(self, models: Mapping[str, ScoringModel], weights: Mapping[str, float]) -> None:
        self._models = [(models[name], weight) for name, weight in sorted(weights.items())]

    def top(self, user: str, n: int) -> list[str]:
        items = sorted({item for model, _ in self._models for item in model.top(user, n)})
        x = [np.maximum(model.scores(user, items), 0.0) for model, _ in self._models]
        z = standardised(np.array(x, np.float64).T)
        total = (z * np.array([weight for _, weight in self._models])).sum(axis=1)
        return best(total, items, n)


class Inventory:
    """Which items there are, in the order of entering, which were deleted, and all that ever were.

    >>> stock = Inventory()
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


class RandomRanking:
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


DEPTH = 100  # places looked at: below them a reciprocal rank counts as 0


class ModelResult(Struct, frozen=True):
    """What one model reached; differences are to popularity, on the same events."""

    model: str
    recall: Interval
    ndcg: Interval
    mrr: Interval
    recall_difference: Interval
    recall_window: float
    coverage: float


class PrequentialResult(Struct, frozen=True):
    """A replay's result."""

    k: int
    questions: int
    users: int
    items: int
    window: int
    cold: float  # share of questions about an item or a user nobody had learned anything of
    encoder: str
    seconds: float
    events_a_second: float
    rows: tuple[ModelResult, ...]


def evaluate_prequentially(
    log: EventLog, settings: Settings, *, k: int = 10, limit: int | None = None, window: int = 2_000
) -> PrequentialResult:
    """Rank before learning, for up to `limit` liked items."""
    started = perf_counter()
    settings = structs.replace(settings.alone("uniform"), refresh_on_click=False)
    loop = build.loop(settings, log.encoder)
    memory, stock = loop.learner.memory, Inventory()
    assert memory.popularity is not None
    scorers = {"popularity": memory.popularity, **memory.scorers}
    models: dict[str, Ranking] = {"random": RandomRanking(stock.there, settings.seed), **scorers}
    models["content"] = content = loop.recommender.retrieval.content
    models["blend"] = BlendedRanking({**scorers, "content": content}, build.BLEND)
    ranks: dict[str, list[int]] = {name: [] for name in models}
    shown: dict[str, set[str]] = {name: set() for name in models}
    recent = {name: MovingAverage(window) for name in models}
    met: dict[str, set[str]] = defaultdict(set)
    users, cold, met_items, done = list[str](), 0, set[str](), 0
    total = len(log.events)
    with Progress(transient=True) as progress:
        task = progress.add_task("replay", total=total)
        for message in log.in_time():
            if isinstance(message, Item):
                stock.take(message)
            target = liked(message)
            if target is not None and isinstance(message, Click | Reward):
                user = message.user
                if target not in met[user]:
                    cold += target not in met_items or not met[user]
                    users.append(user)
                    hidden = met[user] | stock.gone if stock.gone else met[user]
                    for name, model in models.items():
                        first = unseen(model, user, hidden, DEPTH)
                        rank = first.index(target) + 1 if target in first else 0
                        ranks[name].append(rank)
                        shown[name].update(first[:k])
                        recent[name].add(0 < rank <= k)
            loop(message)
            if isinstance(message, Click | Reward) and message.item is not None:
                met[message.user].add(message.item)
                met_items.add(message.item)
            if not isinstance(message, Item | Embedding):
                done += 1
                if done % 200 == 0:
                    says = "  ".join(f"{n} {recent[n].mean:.3f}" for n in models)
                    progress.update(task, completed=done, description=f"recall@{k} {says}")
            if len(users) == limit:
                break
    if not users:
        raise ValueError("the log holds no click or positive reward on an item; nothing to foresee")
    base = metrics.recall(np.array(ranks["popularity"]), k)
    rows: list[ModelResult] = []
    for name in models:
        r = np.array(ranks[name])
        hits = metrics.recall(r, k)
        rows.append(
            ModelResult(
                name,
                clustered(hits, users, seed=settings.seed),
                clustered(metrics.ndcg(r, k), users, seed=settings.seed),
                clustered(metrics.reciprocal(r), users, seed=settings.seed),
                clustered(hits - base, users, seed=settings.seed),
                recent[name].mean,
                len(shown[name]) / max(1, len(stock.ever)),
            )
        )
    seconds = perf_counter() - started
    return PrequentialResult(
        k=k,
        questions=len(users),
        users=len(set(users)),
        items=len(stock.ever),
        window=window,
        cold=cold / len(users),
        encoder=log.encoder.version,
        seconds=seconds,
        events_a_second=done / seconds,
        rows=tuple(rows),
    )
