"""A few messages to a topic, and the last few of one: what a torture does beside its load."""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from stream.kafka.consumer import committed_consumer
from stream.settings import Settings


async def publish_raw(
    settings: Settings, messages: Iterable[tuple[str, bytes | None, bytes | None, int]]
) -> int:
    """Publish (topic, value, key, partition) with a client of its own; how many."""
    client = AIOKafkaProducer(**settings.aiokafka_options(), acks="all")
    try:
        await client.start()
        acks = [await client.send(t, v, key=k, partition=p) for t, v, k, p in messages]
        return len([await ack for ack in acks])
    finally:
        await client.stop()


def raw_consumer(settings: Settings) -> AIOKafkaConsumer:
    """A client that reads without a group; it is not started."""
    return committed_consumer(settings, group_id=None, auto_offset_reset="none")


async def tail(settings: Settings, tp: TopicPartition, count: int = 50) -> list[ConsumerRecord]:
    """The last messages of a partition; [] if the broker does not answer."""
    reader = raw_consumer(settings)
    found: list[ConsumerRecord] = []
    try:
        await reader.start()
        end = (await reader.end_offsets([tp]))[tp]
        reader.assign([tp])
        reader.seek(tp, max(0, end - count))
        while end and await reader.position(tp) < end:
            for messages in (await reader.getmany(tp, timeout_ms=1000)).values():
                found += messages
    except KafkaError:
        return []
    finally:
        await reader.stop()
    return found
