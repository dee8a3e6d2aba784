"""Sends what people do, at least once, and writes down what the broker acknowledged."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.torture.checker.journal import Journal
from stream.torture.workload import SentMessage

CHUNK = 100
IDLE = 0.02  # seconds between looks whether more may be sent


class LoadProducer:
    """Sends messages in order, `allowed()` of them in all by now; `sent` have been acknowledged.

    What was not acknowledged is sent again by a new client, so it may lie in the log twice: each
    acknowledgement is a line of the book.
    """

    def __init__(self, settings: Settings, book: Journal) -> None:
        self.options = settings.aiokafka_options()
        self.topic = Topics(settings.topic_prefix).events
        self.book = book
        self.sent = 0
        self.again = 0  # messages that had to be sent by a new client
        self.ends: dict[int, int] = {}  # the offset after the last acknowledged of each partition
        self._client: AIOKafkaProducer | None = None

    async def send(self, messages: Iterator[SentMessage], allowed: Callable[[], int]) -> None:
        """Send until there are no more messages, or `allowed` says -1."""
        while (most := allowed()) >= 0:
            if most <= self.sent:
                await asyncio.sleep(IDLE)
                continue
            chunk = list(islice(messages, min(CHUNK, most - self.sent)))
            if not chunk:
                return
            await self.all(chunk)

    async def all(self, chunk: Sequence[SentMessage]) -> None:
        """Send these, again and again until each is acknowledged."""
        left = list(chunk)
        while left:
            left = await self._once(left)
            self.again += len(left)

    async def _once(self, chunk: Sequence[SentMessage]) -> list[SentMessage]:
        """Send each once; those that were not acknowledged."""
        try:
            client = await self._connected()
            acks = [
                await client.send(self.topic, m.value, key=m.user.encode(), partition=m.partition)
                for m in chunk
            ]
        except KafkaError:  # what was sent of them is sent again
            await self.close()
            await asyncio.sleep(0.5)
            return list(chunk)
        left: list[SentMessage] = []
        for message, ack in zip(chunk, acks, strict=True):
            try:
                lies = await ack
            except KafkaError:
                left.append(message)
            else:
                self._acknowledged(message, lies.partition, lies.offset)
        if left:
            await self.close()
        return left

    def _acknowledged(self, message: SentMessage, partition: int, offset: int) -> None:
        self.book.note(partition, offset, message.value, bool(message.bad))
        self.ends[partition] = max(self.ends.get(partition, 0), offset + 1)
        self.sent += 1

    async def _connected(self) -> AIOKafkaProducer:
        if self._client is None:
            client = AIOKafkaProducer(
                **self.options, enable_idempotence=True, acks="all", linger_ms=5
            )
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
            self._client = client
        return self._client

    async def close(self) -> None:
        """Let go of the client; the next message gets a new one."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.wait([asyncio.ensure_future(client.stop())], timeout=5)
