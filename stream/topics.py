"""The six topics: their names, their shapes, and making them before anything else can."""

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from msgspec import Struct

from models.events import MAX_MESSAGE_BYTES
from stream.settings import Settings

WEEK = 7 * 86_400_000
COMPACTED = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}


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
        appended = {"message.timestamp.type": "LogAppendTime"}
        return {
            self.items: (1, COMPACTED),
            self.embeddings: (1, COMPACTED),
            self.events: (partitions, timed | appended),
            self.rankings: (partitions, timed),
            self.feedback: (1, {"retention.ms": "-1", "retention.bytes": "-1"}),
            self.deadletters: (1, timed | {"max.message.bytes": str(2 * MAX_MESSAGE_BYTES + 4096)}),
        }


class WrongShape(Exception):
    """A topic exists with another number of partitions than it must have."""


async def create(settings: Settings) -> dict[str, str]:
    """Make the topics that are missing; says "created" or "exists" for each.

    Raises WrongShape if an existing topic has another number of partitions: partition = murmur2
    (user) mod P is fixed for a log's life.
    """
    shapes = Topics(settings.topic_prefix).shapes(settings.partitions)
    admin = AIOKafkaAdminClient(**settings.aiokafka_options())
    await admin.start()
    try:
        return {name: await _create(admin, name, settings, *shapes[name]) for name in shapes}
    finally:
        await admin.close()


async def _create(
    admin: AIOKafkaAdminClient, name: str, settings: Settings, count: int, config: dict[str, str]
) -> str:
    topic = NewTopic(name, count, settings.replication, topic_configs=config)
    answer: Any = await admin.create_topics([topic])
    error = for_code(answer.topic_errors[0][1])
    if error is TopicAlreadyExistsError:
        [found] = await admin.describe_topics([name])
        if len(found["partitions"]) != count:
            raise WrongShape(
                f"topic {name} has {len(found['partitions'])} partitions, settings say {count}; "
                "set RANKLOOP_PARTITIONS to what it has, or use another RANKLOOP_TOPIC_PREFIX"
            )
        return "exists"
    if answer.topic_errors[0][1]:
        raise error(f"{name}: {answer.topic_errors[0][2]}")
    return "created"
