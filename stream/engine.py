"""A worker without Faust: what it knows, which logs it follows, which partitions it lives."""

import asyncio
import gc
import logging
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from agents.attribution import Attribution
from agents.partition import Partition
from models.base import Encoder
from models.events import (
    Decision,
    Invalid,
    decode_embedding,
    decode_item,
    decode_record,
)
from stream import build
from stream.follower import Follower
from stream.keeping import Keeping
from stream.partition import Partitions
from stream.publisher import Publisher
from stream.routing import owner
from stream.settings import Settings
from stream.state import Latest, Rankings
from stream.topics import Topics

log = logging.getLogger(__name__)
WAITING_RANKINGS = 10_000  # decisions on their way to Redis; beyond, new ones are not kept there


class Engine:
    """Run it until it fails or is stopped; stop it."""

    def __init__(self, settings: Settings, encoder: Encoder, rankings: Rankings) -> None:
        options = settings.aiokafka_options()
        self.settings = settings
        self.topics = Topics(settings.topic_prefix)
        self.parts = build.parts(settings, encoder)
        self.encoder = encoder
        self.rankings = rankings
        self.follower = Follower(options)
        self.keeping = Keeping(settings, self.parts.learner, self.follower, self._feedback)
        self.publish = Publisher(options)
        self.partitions = Partitions(
            settings, self.follower, self.publish, self._partition, self._published
        )
        self._latest: list[Latest] = []
        self._published_some = asyncio.Event()
        self.unreadable = 0

    async def _start(self) -> None:
        await self.publish.start()
        await self.follower.start()
        takes = {self.topics.items: self._item, self.topics.embeddings: self._embedding}
        for topic, take in takes.items():
            self.follower.watch(TopicPartition(topic, 0), 0, take)
        await self.keeping.start()

    async def run(self) -> None:
        """Read everything known so far, then join the group; ends when something fails."""
        await self._start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follower.run())
            group.create_task(self._keep_rankings())
            group.create_task(self.keeping.run())
            await self._catch_up()
            gc.collect()
            gc.freeze()  # what stays for good need not be looked through again: it shows in the p99
            await self.partitions.start()
            group.create_task(self.partitions.run())

    async def stop(self) -> None:
        """Finish and commit what is under way, keep what was learned, let go of everything."""
        await self.partitions.stop()
        await self._flush()
        await self.follower.stop()
        await self.publish.stop()
        await self.keeping.write()
        await self.rankings.close()

    async def _catch_up(self) -> None:
        for tp in (TopicPartition(t, 0) for t in (self.topics.items, self.topics.embeddings)):
            await self.follower.reached(tp, await self.follower.end(tp))
        feedback = TopicPartition(self.topics.feedback, 0)
        await self.follower.reached(feedback, await self.follower.end(feedback))
        log.info("caught up", extra={"version": self.parts.learner.version})

    def _item(self, message: ConsumerRecord) -> None:
        try:
            self.parts.catalogue.fold_item(message.offset, decode_item(message.value or b""))
        except Invalid:  # the embedder sends it to the dead letters
            self.unreadable += 1

    def _embedding(self, message: ConsumerRecord) -> None:
        try:
            embedding = decode_embedding(message.value or b"")
        except Invalid:
            self.unreadable += 1
        else:
            self.parts.catalogue.fold_embedding(message.offset, embedding)

    def _feedback(self, message: ConsumerRecord) -> None:
        verdict = self.parts.learner(message.offset, message.value or b"")
        if verdict == "refused":
            log.warning("a hole in feedback", extra={"offset": message.offset})
            self.partitions.refused(decode_record(message.value or b"").source.partition)

    def _partition(self, number: int) -> Partition:
        return Partition(
            Attribution(number, build.rules(self.settings)),
            self.parts.learner.ledger,
            self.parts.recommender,
            lambda user: owner(user, self.settings.partitions),
        )

    def _published(self, message: ConsumerRecord, decision: Decision) -> None:
        if decision.slots and len(self._latest) < WAITING_RANKINGS:
            where = f"{message.topic}-{message.partition}"
            self._latest.append(Latest(decision.user, message.value or b"", where, message.offset))
            self._published_some.set()

    async def _keep_rankings(self) -> None:
        while True:
            await self._published_some.wait()
            self._published_some.clear()
            await self._flush()

    async def _flush(self) -> None:
        latest, self._latest = self._latest, []
        if latest:
            await self.rankings.put_many(latest)

    def status(self, digest: bool = False) -> dict[str, Any]:
        """What the worker knows and does, for people and health checks."""
        parts, lives = self.parts, self.partitions.lives
        return {
            "app": self.settings.app,
            "policy": parts.learner.policy.name,
            "encoder": self.encoder.version,
            "model": parts.learner.version,
            "items": parts.catalogue.items_version,
            "embeddings": parts.catalogue.embeddings_version,
            "digest": parts.learner.digest() if digest else None,
            "learned": dict(parts.learner.ledger.counts),
            "snapshot": self.keeping.status(),
            "partitions": {
                life.number: {
                    "ready": life.ready,
                    "next": life.partition.attribution.next,
                    "open": life.partition.attribution.open,
                    "watermark": life.partition.attribution.watermark,
                    "events": dict(life.partition.attribution.counts),
                    "deadletters": dict(life.partition.counts),
                }
                for life in lives.values()
            },
        }
