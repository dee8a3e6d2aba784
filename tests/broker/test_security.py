"""Settings log in to a real Apache Kafka with TLS and SCRAM, by aiokafka and by Faust."""

import asyncio
import gc
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import faust
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from stream.settings import Settings
from tests.support import kafka_secured

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def secured(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with kafka_secured.secured(kafka_home, tmp_path_factory.mktemp("tls"), rules=False) as kafka:
        yield kafka.user


def finished(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; TLS connections that a client lets go of as it stops are not our leak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            asyncio.run(work)
        finally:
            gc.collect()


async def create(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(**settings.aiokafka_options())
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()


async def first(settings: Settings, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(topic, **settings.aiokafka_options(), auto_offset_reset="earliest")
    async with consumer:
        return (await asyncio.wait_for(consumer.getone(), 30)).value


def test_aiokafka_logs_in_with_the_settings(secured: Settings, topic_prefix: str) -> None:
    async def main() -> None:
        await create(secured, topic_prefix)
        async with AIOKafkaProducer(**secured.aiokafka_options()) as producer:
            await producer.send_and_wait(topic_prefix, b"and back")
        assert await first(secured, topic_prefix) == b"and back"

    finished(main())


def test_faust_logs_in_with_the_settings(secured: Settings, topic_prefix: str) -> None:
    async def main() -> None:
        await create(secured, topic_prefix)
        app = faust.App(topic_prefix, **secured.faust_options())
        producer = app.transport.create_producer()
        await producer.start()
        await producer.send_and_wait(topic_prefix, b"k", b"and back", None, None, None)
        await producer.stop()
        assert await first(secured, topic_prefix) == b"and back"

    finished(main())


async def log_in(settings: Settings) -> None:
    producer = AIOKafkaProducer(**settings.aiokafka_options())
    try:
        await producer.start()
    finally:
        await producer.stop()


def test_a_wrong_password_is_refused(secured: Settings) -> None:
    wrong = msgspec.structs.replace(secured, sasl_password="guess")
    with pytest.raises((SaslAuthenticationFailed, KafkaConnectionError)):
        finished(log_in(wrong))


def test_a_broker_with_another_ca_is_refused(secured: Settings) -> None:
    system = msgspec.structs.replace(secured, ssl_cafile="")
    with pytest.raises(KafkaConnectionError):
        finished(log_in(system))
