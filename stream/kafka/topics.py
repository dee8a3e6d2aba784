"""The six topics: their names, their shapes, and making them before anything else can."""

import asyncio
import logging
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.admin import DescribeConfigsRequest
from msgspec import Struct

from models.events import MAX_MESSAGE_BYTES
from stream.errors import UserError
from stream.kafka import authorization as access
from stream.kafka.protocol import Metadata
from stream.settings import Settings

log = logging.getLogger(__name__)
APPEARS_SECONDS = 30
WEEK = 7 * 86_400_000
APPENDED = {"message.timestamp.type": "LogAppendTime"}
COMPACTED = {"cleanup.policy": "compact"}
DELETED = {"cleanup.policy": "delete"}  # said, since a cluster may have another default
KEPT = DELETED | {"retention.ms": "-1", "retention.bytes": "-1"}
SIZED = {"max.message.bytes": str(1 << 20)}  # one of MAX_MESSAGE_BYTES and what is around it
LETTERS = {"max.message.bytes": str(2 * MAX_MESSAGE_BYTES + 4096)}  # as `deadletter` cuts them
# A version of an item stays as long as a ranking that was decided by it: audit reads both (L10).
AUDITED = {"min.compaction.lag.ms": str(WEEK)}


class Requirement(Struct, frozen=True):
    """What a setting of a topic must be, whoever made the topic: else a promise breaks."""

    setting: str
    value: str
    why: str
    kind: Literal["equal", "without", "at least"] = "equal"

    def met(self, told: str) -> bool:
        """Whether a value keeps the promise.

        >>> Requirement("cleanup.policy", "compact", "", "without").met("compact,delete")
        False
        >>> Requirement("retention.ms", "9", "", "at least").met("-1")
        True
        """
        if self.kind == "without":
            return self.value not in told.split(",")
        if self.kind == "at least":
            return told == "-1" or int(told) >= int(self.value)
        return told == self.value

    @property
    def mend(self) -> str:
        """The setting as it may be."""
        return f"{self.setting}={'delete' if self.kind == 'without' else self.value}"


OURS = Requirement(
    "message.timestamp.type",
    "LogAppendTime",
    "times must be Kafka's, which nobody can set ahead",
)
LATEST = Requirement("cleanup.policy", "compact", "it holds the latest of each key, for good")
EACH = Requirement(
    "cleanup.policy", "compact", "each record counts, not the last of a key", "without"
)
FOR_GOOD = [
    Requirement(name, "-1", "it is all that was learned")
    for name in ("retention.ms", "retention.bytes")
]
WHOLE = Requirement(
    "max.message.bytes",
    SIZED["max.message.bytes"],
    "else what workers write does not fit, and they try for ever",
    "at least",
)
LETTER = Requirement("max.message.bytes", LETTERS["max.message.bytes"], WHOLE.why, "at least")


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

    def shapes(self, partitions: int, window: int = 0) -> dict[str, tuple[int, dict[str, str]]]:
        """Each topic's partitions and settings. Feedback is kept: it is what was learned.

        `window`: milliseconds that an event may wait for others.
        """
        timed = DELETED | {"retention.ms": str(WEEK)}
        joined = DELETED | {"retention.ms": str(max(WEEK, 2 * window))}
        return {
            self.items: (1, COMPACTED | APPENDED | AUDITED | SIZED),
            self.embeddings: (1, COMPACTED | APPENDED | AUDITED | SIZED),
            self.events: (partitions, joined | APPENDED | SIZED),
            self.rankings: (partitions, joined | SIZED),
            self.feedback: (1, KEPT | SIZED),
            self.deadletters: (1, timed | LETTERS),
        }

    def required(self, name: str, window: int = 0) -> list[Requirement]:
        """What a topic must have that somebody else made."""
        joined = Requirement(
            "retention.ms", str(window), "decisions and their rewards are open so long", "at least"
        )
        return {
            self.items: [LATEST, OURS],
            self.embeddings: [LATEST, OURS, WHOLE],
            self.events: [EACH, OURS, joined],
            self.rankings: [EACH, joined, WHOLE],
            self.feedback: [EACH, *FOR_GOOD, WHOLE],
            self.deadletters: [EACH, LETTER],
        }[name]


class TopicMismatchError(UserError):
    """A topic exists with other partitions or settings than it must have."""


async def create(settings: Settings) -> dict[str, str]:
    """Make the topics that are missing; says "created" or "exists" for each.

    Raises TopicMismatchError if an existing topic has another number of partitions: partition =
    murmur2(user) mod P is fixed for a log's life. So it does if a setting breaks a promise, where
    the broker tells its settings. Who finds all six there needs no right to create any.
    """
    topics = Topics(settings.topic_prefix)
    shapes = topics.shapes(settings.partitions, settings.attribution_rules().window)
    there = await access.partitions(settings, shapes)
    await _check(settings)
    admin = AIOKafkaAdminClient(**settings.aiokafka_options())
    await admin.start()
    try:
        answers: dict[str, str] = {}
        for name, (count, config) in shapes.items():
            new = NewTopic(name, count, settings.replication, None, config)
            made = there[name] is None and await _made(admin, new, settings)
            if there[name] is None:
                await _appeared(settings, name)  # who comes next finds it
            answers[name] = "created" if made else "exists"
    finally:
        await admin.close()
    if "created" in answers.values():
        await _check(settings)  # who else made one meanwhile
    return answers


async def _check(settings: Settings) -> None:
    if wrong := await mismatches(settings):
        raise TopicMismatchError("; ".join(wrong))


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


async def mismatches(settings: Settings) -> list[str]:
    """What is wrong with the topics that exist, each with its remedy."""
    topics = Topics(settings.topic_prefix)
    shapes = topics.shapes(settings.partitions)
    window = settings.attribution_rules().window
    async with access.connected(settings) as connection:
        answer = (await access.ask(connection, Metadata(list(shapes)))).to_object()
        has = {t["topic"]: len(t["partitions"]) for t in answer["topics"] if not t["error_code"]}
        configs = await _configs(connection, list(has))
    wrong: list[str] = []
    for name, count in has.items():
        if count != shapes[name][0]:
            wrong.append(_other_count(topics, name, count, shapes[name][0], has))
        told = configs.get(name, {})
        broken = [
            one
            for one in topics.required(name, window)
            if one.setting in told and not one.met(told[one.setting])
        ]
        if broken:
            wrong.append(_other_settings(settings, name, broken, told))
    return wrong


def _other_count(topics: Topics, name: str, has: int, needs: int, all_have: dict[str, int]) -> str:
    by_user = topics.events, topics.rankings
    text = f"topic {name} has {has} partitions, and must have {needs}; "
    if name == topics.deadletters:
        return text + "delete it and run: rankloop topics"
    if name in by_user and len({all_have.get(one, has) for one in by_user}) == 1:
        text += "if the log is new, set RANKLOOP_PARTITIONS to what it has; "
    return text + (
        "partitions that were added cannot be taken away: start a new log under another "
        "RANKLOOP_TOPIC_PREFIX and RANKLOOP_GROUP"
    )


def _other_settings(
    settings: Settings, name: str, broken: list[Requirement], told: dict[str, str]
) -> str:
    """
    >>> print(_other_settings(Settings(), "t", [EACH], {"cleanup.policy": "compact"}))
    topic t has cleanup.policy=compact, and must have cleanup.policy=delete (each record counts, ...
    """
    has = ", ".join(f"{one.setting}={told[one.setting]}" for one in broken)
    must = ", ".join(f"{one.mend} ({one.why})" for one in broken)
    mend = ",".join(one.mend for one in broken)
    return (
        f"topic {name} has {has}, and must have {must}; set it with kafka-configs.sh "
        f"--bootstrap-server {settings.brokers} --alter --topic {name} --add-config {mend}"
    )


async def _configs(connection: AIOKafkaConnection, names: list[str]) -> dict[str, dict[str, str]]:
    """The topics' settings; none from a broker, or for a user, that does not say."""
    resources = [(ConfigResourceType.TOPIC, name, None) for name in names]
    try:
        answer = await access.ask(connection, DescribeConfigsRequest(resources))
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        log.debug("the topics' settings are not told", extra={"reason": str(error)})
        return {}
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for code, _, _, name, entries in answer.resources
        if not code
    }


def owner(user: str, partitions: int) -> int:
    """The partition of a user's events and rankings.

    >>> owner("ann", 4), owner("ann", 1)
    (2, 0)
    """
    every = list(range(partitions))
    return DefaultPartitioner()(user.encode(), every, every)
