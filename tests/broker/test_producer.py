"""What publishes and where to: connections owned, sizes kept, topics as they must be."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
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
from stream.local.servers import find_java
from stream.local.stack import Stack
from stream.settings import Settings
from tests.conftest import Kafka

TOPICS = Topics("here")


def test_what_fits_is_a_dead_letter_as_it_came() -> None:
    letter = dead_letter(TOPICS, TOPICS.events, 3, 7, b"x" * 2 * MAX_MESSAGE_BYTES, "why")
    assert len(letter.value or b"") == 2 * MAX_MESSAGE_BYTES
    assert dict(letter.headers) == {
        "reason": b"why",
        "topic": b"here.events",
        "partition": b"3",
        "offset": b"7",
    }


def test_what_is_too_long_for_its_topic_is_cut_and_says_so() -> None:
    letter = dead_letter(TOPICS, TOPICS.events, 0, 7, b"x" * 10_000_000, "用" * 1000)
    headers = dict(letter.headers)
    assert len(letter.value or b"") == 2 * MAX_MESSAGE_BYTES
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


COMPACT = {"cleanup.policy": "compact"}
OURS = {"message.timestamp.type": "LogAppendTime"}
GOOD = {"retention.ms": "-1", "retention.bytes": "-1"}
LARGE = {"max.message.bytes": "2004096"}
WRONG: dict[str, tuple[str, int, dict[str, str], str]] = {
    "partitions of events": ("events", 3, OURS, "has 3 partitions, and must have 4; if the log"),
    "partitions of rankings": ("rankings", 3, {}, "must have 4; if the log is new, set RANKLOOP_"),
    "partitions of items": ("items", 3, COMPACT | OURS, "must have 1; partitions that were added"),
    "partitions of dead letters": (
        "deadletters",
        2,
        LARGE,
        "1; delete it and run",
    ),
    "events by their producers' times": ("events", 4, {}, "message.timestamp.type=LogAppendTime"),
    "items by their producers' times": (
        "items",
        1,
        COMPACT,
        "message.timestamp.type=LogAppendTime",
    ),
    "items that are not compacted": ("items", 1, OURS, "cleanup.policy=compact"),
    "items that go in time, too": (
        "items",
        1,
        OURS | {"cleanup.policy": "compact,delete"},
        "has cleanup.policy=compact,delete, and must have cleanup.policy=compact",
    ),
    "vectors that are not compacted": ("embeddings", 1, OURS, "cleanup.policy=compact"),
    "events that are compacted": ("events", 4, OURS | COMPACT, "cleanup.policy=delete"),
    "events that are compacted, too": (
        "events",
        4,
        OURS | {"cleanup.policy": "delete,compact"},
        "has cleanup.policy=delete,compact, and must have cleanup.policy=delete",
    ),
    "events that go too soon": (
        "events",
        4,
        OURS | {"retention.ms": "60000"},
        "has retention.ms=60000, and must have retention.ms=1320000",
    ),
    "rankings that are compacted": ("rankings", 4, COMPACT, "cleanup.policy=delete"),
    "rankings that go too soon": ("rankings", 4, {"retention.ms": "60000"}, "retention.ms=1320000"),
    "rankings that do not fit": (
        "rankings",
        4,
        {"max.message.bytes": "100000"},
        "max.message.bytes=1048576",
    ),
    "feedback that is compacted": ("feedback", 1, GOOD | COMPACT, "cleanup.policy=delete"),
    "dead letters that are compacted": ("deadletters", 1, LARGE | COMPACT, "cleanup.policy=delete"),
    "dead letters that do not fit": ("deadletters", 1, {}, "max.message.bytes=2004096"),
    "what was learned goes in time": ("feedback", 1, {}, "--add-config retention.ms=-1"),
    "what was learned goes by size": (
        "feedback",
        1,
        GOOD | {"retention.bytes": "1000000"},
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
        assert f"topic {topic_prefix}.{name} has" in str(refused.value)
        assert str(refused.value).count("and must have") == 1  # nothing else is wrong

    asyncio.run(run())


@pytest.mark.kafka
def test_the_command_that_is_told_mends_the_topics(
    apache_kafka: Kafka, topic_prefix: str, kafka_home: Path
) -> None:
    settings = Settings(brokers=apache_kafka.brokers, topic_prefix=topic_prefix)

    async def spoil() -> None:
        admin = AIOKafkaAdminClient(**settings.aiokafka_options())
        await admin.start()
        spoilt = [
            NewTopic(f"{topic_prefix}.feedback", 1, 1, None, COMPACT),
            NewTopic(f"{topic_prefix}.rankings", 4, 1, None, COMPACT),
        ]
        try:
            await admin.create_topics(spoilt)
        finally:
            await admin.close()

    asyncio.run(spoil())
    with pytest.raises(TopicMismatchError) as refused:
        asyncio.run(create(settings))
    told = re.findall(r"kafka-configs\.sh [^;]*", str(refused.value))
    assert len(told) == 2  # all that is wrong is told at once
    for command in told:
        tool = [find_java(), "-cp", str(kafka_home / "libs" / "*"), "kafka.admin.ConfigCommand"]
        subprocess.run([*tool, *command.split()[1:]], check=True, capture_output=True)
    assert set(asyncio.run(create(settings)).values()) == {"created", "exists"}


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
