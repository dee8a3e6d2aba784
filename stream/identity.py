"""Which log this is: Kafka's own ids of the cluster and the topics, and whether they are still so.

Offsets are not identities (L6): a topic deleted and made again has the same name and other records.
"""

import logging
from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from models.events import Begin
from stream import build
from stream.settings import Settings
from stream.topics import Topics

log = logging.getLogger(__name__)


class Foreign(Exception):
    """Not the log that this was: why, and what to do."""


class Uuid(AbstractType[bytes]):
    """Sixteen bytes; aiokafka 0.14 has no such type."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class Told(Response):
    """Metadata, version 10 of the protocol: the first to tell the ids of topics."""

    API_KEY = 3  # pyright: ignore
    API_VERSION = 10  # pyright: ignore
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_operations", Int32),
        ("tags", TaggedFields),
    )


class Asking(RequestStruct):
    """The request for that."""

    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = Told
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class Ask(Request[Asking]):
    """What is to be sent to a broker that understands it."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self.topics = topics

    def build(self, request_struct_class: type[Asking]) -> Asking:
        named = [(bytes(16), topic, {}) for topic in self.topics]
        return request_struct_class(named, False, False, False, {})


async def begin(settings: Settings) -> Begin:
    """What a worker with these settings would say of the log it finds.

    A broker that does not know the ids of topics (before 2.8, or a small one) tells none.
    """
    topics = Topics(settings.topic_prefix)
    names = [topics.items, topics.events, topics.rankings, topics.feedback, topics.embeddings]
    client = AIOKafkaClient(**settings.aiokafka_options())
    await client.bootstrap()
    try:
        told: Any = await client.send(client.get_random_node(), Ask(names))
        cluster = told.cluster_id or ""
        ids = {topic[1]: topic[2].hex() for topic in told.topics if topic[0] == 0}
    except (IncompatibleBrokerVersion, NotImplementedError) as error:
        log.info("this broker tells no ids of topics", extra={"reason": str(error)})
        cluster, ids = "", {}
    finally:
        await client.close()
    return Begin(
        fold=settings.fold_hash(),
        rules=build.rules(settings).digest,
        partitions=settings.partitions,
        cluster=cluster,
        topics=ids,
    )


def agree(log: Begin, found: Begin) -> None:
    """Refuse to go on in a log that began as another one than what is `found`.

    >>> log = Begin(fold="f", rules="r", partitions=4, cluster="c", topics={"events": "1"})
    >>> agree(log, log)
    >>> agree(log, Begin(fold="f", rules="r", partitions=4, cluster="c", topics={"events": "2"}))
    Traceback (most recent call last):
    stream.identity.Foreign: events is not the topic that the log began with (its id is 2, ...
    """
    if log.cluster and found.cluster and log.cluster != found.cluster:
        raise Foreign(
            f"the log began on the Kafka cluster {log.cluster}, and this is {found.cluster}: "
            "offsets mean something else here. Set RANKLOOP_BROKERS to that cluster, or give the "
            "new log another RANKLOOP_TOPIC_PREFIX"
        )
    for topic, id in sorted(log.topics.items()):
        if found.topics and (now := found.topics.get(topic)) != id:
            raise Foreign(
                f"{topic} is not the topic that the log began with (its id is {now}, and was {id}):"
                " it was deleted and made again. What was learned does not belong to it: start a "
                "new log under another RANKLOOP_TOPIC_PREFIX and RANKLOOP_APP"
            )
    if log.partitions != found.partitions:
        raise Foreign(
            f"the log began with {log.partitions} partitions, and RANKLOOP_PARTITIONS is "
            f"{found.partitions}: it is fixed for a log's life"
        )
    if log.rules != found.rules:
        raise Foreign(
            f"the log joins rewards by the rules {log.rules}, and these settings are the rules "
            f"{found.rules}: horizon, early, lateness, future, impressions and refresh are fixed "
            "for a log's life. Set them as they were, or start a new log under another "
            "RANKLOOP_TOPIC_PREFIX"
        )
