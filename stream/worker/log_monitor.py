"""Looks after the log now and then: that it is still the same, reaches back far enough, agrees."""

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import version as release

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from models.events import Begin, Champion, Mark, encode
from stream.kafka.authorization import AuthorizationDeniedError, BrokerUnavailableError
from stream.kafka.identity import LogMismatchError, check_identity, current_identity
from stream.kafka.producer import ProduceError, Producer, ProducerRecord
from stream.kafka.reader import TopicReader
from stream.kafka.topics import Topics, mismatches
from stream.settings import Settings
from stream.worker.partitions import Partitions
from stream.worker.snapshotter import LearnerSnapshotter

log = logging.getLogger(__name__)
SECONDS = 5.0  # between two looks


class LogMonitor:
    """Raises LogMismatchError if the log is not the one that began; logs alarms, once each.

    `stands_by`: while workers of another fold decide, nobody is promoted.
    """

    def __init__(
        self,
        settings: Settings,
        log: Begin,
        reader: TopicReader,
        publish: Producer,
        snapshotter: LearnerSnapshotter,
        partitions: Callable[[], Partitions],
        stands_by: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.log = log
        self.reader = reader
        self.publish = publish
        self.snapshotter = snapshotter
        self.partitions = partitions  # others after a stand-by
        self.stands_by = stands_by
        self.topics = Topics(settings.topic_prefix)
        self.feedback = TopicPartition(self.topics.feedback, 0)
        self._marked = 0
        self._said: set[str] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            try:
                check_identity(self.log, await current_identity(self.settings))
                await self._check_topics()
                await self._reach()
                await self._mark()
                await self._promote()
            except (KafkaError, OSError, TimeoutError) as error:
                log.info("the log was not looked at", extra={"reason": str(error)})

    async def _check_topics(self) -> None:
        """Whether the topics are as they were at the door: partitions and settings."""
        try:
            wrong = await mismatches(self.settings)
        except (AuthorizationDeniedError, BrokerUnavailableError) as error:  # BrokerMonitor's
            log.info("the topics were not looked at", extra={"reason": str(error)})
            return
        if wrong:
            raise LogMismatchError("; ".join(wrong))

    async def _reach(self) -> None:
        """Whether a restart would find what it needs: else retention outran snapshots."""
        begins = await self.reader.begins(self.feedback)
        newest = self.snapshotter.newest
        if begins > (newest.version if newest else 0):
            self._alarm(
                f"{self.feedback.topic} begins at {begins}, behind this worker's newest snapshot "
                f"({newest.version if newest else 'none'}): it could not start again from it"
            )
        for number, needs in self.partitions().needed().items():
            events = TopicPartition(self.topics.events, number)
            begins = await self.reader.begins(events)
            if begins > needs:
                self._alarm(
                    f"{events.topic}-{number} begins at {begins} and is needed from {needs} on: "
                    "who takes the partition over could not restore it; keep it longer "
                    "(retention.ms)"
                )

    def _alarm(self, text: str) -> None:
        if text not in self._said and len(self._said) < 1000:
            self._said.add(text)
            log.error("retention outruns what is kept: %s", text)

    @property
    def _leads(self) -> bool:
        """The owner of the first partition, or who only learns, speaks for all."""
        role = self.settings.worker_role
        return role.folds and (not role.ranks or 0 in self.partitions().assigned)

    async def _promote(self) -> None:
        """Let a challenger that is ahead for sure decide; if two say so, the first counts."""
        settings, learner = self.settings, self.snapshotter.learner
        board = learner.board
        if not settings.promote or board is None or not self._leads or self.stands_by():
            return
        name = board.better(settings.promote_margin, settings.promote_min_effective)
        if name is None:
            return
        record = Champion(policy=name, expects=learner.ledger.champion)
        try:
            await self.publish([ProducerRecord(self.feedback.topic, encode(record))])
            log.warning("promoted", extra={"policy": name, "champion": record.expects})
        except ProduceError as error:
            log.warning("promotion not published", extra={"reason": str(error)})

    async def _mark(self) -> None:
        """Say what was learned (L7)."""
        learner = self.snapshotter.learner
        newest = max(learner.probes, default=0)
        if not self._leads or newest <= self._marked:
            return
        mark = Mark(
            fold=learner.fold,
            version=newest,
            digest=learner.probes[newest],
            build=release("rankloop"),
        )
        try:
            await self.publish([ProducerRecord(self.feedback.topic, encode(mark))])
            self._marked = newest
        except ProduceError as error:
            log.warning("mark not published", extra={"reason": str(error)})
