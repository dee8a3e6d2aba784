"""Publishes a log file: items to the items topic, everything else to events, keyed by user."""

import asyncio
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from models.events import Embedding, Item, Message, encode
from stream.datasets.log_files import read_log
from stream.kafka.producer import Producer, ProducerRecord
from stream.kafka.topics import Topics, create, owner
from stream.progress import progress
from stream.settings import Settings

CHUNK = 1_000


def producer_record(settings: Settings, message: Message) -> ProducerRecord:
    """Where a message goes. Raises ValueError for what only workers write."""
    topics = Topics(settings.topic_prefix)
    data = encode(message)
    if isinstance(message, Item):
        return ProducerRecord(topics.items, data, message.id.encode())
    if isinstance(message, Embedding) or not hasattr(message, "user"):
        kind = type(message).__name__
        raise ValueError(f"{kind} messages are written by workers, not by producers")
    user: str = message.user  # pyright: ignore[reportAttributeAccessIssue]
    partition = owner(user, settings.partitions)
    return ProducerRecord(topics.events, data, user.encode(), partition)


async def publish_messages(settings: Settings, messages: Iterable[Message]) -> int:
    """Publish in order; how many."""
    publish = Producer(settings.aiokafka_options())
    count, chunk = 0, list[ProducerRecord]()
    try:
        for message in messages:
            chunk.append(producer_record(settings, message))
            count += 1
            if len(chunk) == CHUNK:
                await publish(chunk)
                chunk.clear()
        await publish(chunk)
    finally:
        await publish.stop()
    return count


def publish_file(settings: Settings, file: Path) -> int:
    """Publish a log file with a progress bar, topics first if missing; how many messages."""
    log = read_log(file)
    messages = chain(list(islice(log, 1)), log)  # what is no log creates nothing

    async def publish() -> int:
        await create(settings)
        with progress() as bar:
            told = bar.track(messages, description=f"publishing {file.name}", total=None)
            return await publish_messages(settings, told)

    return asyncio.run(publish())
