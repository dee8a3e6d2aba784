"""Reads the partitions of the group fairly, and notices what retention took first."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents.partition import Commands
from stream.kafka.consumer import committed_consumer
from stream.kafka.identity import LogMismatchError
from stream.settings import Settings
from stream.worker.assignment import AssignedPartition

log = logging.getLogger(__name__)
# A fetch leaves out partitions whose messages are still being handled, and they then wait for it.
FETCH_WAIT = 25  # milliseconds
FETCH_BYTES = 4 << 20  # held of each partition, read ahead; more stays with the broker

ROUND = 0.5  # seconds of work at a time, or a sixteenth of the session timeout if that is less
FIRST = 64  # messages of the first round: nobody knows yet how long they take

Batches = list[tuple[AssignedPartition, list[ConsumerRecord]]]


def group_consumer(settings: Settings, client_id: str) -> AIOKafkaConsumer:
    """The member of the group that reads events; offsets are committed by hand."""
    timeout = int(settings.session_timeout_seconds * 1000)
    return committed_consumer(
        settings,
        client_id=client_id,
        group_id=f"{settings.group}-partitions",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=timeout,
        heartbeat_interval_ms=max(100, timeout // 10),
        max_poll_interval_ms=max(300_000, 10 * timeout),
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=FETCH_WAIT,
    )


class BatchSizer:
    """How many messages to take at once, so that a round's work is done within `seconds`.

    While it works the loop does nothing else: other partitions wait, and so does the heartbeat. How
    a log is cut into batches changes nothing of what comes out (L1). What is waited for, acks and
    the learner, is no work: shorter batches would only wait more often.

    >>> pace = BatchSizer(most=500, seconds=0.5)
    >>> sizes = [pace.size]
    >>> for work in (0.02, 0.04, 0.08, 0.08, 1.5):
    ...     pace.busy = work
    ...     pace.round(messages=pace.size)
    ...     sizes.append(pace.size)
    >>> sizes
    [64, 128, 256, 500, 500, 250]
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self.size = min(most, FIRST)
        self.busy = 0.0  # seconds worked in this round

    def round(self, messages: int) -> None:
        """A round of so many messages is over."""
        if self.busy > self.seconds:
            self.size = max(1, self.size // 2)
        elif messages >= self.size and self.busy < self.seconds / 4:
            self.size = min(self.most, 2 * self.size)
        self.busy = 0.0

    def watched(self, commands: Commands) -> Commands:
        """The same commands; the work between them is measured."""
        answer: Any = None
        while True:
            began = time.perf_counter()
            try:
                command = commands.send(answer)
            except StopIteration as end:
                return end.value
            finally:
                self.busy += time.perf_counter() - began
            answer = yield command


async def poll_fairly(
    consumer: AIOKafkaConsumer, assigned: Mapping[int, AssignedPartition], most: int
) -> Batches:
    """What has come: at most `most` messages, and a share of `most` from each other partition.

    aiokafka empties its buffer of one partition before it looks at the next. Without the shares a
    busy partition would keep the others waiting for some ten thousand events. A partition being
    restored takes nothing: it will seek to where it must go on.
    """
    found: Batches = []

    def add(got: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
        for tp, messages in got.items():  # at once: another owner may begin at the next await
            owned = assigned.get(tp.partition)
            if owned is not None and owned.ready:
                found.append((owned, messages))

    first = await consumer.getmany(timeout_ms=100, max_records=most)
    add(first)
    if sum(map(len, first.values())) >= most:
        polled = consumer.assignment()
        share = max(1, most // max(1, len(polled)))
        for other in sorted(polled - first.keys()):
            add(await consumer.getmany(other, timeout_ms=0, max_records=share))
    return found


async def check_gap(
    consumer: AIOKafkaConsumer, tp: TopicPartition, owned: AssignedPartition, first: int
) -> None:
    """Say so if retention took events before they were read; `first` is what came instead.

    A gap alone says nothing: transactions leave marks between events. Raises LogMismatchError if
    offsets run back: the log is another one (L6).
    """
    due = owned.attribution.next
    if first == due:
        return
    try:
        begins = (await consumer.beginning_offsets([tp]))[tp]
        ends = (await consumer.end_offsets([tp]))[tp]
    except KafkaError as error:
        log.warning("a gap not looked into", extra={"reason": str(error)})
        return
    if first < due and ends < due:
        raise LogMismatchError(
            f"{tp.topic}-{tp.partition} ends at {ends}, and was read up to {due}: it was deleted "
            "and made again, or cut at its end. Start a new log under another "
            "RANKLOOP_TOPIC_PREFIX and RANKLOOP_GROUP"
        )
    if begins > due:
        gone = {"partition": tp.partition, "lost": min(begins, first) - due, "from": due}
        log.error("events lost to retention before they were read", extra=gone)


def lag(consumer: AIOKafkaConsumer | None, topic: str, owned: AssignedPartition) -> int:
    """How many offsets of a partition were not handled yet, as far as fetches have told."""
    tp = TopicPartition(topic, owned.number)
    if consumer is None or tp not in consumer.assignment():
        return 0
    return max(0, (consumer.highwater(tp) or 0) - max(owned.attribution.next, owned.read))
