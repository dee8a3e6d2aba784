"""The six topics: their names, their shapes, and making them before anything else can."""

import asyncio
import logging
from typing import Any, cast

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from msgspec import Struct

from models.events import MAX_MESSAGE_BYTES
from stream.errors import UserError
from stream.kafka import authorization as access
from stream.settings import Settings

log = logging.getLogger(__name__)
APPEARS_SECONDS = 30
WEEK = 7 * 86_400_000
APPENDED = {"message.timestamp.type": "LogAppendTime"}
COMPACTED = {"cleanup.policy": "compact"}
KEPT = {"retention.ms": "-1", "retention.bytes": "-1"}
SIZED = {"max.message.bytes": str(1 << 20)}  # one of MAX_MESSAGE_BYTES and what is around it
LETTERS = {"max.message.bytes": str(2 * MAX_MESSAGE_BYTES + 4096)}  # as `deadletter` cuts them
# A version of an item stays as long as a ranking that was decided by it: audit reads both (L10).
AUDITED = {"min.compaction.lag.ms": str(WEEK)}
# What an existing topic must have, too; the rest of its settings are its owner's.
REQUIRED = {
    "message.timestamp.type": "times must be Kafka's, which nobody can set ahead",
    "cleanup.policy": "it holds the latest of each item, for good",
    "retention.ms": "it is all that was learned",
    "retention.bytes": "it is all that was learned",
}


class Topics(Struct, frozen=True):
    """Topic names under a prefix.

    >>> Topics("rankloop").events
    'rankloop.events'
    """

    prefix: str

    @property
    def items(self) -> str:
        return f"{self.prefix}.items"

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def rankings(self) -> str:
        return f"{self.prefix}.rankings"

    @property
    def feedback(self) -> str:
        return f"{self.prefix}.feedback"

    @property
    def embeddings(self) -> str:
        return f"{self.prefix}.embeddings"

    @property
    def deadletters(self) -> str:
        return f"{self.prefix}.deadletters"

    def shapes(self, partitions: int) -> dict[str, tuple[int, dict[str, str]]]:
        """Each topic's partitions and settings. Feedback is kept: it is what was learned."""
        timed = {"retention.ms": str(WEEK)}
        return {
            self.items: (1, COMPACTED | APPENDED | AUDITED | SIZED),
            self.embeddings: (1, COMPACTED | APPENDED | AUDITED),
            self.events: (partitions, timed | APPENDED | SIZED),
            self.rankings: (partitions, timed),
            self.feedback: (1, KEPT),
            self.deadletters: (1, timed | LETTERS),
        }

    def required(self, name: str) -> dict[str, str]:
        """The settings without which a topic, made by somebody else, breaks a promise."""
        rules = {
            self.items: COMPACTED | APPENDED,
            self.embeddings: COMPACTED | APPENDED,
            self.events: APPENDED,
            self.feedback: KEPT,
        }
        return rules.get(name, {})


class TopicMismatchError(UserError):
    """A topic exists with other partitions or settings than it must have."""


async def create(settings: Settings) -> dict[str, str]:
    """Make the topics that are missing; says "created" or "exists" for each.

    Raises TopicMismatchError if an existing topic has another number of partitions: partition =
    murmur2(user) mod P is fixed for a log's life. So it does if a setting breaks a promise, where
    the broker tells its settings. Who finds all six there needs no right to create any.
    """
    topics = Topics(settings.topic_prefix)
    shapes = topics.shapes(settings.partitions)
    there = await access.partitions(settings, shapes)
    admin = AIOKafkaAdminClient(**settings.aiokafka_options())
    await admin.start()
    try:
        answers: dict[str, str] = {}
        for name, (count, config) in shapes.items():
            has = there[name]
            new = NewTopic(name, count, settings.replication, None, config)
            made = has is None and await _made(admin, new, settings)
            if not made:
                await _check(admin, topics, name, count, has or await _appeared(settings, name))
            answers[name] = "created" if made else "exists"
        for name in (name for name, what in answers.items() if what == "created"):
            await _appeared(settings, name)  # who comes next finds it
        return answers
    finally:
        await admin.close()


async def _made(admin: AIOKafkaAdminClient, topic: NewTopic, settings: Settings) -> bool:
    answer: Any = await admin.create_topics([topic])
    _, code, reason, *_ = answer.topic_errors[0]
    error = for_code(code)
    if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        lacks = access.lacking(settings, [access.Permission("topic", topic.name, "CREATE")])
        raise access.AuthorizationDeniedError(
            f"there is no topic {topic.name}. {lacks}; or: rankloop topics"
        )
    if code and error is not TopicAlreadyExistsError:
        raise error(f"{topic.name}: {reason}")
    return not code


async def _appeared(settings: Settings, name: str) -> int:
    """The partitions of a topic that exists, and may be too new for every broker to know it."""
    for _ in range(APPEARS_SECONDS):
        if has := (await access.partitions(settings, [name]))[name]:
            return has
        await asyncio.sleep(1)
    return 0


async def _check(
    admin: AIOKafkaAdminClient, topics: Topics, name: str, count: int, has: int
) -> None:
    if has != count:
        by_user = name in (topics.events, topics.rankings)
        mend = "set RANKLOOP_PARTITIONS to what it has, or " if by_user else ""
        raise TopicMismatchError(
            f"topic {name} has {has} partitions, and must have {count}; "
            f"{mend}use another RANKLOOP_TOPIC_PREFIX"
        )
    required = topics.required(name)
    told = await _settings(admin, name) if required else {}
    for setting, value in required.items():
        if told.get(setting, value) != value:
            raise TopicMismatchError(
                f"topic {name} has {setting}={told[setting]}, and must have {value}: "
                f"{REQUIRED[setting]}; set it with kafka-configs.sh --alter --topic {name} "
                f"--add-config {setting}={value}, or use another RANKLOOP_TOPIC_PREFIX"
            )


async def _settings(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    """A topic's settings; {} from a broker, or for a user, that does not say."""
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        [[code, _, _, _, entries]] = cast(Any, answer).resources
    except (KafkaError, ValueError) as error:
        log.info("a topic's settings are not told", extra={"topic": name, "reason": str(error)})
        return {}
    return {} if code else {entry[0]: entry[1] for entry in entries}


def owner(user: str, partitions: int) -> int:
    """The partition of a user's events and rankings.

    >>> owner("ann", 4), owner("ann", 1)
    (2, 0)
    """
    every = list(range(partitions))
    return DefaultPartitioner()(user.encode(), every, every)
