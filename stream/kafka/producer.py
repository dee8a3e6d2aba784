"""Publishes and waits for the broker's word; after an error it starts again with a new producer."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec import Struct

from models.events import MAX_MESSAGE_BYTES
from stream.errors import RetryableError
from stream.kafka.topics import Topics

log = logging.getLogger(__name__)
MAX_KEY_BYTES = 1024  # of a key in a header; the longest that is right has 1,024
MAX_LETTER_BYTES = 2 * MAX_MESSAGE_BYTES  # of a value in dead letters; their topic allows it


class ProducerRecord(Struct, frozen=True):
    """A message to publish, to the only partition of its topic where none is named."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


class ProduceError(RetryableError, KafkaError):
    """Not all messages were acknowledged: what was to follow must not happen."""


class ProducerStoppedError(ProduceError):
    """The producer was stopped: trying again is of no use."""


class Producer:
    """An idempotent producer (acks=all) that can be trusted after an error: it is replaced.

    A refused record leaves the idempotent producer failing for ever (OutOfOrderSequence), and later
    records of the same batch may have been written: the caller starts again from its commit.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()  # those who publish first at once share one producer
        self._stopped = False

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._stopped:
                raise ProducerStoppedError("the producer was stopped")
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._options,
                    enable_idempotence=True,
                    acks="all",
                    max_request_size=2 * MAX_MESSAGE_BYTES + 8192,
                    max_batch_size=256 * 1024,
                )
                try:
                    await producer.start()
                except BaseException:  # cancelled, too: nobody else knows of it
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def start(self) -> None:
        """Connect now, so that the first message does not wait for it."""
        await self._connected()

    async def stop(self) -> None:
        """Send what is under way and disconnect, for good."""
        self._stopped = True
        async with self._connecting:
            producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def until_done(self, messages: Sequence[ProducerRecord]) -> None:
        """Publish, again and again until acknowledged: for what may appear more than once.

        Raises ProducerStoppedError if the producer is stopped meanwhile.
        """
        while messages:
            try:
                await self(messages)
                return
            except ProducerStoppedError:
                raise
            except ProduceError as error:
                log.warning("not published, trying again", extra={"reason": str(error)})
                await asyncio.sleep(1)

    async def __call__(self, messages: Sequence[ProducerRecord]) -> list[int]:
        """Publish in order; the offsets, once all are acknowledged. Raises ProduceError."""
        producer: AIOKafkaProducer | None = None
        try:
            producer = await self._connected()
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
        except ProducerStoppedError:
            raise
        except (KafkaError, OSError, AssertionError) as error:
            if producer is not None and self._producer is producer:
                self._producer = None
                await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=5)
            raise ProduceError(f"{type(error).__name__}: {error}") from error


def dead_letter(
    topics: Topics,
    topic: str,
    partition: int,
    offset: int,
    value: bytes,
    reason: str,
    key: bytes | None = None,
) -> ProducerRecord:
    """A message that cannot be used: its bytes as they came; reason, origin and key as headers.

    A value longer than its topic takes is cut, and headers say so: broker limits are those of what
    is compressed, so a producer gets in what does not come out again.
    """
    headers = {
        "reason": reason.encode(errors="replace")[:1000].decode(errors="ignore"),
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
    }
    if len(value) > MAX_LETTER_BYTES:
        headers |= {"truncated": "true", "size": str(len(value))}
    pairs = tuple((name, text.encode()) for name, text in headers.items())
    if key:
        pairs += (("key", key[:MAX_KEY_BYTES]),)
    return ProducerRecord(topics.deadletters, value[:MAX_LETTER_BYTES], headers=pairs)
