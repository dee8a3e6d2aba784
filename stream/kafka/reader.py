"""Reads whole topics from a given offset on, each message once and in order, with one consumer."""

import asyncio
import logging
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, OffsetOutOfRangeError

from agents.errors import UnknownRecordTypeError
from agents.partition import ReceivedMessage
from models.events import Decision, InvalidMessageError, NewerVersionError, decode_decision
from stream.errors import LogError
from stream.kafka.consumer import committed_consumer
from stream.settings import Settings

OnRecord = Callable[[ConsumerRecord], None]
log = logging.getLogger(__name__)


class LogTruncatedError(LogError):
    """The log does not reach back to where it must be read from."""


class TopicReader:
    """Follows partitions outside any group; `take` sees their messages as they come.

    It never resets an offset by itself (L6): an offset out of range raises in `run`. What `take`
    raises stops `run` as well: a message is never skipped.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._takes: dict[TopicPartition, OnRecord] = {}
        self.positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._missed: set[TopicPartition] = set()  # of those: to be read again from its position
        self._changed = False
        self._waiting: list[tuple[TopicPartition, int, asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Connect; call before anything else."""
        self._consumer = committed_consumer(
            self._settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=100,  # a newly watched partition waits behind the fetch under way
        )
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect; those who wait are cancelled."""
        for _, _, waiter in self._waiting:
            waiter.cancel()
        if self._consumer is not None:
            await self._consumer.stop()

    def subscribe(self, partition: TopicPartition, offset: int, take: OnRecord) -> None:
        """Read a partition from `offset` on."""
        self._takes[partition] = take
        self.positions[partition] = offset
        self._changed = True

    def unsubscribe(self, partition: TopicPartition) -> None:
        """Read a partition no more."""
        if self._takes.pop(partition, None) is not None:
            del self.positions[partition]
            self._changed = True

    def pause(self, partition: TopicPartition) -> None:
        """Take nothing of a partition until `release`; what comes meanwhile is read again then."""
        self._paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        """Go on with a partition that was held."""
        self._paused.discard(partition)
        if partition in self._missed:
            self._changed = True

    async def begins(self, partition: TopicPartition) -> int:
        """The offset of the partition's first message that is still there."""
        assert self._consumer is not None
        return (await self._consumer.beginning_offsets([partition]))[partition]

    async def end(self, partition: TopicPartition) -> int:
        """The offset after the partition's last message."""
        assert self._consumer is not None
        return (await self._consumer.end_offsets([partition]))[partition]

    def lag(self, partition: TopicPartition) -> int:
        """How many offsets of a partition were not taken yet, as far as fetches have told."""
        if self._consumer is None or partition not in self._consumer.assignment():
            return 0
        end = self._consumer.highwater(partition) or 0
        return max(0, end - self.positions.get(partition, 0))

    async def wait_until(self, partition: TopicPartition, offset: int) -> None:
        """Wait until everything below `offset` was taken."""
        if self.positions.get(partition, 0) >= offset:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = [one for one in self._waiting if not one[2].done()]  # who gave up
        self._waiting.append((partition, offset, waiter))
        await waiter

    async def run(self) -> None:
        """Read until cancelled."""
        assert self._consumer is not None
        while True:
            if self._changed:
                self._assign(self._consumer)
            if not self._takes:
                await asyncio.sleep(0.01)
                continue
            try:
                batches = await self._consumer.getmany(timeout_ms=20)
            except IllegalStateError:  # the assignment changed meanwhile
                continue
            except ConsumerStoppedError:
                return
            except OffsetOutOfRangeError as error:
                if cut := await self._out_of_range():
                    raise cut from error
                raise
            if self._changed:  # what came may be of the old positions: it is read again
                continue
            for partition, messages in batches.items():
                self._deliver(partition, messages)
            if await self._skip(self._consumer) or batches:
                self._wake()
            if batches:
                await asyncio.sleep(0)

    async def _out_of_range(self) -> LogTruncatedError | None:
        """Which log does not reach to where it was read, or not back to it."""
        for tp, position in list(self.positions.items()):
            begins, end = await self.begins(tp), await self.end(tp)
            if not begins <= position <= end:
                return LogTruncatedError(
                    f"{tp.topic}-{tp.partition} was read up to {position}, and has the offsets "
                    f"{begins} to {end} now: "
                    + (
                        "it was deleted and made again, or cut at its end"
                        if end < position
                        else "retention or a deletion took what was not read yet"
                    )
                    + "; start the worker again, and it says how to go on"
                )
        return None

    def _assign(self, consumer: AIOKafkaConsumer) -> None:
        self._changed = False
        self._missed.clear()
        if not self._takes:
            consumer.unsubscribe()
            return
        consumer.assign(list(self._takes))
        for partition, offset in self.positions.items():
            consumer.seek(partition, offset)

    def _deliver(self, partition: TopicPartition, messages: list[ConsumerRecord]) -> None:
        take = self._takes.get(partition)
        if take is None:
            return
        if partition in self._paused or partition in self._missed:
            self._missed.add(partition)
            return
        for message in messages:
            if message.offset < self.positions[partition]:
                continue
            take(message)
            self.positions[partition] = message.offset + 1

    async def _skip(self, consumer: AIOKafkaConsumer) -> bool:
        """Go past offsets without a message: marks of transactions, what compaction took."""
        skipped = False
        for partition in list(self._takes):
            if self._changed:  # positions are those of the next assignment
                break
            if partition in self._paused or partition in self._missed:
                continue
            try:
                position = await consumer.position(partition)
            except IllegalStateError:  # stopped meanwhile
                break
            if not self._changed and position > self.positions[partition]:
                self.positions[partition] = position
                skipped = True
        return skipped

    def _wake(self) -> None:
        still: list[tuple[TopicPartition, int, asyncio.Future[None]]] = []
        for partition, offset, waiter in self._waiting:
            if waiter.done():
                continue
            if self.positions.get(partition, 0) >= offset:
                waiter.set_result(None)
            else:
                still.append((partition, offset, waiter))
        self._waiting = still


def received_messages(messages: list[ConsumerRecord]) -> list[ReceivedMessage]:
    """Kafka's records as the agents know them; a null key or value becomes an empty one."""
    return [ReceivedMessage(m.offset, m.timestamp, m.value or b"", m.key or b"") for m in messages]


def decision_of(message: ConsumerRecord) -> Decision | None:
    """The decision in a rankings message; None, and a line in the log, for anything else.

    One of a newer schema counts (L2), so that whoever cannot read it must not go on.
    """
    try:
        return decode_decision(message.value or b"")
    except NewerVersionError as newer:
        where = f"{message.topic}, partition {message.partition}, offset {message.offset}"
        raise UnknownRecordTypeError(f"{where}: {newer}") from None
    except InvalidMessageError as invalid:
        log.warning(
            "not a decision", extra={"offset": message.offset, "reason": str(invalid)[:200]}
        )
        return None
