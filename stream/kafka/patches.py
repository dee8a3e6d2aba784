"""Patches of aiokafka: idle fetches are paced, and closing a TLS connection takes bounded time."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher

LONGEST = 0.02  # seconds between fetches from an idle broker that does not wait
STEP = 0.001  # longer after each empty answer
PATIENCE = 1.0  # seconds for what was sent to go out, and for TLS to be closed on both sides


def limit_idle_fetches() -> None:
    """Let every consumer in this process rest after an empty answer that came at once.

    A real Kafka holds an empty fetch for `fetch.max.wait.ms` and is never paced. noida-db answers
    right away: without this an idle worker burns most of a core.
    """
    if hasattr(Fetcher, "rests"):
        return
    fetch = Fetcher._proc_fetch_request

    async def paced(self: Any, assignment: Any, node: int, request: Any) -> bool:
        began = time.monotonic()
        found = await fetch(self, assignment, node, request)
        at_once = time.monotonic() - began < LONGEST
        self.rests = min(self.rests + STEP, LONGEST) if at_once and not found else 0.0
        if self.rests:
            with suppress(asyncio.CancelledError):  # as the fetch itself does: it just ends
                await asyncio.sleep(self.rests)
        return found

    Fetcher.rests = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    Fetcher._proc_fetch_request = paced  # pyright: ignore[reportAttributeAccessIssue]


def bound_tls_close() -> None:
    """Let no connection in this process take longer than PATIENCE to close.

    A broker that does not answer the end of TLS is waited for 30 s by asyncio and uvloop alike,
    and so was every SIGTERM. By then nothing is left to say: all was acknowledged before.
    """
    if hasattr(AIOKafkaConnection, "parts"):
        return
    close = AIOKafkaConnection.close

    def parting(self: Any, reason: Any = None, exc: Any = None) -> Any:
        writer = self._writer
        closed = close(self, reason, exc)
        if writer is not None and closed is not None and not closed.done():
            closed.get_loop().call_later(PATIENCE, writer.transport.abort)
        return closed

    AIOKafkaConnection.parts = True  # pyright: ignore[reportAttributeAccessIssue]
    AIOKafkaConnection.close = parting
