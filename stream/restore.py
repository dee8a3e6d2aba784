"""Rebuilds a partition's attribution from the logs, before its first batch."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import OffsetOutOfRangeError

from agents.bookmark import decode_bookmark
from agents.partition import Command, Commands, Partition, ReadBack, Received
from models.events import Decision, Invalid, decode_decision
from stream.settings import Settings
from stream.topics import Topics

log = logging.getLogger(__name__)


class Cut(Exception):
    """The log does not reach back to where it must be read from."""


def received(messages: list[ConsumerRecord]) -> list[Received]:
    """Kafka's records as the agents know them; a null value becomes an empty message."""
    return [Received(m.offset, m.timestamp, m.value or b"") for m in messages]


def decision_of(message: ConsumerRecord) -> Decision | None:
    """The decision in a rankings message; None, and a line in the log, for anything else."""
    try:
        return decode_decision(message.value or b"")
    except Invalid as invalid:
        log.warning(
            "not a decision", extra={"offset": message.offset, "reason": str(invalid)[:200]}
        )
        return None


async def drive(commands: Commands, perform: Callable[[Command], Awaitable[Any]]) -> int:
    """Perform a partition's commands, each answer sent back; returns how many messages it used."""
    answer: Any = None
    while True:
        try:
            command = commands.send(answer)
        except StopIteration as end:
            return end.value
        answer = await perform(command)


async def last_commit(settings: Settings, number: int) -> OffsetAndMetadata:
    """Where the partition's group goes on, and the bookmark for it; (0, "") before all commits."""
    events = TopicPartition(Topics(settings.topic_prefix).events, number)
    admin = AIOKafkaAdminClient(**settings.aiokafka_options())
    await admin.start()
    try:
        group = f"{settings.app}-partitions"
        found = await admin.list_consumer_group_offsets(group, partitions=[events])
    finally:
        await admin.close()
    commit = found.get(events)
    if commit is None or commit.offset < 0:
        return OffsetAndMetadata(0, "")
    return commit


async def restore(
    settings: Settings,
    partition: Partition,
    commit: OffsetAndMetadata,
    lost: Callable[[], bool],
) -> int:
    """Fold the events below the commit again, as far back as its bookmark says (L3).

    Without a bookmark that can be used, that is from the start of the log. Returns the rankings
    offset to follow from: they are read up to their end, so that what was answered is not answered
    again. Memory is that of the live state. Raises Cut if what is needed of a log is gone.
    """
    number, topics = partition.attribution.partition, Topics(settings.topic_prefix)
    events = TopicPartition(topics.events, number)
    rankings = TopicPartition(topics.rankings, number)
    reader = AIOKafkaConsumer(
        **settings.aiokafka_options(), group_id=None, auto_offset_reset="none"
    )
    await reader.start()
    try:
        starts = await reader.beginning_offsets([events, rankings])
        ends = await reader.end_offsets([events, rankings])
        if commit.offset > ends[events]:
            raise Cut(
                f"{events.topic}-{number} ends at {ends[events]}, but was committed up to "
                f"{commit.offset}: the log begins again; give it another RANKLOOP_APP and prefix"
            )
        spans = [(tp, starts[tp], ends[tp]) for tp in (events, rankings)]
        begins = begin(partition, commit, spans)
        reader.assign([events, rankings])
        for tp in begins:
            reader.seek(tp, begins[tp])
        done, position = begins[events], begins[rankings]

        async def read_back(_: Command) -> bool:
            nonlocal position
            if position >= ends[rankings]:
                return False
            for messages in (await reader.getmany(rankings, timeout_ms=1000)).values():
                for message in messages:
                    if decision := decision_of(message):
                        partition.attribution.decided(decision, message.offset)
                    position = message.offset + 1
            return True

        while done < commit.offset and not lost():
            batches = await reader.getmany(events, timeout_ms=1000, max_records=500)
            for messages in batches.values():
                known = received([m for m in messages if m.offset < commit.offset])
                await drive(partition.restore(known), read_back)
                done = messages[-1].offset + 1
        while not lost() and await read_back(ReadBack()):
            pass
        if not lost():
            partition.restored(max(starts[events], commit.offset))
        return position
    except OffsetOutOfRangeError as error:
        raise Cut(f"a log was cut while it was read: {error}") from error
    finally:
        await reader.stop()


def begin(
    partition: Partition, commit: OffsetAndMetadata, spans: list[tuple[TopicPartition, int, int]]
) -> dict[TopicPartition, int]:
    """Where to read events and rankings from; raises Cut where a log does not reach there.

    `spans` says where each of the two, in this order, begins and ends.
    """
    attribution = partition.attribution
    bookmark = decode_bookmark(commit.metadata, attribution.rules.digest)
    if bookmark is None or bookmark.open_from > commit.offset:
        if commit.metadata:
            how = {"partition": attribution.partition, "metadata": commit.metadata[:200]}
            log.warning("a bookmark of another release or other rules: from the start", extra=how)
        needed = [0, 0]
    else:
        attribution.resume(bookmark)
        needed = [bookmark.ids_from, bookmark.rankings_from]
    begins: dict[TopicPartition, int] = {}
    for (tp, start, end), need in zip(spans, needed, strict=True):
        if commit.offset and start > need:
            raise Cut(
                f"{tp.topic}-{tp.partition} begins at {start}, and is needed from {need} on: what "
                "came before is gone, and the rewards still open cannot be known; keep it longer "
                "(retention.ms)"
            )
        if end < need:
            raise Cut(
                f"{tp.topic}-{tp.partition} ends at {end}, but was read up to {need}: the log "
                "begins again; give it another RANKLOOP_APP and prefix"
            )
        begins[tp] = max(start, need)
    return begins
