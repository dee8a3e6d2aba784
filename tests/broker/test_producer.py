"""What publishes and where to: connections owned, sizes kept, topics as they must be."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from models.events import MAX_MESSAGE_BYTES
from stream.kafka import producer as module
from stream.kafka.producer import (
    ProduceError,
    Producer,
    ProducerRecord,
    ProducerStoppedError,
    dead_letter,
)
from stream.kafka.topics import TopicMismatchError, Topics, create
from stream.local.process import free_port
from stream.local.stack import Stack
from stream.settings import Settings
from tests.conftest import Kafka

TOPICS = Topics("here")


def test_what_fits_is_a_dead_letter_as_it_came() -> None:
    letter = dead_letter(TOPICS, TOPICS.events, 3, 7, b"x" * 2 * MAX_MESSAGE_BYTES, "why")
    assert len(letter.value) == 2 * MAX_MESSAGE_BYTES
    assert dict(letter.headers) == {
        "reason": b"why",
        "topic": b"here.events",
        "partition": b"3",
        "offset": b"7",
    }


def test_what_is_too_long_for_its_topic_is_cut_and_says_so() -> None:
    letter = dead_letter(TOPICS, TOPICS.events, 0, 7, b"x" * 10_000_000, "用" * 1000)
    headers = dict(letter.headers)
    assert len(letter.value) == 2 * MAX_MESSAGE_BYTES
    assert (headers["truncated"], headers["size"]) == (b"true", b"10000000")
    assert headers["reason"].decode() == "用" * 333


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[AIOKafkaProducer]]:
    """The producers made in a test; each must be stopped in the end."""
    made: list[AIOKafkaProducer] = []

    class Noted(AIOKafkaProducer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(module, "AIOKafkaProducer", Noted)
    yield made
    assert all(producer._closed for producer in made)


def test_no_broker_means_unpublished(producers: list[AIOKafkaProducer]) -> None:
    async def run() -> None:
        publish = Producer({"bootstrap_servers": f"127.0.0.1:{free_port()}"})
        for _ in range(2):
            with pytest.raises(ProduceError, match="KafkaConnectionError"):
                await publish([ProducerRecord("t", b"")])

    asyncio.run(run())
    assert len(producers) == 2


def test_a_stopped_publisher_stays_stopped(producers: list[AIOKafkaProducer]) -> None:
    async def run() -> None:
        publish = Producer({"bootstrap_servers": f"127.0.0.1:{free_port()}"})
        trying = asyncio.ensure_future(publish.until_done([ProducerRecord("t", b"")]))
        while not producers:
            await asyncio.sleep(0)
        await publish.stop()
        with pytest.raises(ProducerStoppedError):
            await trying
        with pytest.raises(ProducerStoppedError):
            await publish([ProducerRecord("t", b"")])

    asyncio.run(run())
    assert len(producers) == 1


@pytest.mark.kafka
def test_who_publish_first_at_once_share_one_producer(
    kafka: Kafka, topic_prefix: str, producers: list[AIOKafkaProducer]
) -> None:
    settings = Settings(brokers=kafka.brokers, topic_prefix=topic_prefix)

    async def run() -> list[list[int]]:
        await create(settings)
        publish = Producer(settings.aiokafka_options())
        message = ProducerRecord(f"{topic_prefix}.deadletters", b"")
        offsets = await asyncio.gather(*(publish([message]) for _ in range(5)))
        await publish.stop()
        return offsets

    assert sorted(asyncio.run(run())) == [[n] for n in range(5)]
    assert len(producers) == 1


WRONG: dict[str, tuple[str, int, dict[str, str], str]] = {
    "partitions of events": ("events", 3, {}, "has 3 partitions, and must have 4; set RANKLOOP_"),
    "partitions of items": ("items", 3, {}, "must have 1; use another RANKLOOP_TOPIC_PREFIX"),
    "producers' times": ("events", 4, {}, "message.timestamp.type=LogAppendTime"),
    "producers' times of items": (
        "items",
        1,
        {"cleanup.policy": "compact"},
        "message.timestamp.type=LogAppendTime",
    ),
    "items that are not compacted": (
        "items",
        1,
        {"message.timestamp.type": "LogAppendTime"},
        "cleanup.policy=delete, and must have compact",
    ),
    "vectors that are not compacted": (
        "embeddings",
        1,
        {"message.timestamp.type": "LogAppendTime"},
        "cleanup.policy=compact",
    ),
    "what was learned goes in time": ("feedback", 1, {}, "retention.ms=604800000, and must have"),
    "what was learned goes by size": (
        "feedback",
        1,
        {"retention.ms": "-1", "retention.bytes": "1000000"},
        "retention.bytes=-1",
    ),
}


@pytest.mark.kafka
@pytest.mark.parametrize("case", WRONG)
def test_a_topic_of_the_wrong_shape_is_refused_with_its_remedy(
    apache_kafka: Kafka, topic_prefix: str, case: str
) -> None:
    name, count, config, remedy = WRONG[case]
    settings = Settings(brokers=apache_kafka.brokers, topic_prefix=topic_prefix)

    async def run() -> None:
        admin = AIOKafkaAdminClient(**settings.aiokafka_options())
        await admin.start()
        try:
            await admin.create_topics([NewTopic(f"{topic_prefix}.{name}", count, 1, None, config)])
        finally:
            await admin.close()
        with pytest.raises(TopicMismatchError) as refused:
            await create(settings)
        assert remedy in str(refused.value)

    asyncio.run(run())


@pytest.mark.kafka
def test_topics_are_made_once(kafka: Kafka, topic_prefix: str) -> None:
    settings = Settings(brokers=kafka.brokers, topic_prefix=topic_prefix)
    assert set(asyncio.run(create(settings)).values()) == {"created"}
    assert set(asyncio.run(create(settings)).values()) == {"exists"}


def test_topics_are_made_once_on_the_small_local_broker(topic_prefix: str) -> None:
    pytest.importorskip("noida_db")
    with Stack(redis=False) as stack:
        settings = Settings(brokers=stack.brokers, topic_prefix=topic_prefix)
        assert set(asyncio.run(create(settings)).values()) == {"created"}
        assert set(asyncio.run(create(settings)).values()) == {"exists"}
