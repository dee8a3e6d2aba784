"""A log file through the agents, in event time: who would have foreseen what users did next?

Prequential: just before the agents learn a liked item, every model ranks all items the user has
not met, and the place of the liked one is noted. Nothing is known before its time: an item enters
the catalogue at its `at`, or never if that is after the log; a later version or a deletion not
before its place in the file. What is deleted is not ranked.
"""

from collections import defaultdict
from time import perf_counter

import numpy as np
from msgspec import Struct, structs
from rich.progress import Progress

from models.events import Click, Embedding, Item, Reward
from policies.evaluation import ranking_metrics as metrics
from policies.evaluation.intervals import Interval, clustered
from policies.evaluation.ranking_metrics import Window
from stream import build
from stream.offline.rankings import Blended, Chance, Ranking, Stock, unseen
from stream.settings import Settings
from stream.simulation.event_log import Log, liked

DEPTH = 100  # places looked at: below them a reciprocal rank counts as 0


class Row(Struct, frozen=True):
    """What one model reached; differences are to popularity, on the same events."""

    model: str
    recall: Interval
    ndcg: Interval
    mrr: Interval
    recall_difference: Interval
    recall_window: float
    coverage: float


class Foresight(Struct, frozen=True):
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
    rows: tuple[Row, ...]


def foresee(
    log: Log, settings: Settings, *, k: int = 10, limit: int | None = None, window: int = 2_000
) -> Foresight:
    """Rank before learning, for up to `limit` liked items."""
    started = perf_counter()
    settings = structs.replace(settings.alone("uniform"), refresh=False)
    loop = build.loop(settings, log.encoder)
    memory, stock = loop.learner.memory, Stock()
    assert memory.popularity is not None
    scorers = {"popularity": memory.popularity, **memory.scorers}
    models: dict[str, Ranking] = {"random": Chance(stock.there, settings.seed), **scorers}
    models["content"] = content = loop.recommender.retrieval.content
    models["blend"] = Blended({**scorers, "content": content}, build.BLEND)
    ranks: dict[str, list[int]] = {name: [] for name in models}
    shown: dict[str, set[str]] = {name: set() for name in models}
    recent = {name: Window(window) for name in models}
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
    rows: list[Row] = []
    for name in models:
        r = np.array(ranks[name])
        hits = metrics.recall(r, k)
        rows.append(
            Row(
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
    return Foresight(
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
