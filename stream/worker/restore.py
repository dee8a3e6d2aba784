"""Rebuilds a partition's attribution from the logs, before its first batch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import OffsetOutOfRangeError
from msgspec import Struct, structs

from agents.attribution import Attribution
from agents.bookmark import Bookmark, decode_bookmark, encode_bookmark
from agents.errors import DivergedError, RestartNeededError
from agents.partition import Command, Commands, Partition, ReadRankings
from stream.kafka.consumer import committed_consumer
from stream.kafka.reader import LogTruncatedError, decision_of, received_messages
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.storage.attribution_snapshots import AttributionSnapshots

log = logging.getLogger(__name__)


class Span(Struct, frozen=True):
    """Where a partition of a topic begins and ends."""

    tp: TopicPartition
    start: int
    end: int


class RestoreResult(Struct, frozen=True):
    """How a partition's attribution was made again; its rankings are to be followed from there."""

    rankings: int = 0
    committed: int = 0  # where it goes on
    events: int = 0  # how many were read again
    kept: int = 0  # the offset of the file it was loaded from, if it was


async def restore(
    settings: Settings,
    partition: Partition,
    commit: OffsetAndMetadata,
    lost: Callable[[], bool],
    kept: AttributionSnapshots,
) -> RestoreResult:
    """Make the attribution again as it was at the commit (L3).

    That is: load the newest good file between what the bookmark needs and the commit, and fold the
    events from there; or fold them from the bookmark on; or, without one that can be used, from the
    start of the log. A commit that a `Restart` in feedback came after, or that no worker made, does
    not count. The rankings are read up to their end, so that what was answered is not
    answered again. Memory is that of the live state. Raises RestartNeededError if what is needed of
    a log is gone, LogTruncatedError if it begins again.
    """
    number, topics = partition.attribution.partition, Topics(settings.topic_prefix)
    events = TopicPartition(topics.events, number)
    rankings = TopicPartition(topics.rankings, number)
    reader = committed_consumer(settings, group_id=None, auto_offset_reset="none")
    await reader.start()
    try:
        starts = await reader.beginning_offsets([events, rankings])
        ends = await reader.end_offsets([events, rankings])
        spans = [Span(tp, starts[tp], ends[tp]) for tp in (events, rankings)]
        commit = commit_that_counts(partition, commit, spans)
        if commit.offset > ends[events]:
            raise LogTruncatedError(
                f"{events.topic}-{number} ends at {ends[events]}, but was committed up to "
                f"{commit.offset}: the log begins again; give it another RANKLOOP_GROUP and prefix"
            )
        reader.assign([events, rankings])
        again = HistoryReader(partition, reader, spans, commit, lost)
        loaded = await again.read_from_snapshot(kept)
        if loaded is not None:
            return loaded
        partition.attribution = Attribution(number, partition.attribution.rules)
        begins = begin(partition, commit, spans)
        return await again.read(begins[events], begins[rankings])
    except OffsetOutOfRangeError as error:
        raise LogTruncatedError(f"a log was cut while it was read: {error}") from error
    finally:
        await reader.stop()


class HistoryReader:
    """Reads a partition's events and rankings again, up to the commit."""

    def __init__(
        self,
        partition: Partition,
        reader: AIOKafkaConsumer,
        spans: list[Span],
        commit: OffsetAndMetadata,
        lost: Callable[[], bool],
    ) -> None:
        self.partition = partition
        self.reader = reader
        self.events, self.rankings = spans
        self.commit = commit
        self.lost = lost
        self._position = 0

    async def read_from_snapshot(self, kept: AttributionSnapshots) -> RestoreResult | None:
        """Load the newest good file that the bookmark allows, and read on from it; else None."""
        rules, number = self.partition.attribution.rules, self.partition.attribution.partition
        bookmark, last = decode_bookmark(self.commit.metadata, rules.digest), self.commit.offset
        while bookmark is not None and bookmark.ids_from <= last and not self.lost():
            first = max(bookmark.ids_from, self.events.start)
            restart = self.partition.ledger.restarts.get(number)
            if restart is not None:  # a file from before it is of no use
                first = max(first, restart.source.offset + 1)
            state = await asyncio.to_thread(kept.newest, number, first, last)
            if state is None:
                break
            last = state.next - 1
            if not self.rankings.start <= state.reach.read <= self.rankings.end:
                continue
            attribution = self.partition.attribution = Attribution(number, rules)
            try:
                await asyncio.to_thread(attribution.load, state)
                restored = await self.read(state.next, state.reach.read, bookmark)
            except (ValueError, DivergedError) as error:
                how = {"partition": number, "offset": state.next, "reason": str(error)}
                log.error("attribution not used", extra=how)
                continue
            log.info("attribution loaded", extra={"partition": number, "offset": state.next})
            return structs.replace(restored, kept=state.next)
        return None

    async def read(
        self, done: int, rankings: int, bookmark: Bookmark | None = None
    ) -> RestoreResult:
        """Fold the events from `done` on and the decisions from `rankings` on.

        With a bookmark, raises DivergedError unless they lead to what it says.
        """
        commit, count = self.commit, 0
        self._position = rankings
        self.reader.seek(self.events.tp, done)
        self.reader.seek(self.rankings.tp, rankings)
        while done < commit.offset and not self.lost():
            batches = await self.reader.getmany(self.events.tp, timeout_ms=1000, max_records=500)
            for messages in batches.values():
                known = received_messages([m for m in messages if m.offset < commit.offset])
                await drive(self.partition.restore(known), self._read_back)
                count += len(known)
            done = await self.reader.position(self.events.tp)  # past what leaves no message
        while not self.lost() and await self._read_back(ReadRankings()):
            pass
        if not self.lost():
            attribution = self.partition.attribution
            made = attribution.chain, attribution.last
            if bookmark is not None and made != (bookmark.chain, bookmark.last):
                raise DivergedError(
                    f"it leads to the record from {attribution.last}, and what was committed "
                    f"to the one from {bookmark.last}: it is of another log"
                )
            self.partition.restored(max(self.events.start, commit.offset))
        return RestoreResult(self._position, max(self.events.start, commit.offset), count)

    async def _read_back(self, _: Command) -> bool:
        if self._position >= self.rankings.end:
            return False
        for messages in (await self.reader.getmany(self.rankings.tp, timeout_ms=1000)).values():
            for message in messages:
                if decision := decision_of(message):
                    self.partition.attribution.decided(decision, message.offset)
        self._position = await self.reader.position(self.rankings.tp)
        return True


def commit_that_counts(
    partition: Partition, commit: OffsetAndMetadata, spans: list[Span]
) -> OffsetAndMetadata:
    """The group's commit, or that of a Restart which came after it, or none: from the start.

    Offsets without a bookmark are no worker's: they were moved, expired with the group, or are of
    another release. What was learned says better what is done.
    """
    attribution, (events, rankings) = partition.attribution, spans
    number, rules = attribution.partition, attribution.rules.digest
    bookmark = _bookmark(commit, rules)
    restart = partition.ledger.restarts.get(number)
    if restart and (bookmark is None or not bookmark.last or bookmark.last < restart.source):
        offset = max(restart.source.offset, events.start)
        if offset > restart.source.offset and partition.ledger.places.get(number) != restart:
            return OffsetAndMetadata(0, "")  # what led to the records since then is gone
        if offset > restart.source.offset:
            gone = {"partition": number, "from": restart.source.offset, "to": offset - 1}
            log.error("events behind a restart are gone, and were never handled", extra=gone)
        begins = Bookmark(
            ids_from=events.start,
            watermark=0,
            open_from=offset,
            rankings_from=rankings.start,
            last=restart.source,
            chain=restart.chain,
            rules=rules,
        )
        return OffsetAndMetadata(offset, encode_bookmark(begins))
    if bookmark is not None or not (commit.offset or commit.metadata):
        return commit
    how = {"partition": number, "offset": commit.offset, "metadata": commit.metadata[:200]}
    log.warning("the group's offset is no worker's: by what was learned instead", extra=how)
    return OffsetAndMetadata(0, "")


def begin(
    partition: Partition, commit: OffsetAndMetadata, spans: list[Span]
) -> dict[TopicPartition, int]:
    """Where to read events and rankings from. `spans`: of these two, in order.

    Raises RestartNeededError where a log begins later, LogTruncatedError where it ends before.
    """
    attribution, (events, rankings) = partition.attribution, spans
    place = partition.ledger.places.get(attribution.partition)
    bookmark = _bookmark(commit, attribution.rules.digest)
    if bookmark is not None:
        attribution.resume(bookmark)
        needed, done = [bookmark.ids_from, bookmark.rankings_from], commit.offset
        why = "retention or a deletion took what came before"
    elif place is not None:
        needed, done = [0, 0], place.source.offset + 1
        why = "the group's offsets are gone or were moved, and so is what came before in the log"
    else:  # nothing was learned of it: it begins where its log does
        needed, done, why = [events.start, rankings.start], 0, ""
    begins: dict[TopicPartition, int] = {}
    for span, need in zip(spans, needed, strict=True):
        tp, start, end = span.tp, span.start, span.end
        if start > need:
            raise RestartNeededError(
                f"{tp.topic}-{tp.partition} begins at {start}, and is needed from {need} on: "
                f"{why}. What is learned is kept; to go on without what was open: `rankloop "
                f"restart-from earliest --partition {tp.partition}`",
                events.start if events.start >= max(done, 1) else None,
            )
        if end < need:
            raise LogTruncatedError(
                f"{tp.topic}-{tp.partition} ends at {end}, but was read up to {need}: the log "
                "begins again; give it another RANKLOOP_GROUP and prefix"
            )
        begins[tp] = max(start, need)
    return begins


def _bookmark(commit: OffsetAndMetadata, rules: str) -> Bookmark | None:
    bookmark = decode_bookmark(commit.metadata, rules)
    return None if bookmark is None or bookmark.open_from > commit.offset else bookmark


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
        group = f"{settings.group}-partitions"
        found = await admin.list_consumer_group_offsets(group, partitions=[events])
    finally:
        await admin.close()
    commit = found.get(events)
    if commit is None or commit.offset < 0:
        return OffsetAndMetadata(0, "")
    return commit
