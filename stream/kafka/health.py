"""Waits for Kafka at the start, and watches whether it answers and lets us in while we run."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError

from stream.kafka.authorization import (
    AuthorizationDeniedError,
    BrokerUnavailableError,
    Permission,
    check_permissions,
    reach,
)
from stream.kafka.membership import JoinMonitor, remove
from stream.kafka.topics import Topics
from stream.settings import Settings

log = logging.getLogger(__name__)
EVERY = 5.0  # seconds between questions
SOON = 1.0  # and while a group rebalances
PATIENCE = 2  # refusals in a row that end a worker: rights are not always changed in one step


def required_permissions(settings: Settings, *embedder: str) -> list[Permission]:
    """All that a worker needs, `embedder` being the group that reads items for the text model.

    READ and WRITE imply DESCRIBE; an idempotent producer needs nothing more since Kafka 2.8.
    """
    topics = Topics(settings.topic_prefix)
    reads = [topics.items, topics.events, topics.rankings, topics.feedback, topics.embeddings]
    writes = [*reads[1:], topics.deadletters]
    groups = [f"{settings.group}-partitions"] if settings.worker_role.ranks else []
    groups += embedder if settings.worker_role.embeds else ()
    return [
        *(Permission("topic", name, "READ") for name in reads),
        *(Permission("topic", name, "WRITE") for name in writes),
        *(Permission("group", name, "READ") for name in groups),
    ]


async def wait_for_broker(settings: Settings) -> None:
    """Wait until Kafka lets us in, `connect_seconds` at most: then raises BrokerUnavailableError.

    Raises AuthorizationDeniedError at once: what refuses us will refuse us again.
    """
    deadline = time.monotonic() + settings.connect_seconds
    waiting = False
    while True:
        try:
            return await reach(settings)
        except BrokerUnavailableError as away:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not waiting:
                waiting = True
                most = {"at_most_seconds": settings.connect_seconds, "reason": str(away)}
                log.warning("waiting for kafka", extra=most)
        await asyncio.sleep(min(1.0, left))


class BrokerMonitor:
    """Kafka as this worker sees it: whether it answers, since when not, and what it forbids.

    Members that keep our groups from letting us in are removed.

    >>> BrokerMonitor(Settings(), [], "rankloop-1").status()
    {'answers': True, 'away_seconds': 0.0}
    """

    def __init__(
        self, settings: Settings, permissions: Sequence[Permission], client_id: str
    ) -> None:
        self._settings, self._permissions = settings, permissions
        self._joins = JoinMonitor(client_id, settings.session_timeout_seconds)
        self._away_since: float | None = None

    async def run(self) -> None:
        """Ask until cancelled. Raises AuthorizationDeniedError once it is sure."""
        refusals = 0
        while True:
            await asyncio.sleep(SOON if self._joins.waits else EVERY)
            try:
                groups = await check_permissions(self._settings, self._permissions)
            except BrokerUnavailableError as away:
                self._away(str(away))
            except AuthorizationDeniedError as denied:
                refusals += 1
                if refusals >= PATIENCE:
                    raise
                log.warning("kafka refuses us; asking once more", extra={"reason": str(denied)})
            else:
                refusals = 0
                self._back()
                for group, members in self._joins(groups, time.monotonic()).items():
                    await remove(self._settings, group, members)

    async def explain(self, error: Exception) -> str:
        """Why the worker ends: what Kafka refuses, if that is the cause, or else the error's."""
        if isinstance(error, KafkaError):
            try:
                await check_permissions(self._settings, self._permissions)
            except (AuthorizationDeniedError, BrokerUnavailableError) as cause:
                return str(cause)
            return f"Kafka: {error}"
        return str(error)

    def status(self) -> dict[str, Any]:
        """For the status page."""
        since = self._away_since
        away = 0.0 if since is None else round(time.monotonic() - since, 1)
        return {"answers": since is None, "away_seconds": away}

    def _away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("kafka lost; waiting until it is back", extra={"reason": reason})

    def _back(self) -> None:
        if self._away_since is not None:
            seconds = round(time.monotonic() - self._away_since, 1)
            self._away_since = None
            log.warning("kafka back", extra={"seconds": seconds})
