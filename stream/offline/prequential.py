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

from agents.loop import Loop
from models.arrays.lru_index import best
from models.base import Doubles, Floats
from models.candidates import standardised
from models.events import Click, Embedding, Item, Reward
from policies.evaluation import ranking_metrics as metrics
from policies.evaluation.intervals import Interval, clustered
from policies.evaluation.ranking_metrics import MovingAverage
from stream import build
from stream.datasets.accounting import LogAccounting
from stream.settings import Settings
from stream.simulation.event_log import EventLog, liked

DEPTH = 100  # places looked at: below them a reciprocal rank counts as 0


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


class RandomRanking:
    """A random order of the items known so far, new for every question: the lower bound."""

    def __init__(self, items: Sequence[str], seed: int) -> None:
        self._items, self._rng = items, Random(seed)

    def top(self, user: str, n: int) -> list[str]:
        return self._rng.sample(self._items, min(n, len(self._items)))


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
    """A replay's result: of the log's `accounting`, the first `events` were replayed.

    `items` are all that entered the catalogue or that an event was about.
    """

    k: int
    questions: int
    users: int
    items: int
    events: int
    accounting: LogAccounting
    window: int
    cold: float  # share of questions about an item or a user nobody had learned anything of
    encoder: str
    seconds: float
    events_a_second: float
    rows: tuple[ModelResult, ...]


class RankRecorder:
    """Where each model ranks what users like next, among what they have not met."""

    def __init__(self, models: Mapping[str, Ranking], k: int, window: int) -> None:
        self.models = models
        self.k = k
        self.users: list[str] = []  # of each question
        self.cold = 0
        self._ranks: dict[str, list[int]] = {name: [] for name in models}
        self._shown: dict[str, set[str]] = {name: set() for name in models}
        self._recent = {name: MovingAverage(window) for name in models}
        self._met: dict[str, set[str]] = defaultdict(set)
        self.met_items: set[str] = set()

    def ask(self, user: str, target: str, gone: Set[str]) -> None:
        """Let every model rank before `target` is learned, if the user meets it for the first time.

        Items that are `gone` are not ranked.
        """
        met = self._met[user]
        if target in met:
            return
        self.cold += target not in self.met_items or not met
        self.users.append(user)
        hidden = met | gone if gone else met
        for name, model in self.models.items():
            first = unseen(model, user, hidden, DEPTH)
            rank = first.index(target) + 1 if target in first else 0
            self._ranks[name].append(rank)
            self._shown[name].update(first[: self.k])
            self._recent[name].add(0 < rank <= self.k)

    def meet(self, user: str, item: str) -> None:
        """The user has met the item: it is asked for no more."""
        self._met[user].add(item)
        self.met_items.add(item)

    def progress(self) -> str:
        """Recall over the last questions, model by model."""
        recent = "  ".join(f"{name} {self._recent[name].mean:.3f}" for name in self.models)
        return f"recall@{self.k} {recent}"

    def rows(self, seed: int, items: int) -> tuple[ModelResult, ...]:
        """What each model reached; `items` is how many there ever were."""
        base = metrics.recall(np.array(self._ranks["popularity"]), self.k)
        return tuple(self._row(name, base, seed, items) for name in self.models)

    def _row(self, name: str, base: Doubles, seed: int, items: int) -> ModelResult:
        ranks, users = np.array(self._ranks[name]), self.users
        hits = metrics.recall(ranks, self.k)
        return ModelResult(
            name,
            clustered(hits, users, seed=seed),
            clustered(metrics.ndcg(ranks, self.k), users, seed=seed),
            clustered(metrics.reciprocal(ranks), users, seed=seed),
            clustered(hits - base, users, seed=seed),
            self._recent[name].mean,
            len(self._shown[name]) / max(1, items),
        )


def evaluate_prequentially(
    log: EventLog, settings: Settings, *, k: int = 10, limit: int | None = None, window: int = 2_000
) -> PrequentialResult:
    """Rank before learning, for up to `limit` liked items."""
    started = perf_counter()
    settings = structs.replace(settings.alone("uniform"), refresh_on_click=False)
    loop, stock, done = build.loop(settings, log.encoder), Inventory(), 0
    recorder = RankRecorder(_models(loop, stock, settings.seed), k, window)
    with Progress(transient=True) as progress:
        task = progress.add_task("replay", total=len(log.events))
        for message in log.in_time():
            if isinstance(message, Item):
                stock.take(message)
            target = liked(message)
            if target is not None and isinstance(message, Click | Reward):
                recorder.ask(message.user, target, stock.gone)
            loop(message)
            if isinstance(message, Click | Reward) and message.item is not None:
                recorder.meet(message.user, message.item)
            if not isinstance(message, Item | Embedding):
                done += 1
                if done % 200 == 0:
                    progress.update(task, completed=done, description=recorder.progress())
            if len(recorder.users) == limit:
                break
    users = recorder.users
    if not users:
        raise ValueError("the log holds no click or positive reward on an item; nothing to foresee")
    items = len(stock.ever | recorder.met_items)
    rows = recorder.rows(settings.seed, items)
    seconds = perf_counter() - started
    return PrequentialResult(
        k=k,
        questions=len(users),
        users=len(set(users)),
        items=items,
        events=done,
        accounting=log.accounting,
        window=window,
        cold=recorder.cold / len(users),
        encoder=log.encoder.version,
        seconds=seconds,
        events_a_second=done / seconds,
        rows=rows,
    )


def _models(loop: Loop, stock: Inventory, seed: int) -> dict[str, Ranking]:
    """All that rank in a replay, by name."""
    memory, content = loop.learner.memory, loop.recommender.retrieval.content
    assert memory.popularity is not None
    scorers = {"popularity": memory.popularity, **memory.scorers}
    return {
        "random": RandomRanking(stock.there, seed),
        **scorers,
        "content": content,
        "blend": BlendedRanking({**scorers, "content": content}, build.BLEND),
    }


def unseen(model: Ranking, user: str, seen: Set[str], n: int) -> list[str]:
    """The model's first `n` items that the user has not met; fewer if it knows no more."""
    ask = n + 50
    while True:
        items = model.top(user, ask)
        left = [item for item in items if item not in seen]
        if len(left) >= n or len(items) < ask:
            return left[:n]
        ask *= 4
