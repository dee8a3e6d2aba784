"""Snapshots while a worker runs: of what was learned, and of the attributions of its partitions.

While a copy of what was learned is made, learning waits and nothing else does: requests go on with
the version at hand (L8). Encoding and writing take no part in the stream.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from agents.learner import Learner
from agents.ledger import Ledger
from models.codec import chain
from stream.kafka.reader import OnRecord, TopicReader
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.storage.attribution_snapshots import AttributionSnapshots
from stream.storage.snapshots import SnapshotHeader, check_last_record, check_range, open_snapshots
from stream.worker.assignment import AssignedPartition

log = logging.getLogger(__name__)


class LearnerSnapshotter:
    """The snapshots of one running worker; `take` takes in a message of feedback.

    A worker that ranks only has a `ledger` apart from its learner's, which follows the log, while
    what it has learned is `renewed`: a `fresh` learner for each newer snapshot.
    """

    def __init__(
        self,
        settings: Settings,
        learner: Learner,
        ledger: Ledger,
        reader: TopicReader,
        take: OnRecord,
        fresh: Callable[[], Learner],
        renewed: Callable[[Learner], None],
    ) -> None:
        self.settings = settings
        self.folds = settings.worker_role.folds
        self.learner = learner
        self.ledger = ledger
        self.fresh = fresh
        self.renewed = renewed
        self.reader = reader
        self.take = take
        self.feedback = TopicPartition(Topics(settings.topic_prefix).feedback, 0)
        self.snapshots = open_snapshots(settings)
        self.failed = 0
        self.error: str | None = None  # why the last one was not written
        self.paused_seconds = 0.0  # that learning waited for a copy, in all
        self._refused = False  # what is known is wrong: it is written nowhere

    @property
    def newest(self) -> SnapshotHeader | None:
        """The last one that was written or restored here."""
        return self.snapshots.newest

    def refuse(self) -> None:
        """Write nothing any more: what this worker knows is not to be started from (L7)."""
        self._refused = True

    def set_aside(self) -> list[str]:
        """Rename all there are, so that none is started from, and write no more; their new names.

        One that is being written is set aside once it is there.
        """
        self.refuse()
        return self.snapshots.rollback(0)

    async def start(self) -> None:
        """Load the newest good snapshot and follow feedback from there.

        Raises SnapshotMismatchError if the log is not the one that was learned (L6).
        """
        began = time.monotonic()
        header = await asyncio.to_thread(self.snapshots.restore, self.learner)
        if self.ledger is not self.learner.ledger:
            self.ledger.load(self.learner.ledger.state())
        version, topic = self.learner.version, self.feedback.topic
        begins = await self.reader.begins(self.feedback)
        check_range(version, begins, await self.reader.end(self.feedback), topic)
        if header is not None:
            seconds = round(time.monotonic() - began, 3)
            log.info("snapshot loaded", extra={"version": version, "seconds": seconds})
        self.reader.subscribe(self.feedback, max(begins, version - 1), self._take)

    async def run(self) -> None:
        """Write a snapshot every `snapshot_seconds`, never if that is 0; or look for newer ones."""
        if not self.folds:
            while True:
                await asyncio.sleep(self.settings.snapshot_poll_seconds)
                await self._renew()
        while seconds := self.settings.snapshot_seconds:
            await asyncio.sleep(seconds)
            await self.write()

    async def _renew(self) -> None:
        """Take what was learned from a newer snapshot, if there is one; a failure is logged."""
        began, learner = time.monotonic(), self.fresh()
        try:
            newer = await asyncio.to_thread(self.snapshots.newer, self.learner.version)
            if not newer:
                return
            header = await asyncio.to_thread(self.snapshots.restore, learner)
        except Exception as error:  # whatever a store may raise: what is known serves on
            self.failed += 1
            log.error("snapshot not taken", extra={"reason": str(error)})
            return
        if header is not None and learner.version > self.learner.version:
            self.learner = learner
            self.renewed(learner)
            seconds = round(time.monotonic() - began, 3)
            log.info("renewed", extra={"version": learner.version, "seconds": seconds})

    async def write(self) -> None:
        """Write a snapshot if something was learned since the last one; a failure is logged."""
        newest = self.newest
        version = newest.version if newest else 0
        if not self.folds or self._refused or self.learner.version == version:
            return
        began = time.monotonic()
        try:
            self.reader.pause(self.feedback)
            try:
                state = await asyncio.to_thread(self.learner.state)
            finally:
                self.reader.resume(self.feedback)
                self.paused_seconds += time.monotonic() - began
            copied = time.monotonic()
            if self._refused:
                return
            await asyncio.to_thread(self.snapshots.write, state)
            if self._refused:  # since it began to be written
                await asyncio.to_thread(self.set_aside)
                return
        except Exception as error:  # whatever a store may raise: the snapshots before are enough
            self.not_written(str(error))
            return
        self.error = None
        times = {"copied": round(copied - began, 3), "seconds": round(time.monotonic() - began, 3)}
        log.info("snapshot written", extra={"version": state.version} | times)

    def not_written(self, reason: str) -> None:
        """Say and count that something could not be written; it is tried again."""
        self.failed += 1
        self.error = reason
        log.error("snapshot not written", extra={"reason": reason})

    def status(self) -> dict[str, Any]:
        """The last snapshot that this worker wrote or started from."""
        newest = self.newest
        return {
            "version": newest.version if newest else None,
            "age_seconds": round(time.time() - newest.written / 1000, 1) if newest else None,
            "failed": self.failed,
            "error": self.error,
            "held_seconds": round(self.paused_seconds, 3),
        }

    def _take(self, message: ConsumerRecord) -> None:
        version = self.ledger.version
        if message.offset >= version:
            self.take(message)
        else:
            last = chain(message.value or b"")
            check_last_record(self.ledger.last, last, version, self.feedback.topic)


class AttributionSnapshotter:
    """One worker's writing, one partition at a time; `every` events, and 0 is never.

    A file is due once restoring would have to read more than `every` events, and more than a
    quarter of the window: so a whole window is written at most four times while it passes.
    """

    def __init__(self, kept: AttributionSnapshots, every: int) -> None:
        self.kept = kept
        self.every = every
        self.written = 0
        self.failed = 0
        self._refused = False
        self._writing: asyncio.Task[None] | None = None

    def refuse(self) -> None:
        """Write nothing any more: what was joined here is not what the log says."""
        self._refused = True

    def __call__(self, assigned: Collection[AssignedPartition]) -> None:
        """Call it between batches. What is written holds committed events alone (L4)."""
        if not self.every or self._refused or self._writing is not None:
            return
        taken = next((owned for owned in assigned if owned.copy is not None), None)
        if taken is None:
            taken = next((owned for owned in assigned if self._due(owned)), None)
            if taken is None:
                return
            taken.copy = taken.attribution.state()
        if taken.copy is not None and taken.committed >= taken.copy.next:
            self._writing = asyncio.create_task(self._write(taken))

    async def finish(self, assigned: Iterable[AssignedPartition]) -> None:
        """The last ones, at a clean stop."""
        await self.settled()
        for owned in assigned:
            attribution = owned.attribution
            due = self.every and not self._refused and self._due(owned)
            if due and owned.committed >= attribution.next:
                owned.copy = attribution.state()
                await self._write(owned)

    async def settled(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            await self._writing

    def status(self) -> dict[str, Any]:
        """How many were written, and how many could not be."""
        return {"written": self.written, "failed": self.failed}

    def _due(self, owned: AssignedPartition) -> bool:
        attribution = owned.attribution
        # Without a record no chain says that a file is of this log: there is little to lose.
        if not owned.ready or attribution.last is None:
            return False
        ids_from = attribution.bookmark().ids_from
        unread = attribution.next - max(ids_from, owned.kept)
        return unread > max(self.every, (attribution.next - ids_from) // 4)

    async def _write(self, owned: AssignedPartition) -> None:
        state, began = owned.copy, time.monotonic()
        if state is None:
            return
        where = {"partition": owned.number, "offset": state.next}
        try:
            await asyncio.to_thread(self.kept.write, state)
        except Exception as error:  # whatever a store may raise: the bookmark is enough
            self.failed += 1
            log.error("attribution not written", extra=where | {"reason": str(error)})
        else:
            self.written += 1
            seconds = round(time.monotonic() - began, 3)
            log.info("attribution written", extra=where | {"seconds": seconds})
        finally:
            # After a failure as well: the next try comes after as many events.
            owned.kept, owned.copy, self._writing = state.next, None, None
