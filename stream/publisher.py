"""Publishes and waits for the broker's word; after an error it starts again with a new producer."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec import Struct

from models.events import MAX_MESSAGE_BYTES
from stream.topics import Topics

log = logging.getLogger(__name__)


class Outgoing(Struct, frozen=True):
    """A message to publish."""

    topic: str
    value: bytes
    key: bytes | None = None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Unpublished(Exception):
    """Not all messages were acknowledged: what was to follow must not happen."""


class Publisher:
    """An idempotent producer (acks=all) that can be trusted after an error: it is replaced.

    A refused record leaves the idempotent producer failing for ever (OutOfOrderSequence), and later
    records of the same batch may have been written: the caller starts again from its commit.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._producer: AIOKafkaProducer | None = None

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._options,
                enable_idempotence=True,
                acks="all",
                max_request_size=2 * MAX_MESSAGE_BYTES + 8192,
                max_batch_size=256 * 1024,
            )
            await producer.start()
            self._producer = producer
        return self._producer

    async def start(self) -> None:
        """Connect now, so that the first message does not wait for it."""
        await self._connected()

    async def stop(self) -> None:
        """Send what is under way and disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def until_done(self, messages: Sequence[Outgoing]) -> None:
        """Publish, again and again until acknowledged: for what may appear more than once."""
        while messages:
            try:
                await self(messages)
                return
            except Unpublished as error:
                log.warning("not published, trying again", extra={"reason": str(error)})
                await asyncio.sleep(1)

    async def __call__(self, messages: Sequence[Outgoing]) -> list[int]:
        """Publish in order; the offsets, once all are acknowledged. Raises Unpublished."""
        producer = await self._connected()
        try:
            acks = [
                await producer.send(
                    message.topic,
                    message.value,
                    key=message.key,
                    partition=message.partition,
                    headers=list(message.headers),
                )
                for message in messages
            ]
            return [(await ack).offset for ack in acks]
        except (KafkaError, OSError, AssertionError) as error:
            if self._producer is producer:
                self._producer = None
                await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=5)
            raise Unpublished(f"{type(error).__name__}: {error}") from error


def deadletter(
    topics: Topics, topic: str, partition: int, offset: int, value: bytes, reason: str
) -> Outgoing:
    """A message that cannot be used: its bytes as they came, the reason and origin as headers."""
    headers = {
        "reason": reason[:1000],
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
    }
    pairs = tuple((name, text.encode(errors="replace")) for name, text in headers.items())
    return Outgoing(topics.deadletters, value, headers=pairs)
