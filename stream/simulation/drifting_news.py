"""Simulated news of which all is known: tastes drift, items come and go, clicks come late."""

from pathlib import Path

import numpy as np
from msgspec import Struct, structs

from agents.click_models import Drift, PositionBasedModel
from models.events import Embedding
from stream import build
from stream.datasets.simulated_news import MINUTE, START, News, news
from stream.settings import Settings
from stream.simulation.environment import Messages
from stream.simulation.news import requests_of_readers
from stream.storage.vector_cache import EncoderIdentity, embedded

EVERY = 10 * MINUTE  # between two articles
STOCK = 60  # articles at a time: fewer than candidates, so that a policy sees all of them
LATE = 20 * MINUTE  # a click in five comes up to so much later
APPEAL = 0.55  # how much an article may please anybody more or less than its topics do


class DriftingNewsEnvironment(Struct, frozen=True):
    """Readers of a rolling stock: articles come one by one and go when `STOCK` others came.

    From a third to two thirds of the time, half of the readers turn to other topics. Articles may
    be shown again, so the best ranking of a moment is the same for every policy. They differ in
    appeal, which no text tells.
    """

    news: News
    embeddings: tuple[Embedding, ...]
    encoder: EncoderIdentity
    requests: int
    seed: int
    k: int = 10

    def messages(self) -> Messages:
        times = map(self._at, range(self.requests))
        return requests_of_readers(self.news, self.embeddings, times, self.seed, self.k)

    def _at(self, i: int) -> int:
        """The first one comes when the stock is full."""
        whole = len(self.news.items) - STOCK
        return START + STOCK * EVERY + (i + 1) * whole * EVERY // self.requests

    def available(self, at: int) -> list[str]:
        """What could be shown."""
        newest = (at - START) // EVERY
        return [one.id for one in self.news.items[max(0, newest + 1 - STOCK) : newest + 1]]

    def click_model(self) -> PositionBasedModel:
        readers = sorted(self.news.tastes)
        others = dict(zip(readers, readers[1:] + readers[:1], strict=True))
        third = (self._at(self.requests - 1) - self._at(0)) // 3
        drift = Drift(
            {reader: self.news.tastes[others[reader]] for reader in readers[::2]},
            self._at(0) + third,
            self._at(0) + 2 * third,
        )
        return PositionBasedModel(
            self.news.tastes, self.news.topics, seed=self.seed, drift=drift, late=LATE
        )


def drifting_news_environment(
    settings: Settings, *, requests: int, articles: int, readers: int
) -> DriftingNewsEnvironment:
    """Articles, embedded, and readers, all from the settings' seed."""
    if articles <= STOCK:
        raise ValueError(f"articles must be more than {STOCK}, the stock's, got {articles}")
    found = news(articles, readers, seed=settings.seed)
    items = tuple(
        structs.replace(one, at=START + i * EVERY, expires_at=START + (i + STOCK) * EVERY)
        for i, one in enumerate(found.items)
    )
    rng = np.random.default_rng([settings.seed, 1])
    appeal = rng.uniform(-APPEAL, APPEAL, len(items))
    topics = {
        one.id: np.append(found.topics[one.id], x).astype(np.float32)
        for one, x in zip(items, appeal.tolist(), strict=True)
    }
    tastes = {name: np.append(one, 1.0).astype(np.float32) for name, one in found.tastes.items()}
    vectors, encoder = embedded(items, build.encoder(settings), Path(settings.data_dir))
    found = News(items, topics, tastes)
    return DriftingNewsEnvironment(found, vectors, encoder, requests, settings.seed)
