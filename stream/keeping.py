"""Starts the learner from its newest snapshot, and writes one now and then beside the stream.

While a copy of what was learned is made, learning waits and nothing else does: requests go on with
the version at hand (L8). Encoding and writing take no part in the stream.
"""

import asyncio
import logging
import time
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from agents.learner import Learner
from models.codec import chain
from stream.checkpoint import opened
from stream.cover import fits, same
from stream.follower import Follower, Take
from stream.settings import Settings
from stream.topics import Topics

log = logging.getLogger(__name__)


class Keeping:
    """The snapshots of one running worker; `take` learns a message of feedback."""

    def __init__(
        self, settings: Settings, learner: Learner, follower: Follower, take: Take
    ) -> None:
        self.seconds = settings.snapshot_seconds
        self.learner = learner
        self.follower = follower
        self.take = take
        self.feedback = TopicPartition(Topics(settings.topic_prefix).feedback, 0)
        self.snapshots = opened(settings)
        self.failed = 0

    async def start(self) -> None:
        """Load the newest good snapshot and follow feedback from there.

        Raises Refused if the log is not the one that was learned (L6).
        """
        began = time.monotonic()
        cover = await asyncio.to_thread(self.snapshots.restore, self.learner)
        version, topic = self.learner.version, self.feedback.topic
        begins = await self.follower.begins(self.feedback)
        fits(version, begins, await self.follower.end(self.feedback), topic)
        if cover is not None:
            seconds = round(time.monotonic() - began, 3)
            log.info("snapshot loaded", extra={"version": version, "seconds": seconds})
        self.follower.watch(self.feedback, max(begins, version - 1), self._take)

    async def run(self) -> None:
        """Write a snapshot every `snapshot_seconds` until cancelled; never, if that is 0."""
        while self.seconds:
            await asyncio.sleep(self.seconds)
            await self.write()

    async def write(self) -> None:
        """Write a snapshot if something was learned since the last one; a failure is logged."""
        newest = self.snapshots.newest
        if self.learner.version == (newest.version if newest else 0):
            return
        began = time.monotonic()
        try:
            self.follower.hold(self.feedback)
            try:
                state = await asyncio.to_thread(self.learner.state)
            finally:
                self.follower.release(self.feedback)
            copied = time.monotonic()
            await asyncio.to_thread(self.snapshots.write, state)
        except Exception as error:  # whatever a store may raise: the snapshots before are enough
            self.failed += 1
            log.error("snapshot not written", extra={"reason": str(error)})
            return
        times = {"copied": round(copied - began, 3), "seconds": round(time.monotonic() - began, 3)}
        log.info("snapshot written", extra={"version": state.version} | times)

    def status(self) -> dict[str, Any]:
        """The last snapshot that this worker wrote or started from."""
        newest = self.snapshots.newest
        return {
            "version": newest.version if newest else None,
            "age_seconds": round(time.time() - newest.written / 1000, 1) if newest else None,
            "failed": self.failed,
        }

    def _take(self, message: ConsumerRecord) -> None:
        version = self.learner.version
        if message.offset >= version:
            self.take(message)
        else:
            last = chain(message.value or b"")
            same(self.learner.ledger.last, last, version, self.feedback.topic)
