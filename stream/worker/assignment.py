"""A partition from assignment to revocation: what it took, what may be committed, what counts."""

import time
from typing import Any

from aiokafka import OffsetAndMetadata
from msgspec.structs import asdict

from agents.attribution import Attribution
from agents.attribution_state import AttributionState
from agents.bookmark import encode_bookmark
from agents.partition import Commit, Partition
from stream.errors import RetryableError
from stream.worker.counters import CounterSnapshot, PartitionCounters
from stream.worker.restore import RestoreResult

MAX_COMMITS_DUE = (
    64  # commits that wait for the learner; beyond, every other one is left to the next
)


class PartitionLostError(RetryableError):
    """The partition is no longer ours, or the batch took too long to be sure that it is."""


class AssignedPartition:
    """One partition while this worker owns it."""

    def __init__(self, number: int, partition: Partition, counters: PartitionCounters) -> None:
        self.number = number
        self.partition = partition
        self.counters = counters
        self.ready = False
        self.lost = False
        self.began = self.heard = time.monotonic()
        self.needed = 0  # who takes over reads the events from here on
        self.committed = 0
        self.read = 0  # all before it was handled: goes past offsets without a message, too
        self.copy: AttributionState | None = None  # to be written once it is committed
        self.kept = 0  # the offset of the newest file of its attribution
        self.restored: RestoreResult | None = None
        self.restart = partition.ledger.restarts.get(number)  # that it began after
        self.needs = ""  # why it cannot be restored
        self._silent = True  # nothing was handled yet
        self.commit: Commit | None = None  # of the batch under way
        self._taken = 0  # messages handled
        self._due: list[tuple[Commit, CounterSnapshot]] = []
        self._offered: tuple[Commit, CounterSnapshot] | None = (
            None  # what the commit under way covers
        )
        self._counted = CounterSnapshot.of(partition, 0)

    @property
    def attribution(self) -> Attribution:
        """Its partition's, which a restore replaces."""
        return self.partition.attribution

    @property
    def due(self) -> int:
        """How many commits wait for the learner."""
        return len(self._due)

    def started(self) -> float:
        """It was restored and may take messages; the seconds that took."""
        self.heard = time.monotonic()
        seconds = self.heard - self.began
        self._counted = CounterSnapshot.of(self.partition, 0)
        self.counters.restored(self._counted, seconds)
        self.ready = True
        return seconds

    def revoked(self) -> None:
        """It is ours no more."""
        if self.ready:
            self.counters.revoked(self._counted)
        self.lost = True

    def received(self, appended: float) -> None:
        """Messages have come, the first of them appended at that time (seconds)."""
        now = time.monotonic()
        if self._silent:
            self._silent = False
            waited = time.time() - appended
            if waited > now - self.heard:  # since before there was anybody to handle it
                self.counters.unserved(waited)
        self.heard = now

    def processed(self, used: int) -> None:
        """A batch of so many messages is done and may be committed once the learner has it (L4).

        A commit left out is covered by the next one: so few are kept, however slow the learner is.
        """
        self._taken += used
        if self.commit is not None:
            self._due.append((self.commit, CounterSnapshot.of(self.partition, self._taken)))
        if len(self._due) > MAX_COMMITS_DUE:
            del self._due[-2::-2]

    def committable(self) -> OffsetAndMetadata | None:
        """What may be committed since the last time: all that the learner has accepted (L4).

        The bookmark goes with it (L3). What was offered and not accepted is offered again.
        """
        ledger = self.partition.ledger
        while self._due:
            needs = self._due[0][0].needs
            if needs is not None and not ledger.has(needs):
                break
            self._offered = self._due.pop(0)
        if self._offered is None:
            return None
        commit, _ = self._offered
        return OffsetAndMetadata(commit.offset, encode_bookmark(commit.bookmark))

    def commit_accepted(self) -> None:
        """The last commit was accepted: only now are its events counted."""
        if self._offered is not None:
            commit, counts = self._offered
            self.committed, self.needed = commit.offset, commit.bookmark.ids_from
            self.counters.committed(self._counted, counts, over=self.lost)
            self._counted, self._offered = counts, None

    def status(self) -> dict[str, Any]:
        """How far it is, for the status page."""
        attribution = self.attribution
        return {
            "ready": self.ready,
            "needs": self.needs or None,
            "restored": self.restored and asdict(self.restored),
            "committed": self.committed,
            "next": attribution.next,
            "open": attribution.open,
            "watermark": attribution.watermark,
            "events": dict(attribution.counts),
            "deadletters": dict(self.partition.counts),
        }
