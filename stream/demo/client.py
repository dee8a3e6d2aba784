"""The other side of Kafka: a producer who asks and clicks, a customer who reads the rankings."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from agents.catalogue_records import EmbeddingRecord
from models.events import (
    Click,
    Decision,
    Embedding,
    Event,
    InvalidMessageError,
    Item,
    Request,
    Tick,
    decode_decision,
    encode,
)
from stream.datasets.publish import producer_record
from stream.errors import LogError, UserError
from stream.kafka.consumer import committed_consumer
from stream.kafka.producer import Producer, ProducerRecord
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.simulation.environment import ClickModel, Messages

PATIENCE = 60.0  # seconds without an answer after which the worker must have stopped
Progress = Callable[[int], None]


class NoAnswerError(UserError):
    """Nothing came back: says what was waited for."""


class ClientStatistics(Struct, frozen=True):
    """What came of the requests; one entry each in `users`, `rewards` and `millis`."""

    users: list[str]
    rewards: list[float]  # clicks
    millis: list[float]  # from publishing a request to reading its ranking
    events: int
    seconds: float


async def embed_through(
    settings: Settings, items: Sequence[Item], progress: Progress
) -> tuple[Embedding, ...]:
    """Publish items and wait until the workers have embedded them; in the items' order.

    Those without a text that the workers' model reads have none.
    """
    topic = TopicPartition(Topics(settings.topic_prefix).embeddings, 0)
    reader = committed_consumer(settings, group_id=None, auto_offset_reset="earliest")
    publish = Producer(settings.aiokafka_options())
    await reader.start()
    found: dict[str, Embedding | None] = {}
    try:
        reader.assign([topic])
        await publish([producer_record(settings, item) for item in items])
        heard = time.monotonic()
        while len(found) < len(items):
            for messages in (await reader.getmany(timeout_ms=500)).values():
                for message in messages:
                    record = EmbeddingRecord.of(message.key or b"", message.value)
                    _, _, id = (record.key or "").partition(" ")
                    found[id] = record.embedding
                heard = time.monotonic()
                progress(len(found))
            if time.monotonic() > heard + PATIENCE:
                raise NoAnswerError(
                    f"{len(found)} of {len(items)} items were embedded, then no more"
                )
    finally:
        await reader.stop()
        await publish.stop()
    made = (found[item.id] for item in items)
    return tuple(embedding for embedding in made if embedding is not None)


class Client:
    """Reads the rankings topic from now on, as a customer would; knows nothing of workers."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._waiting: dict[str, asyncio.Future[Decision]] = {}

    @classmethod
    @asynccontextmanager
    async def reading(cls, settings: Settings) -> AsyncIterator["Client"]:
        """A customer for as long as the block lasts."""
        topic = Topics(settings.topic_prefix).rankings
        reader = committed_consumer(settings, group_id=None, auto_offset_reset="latest")
        await reader.start()
        partitions = [TopicPartition(topic, n) for n in range(settings.partitions)]
        reader.assign(partitions)
        await reader.seek_to_end(*partitions)
        for partition in partitions:  # where "now" is, before anything is asked
            await reader.position(partition)
        customer = cls(reader)
        task = asyncio.create_task(customer._read())
        try:
            yield customer
        finally:
            task.cancel()
            await reader.stop()

    def expect(self, id: str) -> asyncio.Future[Decision]:
        """The first ranking for a request, once it has been read."""
        self._waiting[id] = asyncio.get_running_loop().create_future()
        return self._waiting[id]

    async def _read(self) -> None:
        try:
            async for message in self._consumer:
                decision = decode_decision(message.value or b"")
                waiting = self._waiting.pop(decision.id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(decision)
        except (InvalidMessageError, KafkaError, LogError) as error:
            for waiting in self._waiting.values():
                waiting.set_exception(NoAnswerError(f"the rankings cannot be read: {error}"))


async def serve(
    settings: Settings, messages: Messages, click_model: ClickModel, progress: Progress
) -> ClientStatistics:
    """Publish a log through Kafka; wait for each request's ranking; publish what is clicked.

    Clicks enter in event time among the log's own events, as in `closed_loop.play`. At
    the end a Tick tells every partition that the last horizons have passed.
    """
    publish = Producer(settings.aiokafka_options())
    users, rewards, millis = list[str](), list[float](), list[float]()
    clicks: list[tuple[int, int, Click]] = []
    before: list[Event] = []
    events, last = 0, 0
    began = time.monotonic()

    def due(at: int) -> Iterator[Click]:
        while clicks and clicks[0][0] <= at:
            yield heappop(clicks)[2]

    async def flush(*more: Event) -> None:
        nonlocal events
        chunk = [*before, *more]
        before.clear()
        events += len(chunk)
        await publish([producer_record(settings, event) for event in chunk])

    async with Client.reading(settings) as customer:
        try:
            for message in messages:
                if isinstance(message, Item | Embedding):
                    continue
                before.extend(due(message.at))
                last = max(last, message.at)
                if not isinstance(message, Request):
                    before.append(message)
                    continue
                await flush()
                expected = customer.expect(message.id)
                asked = time.perf_counter()
                await flush(message)
                try:
                    decision = await asyncio.wait_for(expected, PATIENCE)
                except TimeoutError:
                    raise NoAnswerError(f"request {message.id!r} was not answered") from None
                millis.append((time.perf_counter() - asked) * 1000)
                made = click_model.clicks(decision)
                for n, click in enumerate(made):
                    heappush(clicks, (click.at, 100 * len(users) + n, click))
                users.append(decision.user)
                rewards.append(float(len(made)))
                progress(len(users))
            await flush(*due(1 << 62))
            await _tick(settings, publish, last)
        finally:
            await publish.stop()
    return ClientStatistics(users, rewards, millis, events, time.monotonic() - began)


async def _tick(settings: Settings, publish: Producer, last: int) -> None:
    """Tell every partition that the last horizon is over."""
    tick = encode(Tick(at=last + round(1000 * settings.horizon_seconds) + 60_000))
    topic = Topics(settings.topic_prefix).events
    await publish([ProducerRecord(topic, tick, partition=n) for n in range(settings.partitions)])
