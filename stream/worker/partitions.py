"""Drives each assigned partition against Kafka: reads, publishes, waits, commits.

The order that keeps every promise is in `agents.partition`; here each of its commands is performed.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError, KafkaError

from agents.errors import DivergedError, RestartNeededError
from agents.partition import (
    AwaitLearner,
    Command,
    Commit,
    Partition,
    PublishDeadLetters,
    PublishFeedback,
    PublishRankings,
)
from models.events import Decision, Restart, encode
from stream.kafka.producer import ProduceError, Producer, ProducerRecord, dead_letter
from stream.kafka.reader import TopicReader, decision_of, received_messages
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.worker.assignment import AssignedPartition, PartitionLostError
from stream.worker.batching import ROUND, BatchSizer, check_gap, group_consumer, lag, poll_fairly
from stream.worker.counters import PartitionCounters
from stream.worker.dead_letters import DeadLetterLog
from stream.worker.restore import drive, last_commit, restore
from stream.worker.snapshotter import AttributionSnapshotter

log = logging.getLogger(__name__)
WAITS_SECONDS = 30.0  # between two lines about a partition that cannot be restored
Published = Callable[[ConsumerRecord, Decision], None]


class Partitions(ConsumerRebalanceListener):
    """The group's consumer and the partitions assigned to this worker."""

    def __init__(
        self,
        settings: Settings,
        reader: TopicReader,
        publish: Producer,
        make: Callable[[int], Partition],
        published: Published,
        attribution_snapshotter: AttributionSnapshotter,
        counters: defaultdict[int, PartitionCounters],
        client_id: str,
    ) -> None:
        self.settings = settings
        self.client_id = client_id
        self.attribution_snapshotter = attribution_snapshotter
        self.topics = Topics(settings.topic_prefix)
        self.feedback = TopicPartition(self.topics.feedback, 0)
        self.reader = reader
        self.publish = publish
        self.make = make
        self.published = published
        self.assigned: dict[int, AssignedPartition] = {}
        self.joined = False  # the group has said which partitions are ours, if any
        self.counters = counters
        self.batch_sizer = BatchSizer(
            settings.batch_events, min(ROUND, settings.session_timeout_seconds / 16)
        )
        self.dead_letters = DeadLetterLog()
        self._busy = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._restoring: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._failed: asyncio.Future[None] | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Join the group."""
        self._failed = asyncio.get_running_loop().create_future()
        self._consumer = group_consumer(self.settings, self.client_id)
        self._consumer.subscribe([self.topics.events], listener=self)
        await self._consumer.start()

    async def stop(self) -> None:
        """Finish the batches under way, commit, and leave the group."""
        self._stopping, self.joined = True, False
        async with self._busy:
            for task in self._restoring:
                task.cancel()
            await self._commit()
            await self.attribution_snapshotter.finish(self.assigned.values())
            for number in list(self.assigned):
                self._abandon(number)
        self.dead_letters.finish()
        if self._consumer is not None:
            await self._consumer.stop()

    async def run(self) -> None:
        """Handle what comes until cancelled; raises what must stop the worker."""
        assert self._consumer is not None and self._failed is not None
        committed = time.monotonic()
        while not self._stopping:
            if self._failed.done():
                self._failed.result()
            try:
                found = await poll_fairly(self._consumer, self.assigned, self.batch_sizer.size)
            except ConsumerStoppedError:
                break
            async with self._busy:
                if self._stopping:
                    break
                for owned, messages in found:
                    tp = TopicPartition(self.topics.events, owned.number)
                    await check_gap(self._consumer, tp, owned, messages[0].offset)
                await asyncio.gather(*(self._receive(owned, messages) for owned, messages in found))
                self.batch_sizer.round(sum(len(messages) for _, messages in found))
                now = time.monotonic()
                for owned in list(self.assigned.values()):
                    await self._tick(owned, now)
                await self._skip(self._consumer)
                if now - committed > 0.2:
                    committed = now
                    await self._commit()
                    self.attribution_snapshotter(self.assigned.values())

    async def _skip(self, consumer: AIOKafkaConsumer) -> None:
        """All that came was handled: what lies before the next message holds none."""
        for owned in self.assigned.values():
            if owned.ready:
                with suppress(IllegalStateError, TimeoutError):
                    async with asyncio.timeout(0.1):
                        tp = TopicPartition(self.topics.events, owned.number)
                        owned.read = await consumer.position(tp)

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: Sequence[TopicPartition]
    ) -> None:
        """Let go: commit what is done, forget the rest; the next owner starts from the commit."""
        self.joined = False
        async with self._busy:
            await self._commit()
            for tp in revoked:
                self._abandon(tp.partition)

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Sequence[TopicPartition]
    ) -> None:
        """Restore each partition before its first batch; it stays paused until then."""
        for tp in assigned:
            self._begin(tp)
        self.joined = True

    def _begin(self, tp: TopicPartition) -> None:
        assert self._consumer is not None
        self._abandon(tp.partition)
        owned = AssignedPartition(
            tp.partition, self.make(tp.partition), self.counters[tp.partition]
        )
        self.assigned[tp.partition] = owned
        self._consumer.pause(tp)
        task = asyncio.create_task(self._restore(tp, owned))
        self._restoring.add(task)
        task.add_done_callback(self._restored)

    def needed(self) -> dict[int, int]:
        """By partition, the offset of events that who takes it over begins to read at (L3)."""
        return {owned.number: owned.needed for owned in self.assigned.values() if owned.ready}

    def refused(self, number: int) -> None:
        """A record of the partition does not follow the one before (L4): go back to the commit."""
        owned = self.assigned.get(number)
        if owned is not None and owned.ready:
            self._begin(TopicPartition(self.topics.events, number))

    def restarted(self) -> None:
        """A Restart in feedback counts: its partition begins anew."""
        for number, owned in list(self.assigned.items()):
            if owned.partition.ledger.restarts.get(number) != owned.restart:
                self._begin(TopicPartition(self.topics.events, number))

    def lags(self) -> dict[int, int]:
        """How many offsets of each partition were not handled yet, as far as fetches have told."""
        return {
            n: lag(self._consumer, self.topics.events, owned) for n, owned in self.assigned.items()
        }

    def ends(self) -> dict[int, tuple[int, int]]:
        """Where each restored partition ends, as far as fetches have told, and how far it is."""
        done = {n: max(o.attribution.next, o.read) for n, o in self.assigned.items() if o.ready}
        lags = self.lags()
        return {number: (offset + lags[number], offset) for number, offset in done.items()}

    def _abandon(self, number: int) -> None:
        owned = self.assigned.pop(number, None)
        if owned is not None:
            owned.revoked()
            self.reader.unsubscribe(TopicPartition(self.topics.rankings, number))

    def _restored(self, task: asyncio.Task[None]) -> None:
        self._restoring.discard(task)
        if not task.cancelled() and (error := task.exception()) and self._failed:
            if not self._failed.done():
                self._failed.set_exception(error)

    async def _restore(self, tp: TopicPartition, owned: AssignedPartition) -> None:
        assert self._consumer is not None
        async with self._committing:  # else what that commit covers would be counted twice
            pass
        tries = 0
        while not owned.lost:
            try:
                commit = await last_commit(self.settings, tp.partition)
                owned.restored = await restore(
                    self.settings,
                    owned.partition,
                    commit,
                    lambda: owned.lost,
                    self.attribution_snapshotter.kept,
                )
                owned.committed, owned.kept = owned.restored.committed, owned.restored.kept
                owned.needs = ""
                break
            except RestartNeededError as needed:
                tries += 1
                owned.partition = self.make(tp.partition)
                await self._await_restart(owned, needed, first=tries == 1)
            except KafkaError as error:
                log.warning("not restored, trying again", extra={"reason": str(error)})
                owned.partition = self.make(tp.partition)
                await asyncio.sleep(1)
        if owned.lost or owned.restored is None:
            return
        rankings = TopicPartition(self.topics.rankings, tp.partition)
        position = owned.restored.rankings
        self.reader.subscribe(rankings, position, lambda message: self._read(owned, message))
        offset = owned.attribution.next
        try:
            self._consumer.seek(tp, offset)
            self._consumer.resume(tp)
        except IllegalStateError:  # gone meanwhile
            return
        how = {"events": owned.restored.events, "seconds": round(owned.started(), 3)}
        log.info("restored", extra={"partition": tp.partition, "offset": offset} | how)

    async def _await_restart(
        self, owned: AssignedPartition, needed: RestartNeededError, first: bool
    ) -> None:
        """Wait for the Restart that a partition needs; write it where nothing is lost by it.

        The first time, what is in feedback by now may be enough. Then it is said every 30 s; other
        partitions go on meanwhile. Whoever owns the partition begins anew at the Restart.
        """
        if first:
            await self.reader.wait_until(self.feedback, await self.reader.end(self.feedback))
            return
        owned.needs = str(needed)
        log.error("partition %d waits: %s", owned.number, needed)
        if needed.offset is not None:
            place = owned.partition.ledger.places.get(owned.number)
            prev = place.chain if place else ""
            record = Restart(partition=owned.number, offset=needed.offset, prev=prev)
            try:
                topic = self.topics.feedback
                await self.publish([ProducerRecord(topic, encode(record), partition=0)])
            except ProduceError as error:
                log.warning("restart not published", extra={"reason": str(error)})
            else:
                log.error(
                    "nothing that was handled is in the log any more: partition %d goes on at %d",
                    owned.number,
                    needed.offset,
                )
        until = time.monotonic() + WAITS_SECONDS
        while not owned.lost and time.monotonic() < until:
            await asyncio.sleep(0.2)

    def _read(self, owned: AssignedPartition, message: ConsumerRecord) -> None:
        """A decision as read back from the rankings: only now may it be used (L2)."""
        decision = decision_of(message)
        attribution = owned.attribution
        if decision is not None and attribution.decided(decision, message.offset):
            self.published(message, decision)

    async def _receive(self, owned: AssignedPartition, messages: list[ConsumerRecord]) -> None:
        owned.received(messages[0].timestamp / 1000)
        waiting = received_messages(messages)
        lease = time.monotonic() + self.settings.session_timeout_seconds / 2

        async def perform(command: Command) -> Any:
            if owned.lost or time.monotonic() > lease:
                raise PartitionLostError("the lease ran out")
            return await self._perform(owned, command)

        try:
            while waiting:
                used = await drive(
                    self.batch_sizer.watched(owned.partition.batch(waiting)), perform
                )
                if not used:
                    raise PartitionLostError("a request before this batch was never decided")
                owned.processed(used)
                waiting = waiting[used:]
        except (PartitionLostError, ProduceError, DivergedError) as error:
            if isinstance(error, DivergedError) and not owned.lost:  # lost: a Restart came between
                raise
            extra = {"partition": owned.number, "reason": str(error)}
            log.warning("batch abandoned", extra=extra)
            owned.counters.abandoned += 1
            if self.assigned.get(owned.number) is owned:
                self._begin(TopicPartition(self.topics.events, owned.number))

    async def _perform(self, owned: AssignedPartition, command: Command) -> Any:
        match command:
            case PublishFeedback(records):
                topic = self.topics.feedback
                offsets = await self.publish([ProducerRecord(topic, x.data) for x in records])
                return offsets[-1] + 1
            case AwaitLearner(version):
                try:
                    async with asyncio.timeout(self.settings.read_your_writes_seconds):
                        await self.reader.wait_until(self.feedback, version)
                except TimeoutError:
                    owned.counters.older += 1
                    log.warning("deciding with an older model", extra={"waited_for": version})
            case PublishRankings(decisions):
                await self._answer(owned, decisions)
            case PublishDeadLetters(letters):
                topics, number = self.topics, owned.number
                await self.publish(
                    [
                        dead_letter(topics, topics.events, number, m.offset, m.data, reason, m.key)
                        for m, reason in letters
                    ]
                )
                for m, reason in letters:
                    where = topics.events, number, m.offset
                    self.dead_letters.add(*where, reason, time.monotonic())
            case Commit():
                owned.commit = command
        return None

    async def _answer(self, owned: AssignedPartition, decisions: list[Decision]) -> None:
        rankings = TopicPartition(self.topics.rankings, owned.number)
        offsets = await self.publish(
            [
                ProducerRecord(
                    rankings.topic, encode(decision), decision.user.encode(), owned.number
                )
                for decision in decisions
            ]
        )
        owned.counters.published(decisions)
        try:
            async with asyncio.timeout(self.settings.session_timeout_seconds / 2):
                await self.reader.wait_until(rankings, offsets[-1] + 1)
        except TimeoutError:
            raise PartitionLostError("the rankings published were not read back") from None

    async def _tick(self, owned: AssignedPartition, now: float) -> None:
        quiet = now - owned.heard
        if owned.ready and quiet >= self.settings.idle_tick_seconds:
            owned.heard = now
            tick = owned.partition.tick(int(quiet * 1000))
            if tick is not None:
                try:
                    await self.publish(
                        [ProducerRecord(self.topics.events, tick, partition=owned.number)]
                    )
                except ProduceError as error:
                    log.warning("tick not published", extra={"reason": str(error)})

    async def _commit(self) -> None:
        """Commit what this worker's learner has accepted, never more (L4)."""
        offered = [
            (owned, commit) for owned in self.assigned.values() if (commit := owned.committable())
        ]
        if not offered or self._consumer is None:
            return
        events = self.topics.events
        async with self._committing:
            try:
                await self._consumer.commit(
                    {TopicPartition(events, owned.number): commit for owned, commit in offered}
                )
            except (CommitFailedError, IllegalStateError):
                log.warning("the group moved on; its next owner starts from the last commit")
            except KafkaError as error:
                log.warning("commit failed; the next one covers it", extra={"error": str(error)})
            else:
                for owned, _ in offered:
                    owned.commit_accepted()
