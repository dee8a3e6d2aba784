"""Settings log in to a real Apache Kafka with TLS and SCRAM, by aiokafka and by Faust."""

import asyncio
import gc
import subprocess
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

from stream.local import Stack
from stream.settings import Settings

pytestmark = pytest.mark.kafka

MECHANISM = "SCRAM-SHA-256"
LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"


def openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """ca.pem, and keystore.pem of a server at 127.0.0.1 that it signed."""
    names = "subjectAltName=IP:127.0.0.1"
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout ca.key -out ca.pem")
    openssl(
        folder,
        f"req -newkey rsa:2048 -nodes -subj /CN=kafka -addext {names} "
        "-keyout key.pem -out request.pem",
    )
    openssl(
        folder,
        "x509 -req -in request.pem -copy_extensions copy -CA ca.pem -CAkey ca.key "
        "-CAcreateserial -out certificate.pem",
    )
    parts = [(folder / f"{name}.pem").read_text() for name in ("key", "certificate", "ca")]
    (folder / "keystore.pem").write_text("".join(parts))


@pytest.fixture(scope="module")
def secured(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder)
    properties = {
        "sasl.enabled.mechanisms": MECHANISM,
        "sasl.mechanism.inter.broker.protocol": MECHANISM,
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": (
            f'{LOGIN} username="admin" password="admins-own";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
    }
    with Stack(
        kafka_home=kafka_home,
        redis=False,
        protocol="SASL_SSL",
        properties=properties,
        scram={"admin": "admins-own", "ann": "hush"},
    ) as stack:
        yield Settings(
            brokers=stack.brokers,
            security_protocol="SASL_SSL",
            sasl_mechanism=MECHANISM,
            sasl_username="ann",
            sasl_password="hush",
            ssl_cafile=str(folder / "ca.pem"),
        )


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
