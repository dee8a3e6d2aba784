"""Writes partitions' attributions beside the stream, once reading them again would take long.

The copy is made between two batches; encoding and writing take no part in the stream.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable
from typing import Any

from stream.storage.attribution_snapshots import Attributions
from stream.worker.assignment import Life

log = logging.getLogger(__name__)


class Remembering:
    """One worker's writing, one partition at a time; `every` events, and 0 is never.

    A file is due once restoring would have to read more than `every` events, and more than a
    quarter of the window: so a whole window is written at most four times while it passes.
    """

    def __init__(self, kept: Attributions, every: int) -> None:
        self.kept = kept
        self.every = every
        self.written = 0
        self.failed = 0
        self._writing: asyncio.Task[None] | None = None

    def __call__(self, lives: Collection[Life]) -> None:
        """Call it between batches. What is written holds committed events alone (L4)."""
        if not self.every or self._writing is not None:
            return
        taken = next((life for life in lives if life.copy is not None), None)
        if taken is None:
            taken = next((life for life in lives if self._due(life)), None)
            if taken is None:
                return
            taken.copy = taken.partition.attribution.state()
        if taken.copy is not None and taken.committed >= taken.copy.next:
            self._writing = asyncio.create_task(self._write(taken))

    async def finish(self, lives: Iterable[Life]) -> None:
        """The last ones, at a clean stop."""
        await self.settled()
        for life in lives:
            attribution = life.partition.attribution
            if self.every and self._due(life) and life.committed >= attribution.next:
                life.copy = attribution.state()
                await self._write(life)

    async def settled(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            await self._writing

    def status(self) -> dict[str, Any]:
        """How many were written, and how many could not be."""
        return {"written": self.written, "failed": self.failed}

    def _due(self, life: Life) -> bool:
        attribution = life.partition.attribution
        # Without a record no chain says that a file is of this log: there is little to lose.
        if not life.ready or attribution.last is None:
            return False
        ids_from = attribution.bookmark().ids_from
        unread = attribution.next - max(ids_from, life.kept)
        return unread > max(self.every, (attribution.next - ids_from) // 4)

    async def _write(self, life: Life) -> None:
        state, began = life.copy, time.monotonic()
        if state is None:
            return
        where = {"partition": life.number, "offset": state.next}
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
            life.kept, life.copy, self._writing = state.next, None, None
