"""A partition while this worker owns it."""

import logging
import time

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaError

from agents.bookmark import encode_bookmark
from agents.partition import Commit, Partition
from agents.remembered import Remembered
from stream.identity import Foreign
from stream.restore import Restored
from stream.settings import Settings

log = logging.getLogger(__name__)
# A fetch leaves out partitions whose messages are still being handled, and they then wait for it.
FETCH_WAIT = 25  # milliseconds


class Lost(Exception):
    """The partition is no longer ours, or the batch took too long to be sure that it is."""


class Life:
    """One partition while this worker owns it."""

    def __init__(self, number: int, partition: Partition) -> None:
        self.number = number
        self.partition = partition
        self.ready = False
        self.lost = False
        self.commits: list[Commit] = []
        self.needed = 0  # who takes over reads the events from here on
        self.heard = time.monotonic()
        self.committed = 0
        self.copy: Remembered | None = None  # to be written once it is committed
        self.kept = 0  # the offset of the newest file of its attribution
        self.restored: Restored | None = None

    def done(self) -> OffsetAndMetadata | None:
        """What may be committed since the last time: all that the learner has accepted (L4).

        The bookmark goes with it (L3).
        """
        ledger = self.partition.ledger
        ready = [c for c in self.commits if c.needs is None or ledger.has(c.needs)]
        if not ready:
            return None
        self.commits = self.commits[len(ready) :]
        self.needed = ready[-1].bookmark.ids_from
        return OffsetAndMetadata(ready[-1].offset, encode_bookmark(ready[-1].bookmark))


def member(settings: Settings) -> AIOKafkaConsumer:
    """The group's consumer, as this worker opens it; it commits what it is told, when it is."""
    timeout = int(settings.session_timeout_seconds * 1000)
    return AIOKafkaConsumer(
        **settings.aiokafka_options(),
        group_id=f"{settings.app}-partitions",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=timeout,
        heartbeat_interval_ms=max(100, timeout // 10),
        max_poll_interval_ms=max(300_000, 10 * timeout),
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=FETCH_WAIT,
    )


async def overtaken(consumer: AIOKafkaConsumer, tp: TopicPartition, life: Life, first: int) -> None:
    """Say so if retention took events before they were read; `first` is what came instead.

    A gap alone says nothing: transactions leave marks between events. Raises Foreign if offsets run
    back: the log is another one (L6).
    """
    due = life.partition.attribution.next
    if first == due:
        return
    try:
        begins = (await consumer.beginning_offsets([tp]))[tp]
        ends = (await consumer.end_offsets([tp]))[tp]
    except KafkaError as error:
        log.warning("a gap not looked into", extra={"reason": str(error)})
        return
    if first < due and ends < due:
        raise Foreign(
            f"{tp.topic}-{tp.partition} ends at {ends}, and was read up to {due}: it was deleted "
            "and made again, or cut at its end. Start a new log under another "
            "RANKLOOP_TOPIC_PREFIX and RANKLOOP_APP"
        )
    if begins > due:
        gone = {"partition": tp.partition, "lost": min(begins, first) - due, "from": due}
        log.error("events lost to retention before they were read", extra=gone)
