"""A worker without one safeguard: `python tests/support/broken_worker.py SAFEGUARD ... worker`.

`rankloop torture` starts it where RANKLOOP_TEST_WORKER says so. What the checker then sees is said
in tests/broker/test_torture.py.
"""

import os
import signal
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

from aiokafka import ConsumerRecord, OffsetAndMetadata, TopicPartition
from msgspec.structs import replace

from agents.attribution import Attribution, RankingTask
from agents.bookmark import decode_bookmark
from agents.ledger import Ledger, PartitionHead, Verdict
from agents.partition import AwaitLearner, Command, Partition
from agents.recommender import Recommender
from models.events import Control, Decision, Record, Source
from stream.cli.main import main
from stream.kafka.producer import ProduceError
from stream.kafka.reader import received_messages
from stream.settings import Settings
from stream.storage.attribution_snapshots import AttributionSnapshots
from stream.worker import partitions as driven
from stream.worker.assignment import AssignedPartition, PartitionLostError
from stream.worker.restore import RestoreResult, drive

ASLEEP = "sleeper"  # whoever decides for a request of this id falls asleep, until SIGCONT


def instead(owner: Any, name: str, broken: Any) -> None:
    """Put it in place of what is there, which must be called alike: else it breaks other things."""
    now = getattr(owner, name)
    assert [*signature(broken).parameters] == [*signature(now).parameters], (owner, name)
    setattr(owner, name, broken)


def source() -> None:
    """A record that was learned before is not known by its source."""
    judge = Ledger._judge

    def broken(self: Ledger, record: Record | Control, data: bytes) -> Verdict:
        place = _place(self, record)
        if place is None or not isinstance(record, Record) or record.source > place.source:
            return judge(self, record, data)
        number = record.source.partition
        self.places[number] = replace(place, source=Source(number, -1, 0))
        verdict = judge(self, record, data)
        if verdict != "learned":
            self.places[number] = place
        return verdict

    instead(Ledger, "_judge", broken)


def chain() -> None:
    """A record need not follow the one before."""
    judge = Ledger._judge

    def broken(self: Ledger, record: Record | Control, data: bytes) -> Verdict:
        place = _place(self, record)
        if place is not None and isinstance(record, Record) and record.source > place.source:
            self.places[record.source.partition] = replace(place, chain=record.prev)
        return judge(self, record, data)

    instead(Ledger, "_judge", broken)


def _place(ledger: Ledger, record: Record | Control) -> PartitionHead | None:
    return ledger.places.get(record.source.partition) if isinstance(record, Record) else None


def first() -> None:
    """Of two decisions for a request the last one counts."""
    decided = Attribution.decided

    def broken(self: Attribution, decision: Decision, offset: int = 0) -> bool:
        if decided(self, decision, offset):
            return True
        pending = self._pending.get((decision.user, decision.id))
        if pending is None or pending.source != decision.source:
            return False
        pending.decision = decision
        return True

    instead(Attribution, "decided", broken)


def restore() -> None:
    """Who takes a partition over goes on at the commit, and knows of nothing before it."""

    async def broken(
        settings: Settings,
        partition: Partition,
        commit: OffsetAndMetadata,
        lost: Callable[[], bool],
        kept: AttributionSnapshots,
    ) -> RestoreResult:
        attribution = partition.attribution
        bookmark = decode_bookmark(commit.metadata, attribution.rules.digest)
        if bookmark is not None:
            attribution.resume(bookmark)
        partition.restored(commit.offset)
        return RestoreResult()

    instead(driven, "restore", broken)


def lease() -> None:
    """A batch is published however long it took, and whoever has the partition by then."""

    async def broken(
        self: driven.Partitions, owned: AssignedPartition, messages: list[ConsumerRecord]
    ) -> None:
        owned.received(messages[0].timestamp / 1000)
        waiting = received_messages(messages)
        try:
            while used := await drive(
                owned.partition.batch(waiting), lambda command: self._perform(owned, command)
            ):
                owned.processed(used)
                waiting = waiting[used:]
        except (PartitionLostError, ProduceError):
            if self.assigned.get(owned.number) is owned:
                self._begin(TopicPartition(self.topics.events, owned.number))

    instead(driven.Partitions, "_receive", broken)


def awaiting() -> None:
    """A ranking is decided at once, whether or not its user's events were learned."""
    perform = driven.Partitions._perform

    async def broken(self: driven.Partitions, owned: Any, command: Command) -> Any:
        if isinstance(command, AwaitLearner):
            return None
        return await perform(self, owned, command)

    instead(driven.Partitions, "_perform", broken)


def nothing() -> None:
    """All safeguards are there."""


def sleeps() -> None:
    """Whoever decides for the request ASLEEP falls asleep before the answer is published."""
    decide = Recommender.__call__

    def slow(self: Recommender, task: RankingTask) -> Decision:
        decision = decide(self, task)
        if task.request.id == ASLEEP:
            os.kill(os.getpid(), signal.SIGSTOP)
        return decision

    instead(Recommender, "__call__", slow)


SAFEGUARDS = (source, chain, first, restore, lease, awaiting, nothing)

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    sleeps()
    {one.__name__: one for one in SAFEGUARDS}[name]()
    main(arguments, prog_name="rankloop")
