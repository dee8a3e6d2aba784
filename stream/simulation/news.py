"""The closed loop on simulated news, in English and Chinese, whose readers' tastes are known."""

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from agents.click_models import PositionBasedModel
from models.events import Embedding, Request
from stream import build
from stream.datasets.simulated_news import MINUTE, START, News, news
from stream.settings import Settings
from stream.simulation.environment import Messages
from stream.simulation.event_log import pairs
from stream.storage.vector_cache import EncoderIdentity, embedded


class NewsEnvironment(Struct, frozen=True):
    """Readers come in turn, one every `every` milliseconds, while articles appear."""

    news: News
    embeddings: tuple[Embedding, ...]
    encoder: EncoderIdentity
    requests: int
    seed: int
    k: int = 10

    def messages(self) -> Messages:
        every = max(1, len(self.news.items) * MINUTE // self.requests)
        times = (START + (i + 1) * every for i in range(self.requests))
        return requests_of_readers(self.news, self.embeddings, times, self.seed, self.k)

    def click_model(self) -> PositionBasedModel:
        return PositionBasedModel(self.news.tastes, self.news.topics, seed=self.seed)


def requests_of_readers(
    news: News, embeddings: Iterable[Embedding], times: Iterable[int], seed: int, k: int
) -> Messages:
    """A request by some reader at each time, in order, after the articles that came by then."""
    readers = sorted(news.tastes)
    coming = pairs(news.items, embeddings)
    following = next(coming, None)
    for i, at in enumerate(times):
        while following and following[0].at <= at:
            yield from filter(None, following)
            following = next(coming, None)
        reader = readers[splitmix(seed, i) % len(readers)]
        yield Request(id=f"ask:{i + 1}", user=reader, at=at, k=k)


def splitmix(seed: int, i: int) -> int:
    """A number that looks drawn at random: splitmix64 (Steele et al. 2014)."""
    z = (seed * 0xD1342543DE82EF95 + i * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def news_environment(
    settings: Settings, *, requests: int, articles: int, readers: int
) -> NewsEnvironment:
    """Articles, embedded, and readers, all from the settings' seed."""
    found = news(articles, readers, seed=settings.seed)
    vectors, encoder = embedded(found.items, build.encoder(settings), Path(settings.data_dir))
    return NewsEnvironment(found, vectors, encoder, requests, settings.seed)
