"""Which log this is: Kafka's own ids of the cluster and the topics, and whether they are still so.

Offsets are not identities (L6): a topic deleted and made again has the same name and other records.
"""

from aiokafka.client import AIOKafkaClient

from models.events import Begin
from stream.errors import LogError
from stream.kafka.protocol import Metadata
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.settings_schema import differences


class LogMismatchError(LogError):
    """Not the log that this was: why, and what to do."""


async def current_identity(settings: Settings) -> Begin:
    """What a worker with these settings would say of the log it finds.

    A broker that does not know the ids of topics (before 2.8, or a small one) tells none.
    """
    topics = Topics(settings.topic_prefix)
    names = [topics.items, topics.events, topics.rankings, topics.feedback, topics.embeddings]
    client = AIOKafkaClient(**settings.aiokafka_options())
    await client.bootstrap()
    try:
        told = (await client.send(client.get_random_node(), Metadata(names))).to_object()
    finally:
        await client.close()
    there = [topic for topic in told["topics"] if not topic["error_code"]]
    counts = {topic["topic"]: len(topic["partitions"]) for topic in there}
    ids = {topic["topic"]: topic["topic_id"].hex() for topic in there if "topic_id" in topic}
    return Begin(
        fold=settings.fold_hash(),
        learning=settings.learning(),
        joining=settings.joining(),
        rules=settings.attribution_rules().digest,
        partitions=counts.get(topics.events, settings.partitions),
        cluster=(told["cluster_id"] or "") if ids else "",
        topics=ids,
    )


def _remedy(topic: str) -> str:
    if topic == "events":
        return (
            "What was learned does not belong to other events: start a new log under another "
            "RANKLOOP_TOPIC_PREFIX and RANKLOOP_GROUP"
        )
    if topic == "feedback":
        return (
            "Put it back; or begin to learn anew from here: `rankloop snapshots rollback 0`, start "
            "a worker, and `rankloop restart-from earliest`"
        )
    return (
        "What is learned is kept; to go on with it, without what was open: `rankloop topics`, then "
        "`rankloop restart-from earliest`"
    )


def check_identity(log: Begin, found: Begin) -> None:
    """Refuse to go on in a log that began as another one than what is `found`.

    >>> log = Begin(fold="f", rules="r", partitions=4, cluster="c", topics={"events": "1"})
    >>> check_identity(log, log)
    >>> other = Begin(fold="f", rules="r", partitions=4, cluster="c", topics={"events": "2"})
    >>> check_identity(log, other)
    Traceback (most recent call last):
    stream.kafka.identity.LogMismatchError: events is not the topic that the log began with (1): ...
    """
    if log.cluster and found.cluster and log.cluster != found.cluster:
        raise LogMismatchError(
            f"the log began on the Kafka cluster {log.cluster}, and this is {found.cluster}: "
            "offsets mean something else here. Set RANKLOOP_BROKERS to that cluster, or give the "
            "new log another RANKLOOP_TOPIC_PREFIX"
        )
    for topic, id in sorted(log.topics.items()):
        if found.topics and (now := found.topics.get(topic)) != id:
            what = f"made again (its id is {now})" if now else "not made again yet"
            raise LogMismatchError(
                f"{topic} is not the topic that the log began with ({id}): it was deleted, and "
                f"{what}. {_remedy(topic.rpartition('.')[2])}"
            )
    if log.partitions != found.partitions:
        raise LogMismatchError(
            f"the log began with {log.partitions} partitions of events, and there are "
            f"{found.partitions}: the number is fixed for a log's life, since it says which one is "
            "a user's, and none can be taken away. Start a new log under another "
            "RANKLOOP_TOPIC_PREFIX and RANKLOOP_GROUP"
        )
    if log.rules != found.rules:
        told = differences(found.joining, log.joining, {}, "in the log") if log.joining else []
        differs = "; ".join(told) or "which settings differ, this log does not tell"
        raise LogMismatchError(
            f"the log joins rewards by the rules {log.rules}, and these settings are the rules "
            f"{found.rules} ({differs}): horizon, early, lateness, future, impressions, refresh, "
            "and how a release joins, are fixed for a log's life. Set them as they were, run the "
            "release that began it, or start a new log under another RANKLOOP_TOPIC_PREFIX"
        )
