"""Reads a topic to its present end for the checker, message by message."""

import asyncio
from collections.abc import Iterator

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from stream.kafka.consumer import committed_consumer
from stream.settings import Settings


def topic_messages(settings: Settings, topic: str, partitions: int) -> Iterator[ConsumerRecord]:
    """All messages of a topic, each partition in order."""
    tps = [TopicPartition(topic, n) for n in range(partitions)]
    with asyncio.Runner() as runner:
        reader = runner.run(_opened(settings, tps))
        try:
            ends = runner.run(reader.end_offsets(tps))
            left = {tp for tp, end in ends.items() if end}
            while left:
                yield from runner.run(_more(reader, left, ends))
        finally:
            runner.run(reader.stop())


def count(settings: Settings, topic: str, partitions: int) -> int:
    """How many messages a topic has, if none was taken from it."""

    async def total() -> int:
        tps = [TopicPartition(topic, n) for n in range(partitions)]
        reader = await _opened(settings, tps)
        try:
            return sum((await reader.end_offsets(tps)).values())
        finally:
            await reader.stop()

    return asyncio.run(total())


async def _opened(settings: Settings, tps: list[TopicPartition]) -> AIOKafkaConsumer:
    reader = committed_consumer(
        settings,
        group_id=None,
        auto_offset_reset="none",
        max_partition_fetch_bytes=4 << 20,
    )
    await reader.start()
    reader.assign(tps)
    for tp in tps:
        reader.seek(tp, 0)
    return reader


async def _more(
    reader: AIOKafkaConsumer, left: set[TopicPartition], ends: dict[TopicPartition, int]
) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    for tp, batch in (await reader.getmany(timeout_ms=500)).items():
        found += [message for message in batch if message.offset < ends[tp]]
    for tp in list(left):
        if await reader.position(tp) >= ends[tp]:
            left.discard(tp)
            reader.pause(tp)
    return found
