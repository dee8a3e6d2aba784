"""Publishes a log file: items to the items topic, events of users to events, keyed by user."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from models.events import Click, Impression, Item, Message, Request, Reward, encode
from stream.datasets.log_files import kind_of, numbered, read_log
from stream.kafka.producer import Producer, ProducerRecord
from stream.kafka.topics import Topics, create, owner
from stream.progress import progress
from stream.settings import Settings

CHUNK = 1_000


def producer_record(settings: Settings, message: Message) -> ProducerRecord:
    """Where a message goes. Raises ValueError for what only workers write."""
    topics = Topics(settings.topic_prefix)
    if isinstance(message, Item):
        return ProducerRecord(topics.items, encode(message), message.id.encode())
    if isinstance(message, Request | Impression | Click | Reward):
        user = message.user
        partition = owner(user, settings.partitions)
        return ProducerRecord(topics.events, encode(message), user.encode(), partition)
    raise ValueError(
        f"{type(message).__name__} messages are written by workers, not by producers; leave "
        "all out but items, requests, impressions, clicks and rewards"
    )


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


def publish_file(settings: Settings, file: Path) -> Counter[str]:
    """Publish a log file with a progress bar, topics first if missing; how many of each type.

    The whole file is checked first: of one with a wrong line nothing is sent.
    """
    counts = Counter[str]()
    for number, message in numbered(file):
        try:
            producer_record(settings, message)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}; nothing was sent") from None
        counts[kind_of(message)] += 1

    async def publish() -> None:
        await create(settings)
        with progress() as bar:
            description = f"publishing {file.name}"
            told = bar.track(read_log(file), total=counts.total(), description=description)
            await publish_messages(settings, told)

    asyncio.run(publish())
    return counts
