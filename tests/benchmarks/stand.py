"""What is measured against: Kafka, Redis, a worker in its own process, an open-loop producer."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaProducer
from msgspec import Struct, structs

from models.events import Message
from stream.datasets.publish import producer_record, publish_messages
from stream.demo.client import Client
from stream.kafka.topics import create
from stream.local.stack import Stack
from stream.settings import Settings
from tests.support.kafka_worker import Worker, eventually
from tests.support.shared import KAFKA

PATIENCE = 300.0  # seconds until something counts as never coming


def kafka_home() -> str:
    """KAFKA_HOME, else ../shared/kafka, if there is a Kafka in it and Java; else ""."""
    homes = [Settings.load().kafka_home, str(KAFKA)] if shutil.which("java") else []
    found = (home for home in homes if home and list(Path(home, "libs").glob("kafka-clients-*")))
    return next(found, "")


class Stand:
    """A local stack, and logs on it, each with its topics and one worker."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.says = f"{stack.describes.replace(' from ' + kafka_home(), '')}"
        self._stack, self._folder = stack, folder

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Stand"]:
        """A stand for as long as the block lasts."""
        folder = tempfile.TemporaryDirectory(prefix="rankloop-bench-")
        with folder as path, Stack(kafka_home=kafka_home()) as stack:
            yield cls(stack, Path(path))

    def log(self, name: str, settings: Settings) -> Settings:
        """A log of its own under these settings, its topics made."""
        stack = self._stack
        made = structs.replace(
            settings,
            group=name,
            topic_prefix=name,
            brokers=stack.brokers,
            redis_url=stack.redis_url,
            log_level="WARNING",
        )
        asyncio.run(create(made))
        return made

    @contextmanager
    def worker(self, settings: Settings) -> Iterator[Worker]:
        """`rankloop worker`, ready; stopped at the end."""
        config = self._folder / f"{settings.group}.toml"
        config.write_text(settings.toml())
        environ = {k: v for k, v in os.environ.items() if not k.startswith("RANKLOOP_")}
        worker = Worker(environ | {"RANKLOOP_CONFIG": str(config)}, self._folder)
        try:
            eventually(lambda: worker.owns(settings.partitions), "the worker is ready", PATIENCE)
            yield worker
        finally:
            worker.stop()


def publish(settings: Settings, messages: Iterable[Message]) -> None:
    asyncio.run(publish_messages(settings, messages))


class Answer(Struct, frozen=True):
    """What came back for one request, and when it was asked and read (seconds).

    Not the decision itself: to hold thousands costs pauses of this process that look like Kafka's.
    """

    id: str
    user: str
    items: tuple[str, ...]
    asked: float
    read: float

    @property
    def millis(self) -> float:
        return 1000 * (self.read - self.asked)


class BenchClient:
    """A producer that asks, and a customer of the rankings topic that notes when it reads what."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, customer: Client) -> None:
        self._settings, self._producer, self._customer = settings, producer, customer

    @classmethod
    @asynccontextmanager
    async def connected(cls, settings: Settings) -> AsyncIterator["BenchClient"]:
        """A client for as long as the block lasts."""
        producer = AIOKafkaProducer(**settings.aiokafka_options())
        await producer.start()
        try:
            async with Client.reading(settings) as customer:
                yield cls(settings, producer, customer)
        finally:
            await producer.stop()

    async def ask(self, message: Message, id: str) -> Answer:
        """Publish a message; the ranking `id` that it causes."""
        expected = self._customer.expect(id)
        read: list[float] = []
        expected.add_done_callback(lambda _: read.append(time.perf_counter()))
        out = producer_record(self._settings, message)
        asked = time.perf_counter()
        await self._producer.send(out.topic, out.value, key=out.key, partition=out.partition)
        async with asyncio.timeout(PATIENCE):
            decision = await expected
        items = tuple(slot.item for slot in decision.slots)
        return Answer(id, decision.user, items, asked, read[0])


async def paced(rate: float, count: int, seed: int = 3) -> AsyncIterator[float]:
    """`count` turns at random times, `rate` a second, whatever became of the turns before.

    Yields how late a turn comes, in seconds: a producer that lags is no open loop.
    """
    due = time.perf_counter()
    for gap in np.random.default_rng(seed).exponential(1 / rate, count).tolist():
        due += gap
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield time.perf_counter() - due


async def gathered(asking: Sequence[asyncio.Task[Answer]]) -> list[Answer]:
    return list(await asyncio.gather(*asking))
