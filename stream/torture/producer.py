"""Sends what people do, at least once, and writes down what the broker acknowledged."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata
from msgspec.structs import replace

from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.torture.checker.journal import Journal
from stream.torture.workload import SentMessage

CHUNK = 100
IDLE = 0.02  # seconds between looks whether more may be sent
TRANSACTIONS = "transactions"
WAYS = ("plain", "gzip", "lz4", "snappy", "zstd", TRANSACTIONS)
ABORTED = 10  # messages of each aborted transaction


class LoadProducer:
    """Sends messages in order, `allowed()` of them in all by now; `sent` have been acknowledged.

    Each chunk goes out in one of `WAYS`, as clients differ: with some compression, or in a
    transaction, after one that is aborted. What was not acknowledged is sent again by a new client,
    so it may lie in the log twice: each acknowledgement is a line of the book.
    """

    def __init__(self, settings: Settings, book: Journal, seed: int) -> None:
        self.options = settings.aiokafka_options()
        self.topic = Topics(settings.topic_prefix).events
        self.book = book
        self.sent = 0
        self.again = 0  # messages that had to be sent by a new client
        self.ways = Counter[str]()  # chunks acknowledged
        self.aborted = 0  # messages of transactions that were aborted
        self.ends: dict[int, int] = {}  # the offset after the last acknowledged of each partition
        self._rng = Random(f"ways {seed}")
        self._clients: dict[str, AIOKafkaProducer] = {}

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

    async def all(self, chunk: Sequence[SentMessage], way: str = "") -> None:
        """Send these in one way, or in any, again and again until each is acknowledged."""
        left = list(chunk)
        while left:
            left = await self._once(left, way or self._rng.choice(WAYS))
            self.again += len(left)

    async def _once(self, chunk: Sequence[SentMessage], way: str) -> list[SentMessage]:
        """Send each once; those that were not acknowledged."""
        left = list(chunk)
        try:
            client = await self._connected(way)
            if way == TRANSACTIONS:
                await self._aborted(client, chunk[:ABORTED])
                left = await self._committed(client, chunk)
            else:
                left = await self._acknowledged(chunk, await self._sent(client, chunk))
        except KafkaError:  # what was sent of them is sent again
            await asyncio.sleep(0.5)
        if left:
            await self.close()
        else:
            self.ways[way] += 1
        return left

    async def _sent(
        self, client: AIOKafkaProducer, chunk: Iterable[SentMessage]
    ) -> list[asyncio.Future[RecordMetadata]]:
        return [
            await client.send(self.topic, m.value, key=m.user.encode(), partition=m.partition)
            for m in chunk
        ]

    async def _aborted(self, client: AIOKafkaProducer, like: Sequence[SentMessage]) -> None:
        """Send other events like these, which never happened."""
        others = [replace(m, value=m.value.replace(b'"id":"', b'"id":"aborted:', 1)) for m in like]
        await client.begin_transaction()
        await asyncio.gather(*await self._sent(client, others))
        await client.abort_transaction()
        self.aborted += len(others)

    async def _committed(
        self, client: AIOKafkaProducer, chunk: Sequence[SentMessage]
    ) -> list[SentMessage]:
        await client.begin_transaction()
        acks = await self._sent(client, chunk)
        await asyncio.gather(*acks)
        await client.commit_transaction()
        return await self._acknowledged(chunk, acks)

    async def _acknowledged(
        self, chunk: Sequence[SentMessage], acks: list[asyncio.Future[RecordMetadata]]
    ) -> list[SentMessage]:
        """Note those that were; the others."""
        left: list[SentMessage] = []
        for message, ack in zip(chunk, acks, strict=True):
            try:
                lies = await ack
            except KafkaError:
                left.append(message)
            else:
                self.book.note(lies.partition, lies.offset, message.value, bool(message.bad))
                self.ends[lies.partition] = max(self.ends.get(lies.partition, 0), lies.offset + 1)
                self.sent += 1
        return left

    async def _connected(self, way: str) -> AIOKafkaProducer:
        if way not in self._clients:
            options: dict[str, Any] = {"enable_idempotence": True, "acks": "all"}
            if way == TRANSACTIONS:  # of the same id: a new client ends what the old one left open
                options = {"transactional_id": self.topic, "transaction_timeout_ms": 10_000}
            elif way != "plain":
                options["compression_type"] = way
            client = AIOKafkaProducer(**self.options, **options, linger_ms=5)
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
            self._clients[way] = client
        return self._clients[way]

    async def close(self) -> None:
        """Let go of the clients; the next message gets a new one."""
        clients, self._clients = self._clients, {}
        if clients:
            stops = [asyncio.ensure_future(client.stop()) for client in clients.values()]
            await asyncio.wait(stops, timeout=5)
