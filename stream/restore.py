"""Rebuilds a partition's attribution from the logs, before its first batch."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

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


async def restore(
    settings: Settings, partition: Partition, committed: int, lost: Callable[[], bool]
) -> int:
    """Fold events below `committed` again; returns the rankings offset to follow from.

    Decisions are read only as far as the fold needs them, so memory is that of the live state, and
    at last up to the end, so that what was answered is not answered again. Raises Cut if retention
    has taken events or rankings that are needed.
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
        if starts[events] and committed:
            raise Cut(
                f"{events.topic}-{number} begins at {starts[events]}: what came before is gone, "
                "and the rewards still open cannot be known; keep events longer (retention.ms)"
            )
        ends = await reader.end_offsets([events, rankings])
        if committed > ends[events]:
            raise Cut(
                f"{events.topic}-{number} ends at {ends[events]}, but was committed up to "
                f"{committed}: the log begins again; give it another RANKLOOP_APP and prefix"
            )
        reader.assign([events, rankings])
        reader.seek(events, starts[events])
        reader.seek(rankings, starts[rankings])
        position = starts[rankings]

        async def read_back(_: Command) -> bool:
            nonlocal position
            if position >= ends[rankings]:
                return False
            for messages in (await reader.getmany(rankings, timeout_ms=1000)).values():
                for message in messages:
                    if decision := decision_of(message):
                        partition.attribution.decided(decision)
                    position = message.offset + 1
            return True

        done = starts[events]
        while done < committed and not lost():
            batches = await reader.getmany(events, timeout_ms=1000, max_records=500)
            for messages in batches.values():
                known = received([m for m in messages if m.offset < committed])
                await drive(partition.restore(known), read_back)
                done = messages[-1].offset + 1
        while await read_back(ReadBack()):
            pass
        partition.attribution.next = max(starts[events], committed)
        return position
    except OffsetOutOfRangeError as error:
        raise Cut(f"a log was cut while it was read: {error}") from error
    finally:
        await reader.stop()
