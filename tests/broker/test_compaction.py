"""A broker in a hurry compacts items and embeddings: catalogues and audits stay what they were."""

import asyncio
import time
import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from models.events import Item, Request, encode
from stream.cli.main import main
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually

pytestmark = pytest.mark.kafka

# As scripts do that want to see it within seconds; both delays are a week and a day by default.
HURRIED = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}


def hurry(deployment: Deployment, *topics: str) -> None:
    async def altered() -> None:
        admin = AIOKafkaAdminClient(**deployment.settings.aiokafka_options())
        await admin.start()
        kind = ConfigResourceType.TOPIC
        await admin.alter_configs([ConfigResource(kind, topic, HURRIED) for topic in topics])
        await admin.close()

    asyncio.run(altered())


def keys(deployment: Deployment, topic: str) -> list[tuple[bytes, bool]]:
    """Of what a topic has now: keys, and whether there is a value."""

    async def read() -> list[tuple[bytes, bool]]:
        tp, found = TopicPartition(topic, 0), list[tuple[bytes, bool]]()
        options = deployment.settings.aiokafka_options()
        async with AIOKafkaConsumer(**options, auto_offset_reset="earliest") as reader:
            reader.assign([tp])
            end = (await reader.end_offsets([tp]))[tp]
            await reader.seek_to_beginning(tp)
            while await reader.position(tp) < end:
                for batch in (await reader.getmany(timeout_ms=200)).values():
                    found += [(m.key or b"", m.value is not None) for m in batch]
        return found

    return asyncio.run(read())


def ask(deployment: Deployment) -> list[str]:
    """All that can be shown, to somebody new."""
    request = Request(id=uuid.uuid4().hex, user=uuid.uuid4().hex, at=now(), k=50)
    deployment.publish(request)
    return sorted(slot.item for slot in deployment.decision(request.id).slots)


def test_compaction_changes_no_catalogue_and_no_audit(
    apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, partitions=1) as deployment:
        [worker] = deployment.ready()
        deployment.stock(8)
        items, vectors = deployment.topics.items, deployment.topics.embeddings
        deployment.send(encode(Item(id="item:9", title="another key", at=0)), "catalogue", items)
        deployment.send(b"rubbish", "item:1", items)
        deployment.send(None, "item:3", items)
        deployment.send(None, "item:4", items)
        deployment.publish(Item(id="item:4", title="back again", at=0))
        _, last = deployment.publish(Item(id="item:5", title="\u200b", at=0))[0]
        eventually(lambda: worker.status()["embeddings"] > last, "all have vectors, or none")
        shown = [f"item:{n}" for n in (0, 2, 4, 5, 6, 7)]
        assert ask(deployment) == shown
        assert sorted(one.reason.partition(":")[0] for one in deployment.letters()) == [
            "invalid",
            "wrong key",
        ]
        hurry(deployment, items, vectors)
        gone, deadline = (b"item:3", False), time.monotonic() + 120
        while gone in keys(deployment, items) or (b"item:3", True) in keys(deployment, items):
            assert time.monotonic() < deadline, "the broker did not compact"
            deployment.publish(Item(id="filler", at=0, deleted=True))
            time.sleep(2)  # segments of a second; the broker cleans every few
        assert ask(deployment) == shown
        worker.stop()
        deployment.ready()
        assert ask(deployment) == shown
        done = CliRunner().invoke(main, ["audit"], env=deployment.environ)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("3 of 3 rankings came out bit for bit the same")
