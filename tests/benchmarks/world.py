"""The world all measures share: 5,000 articles, 2,000 readers, their clicks; always the same."""

from collections.abc import Iterator
from functools import cache

import numpy as np

from models.bert_encoder import embed
from models.events import Click, Embedding, Item, Request
from stream import build
from stream.datasets.simulated_news import START, News, news
from stream.settings import Settings

ARTICLES, READERS = 5_000, 2_000
SAYS = f"{ARTICLES:,} articles, {READERS:,} readers"
SETTINGS = Settings(encoder="hash", refresh_on_click=False, horizon_seconds=5)
AFTER = START + ARTICLES * 60_000  # all articles are there


@cache
def found() -> News:
    return news(ARTICLES, READERS, seed=1)


def items() -> tuple[Item, ...]:
    return found().items


@cache
def embeddings() -> tuple[Embedding, ...]:
    return tuple(embed(items(), build.encoder(SETTINGS)))


def clicks(count: int, *, start: int = AFTER, every: float = 1.0, seed: int = 1) -> list[Click]:
    """Clicks without a request: four in five on the reader's favourite topics.

    Within a topic an article is drawn by Zipf's law with exponent 0.8; `every` in milliseconds.
    """
    rng = np.random.default_rng(seed)
    ids = np.array([item.id for item in items()])
    order = rng.permutation(len(ids))
    weights = 1.0 / np.arange(1, len(ids) + 1)[order.argsort()] ** 0.8
    main = np.array([int(found().topics[id].argmax()) for id in ids])
    by_topic = [np.flatnonzero(main == topic) for topic in range(main.max() + 1)]
    shares = [weights[rows] / weights[rows].sum() for rows in by_topic]
    readers = sorted(found().tastes)
    likes = [np.argsort(-found().tastes[reader], kind="stable")[:2].tolist() for reader in readers]
    made: list[Click] = []
    who = rng.integers(len(readers), size=count).tolist()
    for n, reader in enumerate(who):
        favourite = rng.random() < 0.8
        topic = likes[reader][n % 2] if favourite else int(rng.integers(len(by_topic)))
        row = by_topic[topic][np.searchsorted(shares[topic].cumsum(), rng.random())]
        at = start + int(n * every)
        made.append(Click(id=f"click-{n}", user=readers[reader], item=str(ids[row]), at=at))
    return made


def requests(name: str, count: int, *, seed: int = 2) -> Iterator[tuple[str, str]]:
    """(id, reader) of so many requests, readers drawn evenly."""
    readers = sorted(found().tastes)
    for n, reader in enumerate(np.random.default_rng(seed).integers(len(readers), size=count)):
        yield f"{name}-{n}", readers[reader]


def request(id: str, user: str, at: int) -> Request:
    """A request for ten."""
    return Request(id=id, user=user, at=at, k=10)
