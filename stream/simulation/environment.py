"""Where requests and clicks come from: a log, with requests of its own or put in between."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from msgspec import Struct

from agents.click_models import LoggedClickModel
from models.events import Click, Decision, Embedding, Event, Item, Request, Reward
from stream.simulation.event_log import EventLog, liked
from stream.storage.vector_cache import EncoderIdentity

Messages = Iterable[Item | Embedding | Event]


class ClickModel(Protocol):
    def clicks(self, decision: Decision) -> list[Click]: ...


class NoClicks:
    """Nobody is there: the log holds the clicks itself."""

    def clicks(self, decision: Decision) -> list[Click]:
        return []


class Environment(Protocol):
    """A log or a simulation; it crosses to another process by pickling."""

    @property
    def encoder(self) -> EncoderIdentity: ...

    def messages(self) -> Messages: ...

    def click_model(self) -> ClickModel: ...


class LogEnvironment(Struct, frozen=True):
    """A log's first `requests` requests; if it has none, as many, evenly before liked items."""

    log: EventLog
    requests: int
    k: int = 10
    window: int = 20

    @property
    def encoder(self) -> EncoderIdentity:
        return self.log.encoder

    @property
    def has_requests(self) -> bool:
        """True if the log holds its own requests: then nothing is added to it."""
        return any(isinstance(event, Request) for event in self.log.events)

    def messages(self) -> Messages:
        if self.has_requests:
            return upto(self.log.in_time(), self.requests)
        likes = sum(liked(event) is not None for event in self.log.events)
        return requests_before_likes(self.log.in_time(), likes, min(self.requests, likes), self.k)

    def click_model(self) -> ClickModel:
        return (
            NoClicks()
            if self.has_requests
            else LoggedClickModel(self.log.events, window=self.window)
        )


def requests_before_likes(
    messages: Messages, likes: int, limit: int, k: int
) -> Iterator[Item | Embedding | Event]:
    """The log with `limit` requests, spread evenly over its `likes`: each just before one."""
    liking = asked = 0
    for message in messages:
        if liked(message) is not None and isinstance(message, Click | Reward):
            liking += 1
            if liking * limit >= (asked + 1) * likes and asked < limit:
                asked += 1
                yield Request(id=f"ask:{asked}", user=message.user, at=message.at, k=k)
        yield message


def upto(messages: Messages, limit: int) -> Iterator[Item | Embedding | Event]:
    """The log until its request number `limit`, and what follows that one."""
    asked = 0
    for message in messages:
        asked += isinstance(message, Request)
        if asked > limit:
            return
        yield message
