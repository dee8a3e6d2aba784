"""A worker without Faust: what it knows, which logs it follows, which partitions it owns.

It decides only while its fold is the one in force (L12): else it stands by, folding, and takes over
at the record that says so.
"""

import asyncio
import gc
import logging
import time
from collections import defaultdict
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from msgspec import to_builtins

from agents.attribution import Attribution, RankingTask
from agents.catalogue_records import EmbeddingRecord, ItemRecord
from agents.learner import Learner
from agents.ledger import Ledger
from agents.partition import Partition
from models.base import Encoder
from models.events import (
    Begin,
    Decision,
    Fold,
    decode_record,
    encode,
)
from stream import build
from stream.errors import LogError
from stream.kafka.identity import check_identity, current_identity
from stream.kafka.producer import Producer, ProducerRecord
from stream.kafka.reader import TopicReader
from stream.kafka.topics import Topics, owner
from stream.settings import Settings
from stream.storage.latest_rankings import LatestRankings
from stream.storage.snapshots import open_attribution_snapshots
from stream.worker.assignment import PartitionLostError
from stream.worker.counters import PartitionCounters, decision_times
from stream.worker.delivery import RankingWriter
from stream.worker.embedder import EmbeddingCounters
from stream.worker.log_monitor import LogMonitor
from stream.worker.partitions import Partitions
from stream.worker.prometheus import LogProgress, MetricsCollector
from stream.worker.readiness import Readiness
from stream.worker.snapshotter import AttributionSnapshotter, LearnerSnapshotter

log = logging.getLogger(__name__)


class DigestMismatchError(LogError):
    """What was learned here is not what the log says was learned elsewhere (L7)."""


class Engine:
    """Run it until it fails or is stopped; stop it. What it does is its role's."""

    def __init__(
        self,
        settings: Settings,
        encoder: Encoder,
        rankings: LatestRankings,
        client_id: str = "rankloop",
        switch: bool = False,
    ) -> None:
        self.settings = settings
        self.client_id = client_id
        self.role = settings.worker_role
        self.fold = settings.fold_hash()
        self.topics = Topics(settings.topic_prefix)
        self.parts = build.parts(settings, encoder)
        own = self.parts.learner.ledger
        self.ledger = own if self.role.folds else Ledger(policies=own.policies)
        self.encoder = encoder
        self.rankings = rankings
        self.ranking_writer = RankingWriter(rankings)
        self.reader = TopicReader(settings)
        self.snapshotter = LearnerSnapshotter(
            settings,
            self.parts.learner,
            self.ledger,
            self.reader,
            self._feedback,
            lambda: build.learner(settings),
            self._renewed,
        )
        self.publish = Producer(settings.aiokafka_options())
        self.attribution_snapshotter = AttributionSnapshotter(
            open_attribution_snapshots(settings), settings.restore_events
        )
        self.counters: defaultdict[int, PartitionCounters] = defaultdict(
            PartitionCounters
        )  # of all partitions it ever had
        self.partitions = self._partitions()
        self.feedback = TopicPartition(self.topics.feedback, 0)
        self.readiness = Readiness()
        self.switch = switch  # let this worker's fold decide, once it has caught up
        self.caught_up = False
        self._turned = asyncio.Event()  # another fold is in force
        self.decision_seconds = decision_times()
        self.embedded = EmbeddingCounters()

    async def run(self) -> None:
        """Read everything known so far, then join the group; ends when something fails.

        Where the log is not what it must be, this worker may hold what is wrong: it writes nothing.
        """
        try:
            await self._run()
        except* LogError:
            self.snapshotter.refuse()
            self.attribution_snapshotter.refuse()
            raise

    async def _run(self) -> None:
        await self.publish.start()
        if not (self.role.folds or self.role.ranks):
            return
        await self.reader.start()
        if self.role.ranks:
            takes = {self.topics.items: self._item, self.topics.embeddings: self._embedding}
            for topic, take in takes.items():
                self.reader.subscribe(TopicPartition(topic, 0), 0, take)
        await self.snapshotter.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reader.run())
            group.create_task(self.ranking_writer.run())
            group.create_task(self.snapshotter.run())
            await self._catch_up()
            found = await self._agreed()
            if self.switch and self.stands_by:
                await self._switch()
            gc.collect()
            gc.freeze()  # what stays for good need not be looked through again: it shows in the p99
            group.create_task(self._monitor(found).run())
            if self.role.ranks:
                group.create_task(self._serve())

    async def stop(self) -> None:
        """Finish and commit what is under way, keep what was learned, let go of everything.

        Each step is bounded: a broker or a Redis that does not let go holds up nobody's SIGTERM.
        """
        steps = {
            self.partitions.stop: 10,
            self.ranking_writer.flush: 3,
            self.reader.stop: 3,
            self.publish.stop: 5,
            self.snapshotter.write: 600,
            self.rankings.close: 3,
        }
        for step, seconds in steps.items():
            task = asyncio.ensure_future(step())
            ended, _ = await asyncio.wait([task], timeout=seconds)
            if not ended:
                task.cancel()  # nor is waited for what does not let itself be cancelled
                log.warning("not let go in time", extra={"step": step.__qualname__})
            elif error := task.exception():
                log.error("not stopped cleanly", exc_info=error, extra={"step": step.__qualname__})
        self.embedded.letters.finish()

    async def _catch_up(self) -> None:
        for tp in list(self.reader.positions):
            await self.reader.wait_until(tp, await self.reader.end(tp))
        self.caught_up = True
        log.info("caught up", extra={"version": self.parts.learner.version})

    async def _agreed(self) -> Begin:
        """What the log began as, which is what is found now; a new log begins here (L6)."""
        found = await current_identity(self.settings)
        if self.ledger.begin is None:
            await self.publish.until_done([ProducerRecord(self.topics.feedback, encode(found))])
            await self.reader.wait_until(self.feedback, await self.reader.end(self.feedback))
        assert self.ledger.begin is not None
        check_identity(self.ledger.begin, found)
        self.attribution_snapshotter.kept.topic = found.topics.get(self.topics.events, "")
        return self.ledger.begin

    @property
    def stands_by(self) -> bool:
        """True while workers of another fold decide, as far as was read.

        What one that ranks took from a snapshot may have read further than its own ledger.
        """
        newest = max(self.ledger, self.parts.learner.ledger, key=lambda ledger: ledger.version)
        return newest.fold != self.fold

    def standing_by(self) -> str | None:
        """Why this worker decides nothing, and what to do; None if its fold is in force."""
        if not self.caught_up or not self.stands_by:
            return None
        ledgers = self.ledger, self.parts.learner.ledger
        newest = max(ledgers, key=lambda ledger: ledger.version)
        told = newest.folds.get(newest.fold, {})
        differs = "; ".join(self.settings.learning_differences(newest.fold, told))
        return (
            f"another learning configuration decides: {differs}. Set it as it is in force, or let "
            "this one decide: `rankloop fold switch` with these settings, or `rankloop worker "
            "--switch`"
        )

    async def _switch(self) -> None:
        """What `rankloop fold switch` does, now that all there was is folded (L12)."""
        before = self.ledger.fold
        record = Fold(fold=self.fold, expects=before, learning=self.settings.learning())
        await self.publish.until_done([ProducerRecord(self.topics.feedback, encode(record))])
        await self.reader.wait_until(self.feedback, await self.reader.end(self.feedback))
        names = {"fold": self.fold, "before": before, "in_force": self.ledger.fold}
        log.warning("another learning configuration decides from here on", extra=names)

    def _decide(self, ask: RankingTask) -> Decision:
        """A batch under way at the switch decides nothing any more (L12); the next owner does."""
        if self.stands_by:
            raise PartitionLostError("another fold is in force")
        began = time.perf_counter()
        decision = self.parts.recommender(ask)
        self.decision_seconds.observe(time.perf_counter() - began)
        return decision

    async def _serve(self) -> None:
        """Own partitions while this worker's fold is in force."""
        while True:
            self._turned.clear()
            if self.stands_by:
                await self._turned.wait()
                continue
            await self.partitions.start()
            serving = asyncio.create_task(self.partitions.run())
            turned = asyncio.create_task(self._turned.wait())
            try:
                await asyncio.wait({serving, turned}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    return serving.result()
                await self.partitions.stop()
                await serving
            finally:
                turned.cancel()
                serving.cancel()
            self.partitions = self._partitions()

    def _partitions(self) -> Partitions:
        return Partitions(
            self.settings,
            self.reader,
            self.publish,
            self._partition,
            self.ranking_writer.add,
            self.attribution_snapshotter,
            self.counters,
            self.client_id,
        )

    def _monitor(self, log: Begin) -> LogMonitor:
        return LogMonitor(
            self.settings,
            log,
            self.reader,
            self.publish,
            self.snapshotter,
            lambda: self.partitions,
            lambda: self.stands_by,
        )

    def _renewed(self, learner: Learner) -> None:
        catalogue = self.parts.catalogue
        self.parts = build.Parts(learner, *build.deciding(self.settings, learner, catalogue))

    def _item(self, message: ConsumerRecord) -> None:
        record = ItemRecord.of(message.key or b"", message.value, message.timestamp)
        record.fold(self.parts.catalogue, message.offset)

    def _embedding(self, message: ConsumerRecord) -> None:
        record = EmbeddingRecord.of(message.key or b"", message.value)
        record.fold(self.parts.catalogue, message.offset)

    def _feedback(self, message: ConsumerRecord) -> None:
        offset, data, before = message.offset, message.value or b"", self.ledger.fold
        champion = self.ledger.champion
        if self.ledger is self.parts.learner.ledger:
            verdict = self.parts.learner(offset, data)
        else:
            verdict, _ = self.ledger(offset, data)
        if verdict == "refused":
            log.warning("a hole in feedback", extra={"offset": offset})
            self.partitions.refused(decode_record(data).source.partition)
        elif verdict == "noted":
            if self.ledger.fold != before:
                self._turned.set()
            if self.ledger.champion != champion:
                names = {"champion": self.ledger.champion, "before": champion, "offset": offset}
                log.warning("another policy decides from here on", extra=names)
            self.partitions.restarted()
            self._marked()
        if self.parts.learner.unprobed:
            self.snapshotter.not_written(f"no mark: {self.parts.learner.unprobed}")
            self.parts.learner.unprobed = ""

    def _marked(self) -> None:
        """Stop if the log says that something else was learned than here (L7)."""
        learner, mark = self.parts.learner, self.parts.learner.differs
        if mark is None:
            return
        what = (
            f"up to version {mark.version} this worker learned something else than the one "
            f"(rankloop {mark.build}) that says so in {self.topics.feedback}"
        )
        if self.snapshotter.newest is None and not self.caught_up:
            learner.differs = None
            log.critical("%s, although it folded all of the log itself: look at that one", what)
            return
        try:
            aside = self.snapshotter.set_aside()
        except Exception as error:  # whatever a store may raise
            raise DigestMismatchError(
                f"{what}; its snapshots cannot be set aside ({error}): remove those in "
                f"{self.snapshotter.snapshots.store.where}, then start it again, to fold anew"
            ) from error
        for name in aside:
            log.error("snapshot set aside", extra={"snapshot": name})
        raise DigestMismatchError(
            f"{what}; its snapshots are set aside: start it again, to fold anew"
        )

    def _partition(self, number: int) -> Partition:
        return Partition(
            Attribution(number, self.settings.attribution_rules()),
            self.ledger,
            self._decide,
            lambda user: owner(user, self.settings.partitions),
        )

    def progress(self) -> dict[str, LogProgress]:
        """How far the logs that all workers follow are folded, by name."""
        catalogue, topics = self.parts.catalogue, self.topics
        followed = {
            "feedback": (topics.feedback, self.parts.learner.version),
            "items": (topics.items, catalogue.items_version),
            "embeddings": (topics.embeddings, catalogue.embeddings_version),
        }
        return {
            name: LogProgress(version, self.reader.lag(TopicPartition(topic, 0)))
            for name, (topic, version) in followed.items()
        }

    def ends(self) -> dict[str, tuple[int, int]]:
        """Where each log that this worker follows ends, and up to where it is read."""
        found: dict[str, tuple[int, int]] = {}
        followed = {"feedback": self.topics.feedback} if self.role.folds or self.role.ranks else {}
        if self.role.ranks:
            followed |= {"items": self.topics.items, "embeddings": self.topics.embeddings}
        for name, topic in followed.items():
            tp = TopicPartition(topic, 0)
            position = self.reader.positions.get(tp, 0)
            found[name] = position + self.reader.lag(tp), position
        if self.role.ranks and not self.role.folds:
            found["model"] = self.ledger.version, self.parts.learner.version
        for number, where in self.partitions.ends().items():
            found[f"events-{number}"] = where
        return found

    def metrics(self) -> MetricsCollector:
        """All that is counted and held, as Prometheus reads it."""
        return MetricsCollector(
            lambda: self.partitions,
            self.progress,
            self.snapshotter,
            self.parts.catalogue,  # a renewal keeps it
            self.ranking_writer,
            self.encoder,
            self.embedded,
            self.decision_seconds,
        )

    def status(self, digest: bool = False) -> dict[str, Any]:
        """What the worker knows and does, for people and health checks."""
        learner, catalogue = self.parts.learner, self.parts.catalogue
        return {
            "group": self.settings.group,
            "role": self.settings.role,
            "fold": self.fold,
            "in_force": self.ledger.fold,
            "policy": learner.policy.name,
            "scoreboard": to_builtins(learner.scores()),
            "encoder": self.encoder.version,
            "model": learner.version,
            "behind": self.ledger.version - learner.version,
            "items": catalogue.items_version,
            "embeddings": catalogue.embeddings_version,
            "digest": learner.digest() if digest else None,
            "learned": dict(self.ledger.counts),
            "snapshot": self.snapshotter.status(),
            "redis": self.rankings.where,
            "attributions": self.attribution_snapshotter.status(),
            "partitions": {
                owned.number: owned.status() for owned in self.partitions.assigned.values()
            },
        }
